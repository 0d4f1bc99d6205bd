"""Cross entropy over target tokens only, in nats: of a batch for training, of each example for evaluation."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import IGNORED, Batch, ModelInterface, on_device
from stages.lib.models.layouts import allowed_groups, choose_layout
from stages.lib.models.memory import Halving
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample

Lengths = np.ndarray[Any, np.dtype[np.int64]]  # of each example, in tokens

_LOGITS_BYTES = 256 << 20  # of one batch, in float32
_CHUNK_BYTES = 32 << 20  # of the logits that are in float64 at a time


def summed_loss(interface: ModelInterface, network: nn.Module, batch: Batch, label_smoothing: float) -> Tensor:
    """Summed over the target tokens of a batch, for training (label smoothing: Szegedy et al. 2016). A batch can have
    `weights` of the shape of its labels: each token's loss, smoothed, is multiplied by its weight."""
    logits = interface.target_logits(network, batch).flatten(0, 1).float()
    labels, weights = batch["labels"].flatten(), batch.get("weights")
    reduction = "sum" if weights is None else "none"
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction=reduction, label_smoothing=label_smoothing)
    return losses if weights is None else (losses * weights.flatten()).sum()  # `@` would round below autocast


@torch.no_grad()
def summed_losses(interface: ModelInterface, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed loss and number of the target tokens of a batch of any layout, for validation: without label smoothing and
    weights, in float64. The batch is on the device of the network."""
    network.eval()
    labels = batch["labels"]
    return _token_losses(interface.target_logits(network, batch), labels).sum(), labels.ne(IGNORED).sum()


@torch.no_grad()
def losses_of(network: PreTrainedModel, examples: Sequence[TokenizedExample]) -> tuple[Tensor, Tensor]:
    """Summed loss and number of target tokens of each example of one batch, without label smoothing: two tensors of
    (B), in float64."""
    network.eval()
    interface = interface_of(network)
    batch = on_device(interface.training_batch(examples, int(network.config.pad_token_id)), network)
    labels = batch["labels"]
    return _token_losses(interface.target_logits(network, batch), labels).sum(1), labels.ne(IGNORED).sum(1)


def _token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss at each label (B, T), 0 where it is IGNORED, from logits (B, T, vocabulary). In float64: float32 loses
    the digits of the sum that tell two good models apart."""
    losses = torch.zeros_like(labels, dtype=torch.float64)
    for places in labels.ne(IGNORED).nonzero().split(max(1, _CHUNK_BYTES // (8 * logits.shape[-1]))):
        rows, columns = places.unbind(1)
        chunk = logits[rows, columns].double()
        losses[rows, columns] = F.cross_entropy(chunk, labels[rows, columns], reduction="none")
    return losses


def example_losses(
    network: PreTrainedModel, dataset: TokenizedDataset, batch_size: int, max_tokens: int = sys.maxsize
) -> Iterator[tuple[int, float, int]]:
    """Index, summed loss and number of target tokens of each example, the longest first.

    A batch has `batch_size` examples, or fewer if they would have more than `max_tokens` together, if their logits
    would be too large, or if the network computes so many otherwise than each alone.

    Raises:
        OutOfMemory: memory ends on one example alone.
    """

    def work(indices: Sequence[int]) -> list[tuple[int, float, int]]:
        losses, tokens = losses_of(network, [dataset[index] for index in indices])
        return list(zip(indices, losses.tolist(), tokens.tolist(), strict=True))

    halving, layout = Halving(network), choose_layout(network, dataset, pack=False)
    lengths = dataset.source_lengths(), dataset.target_lengths()
    for batch in batches_that_fit(network, *lengths, max_tokens, batch_size):
        for group in allowed_groups(layout, [dataset[index] for index in batch]):
            yield from halving(work, [batch[place] for place in group])


def batches_that_fit(
    network: PreTrainedModel, sources: Lengths, targets: Lengths, max_tokens: int, batch_size: int = sys.maxsize
) -> Iterator[list[int]]:
    """Indices of the examples that are computed together, the longest first, and those of equal lengths next to each
    other: at most so many examples and tokens, padded, and no larger logits than memory is well used for, but at least
    one example."""
    max_targets = _LOGITS_BYTES // (4 * _vocabulary_size(network))
    batch, source, target = list[int](), 0, 0
    for index in np.lexsort((-targets, -(sources + targets))).tolist():
        source, target = max(source, int(sources[index])), max(target, int(targets[index]))
        if batch and len(batch) >= min(batch_size, max_tokens // (source + target), max_targets // target):
            yield batch
            batch, source, target = [], int(sources[index]), int(targets[index])
        batch.append(index)
    if batch:
        yield batch


def _vocabulary_size(network: PreTrainedModel) -> int:
    embeddings: Any = network.get_input_embeddings()
    return len(embeddings.weight)  # with an adapter beside it, it is no nn.Embedding
