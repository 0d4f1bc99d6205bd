"""Streams cut into batches of bounded size, and work on many batches at once with results in order."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from stages.lib.process import UserError, die_with_parent

T = TypeVar("T")
R = TypeVar("R")
_NONE: Any = object()


def in_batches(
    items: Iterable[T], size: Callable[[T], int], max_items: int, max_size: int = 4 << 20
) -> Iterator[list[T]]:
    """A batch ends with the item that fills it, so only a single huge item makes a huge batch."""
    batch: list[T] = []
    filled = 0
    for item in items:
        batch.append(item)
        filled += size(item)
        if len(batch) == max_items or filled >= max_size:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch


def ordered_map(work: Callable[[T], R], batches: Iterable[T], processes: int | None) -> Iterator[R]:
    """`work(batch)` for every batch, in order, at most two batches a process waiting. None: a process for each core.

    A single batch is worked on here: starting processes would take longer.

    Raises:
        UserError: a process was killed.
    """
    processes = processes or cores()
    rest = iter(batches)
    first = list(islice(rest, 2))
    if processes == 1 or len(first) < 2:
        yield from map(work, chain(first, rest))
        return
    # spawn: a fork would copy the locks of Arrow's threads, but not the threads that open them
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=die_with_parent) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for batch in chain(first, rest):
                waiting.append(pool.submit(work, batch))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError("a process was killed, as happens when memory ends; lower machine.processes") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, the next one made in a thread meanwhile: it pays where making it leaves Python's lock free."""
    rest = iter(items)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, rest, _NONE)
        while (item := coming.result()) is not _NONE:
            coming = thread.submit(next, rest, _NONE)
            yield item


def cores() -> int:
    """That this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
