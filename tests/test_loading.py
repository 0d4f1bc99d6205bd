"""Batches for training: which pairs share one, and what each process and each part gets."""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from stages.lib.families import causal
from stages.lib.loading import BatchSampler, Collator, batches_an_epoch, cut
from stages.lib.pairs import Pair
from tests import tiny

SOURCES, TARGETS = np.random.default_rng(1).integers(5, 60, (2, 1003))
LENGTHS = SOURCES + TARGETS


def batches(epoch: int = 0, **settings: Any) -> list[list[int]]:
    return [batch.tolist() for batch in BatchSampler(LENGTHS, tiny.settings(**settings)).batches(epoch)]


@pytest.mark.parametrize("size", [{"batch_size": 10}, {"batch_tokens": 640}])
def test_batches_hold_pairs_by_chance_in_a_new_order_every_epoch(size: dict[str, int]) -> None:
    first, second = batches(0, **size), batches(1, **size)
    assert first != second
    assert first == batches(0, **size)
    for epoch in (first, second):
        assert sorted(index for batch in epoch for index in batch) == list(range(len(LENGTHS)))
        assert len(epoch) == batches_an_epoch(LENGTHS, tiny.settings(**size))
    means = [LENGTHS[batch].mean() for batch in first]
    # were they alike in length, it would be that of the pairs; by chance, a tenth is in a batch
    assert np.std(means) < 1.3 * LENGTHS.std() / np.sqrt(10)


def test_batches_of_so_many_tokens_have_them_whatever_the_length_of_their_pairs() -> None:
    tokens = [LENGTHS[batch].sum() for batch in batches(batch_tokens=640)]
    assert max(tokens) < 640 + 120
    assert min(tokens) > 640 - 120


def test_a_pair_longer_than_the_budget_has_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in BatchSampler(np.array([909]), tiny.settings(batch_tokens=10)).batches(0)] == [
        [0]
    ]


def test_processes_share_every_batch_and_one_that_gets_nothing_takes_part() -> None:
    own = [list(BatchSampler(LENGTHS, tiny.settings(batch_size=17), rank, 2)) for rank in (0, 1)]
    for whole, first, second in zip(batches(batch_size=17), *own, strict=True):
        assert sorted(first + second) == sorted(whole)
        longest = max(LENGTHS[first].max(), LENGTHS[second].max())
        assert abs(LENGTHS[first].sum() - LENGTHS[second].sum()) <= longest
    lonely = list(BatchSampler(np.array([6]), tiny.settings(), 1, 2))
    assert lonely == [[]]
    load = Collator(causal.FAMILY.training_batch, 0, 64, None, Pair("", [1, 2], [3], [], 1))([])
    assert load["targets"] == 0
    assert load["parts"][0]["labels"].tolist() == [[-100]]


def test_the_batch_of_a_step_can_be_named_afterwards() -> None:
    sampler = BatchSampler(LENGTHS, tiny.settings(batch_size=10))
    assert sampler.at(3) == batches(0, batch_size=10)[3]
    assert sampler.at(101 + 4) == batches(1, batch_size=10)[4]


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "expected"),
    [
        ([2, 2, 3, 8], None, [4]),
        ([2, 2, 3, 8], 9, [1, 3]),
        ([2, 2, 3, 8], 6, [1, 1, 2]),
        ([2, 2, 3, 8], 1, [1, 1, 1, 1]),
    ],
)
def test_parts_hold_no_more_tokens_than_they_may_but_always_a_pair(
    lengths: list[int], max_tokens: int | None, expected: list[int]
) -> None:
    parts = [lengths[own] for own in cut([length - 1 for length in lengths], [1] * len(lengths), 100, max_tokens)]
    assert [len(part) for part in parts] == expected
    assert sorted(length for part in parts for length in part) == lengths


def test_parts_count_what_pads_add_where_sources_and_targets_differ() -> None:
    assert cut([150, 150, 5], [10, 11, 12], 1000, 160) == [slice(2, 3), slice(1, 2), slice(0, 1)]
    assert cut([150, 5, 5], [10, 11, 12], 1000, 34) == [slice(1, 3), slice(0, 1)]


@pytest.mark.parametrize("part_cost", [0, 7, 64, 8192])
@pytest.mark.parametrize("max_tokens", [None, 200])
def test_no_other_parts_cost_less(part_cost: int, max_tokens: int | None) -> None:
    """Of all ways to cut twelve pairs, with and without a limit."""

    def cost(slices: Sequence[slice]) -> float:
        tokens = [(SOURCES[own].max() + TARGETS[own].max()) * len(SOURCES[own]) for own in slices]
        singles = [own.stop - own.start == 1 for own in slices]
        if max_tokens and any(many > max_tokens and not one for many, one in zip(tokens, singles, strict=True)):
            return math.inf
        return sum(tokens) + part_cost * len(slices)

    ways = (
        [slice(*ends) for ends in pairwise([0, *borders, 12])]
        for number in range(12)
        for borders in combinations(range(1, 12), number)
    )
    slices = cut(SOURCES[:12].tolist(), TARGETS[:12].tolist(), part_cost, max_tokens)
    assert [own.start for own in slices] == [own.stop for own in slices[1:]] + [0]
    assert cost(slices) == min(map(cost, ways))


def test_a_pair_longer_than_a_share_leaves_no_batch_empty() -> None:
    sampler = BatchSampler(np.array([10, 300, 10]), tiny.settings(batch_tokens=64))
    for epoch in range(8):
        batches = [batch.tolist() for batch in sampler.batches(epoch)]
        assert all(batches)
        assert sorted(index for batch in batches for index in batch) == [0, 1, 2]


def test_tokens_and_targets_of_a_load_are_counted_without_pads() -> None:
    pairs = [Pair("", [1], [2, 3], [0], 1), Pair("", [1, 1, 1], [2], [], 1)]
    load = Collator(causal.FAMILY.training_batch, 0, 64, None, pairs[0])(pairs)
    assert (load["tokens"], load["targets"]) == (7, 2)
