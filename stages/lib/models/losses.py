"""Cross entropy over target tokens only, in nats: of a batch for training, of each example for evaluation."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import IGNORED, Batch, ModelInterface, on_device
from stages.lib.models.memory import Halving
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample

_LOGITS_BYTES = 256 << 20  # of one batch, in float32
_CHUNK_BYTES = 32 << 20  # of the logits that are in float64 at a time


def summed_loss(interface: ModelInterface, network: nn.Module, batch: Batch, label_smoothing: float) -> Tensor:
    """Summed over the target tokens of a batch, for training (label smoothing: Szegedy et al. 2016)."""
    logits = interface.target_logits(network, batch).flatten(0, 1).float()
    labels = batch["labels"].flatten()
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)


@torch.no_grad()
def losses_of(network: PreTrainedModel, examples: Sequence[TokenizedExample]) -> tuple[Tensor, Tensor]:
    """Summed loss and number of target tokens of each example of one batch, without label smoothing: two tensors of
    (B). Computed in float64: float32 loses the digits of the sum that tell two good models apart."""
    network.eval()
    interface = interface_of(network)
    batch = on_device(interface.training_batch(examples, int(network.config.pad_token_id)), network)
    logits, labels = interface.target_logits(network, batch), batch["labels"]
    has_loss = labels.ne(IGNORED)
    losses = torch.zeros_like(labels, dtype=torch.float64)
    for places in has_loss.nonzero().split(max(1, _CHUNK_BYTES // (8 * logits.shape[-1]))):
        rows, columns = places.unbind(1)
        chunk = logits[rows, columns].double()
        losses[rows, columns] = F.cross_entropy(chunk, labels[rows, columns], reduction="none")
    return losses.sum(1), has_loss.sum(1)


def example_losses(
    network: PreTrainedModel,
    dataset: TokenizedDataset,
    batch_size: int,
    max_tokens: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[int, float, int]]:
    """Index, summed loss and number of target tokens of each example, the longest first.

    A batch has `batch_size` examples, or fewer if they would have more than `max_tokens` together, or if their logits
    would be too large. Process `rank` of `world_size` gets its share of the examples, in as many batches as the others.

    Raises:
        UserError: memory ends on one example alone.
    """

    def work(indices: Sequence[int]) -> list[tuple[int, float, int]]:
        losses, tokens = losses_of(network, [dataset[index] for index in indices])
        return list(zip(indices, losses.tolist(), tokens.tolist(), strict=True))

    halving = Halving()
    max_targets = _LOGITS_BYTES // (4 * _vocabulary_size(network))
    for together in _batches(dataset, batch_size, max_tokens or sys.maxsize, max_targets, world_size):
        own = together[rank::world_size]
        losses = halving(work, own or together[:1])  # also without any of its own: the other processes wait for it
        if own:
            yield from losses


def _vocabulary_size(network: PreTrainedModel) -> int:
    embeddings: Any = network.get_input_embeddings()
    return int(embeddings.num_embeddings)


def _batches(
    dataset: TokenizedDataset, batch_size: int, max_tokens: int, max_targets: int, world_size: int
) -> Iterator[list[int]]:
    """Indices of the examples that are computed together by all processes, the longest first. The share of each has at
    most so many examples, tokens and target tokens, padded, but at least one example."""
    lengths, targets = dataset.lengths().tolist(), dataset.target_lengths().tolist()
    batch, widest = list[int](), 0
    for index in sorted(range(len(dataset)), key=lambda index: (-lengths[index], index)):
        longest, widest = lengths[batch[0] if batch else index], max(widest, targets[index])
        share = max(1, min(batch_size, max_tokens // longest, max_targets // widest))
        if len(batch) >= share * world_size:
            yield batch
            batch, widest = [], targets[index]
        batch.append(index)
    if batch:
        yield batch
