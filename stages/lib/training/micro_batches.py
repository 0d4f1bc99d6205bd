"""Micro-batches: the examples of an update are split, computed one after the other, and their gradients are added."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from operator import add
from typing import TypedDict

import torch

from stages.lib.models.families.causal import concatenate, is_packed
from stages.lib.models.families.interface import IGNORED, Batch
from stages.lib.records.tokenized_examples import TokenizedExample

BatchOf = Callable[[Sequence[TokenizedExample], int], Batch]  # examples and the id of a pad -> a batch


class UpdateBatch(TypedDict):
    """What one process computes of an update."""

    micro_batches: list[Batch]
    tokens: int  # of sources and targets, without pads
    targets: int  # tokens with loss


class Collator:
    """Makes micro-batches of the examples that this process has in an update.

    If it has none, it computes `stand_in` without loss, because all processes take part in every update.

    Args:
        cost: of one more micro-batch: the tokens that could be computed in the same time.
        max_tokens: of a micro-batch; None is no limit.
    """

    def __init__(
        self, batch_of: BatchOf, pad_id: int, cost: int, max_tokens: int | None, stand_in: TokenizedExample
    ) -> None:
        self._batch_of, self._pad_id, self._stand_in = batch_of, pad_id, stand_in
        self._cost, self._max_tokens = cost, max_tokens

    def __call__(self, examples: Sequence[TokenizedExample]) -> UpdateBatch:
        if not examples:
            batch = without_loss(self._batch_of([self._stand_in], self._pad_id))
            return {"micro_batches": [batch], "tokens": 0, "targets": 0}
        sources = [len(example.source_ids) for example in examples]
        targets = [len(example.target_ids) for example in examples]
        slices = split_by_length(sources, targets, self._cost, self._max_tokens)
        micro_batches = _packed([self._batch_of(examples[own], self._pad_id) for own in slices], self._max_tokens)
        with_loss = sum(int(batch["labels"].ne(IGNORED).sum()) for batch in micro_batches)
        return {"micro_batches": micro_batches, "tokens": sum(sources) + sum(targets), "targets": with_loss}


def without_loss(batch: Batch) -> Batch:
    """The same batch; nothing is learned from it."""
    return batch | {"labels": torch.full_like(batch["labels"], IGNORED)}


def split_by_length(sources: Sequence[int], targets: Sequence[int], cost: int, max_tokens: int | None) -> list[slice]:
    """Slices of consecutive examples, one for each micro-batch. The last ones, which are the longest, come first.

    The split minimises all tokens: sources and targets are padded to the longest of their micro-batch, and a
    micro-batch counts as `cost` more tokens. None has more than `max_tokens`, unless it is a single example. The
    algorithm is dynamic programming over the ends of micro-batches.
    """
    limit = math.inf if max_tokens is None else max_tokens
    without_pads = [0, *accumulate(map(add, sources, targets))]
    least, begins = [0.0], [0]  # of the first n examples: the cost, and the begin of the last micro-batch
    for end in range(1, len(sources) + 1):
        best, begin, source, target = math.inf, end - 1, 0, 0
        for start in range(end - 1, -1, -1):
            source, target = max(source, sources[start]), max(target, targets[start])
            tokens = (source + target) * (end - start)
            if start < end - 1 and (tokens > limit or without_pads[start] + tokens + cost >= best):
                break  # an earlier start only adds pads
            if least[start] + tokens + cost < best:
                best, begin = least[start] + tokens + cost, start
        least.append(best)
        begins.append(begin)
    slices, end = [], len(sources)
    while end:
        slices.append(slice(begins[end], end))
        end = begins[end]
    return slices


def _packed(batches: list[Batch], max_tokens: int | None) -> list[Batch]:
    """Packed batches are joined, up to `max_tokens` each. Padded batches stay as they are."""
    if not is_packed(batches[0]):
        return batches
    rows, tokens = list[list[Batch]](), 0
    for batch in batches:
        own = batch["input_ids"].shape[1]
        tokens += own
        if not rows or (max_tokens is not None and tokens > max_tokens):
            rows.append([])
            tokens = own
        rows[-1].append(batch)
    return [concatenate(row) for row in rows]


def example_count(batch: Batch) -> int:
    return len(batch["lengths" if is_packed(batch) else "labels"])


def split_evenly(batch: Batch, pieces: int) -> Iterator[Batch]:
    """The batch in at most so many smaller ones, of equally many examples."""
    if pieces == 1:
        yield batch
        return
    size = math.ceil(example_count(batch) / pieces)
    if not is_packed(batch):
        for start in range(0, len(batch["labels"]), size):
            yield {name: rows[start : start + size] for name, rows in batch.items()}
        return
    start = 0
    for lengths in batch["lengths"].split(size):
        end = start + int(lengths.sum())
        own = (batch["target_positions"] >= start) & (batch["target_positions"] < end)
        yield {
            "input_ids": batch["input_ids"][:, start:end],
            "position_ids": batch["position_ids"][:, start:end],
            "labels": batch["labels"][:, own],
            "target_positions": batch["target_positions"][own] - start,
            "lengths": lengths,
            "segment_sizes": torch.tensor([len(lengths)]),
        }
        start = end
