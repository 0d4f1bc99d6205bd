"""Batches of bounded size, and a pool of processes that returns their results in order."""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from stages.lib.core.process import UserError, die_with_parent

T = TypeVar("T")
R = TypeVar("R")
_NONE: Any = object()
SECONDS_ALONE = 1.0  # about what it takes to start a worker, which imports as much as its stage


def in_batches(
    items: Iterable[T], size: Callable[[T], int], max_items: int, max_size: int = 4 << 20
) -> Iterator[list[T]]:
    """A batch ends with the item that fills it. Only a single huge item makes a huge batch."""
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


def ordered_map(
    work: Callable[[T], R], batches: Iterable[T], workers: int | None, seconds_alone: float | None = None
) -> Iterator[R]:
    """`work(batch)` for every batch, in order. At most two batches per worker process wait. None: one worker per core.

    The first batches are processed here, for as long as it would take to start workers: small data is done by then.

    Args:
        seconds_alone: how long; null: SECONDS_ALONE.

    Raises:
        UserError: a worker was killed.
    """
    workers = workers or available_cores()
    alone = SECONDS_ALONE if seconds_alone is None else seconds_alone
    rest = iter(batches)
    seconds = 0.0
    for batch in rest:
        started = time.perf_counter()
        result = work(batch)
        seconds += time.perf_counter() - started
        yield result
        if workers > 1 and seconds >= alone:
            yield from _by_workers(work, rest, workers)


def _by_workers(work: Callable[[T], R], batches: Iterable[T], workers: int) -> Iterator[R]:
    # spawn: a fork would copy the locks of Arrow's threads, but not the threads that release them
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work,)) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(_do, batch))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, probably because memory ran out; lower machine.data_workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_work: Callable[[Any], Any]  # of a worker


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    die_with_parent()
    os.environ["RAYON_NUM_THREADS"] = "1"  # of the tokenizers library: there is a process for each core
    _work = work


def _do(batch: Any) -> Any:
    return _work(batch)


def prefetched(items: Iterable[T], prepare: Callable[[], None] | None = None) -> Iterator[T]:
    """The same items. A thread makes the next one meanwhile: it pays off if that releases Python's lock.

    Args:
        prepare: called in the thread, before the first item.
    """
    rest = iter(items)
    with ThreadPoolExecutor(1, initializer=prepare) as thread:
        following = thread.submit(next, rest, _NONE)
        while (item := following.result()) is not _NONE:
            following = thread.submit(next, rest, _NONE)
            yield item


def available_cores() -> int:
    """The cores that this process may use. In a container, the machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
