"""Micro-batches: which examples of an update are computed together."""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest

from stages.lib.models.families import causal
from stages.lib.records.tokenized_examples import TokenizedExample
from stages.lib.training.micro_batches import Collator, example_count, split_by_length, split_evenly

SOURCES, TARGETS = np.random.default_rng(1).integers(5, 60, (2, 12))


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "expected"),
    [
        ([2, 2, 3, 8], None, [4]),
        ([2, 2, 3, 8], 9, [1, 3]),
        ([2, 2, 3, 8], 6, [1, 1, 2]),
        ([2, 2, 3, 8], 1, [1, 1, 1, 1]),
    ],
)
def test_a_micro_batch_has_at_most_so_many_tokens_but_at_least_one_example(
    lengths: list[int], max_tokens: int | None, expected: list[int]
) -> None:
    slices = split_by_length([length - 1 for length in lengths], [1] * len(lengths), 100, max_tokens)
    micro_batches = [lengths[own] for own in slices]
    assert [len(batch) for batch in micro_batches] == expected
    assert sorted(length for batch in micro_batches for length in batch) == lengths


def test_pads_count_where_sources_and_targets_differ() -> None:
    assert split_by_length([150, 150, 5], [10, 11, 12], 1000, 160) == [slice(2, 3), slice(1, 2), slice(0, 1)]
    assert split_by_length([150, 5, 5], [10, 11, 12], 1000, 34) == [slice(1, 3), slice(0, 1)]


@pytest.mark.parametrize("micro_batch_cost", [0, 7, 64, 8192])
@pytest.mark.parametrize("max_tokens", [None, 200])
def test_no_other_split_costs_less(micro_batch_cost: int, max_tokens: int | None) -> None:
    """Of all ways to split twelve examples, with and without a limit."""

    def cost(slices: Sequence[slice]) -> float:
        tokens = [(SOURCES[own].max() + TARGETS[own].max()) * len(SOURCES[own]) for own in slices]
        singles = [own.stop - own.start == 1 for own in slices]
        if max_tokens and any(many > max_tokens and not one for many, one in zip(tokens, singles, strict=True)):
            return math.inf
        return sum(tokens) + micro_batch_cost * len(slices)

    ways = (
        [slice(*ends) for ends in pairwise([0, *borders, 12])]
        for number in range(12)
        for borders in combinations(range(1, 12), number)
    )
    slices = split_by_length(SOURCES.tolist(), TARGETS.tolist(), micro_batch_cost, max_tokens)
    assert [own.start for own in slices] == [own.stop for own in slices[1:]] + [0]
    assert cost(slices) == min(map(cost, ways))


def test_tokens_and_targets_of_an_update_are_counted_without_pads() -> None:
    examples = [TokenizedExample("", [1], [2, 3], [0], 1), TokenizedExample("", [1, 1, 1], [2], [], 1)]
    update = Collator(causal.INTERFACE.training_batch, 0, 64, None, examples[0])(examples)
    assert (update["tokens"], update["targets"]) == (7, 2)


def test_without_an_example_there_is_one_without_loss() -> None:
    stand_in = TokenizedExample("", [1, 2], [3], [], 1)
    update = Collator(causal.INTERFACE.training_batch, 0, 64, None, stand_in)([])
    assert update["targets"] == 0
    assert update["micro_batches"][0]["labels"].tolist() == [[-100]]


@pytest.mark.parametrize(("pieces", "sizes"), [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (8, [1] * 5)])
@pytest.mark.parametrize("layout", ["training_batch", "packed_batch"])
def test_pieces_of_a_micro_batch_hold_its_examples_evenly(layout: str, pieces: int, sizes: list[int]) -> None:
    examples = [TokenizedExample("", [1] * size, [2 + size] * size, [], 1) for size in range(1, 6)]
    batch = getattr(causal.INTERFACE, layout)(examples, 0)
    split = list(split_evenly(batch, pieces))
    assert [example_count(part) for part in split] == sizes
    labels = [label for part in split for label in part["labels"].flatten().tolist()]
    assert labels == batch["labels"].flatten().tolist()
