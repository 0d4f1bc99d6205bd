"""Batches for training: pairs by chance, shared among processes, and cut into parts of pairs alike in length."""

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from operator import add
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from stages.lib.batches import one_ahead
from stages.lib.families.causal import joined
from stages.lib.families.family import IGNORED, Batch
from stages.lib.pairs import Pair, Pairs
from stages.lib.params.fit import Fit

Indices = np.ndarray[Any, np.dtype[np.int64]]


BatchOf = Callable[[Sequence[Pair], int], Batch]  # pairs and the id of a pad -> a batch


class Load(TypedDict):
    """What one process computes of an update."""

    parts: list[Batch]  # one after the other; their gradients are added up
    tokens: int  # read, pads left out
    targets: int  # learned


class BatchSampler(Sampler[list[int]]):
    """Every pair once an epoch, in a new random order, which the seed and the epoch fix.

    Batches hold `fit.batch_size` pairs, or about `fit.batch_tokens` tokens, in the order of their lengths. Of each,
    process `rank` of `world` gets every world-th pair, as long as those of the others.
    """

    def __init__(self, lengths: Indices, settings: Fit, rank: int = 0, world: int = 1) -> None:
        self._lengths, self._settings = lengths, settings
        self._rank, self._world, self._epoch = rank, world, 0
        self._count = batches_an_epoch(lengths, settings)

    def __len__(self) -> int:
        return self._count

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self._rank :: self._world].tolist() for batch in self.batches(self._epoch))

    def at(self, step: int) -> list[int]:
        """The whole batch of an update, counted from 0."""
        epoch, place = divmod(step, self._count)
        return list(self.batches(epoch)[place].tolist())

    def batches(self, epoch: int) -> list[Indices]:
        order = np.random.default_rng((self._settings.seed, epoch)).permutation(len(self._lengths))
        batches = np.split(order, self._borders(order))
        return [batch[np.argsort(self._lengths[batch], kind="stable")] for batch in batches]

    def _borders(self, order: Indices) -> Indices:
        if self._settings.batch_tokens is None:
            return np.arange(self._settings.batch_size, len(order), self._settings.batch_size)
        # where the tokens so far pass the next of equal shares: the same number of batches whatever the order
        lengths = self._lengths[order]
        shares = np.arange(1, self._count) * (int(lengths.sum()) / self._count)
        borders = np.searchsorted(np.cumsum(lengths) - lengths, shares)
        # a pair longer than a share would leave the next batch empty: at least one pair in each
        number = np.arange(1, self._count)
        borders = np.maximum.accumulate(np.maximum(borders, number) - number) + number
        return np.minimum(borders, len(order) - self._count + number)


def batches_an_epoch(lengths: Indices, settings: Fit) -> int:
    if settings.batch_tokens is None:
        return max(1, math.ceil(len(lengths) / settings.batch_size))
    return min(len(lengths), max(1, math.ceil(int(lengths.sum()) / settings.batch_tokens)))


def cut(sources: Sequence[int], targets: Sequence[int], part_cost: int, max_tokens: int | None) -> list[slice]:
    """Consecutive pairs that are computed together, the last ones, which are the longest, first.

    The least tokens altogether, each source and target padded to the longest of its part, and `part_cost` more for each
    part; with `max_tokens`, none has more than so many, but always a pair. By dynamic programming over the ends of
    parts.
    """
    limit = math.inf if max_tokens is None else max_tokens
    without_pads = [0, *accumulate(map(add, sources, targets))]
    least, begins = [0.0], [0]  # by the number of pairs: what the first so many cost, and where their last part begins
    for end in range(1, len(sources) + 1):
        best, begin, source, target = math.inf, end - 1, 0, 0
        for start in range(end - 1, -1, -1):
            source, target = max(source, sources[start]), max(target, targets[start])
            tokens = (source + target) * (end - start)
            if start < end - 1 and (tokens > limit or without_pads[start] + tokens + part_cost >= best):
                break  # as will be all that begin before it, since pads only become more
            if least[start] + tokens + part_cost < best:
                best, begin = least[start] + tokens + part_cost, start
        least.append(best)
        begins.append(begin)
    slices, end = [], len(sources)
    while end:
        slices.append(slice(begins[end], end))
        end = begins[end]
    return slices


