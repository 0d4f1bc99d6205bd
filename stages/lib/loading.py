"""Batches for training: pairs alike in length, shared among processes, and cut into parts that memory holds."""

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from stages.lib.families.family import IGNORED, Batch
from stages.lib.pairs import Pair, Pairs
from stages.lib.params.fit import Fit

_POOL = 49  # batches whose pairs are sorted together: enough for little padding, few enough for chance
_GROUP = 7  # batches, of the pool sorted by source, that are sorted by target: the root, for most alike
Indices = np.ndarray[Any, np.dtype[np.int64]]


BatchOf = Callable[[Sequence[Pair], int], Batch]  # pairs and the id of a pad -> a batch


class Load(TypedDict):
    """What one process computes of an update."""

    parts: list[Batch]  # one after the other; their gradients are added up
    tokens: int  # read, pads left out
    targets: int  # learned


class BatchSampler(Sampler[list[int]]):
    """Every pair once an epoch, in a new random order, alike in length within a batch; fixed by the seed and the epoch.

    Batches hold `fit.batch_size` pairs, or about `fit.batch_tokens` tokens. Of each, process `rank` of `world` gets
    every world-th pair, as long as those of the others.
    """

    def __init__(self, sources: Indices, targets: Indices, settings: Fit, rank: int = 0, world: int = 1) -> None:
        self._sources, self._targets, self._settings = sources, targets, settings
        self._rank, self._world, self._epoch = rank, world, 0
        self._count = batches_an_epoch(sources + targets, settings)

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
        random = np.random.default_rng((self._settings.seed, epoch))
        order = random.permutation(len(self._sources))
        batch = math.ceil(len(order) / self._count)
        for start in range(0, len(order), _POOL * batch):
            pool = order[start : start + _POOL * batch]
            pool[:] = pool[np.argsort(self._sources[pool], kind="stable")]
            # alike in both lengths, since sources and targets are padded apart
            for group in np.split(pool, range(_GROUP * batch, len(pool), _GROUP * batch)):
                group[:] = group[np.argsort(self._targets[group], kind="stable")]
        batches = np.split(order, self._borders(order))
        return [batches[place] for place in random.permutation(len(batches))]

    def _borders(self, order: Indices) -> Indices:
        if self._settings.batch_tokens is None:
            return np.arange(self._settings.batch_size, len(order), self._settings.batch_size)
        # where the tokens so far pass the next of equal shares: the same number of batches whatever the order
        lengths = self._sources[order] + self._targets[order]
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


def cut(sources: Sequence[int], targets: Sequence[int], max_tokens: int | None) -> list[slice]:
    """Consecutive pairs whose tokens, each source and target padded to the longest, are at most so many; the last
    pairs, which are the longest as a rule, first."""
    if max_tokens is None:
        return [slice(0, len(sources))]
    slices, end = [], len(sources)
    while end:
        start = end - 1
        source, target = sources[start], targets[start]
        while start:
            wider = max(source, sources[start - 1]), max(target, targets[start - 1])
            if sum(wider) * (end - start + 1) > max_tokens:
                break
            start, (source, target) = start - 1, wider
        slices.append(slice(start, end))
        end = start
    return slices


class Collator:
    """The pairs that a process got of a batch -> what it computes; without any, a pair that teaches nothing, since all
    processes take part in every update."""

    def __init__(self, batch_of: BatchOf, pad_id: int, max_tokens: int | None, stand_in: Pair) -> None:
        self._batch_of, self._pad_id, self._max_tokens, self._stand_in = batch_of, pad_id, max_tokens, stand_in

    def __call__(self, pairs: Sequence[Pair]) -> Load:
        if not pairs:
            batch = self._batch_of([self._stand_in], self._pad_id)
            nothing = torch.full_like(batch["labels"], IGNORED)
            return {"parts": [batch | {"labels": nothing}], "tokens": 0, "targets": 0}
        read, written = [len(pair.source_ids) for pair in pairs], [len(pair.target_ids) for pair in pairs]
        parts = [self._batch_of(pairs[own], self._pad_id) for own in cut(read, written, self._max_tokens)]
        targets = sum(int(part["labels"].ne(IGNORED).sum()) for part in parts)
        return {"parts": parts, "tokens": sum(read) + sum(written), "targets": targets}


def pairs_in(part: Batch) -> int:
    """Pairs of a part: its rows, or, where they stand end to end in one, as often as positions begin anew."""
    return int((part["position_ids"] == 0).sum()) if "keep" in part else len(part["labels"])


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
    begins = (part["position_ids"][0] == 0).nonzero().flatten().tolist()
    borders = [*begins[::size], part["position_ids"].shape[1]]
    for start, end in pairwise(borders):
        own = (part["keep"] >= start) & (part["keep"] < end)
        yield {
            "input_ids": part["input_ids"][:, start:end],
            "position_ids": part["position_ids"][:, start:end],
            "labels": part["labels"][:, own],
            "keep": part["keep"][own] - start,
        }


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

    def set_epoch(self, epoch: int) -> None:
        self._order.set_epoch(epoch)
