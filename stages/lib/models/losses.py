"""Cross entropy over target tokens only, in nats: of a batch for training, of each example for evaluation."""

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import eq
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import IGNORED, Batch, ModelInterface, on_device
from stages.lib.models.layouts import allowed_groups, choose_layout, shares_sources
from stages.lib.models.memory import Halving
from stages.lib.models.shared_sources import logits_of_shared_sources
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


@torch.no_grad()
def shared_losses_of(network: PreTrainedModel, examples: Sequence[TokenizedExample]) -> tuple[Tensor, Tensor]:
    """As `losses_of`. Neighbours of equal source share a pass over it; one of the sources has two tokens or more."""
    network.eval()
    logits, labels = logits_of_shared_sources(network, examples)
    return _token_losses(logits, labels).sum(1), labels.ne(IGNORED).sum(1)


def _token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss at each label (B, T), 0 where it is IGNORED, from logits (B, T, vocabulary). In float64: float32 loses
    the digits of the sum that tell two good models apart."""
    losses = torch.zeros_like(labels, dtype=torch.float64)
    for places in labels.ne(IGNORED).nonzero().split(max(1, _CHUNK_BYTES // (8 * logits.shape[-1]))):
        rows, columns = places.unbind(1)
        chunk = logits[rows, columns].double()
        losses[rows, columns] = F.cross_entropy(chunk, labels[rows, columns], reduction="none")
    return losses


class ExampleLosses:
    """The loss on each example of a dataset, computed in parts. Neighbours of equal source, such as the references of a
    question, share a pass over it, where the network computes that right.

    A part has `batch_size` examples, or fewer if they would have more than `max_tokens` together, if their logits would
    be too large, or if the network computes so many otherwise than each alone.

    Attributes:
        parts: the indices of the examples of each part, the longest first.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        dataset: TokenizedDataset,
        batch_size: int = sys.maxsize,
        max_tokens: int = sys.maxsize,
    ) -> None:
        self._network, self._dataset, self._halving = network, dataset, Halving(network)
        layout = choose_layout(network, dataset, pack=False)
        sources, targets = dataset.source_lengths(), dataset.target_lengths()
        question = _numbers_of_questions(dataset)
        may_share = layout == "padded" and sources.max() > 1 and question[-1] < len(dataset) - 1
        self._shares = bool(may_share) and shares_sources(network, dataset, shared_losses_of)
        if self._shares:  # by their longest target, so that they stay together
            longest = np.zeros(question[-1] + 1, np.int64)
            np.maximum.at(longest, question, targets)
            targets = longest[question]
        self.parts = [
            [batch[place] for place in group]
            for batch in batches_that_fit(network, sources, targets, max_tokens, batch_size)
            for group in allowed_groups(layout, [dataset[index] for index in batch])
        ]

    def __call__(self, part: Sequence[int]) -> list[tuple[float, int]]:
        """Summed loss and number of target tokens of each example of the part.

        Raises:
            OutOfMemory: memory ends on one example alone.
        """
        return self._halving(self._losses, part)

    def _losses(self, indices: Sequence[int]) -> list[tuple[float, int]]:
        examples = [self._dataset[index] for index in indices]
        sources = [example.source_ids for example in examples]
        is_shared = self._shares and any(map(eq, sources, sources[1:])) and max(map(len, sources)) > 1
        losses, tokens = (shared_losses_of if is_shared else losses_of)(self._network, examples)
        return list(zip(losses.tolist(), tokens.tolist(), strict=True))


def _numbers_of_questions(dataset: TokenizedDataset) -> Lengths:
    """Of the question of each example, from 0: the id and the source. Its references are neighbours."""
    questions = ((example.id, example.source_ids) for example in dataset)
    sizes = [len(list(equal)) for _, equal in groupby(questions)]
    return np.repeat(np.arange(len(sizes)), sizes)


def example_losses(
    network: PreTrainedModel, dataset: TokenizedDataset, batch_size: int, max_tokens: int = sys.maxsize
) -> Iterator[tuple[int, float, int]]:
    """Index, summed loss and number of target tokens of each example, the longest first: `ExampleLosses` part by part.

    Raises:
        OutOfMemory: memory ends on one example alone.
    """
    losses = ExampleLosses(network, dataset, batch_size, max_tokens)
    for part in losses.parts:
        yield from ((index, *found) for index, found in zip(part, losses(part), strict=True))


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
