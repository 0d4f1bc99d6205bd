"""Batches of bounded size, and work on them in order."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.batches import cores, in_batches, ordered_map


def double(number: int) -> int:
    # the earlier, the longer: results would come back in the wrong order if they were not sorted
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
    # only the item that fills a batch may go beyond
    assert all(sum(batch[:-1]) < max_size for batch in batches)
    assert all(len(batch) == max_items or sum(batch) >= max_size for batch in batches[:-1])


def test_a_batch_is_given_before_the_next_is_read() -> None:
    taken: list[int] = []
    next(in_batches(watched(100, taken), int, 3))
    assert taken == [0, 1, 2]


def watched(count: int, taken: list[int]) -> Iterator[int]:
    for number in range(count):
        taken.append(number)
        yield number


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_results_come_in_order(processes: int, count: int) -> None:
    assert list(ordered_map(double, range(count), processes)) == [2 * number for number in range(count)]


@pytest.mark.parametrize("processes", [1, 2])
def test_only_a_few_batches_are_read_ahead(processes: int) -> None:
    taken: list[int] = []
    for number, _ in enumerate(ordered_map(double, watched(30, taken), processes), start=1):
        assert len(taken) <= number + 2 * processes + 1
    assert len(taken) == 30


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_the_work_reaches_the_caller_after_the_results_before_it(processes: int) -> None:
    results = ordered_map(fail_at_three, range(50), processes)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_reading_reaches_the_caller(processes: int) -> None:
    def broken() -> Iterator[int]:
        yield from range(4)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(ordered_map(double, broken(), processes))


def test_there_is_a_core() -> None:
    assert cores() >= 1
