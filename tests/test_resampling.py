"""Intervals and comparisons against what they promise, over a thousand simulated test sets."""

import math
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import pytest

from stages.lib.scores.formulas import FORMULAS, Numbers
from stages.lib.scores.resampling import Comparison, compare_scores, holm, intervals
from stages.lib.scores.score import Score, mean_score

RUNS = 1000
ALONE, ALIKE = (200, 1), (40, 5)  # groups, and examples of each
ENOUGH = 399  # resamples: so many that the p-values around 0.05 are exact

Random = np.random.Generator


def effects(random: Random, groups: int, size: int) -> Numbers:
    """A normal number for each example; half of its variance is that of its group."""
    return (np.repeat(random.normal(size=groups), size) + random.normal(size=groups * size)) / math.sqrt(2)


def scores(random: Random, quality: Numbers) -> dict[str, Score]:
    """Of one model with this quality on each example: a mean, a share and BLEU."""
    length = 6 + random.poisson(10, len(quality))
    chance = 1 / (1 + np.exp(-1 - quality / 2))
    right = [random.binomial(length, chance)]
    for order in range(1, 4):
        right.append(random.binomial(np.minimum(right[-1], length - order), chance))
    every = [length - order for order in range(4)]
    statistics = np.stack([length, length, *right, *every], 1).astype(np.float64)
    return {
        "mean": mean_score(50 + 10 * quality, ""),
        "share": mean_score(100.0 * (quality > 0.4), ""),
        "bleu": Score(statistics, "bleu", FORMULAS["sentence_bleu"](statistics), ""),
    }