class Collator:
    """The pairs that a process got of a batch -> what it computes; without any, a pair that teaches nothing, since all
    processes take part in every update."""

    def __init__(self, batch_of: BatchOf, pad_id: int, part_cost: int, max_tokens: int | None, stand_in: Pair) -> None:
        self._batch_of, self._pad_id, self._stand_in = batch_of, pad_id, stand_in
        self._part_cost, self._max_tokens = part_cost, max_tokens

    def __call__(self, pairs: Sequence[Pair]) -> Load:
        if not pairs:
            batch = self._batch_of([self._stand_in], self._pad_id)
            nothing = torch.full_like(batch["labels"], IGNORED)
            return {"parts": [batch | {"labels": nothing}], "tokens": 0, "targets": 0}
        read, written = [len(pair.source_ids) for pair in pairs], [len(pair.target_ids) for pair in pairs]
        slices = cut(read, written, self._part_cost, self._max_tokens)
        parts = _end_to_end([self._batch_of(pairs[own], self._pad_id) for own in slices], self._max_tokens)
        targets = sum(int(part["labels"].ne(IGNORED).sum()) for part in parts)
        return {"parts": parts, "tokens": sum(read) + sum(written), "targets": targets}


def _end_to_end(parts: list[Batch], max_tokens: int | None) -> list[Batch]:
    """Flat parts in as few as hold so many tokens each; others as they are."""
    if "keep" not in parts[0]:
        return parts
    rows, tokens = list[list[Batch]](), 0
    for part in parts:
        own = part["input_ids"].shape[1]
        tokens += own
        if not rows or (max_tokens is not None and tokens > max_tokens):
            rows.append([])
            tokens = own
        rows[-1].append(part)
    return [joined(row) for row in rows]


def pairs_in(part: Batch) -> int:
    return len(part["lengths" if "keep" in part else "labels"])


def divided(part: Batch, pieces: int) -> Iterator[Batch]:
    """A part in so many smaller ones of as many pairs each, or fewer where it has not as many."""
    if pieces == 1:
        yield part
        return
    size = math.ceil(pairs_in(part) / pieces)
    if "keep" not in part:
        for start in range(0, len(part["labels"]), size):
            yield {name: rows[start : start + size] for name, rows in part.items()}
        return
    start = 0
    for lengths in part["lengths"].split(size):
        end = start + int(lengths.sum())
        own = (part["keep"] >= start) & (part["keep"] < end)
        yield {
            "input_ids": part["input_ids"][:, start:end],
            "position_ids": part["position_ids"][:, start:end],
            "labels": part["labels"][:, own],
            "keep": part["keep"][own] - start,
            "lengths": lengths,
            "together": torch.tensor([len(lengths)]),
        }
        start = end


def _outlive_sigterm(worker: int) -> None:
    """It may come to a whole group of processes, and the fit still wants to save itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Loader(DataLoader[Any]):
    """Goes to a new order with each epoch, which transformers' Trainer announces."""

    def __init__(self, train: Pairs, sampler: BatchSampler, collator: Collator, workers: int) -> None:
        super().__init__(
            train,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=collator,
            num_workers=workers,
            worker_init_fn=_outlive_sigterm,
        )
        self._order = sampler

    def __iter__(self) -> Iterator[Load]:  # type: ignore[override]
        """Each load is made while the one before is computed."""
        return one_ahead(super().__iter__())

    def set_epoch(self, epoch: int) -> None:
        self._order.set_epoch(epoch)
