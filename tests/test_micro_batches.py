"""Micro-batches: which examples of an update are computed together."""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from stages.lib.models.families import causal
from stages.lib.models.families.interface import IGNORED, Batch
from stages.lib.models.layouts import Layout
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


LOSSLESS = TokenizedExample("", [1], [2, 3], [0], 1)
EXAMPLES = [TokenizedExample("", [1] * size, [2 + size] * size, [], 1) for size in range(1, 6)]


def collator(layout: Layout, cost: int = 64, max_tokens: int | None = None, **options: Any) -> Collator:
    return Collator(causal.INTERFACE, layout, 0, cost, max_tokens, EXAMPLES[0], **options)


def labels_of(batches: Iterable[Batch]) -> list[int]:
    return sorted(label for batch in batches for label in batch["labels"].flatten().tolist() if label != IGNORED)


def test_tokens_and_targets_of_an_update_are_counted_without_pads() -> None:
    update = collator("padded")([LOSSLESS, TokenizedExample("", [1, 1, 1], [2], [], 1)])
    assert (update["tokens"], update["targets"]) == (7, 2)


@pytest.mark.parametrize(
    ("layout", "counts"), [("padded", [5]), ("packed", [5]), ("unpadded", [1] * 5), ("single", [1] * 5)]
)
def test_the_layout_decides_which_examples_share_a_batch(layout: Layout, counts: list[int]) -> None:
    update = collator(layout)(EXAMPLES)
    assert [example_count(batch) for batch in update["micro_batches"]] == counts
    assert labels_of(update["micro_batches"]) == labels_of([causal.INTERFACE.training_batch(EXAMPLES, 0)])


def test_only_examples_of_equal_lengths_share_an_unpadded_batch() -> None:
    update = collator("unpadded")([*EXAMPLES[1:3], *EXAMPLES[1:3]])
    assert [example_count(batch) for batch in update["micro_batches"]] == [2, 2]
    assert all(batch["attention_mask"].all() for batch in update["micro_batches"])


def test_a_packed_row_has_segments_of_similar_length_and_at_most_so_many_tokens() -> None:
    (row,) = collator("packed", cost=3)(EXAMPLES)["micro_batches"]
    assert row["segment_sizes"].tolist() == [1, 2, 2]
    assert row["lengths"].tolist() == [9, 5, 7, 1, 3]
    rows = collator("packed", cost=3, max_tokens=20)(EXAMPLES)["micro_batches"]
    assert [batch["lengths"].tolist() for batch in rows] == [[9], [5, 7, 1, 3]]


@pytest.mark.parametrize("max_tokens", [None, 20])
def test_packed_rows_are_filled_to_few_lengths(max_tokens: int | None) -> None:
    filled, plain = (collator("packed", cost=3, max_tokens=max_tokens, row_step=step)(EXAMPLES) for step in (8, 1))
    assert (filled["tokens"], filled["targets"]) == (plain["tokens"], plain["targets"])
    assert labels_of(filled["micro_batches"]) == labels_of(plain["micro_batches"])
    for row in filled["micro_batches"]:
        assert row["input_ids"].shape[1] % 8 == row["labels"].shape[1] % 8 == 0
        assert row["lengths"].sum() == row["input_ids"].shape[1]


def test_without_an_example_there_is_one_without_loss() -> None:
    update = collator("packed")([])
    assert update["targets"] == 0
    assert update["micro_batches"][0]["labels"].tolist() == [[IGNORED]]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_each_label_has_the_weight_of_its_class(layout: Layout) -> None:
    rare, usual = LOSSLESS._replace(target_ids=[5, 6], masked_positions=[]), LOSSLESS._replace(target_ids=[7, 8])
    update = collator(layout, class_weights={(5, 6): 2.5, (7, 8): 0.5})([usual, rare, rare])
    (batch,) = update["micro_batches"]
    for piece in (batch, *split_evenly(batch, 3)):
        assert piece["weights"].dtype == torch.float32
        assert piece["weights"].shape == piece["labels"].shape
        has_loss = piece["labels"] != IGNORED
        assert torch.equal(piece["weights"][has_loss], torch.where(piece["labels"][has_loss] < 7, 2.5, 0.5))
    assert update["targets"] == 4 * 2.5 + 0.5


@pytest.mark.parametrize(("pieces", "sizes"), [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (8, [1] * 5)])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_pieces_of_a_micro_batch_hold_its_examples_evenly(layout: Layout, pieces: int, sizes: list[int]) -> None:
    (batch,) = collator(layout)(EXAMPLES)["micro_batches"]
    split = list(split_evenly(batch, pieces))
    assert [example_count(part) for part in split] == sizes
    assert labels_of(split) == labels_of([batch])


def test_pieces_of_a_packed_row_are_rows_of_their_own() -> None:
    (row,) = collator("packed", cost=3)(EXAMPLES)["micro_batches"]
    order = [EXAMPLES[length // 2] for length in row["lengths"].tolist()]
    for number, piece in enumerate(split_evenly(row, 3)):
        whole = causal.INTERFACE.packed_batch(order[2 * number : 2 * number + 2], 0)
        assert piece.keys() == whole.keys()
        assert all(torch.equal(piece[name], whole[name]) for name in whole)
