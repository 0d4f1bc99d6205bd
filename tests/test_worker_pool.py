"""Batches of bounded size, and a pool of processes with results in order."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.core import worker_pool
from stages.lib.core.worker_pool import available_cores, in_batches, ordered_map


@pytest.fixture(params=[0, 60], ids=["workers", "alone"])
def _seconds_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "SECONDS_ALONE", request.param)


def double(number: int) -> int:
    # the first ones take longest: without sorting, results would be in another order
    time.sleep(0.02 * (number < 2))
    return 2 * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


@given(st.lists(st.integers(0, 9)), st.integers(1, 5), st.integers(1, 20))
def test_batches_are_bounded_and_hold_every_item_once(sizes: list[int], max_items: int, max_size: int) -> None:
    batches = list(in_batches(sizes, int, max_items, max_size))
    assert [size for batch in batches for size in batch] == sizes
    assert all(0 < len(batch) <= max_items for batch in batches)
    # only the item that fills a batch may exceed the limit
    assert all(sum(batch[:-1]) < max_size for batch in batches)
    assert all(len(batch) == max_items or sum(batch) >= max_size for batch in batches[:-1])


def test_a_batch_is_returned_before_the_next_one_is_read() -> None:
    read: list[int] = []
    next(in_batches(recorded(100, read), int, 3))
    assert read == [0, 1, 2]


def recorded(count: int, read: list[int]) -> Iterator[int]:
    for number in range(count):
        read.append(number)
        yield number


@pytest.mark.usefixtures("_seconds_alone")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_results_come_in_order(workers: int, count: int) -> None:
    assert list(ordered_map(double, range(count), workers)) == [2 * number for number in range(count)]


@pytest.mark.usefixtures("_seconds_alone")
@pytest.mark.parametrize("workers", [1, 2])
def test_only_a_few_batches_are_read_ahead(workers: int) -> None:
    read: list[int] = []
    for number, _ in enumerate(ordered_map(double, recorded(30, read), workers), start=1):
        assert len(read) <= number + 2 * workers + 1
    assert len(read) == 30


@pytest.mark.usefixtures("_seconds_alone")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_reaches_the_caller_after_the_earlier_results(workers: int) -> None:
    results = ordered_map(fail_at_three, range(50), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


@pytest.mark.usefixtures("_seconds_alone")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_reading_reaches_the_caller(workers: int) -> None:
    def broken() -> Iterator[int]:
        yield from range(4)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(ordered_map(double, broken(), workers))


def test_at_least_one_core_is_available() -> None:
    assert available_cores() >= 1