def names(groups: int, size: int) -> list[str]:
    return [str(row // size) for row in range(groups * size)]


def frequencies(run: Callable[[Random], Mapping[str, bool]], runs: int = RUNS) -> dict[str, float]:
    """How often each is true, over many runs."""
    found = [run(np.random.default_rng(seed)) for seed in range(runs)]
    return {name: sum(own[name] for own in found) / runs for name in found[0]}


def compared(
    random: Random, groups: int, size: int, gain: float = 0.0, are_clustered: bool = True
) -> dict[str, Comparison]:
    """Two models on the same examples. Three quarters of what is hard is so for both."""
    shared = effects(random, groups, size)
    first, second = (scores(random, math.sqrt(0.75) * shared + effects(random, groups, size) / 2) for _ in range(2))
    second["mean"] = mean_score(second["mean"].each + gain, "")
    return compare_scores(first, second, names(groups, size) if are_clustered else names(groups * size, 1), ENOUGH)


def is_found(comparisons: Mapping[str, Comparison]) -> dict[str, bool]:
    return {name: own.p_value < 0.05 for name, own in comparisons.items()}


@cache
def equal_models(shape: tuple[int, int]) -> dict[str, float]:
    """How often a difference is found where there is none, and how often its interval holds 0."""

    def run(random: Random) -> dict[str, bool]:
        found = compared(random, *shape)
        held = {f"{name} held": own.interval.low <= 0 <= own.interval.high for name, own in found.items()}
        return is_found(found) | held

    return frequencies(run)


@pytest.mark.parametrize("shape", [ALONE, ALIKE])
@pytest.mark.parametrize("name", ["mean", "share", "bleu"])
def test_of_equal_models_few_seem_to_differ(name: str, shape: tuple[int, int]) -> None:
    assert 0.03 <= equal_models(shape)[name] <= 0.07
    assert 0.93 <= equal_models(shape)[f"{name} held"] <= 0.97


def test_equal_models_seem_to_differ_if_groups_are_ignored() -> None:
    found = frequencies(lambda random: is_found(compared(random, *ALIKE, are_clustered=False)), 300)
    assert all(share > 0.07 for share in found.values()), found


def test_a_difference_as_large_as_the_interval_is_found_more_often_than_not() -> None:
    """Also that of the size that the interval promises to find in 80 of 100 cases."""
    random = np.random.default_rng(1)
    usual = intervals(scores(random, effects(random, *ALIKE)), names(*ALIKE))["mean"]
    half = (usual.high - usual.low) / 2
    assert frequencies(lambda random: is_found(compared(random, *ALIKE, gain=half)), 300)["mean"] >= 0.5
    smallest = compared(random, *ALIKE)["mean"].interval.smallest_difference
    assert 0.7 <= frequencies(lambda random: is_found(compared(random, *ALIKE, gain=smallest)), 300)["mean"] <= 0.9


@pytest.mark.parametrize("shape", [ALONE, ALIKE])
def test_intervals_hold_the_truth_in_95_of_100_test_sets(shape: tuple[int, int]) -> None:
    large = np.random.default_rng(0)
    truth = {name: score.value for name, score in scores(large, effects(large, 1_000_000, 1)).items()}

    def run(random: Random) -> dict[str, bool]:
        found = intervals(scores(random, effects(random, *shape)), names(*shape), ENOUGH)
        return {name: own.low <= truth[name] <= own.high for name, own in found.items()}

    held = frequencies(run)
    assert all(0.93 <= share <= 0.97 for share in held.values()), held


def test_the_interval_of_a_share_is_wilsons() -> None:
    eight_of_ten = intervals({"share": mean_score([1.0] * 8 + [0.0] * 2, "")}, names(10, 1))["share"]
    assert (eight_of_ten.low, eight_of_ten.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_the_interval_of_a_share_holds_the_truth_with_few_groups_of_like_examples() -> None:
    random, truth, held = np.random.default_rng(0), 0.7, 0
    for _ in range(RUNS):
        chances = random.beta(2.1, 0.9, 8)  # of a right answer in each group: 0.7 on average
        right = (random.random((8, 20)) < chances[:, None]).reshape(-1)
        own = intervals({"share": mean_score(right, "")}, names(8, 20), resamples=1)["share"]
        held += own.low <= truth <= own.high
    assert 0.93 <= held / RUNS <= 0.97


@pytest.mark.parametrize(
    ("value", "better_is_higher", "ends"), [(0, True, (0, 3.7)), (100, True, (96.3, 100)), (0, False, (0, 0.037))]
)
def test_a_score_without_an_exception_is_not_certain(
    value: float, better_is_higher: bool, ends: tuple[float, float]
) -> None:
    found = intervals({"score": mean_score([value] * 100, "", better_is_higher)}, names(100, 1))["score"]
    assert (found.low, found.high) == pytest.approx(ends, rel=0.01)


def test_repeated_examples_of_a_group_make_nothing_more_certain() -> None:
    random = np.random.default_rng(0)
    once = scores(random, effects(random, 60, 1))
    thrice = {name: Score(s.statistics.repeat(3, 0), s.formula, s.each.repeat(3), "") for name, s in once.items()}
    one, three = intervals(once, names(60, 1)), intervals(thrice, names(60, 3))
    for name in ("mean", "bleu"):
        assert (one[name].low, one[name].high) == pytest.approx((three[name].low, three[name].high))


def test_a_single_group_has_no_interval() -> None:
    for values in ([1.0, 2.0, 4.0], [1.0, 1.0, 0.0]):
        found = intervals({"mean": mean_score(values, "")}, ["a"] * 3)["mean"]
        assert (found.low, found.high) == (-math.inf, math.inf)


def test_a_comparison_counts_the_examples_in_the_direction_of_the_score() -> None:
    before, after = {"ter": mean_score([5, 5, 5, 5], "", False)}, {"ter": mean_score([1, 2, 5, 9], "", False)}
    own = compare_scores(before, after, names(4, 1))["ter"]
    assert (own.wins, own.losses, own.ties, own.difference) == (2, 1, 1, -0.75)


def test_equal_predictions_do_not_differ() -> None:
    random = np.random.default_rng(0)
    same = scores(random, effects(random, *ALIKE))
    for own in compare_scores(same, same, names(*ALIKE)).values():
        assert (own.difference, own.p_value, own.interval.low, own.interval.high) == (0, 1, 0, 0)


def test_p_values_are_corrected_as_by_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
