"""The order of training: the examples of each update, and the ones that each process computes."""

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from stages.lib.core.worker_pool import prefetched
from stages.lib.params.fit import Fit
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample
from stages.lib.training.micro_batches import UpdateBatch

Indices = np.ndarray[Any, np.dtype[np.int64]]


class BatchSampler(Sampler[list[int]]):
    """Every example once an epoch, in a new random order, which depends on the seed and the epoch only. Epochs follow
    one another without end.

    A batch has `fit.batch_size` examples, or about `fit.batch_tokens` tokens, sorted by length. Process `rank` of
    `world_size` gets every world_size-th example of it, so that all processes get examples of similar length.

    Args:
        done: updates that were made before; the first batch is the one after them.
    """

    def __init__(self, lengths: Indices, settings: Fit, rank: int = 0, world_size: int = 1, done: int = 0) -> None:
        self._lengths, self._settings = lengths, settings
        self._rank, self._world_size, self._done = rank, world_size, done
        self._count = batches_per_epoch(lengths, settings)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, place = divmod(self._done, self._count)
        while True:
            for batch in self.batches(epoch)[place:]:
                yield batch[self._rank :: self._world_size].tolist()
            epoch, place = epoch + 1, 0

    def at(self, step: int) -> list[int]:
        """The whole batch of an update; updates are counted from 0."""
        epoch, place = divmod(step, self._count)
        return list(self.batches(epoch)[place].tolist())

    def batches(self, epoch: int) -> list[Indices]:
        order = np.random.default_rng((self._settings.seed, epoch)).permutation(len(self._lengths))
        batches = np.split(order, self._borders(order))
        return [batch[np.argsort(self._lengths[batch], kind="stable")] for batch in batches]

    def _borders(self, order: Indices) -> Indices:
        if self._settings.batch_tokens is None:
            return np.arange(self._settings.batch_size, len(order), self._settings.batch_size)
        # a border is where the tokens so far exceed the next of equal shares, so that the number of batches is the same
        # for every order
        lengths = self._lengths[order]
        shares = np.arange(1, self._count) * (int(lengths.sum()) / self._count)
        borders = np.searchsorted(np.cumsum(lengths) - lengths, shares)
        # an example longer than a share would leave the next batch empty: each batch gets at least one
        number = np.arange(1, self._count)
        borders = np.maximum.accumulate(np.maximum(borders, number) - number) + number
        return np.minimum(borders, len(order) - self._count + number)


def batches_per_epoch(lengths: Indices, settings: Fit) -> int:
    if settings.batch_tokens is None:
        return max(1, math.ceil(len(lengths) / settings.batch_size))
    return min(len(lengths), max(1, math.ceil(int(lengths.sum()) / settings.batch_tokens)))


class UpdateLoader(DataLoader[Any]):
    """Loads this process's share of each update, without end."""

    def __init__(
        self,
        train: TokenizedDataset,
        sampler: BatchSampler,
        collate: Callable[[Sequence[TokenizedExample]], UpdateBatch],
        workers: int,
    ) -> None:
        super().__init__(
            train,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=_ignore_sigterm,
            generator=torch.Generator(),  # else it would draw from the one of dropout
        )

    def __iter__(self) -> Iterator[UpdateBatch]:  # type: ignore[override]
        """Makes each batch while the one before it is computed."""
        return prefetched(super().__iter__(), _compute_alone)


def _compute_alone() -> None:
    """This thread has no helpers. With those of a second thread, OpenMP counts more threads than cores, and lets the
    helpers of training sleep between any two operations, which makes a small model a third slower."""
    torch.set_num_threads(1)


def _ignore_sigterm(worker: int) -> None:
    """The signal can reach the whole group of processes, and the training process needs its loaders until it has
    saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
