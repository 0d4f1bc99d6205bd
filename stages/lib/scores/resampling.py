"""How sure a score is, and whether the difference of two is more than luck: by resampling groups of examples.

Examples of one group (a conversation, a context, an author) are alike, so that a thousand of them may tell no more than
a hundred others. The unit that is drawn is therefore the group (Field and Welsh 2007, cluster bootstrap).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from stages.lib.scores.formulas import FORMULAS, Numbers
from stages.lib.scores.score import Score

RESAMPLES = 1000
SEED = 1
CONFIDENCE = 0.95

_DRAWN_AT_ONCE = 1 << 22  # numbers in memory
_EQUAL = 1e-9  # sums in another order differ by less
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
# a difference of so many standard errors is found in 80 of 100 cases at the level 0.05
_DETECTABLE = _Z + NormalDist().inv_cdf(0.8)


@dataclass(frozen=True)
class Interval:
    """`low` to `high` covers the true value in 95 of 100 test sets; `error` is the standard error."""

    low: float
    high: float
    error: float

    @property
    def smallest_difference(self) -> float:
        """The difference of two models that a comparison on these examples finds in 80 of 100 cases.

        Of the interval of a difference, this is measured. Of the interval of one score, it is an estimate: the scores
        of two models are taken to correlate by a half, so that the error of their difference is that of one score.
        """
        return _DETECTABLE * self.error

    def scaled(self, factor: float) -> "Interval":
        return Interval(factor * self.low, factor * self.high, factor * self.error)


_UNKNOWN = Interval(-math.inf, math.inf, math.inf)  # one group says nothing about others


def group_codes(groups: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A number from 0 on for each group, (N)."""
    numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
    return np.fromiter((numbers[group] for group in groups), np.int64, len(groups))


def intervals(
    scores: Mapping[str, Score], groups: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """The 95 % interval of each score.

    Of a share of examples that are right, Wilson's (1927; where examples are in groups, with their effective number:
    Korn and Graubard 1998). Of any other score, from the quantiles of a bootstrap over the groups (Hesterberg 2015,
    section 3.2). Both are widened as by Student's t, since plain ones are too narrow for few groups. Of a calibration
    error, see `_of_gaps`. Of examples of one group, the ends are infinite.
    """
    codes = group_codes(groups)
    sums = {name: _group_sums(score.statistics, codes) for name, score in scores.items()}
    (drawn,) = _resampled({name: score.formula for name, score in scores.items()}, [sums], resamples, seed)
    found = {}
    for name, score in scores.items():
        if _is_share(score):
            found[name] = _wilson(sums[name], _scale(score))
        elif score.formula == "ece":
            (centred,) = _resampled({name: "ece"}, [{name: _without_gaps(sums[name])}], resamples, seed)
            found[name] = _of_gaps(score.value, drawn[name], centred[name], len(sums[name]))
        else:
            found[name] = _percentile(drawn[name], len(sums[name]))
    return found


def share_interval(is_one: Sequence[bool], groups: Sequence[str]) -> Interval:
    """Wilson's 95 % interval of a share of examples, as in `intervals`; from 0 to 1. Unknown of no examples."""
    if not len(is_one):
        return _UNKNOWN
    ones = np.asarray(is_one, np.float64)
    return _wilson(_group_sums(np.stack([ones, np.ones_like(ones)], 1), group_codes(groups)), 1.0)


def effective_number(is_one: Sequence[bool], groups: Sequence[str]) -> float:
    """So many unrelated examples would tell a share as surely as these, which may share groups."""
    ones = np.asarray(is_one, np.float64)
    sums = _group_sums(np.stack([ones, np.ones_like(ones)], 1), group_codes(groups))
    if len(sums) in (1, len(ones)):
        return float(len(sums))
    return _effective_number(sums[:, 0], sums[:, 1])


@dataclass(frozen=True)
class Comparison:
    """Of two models on the same examples. `difference` is that of the second minus the first; `p_value` is two-sided;
    `wins`, `losses`, `ties` count the examples on which the second is better, worse, as good."""

    first: float
    second: float
    difference: float
    interval: Interval
    p_value: float
    wins: int
    losses: int
    ties: int


def compare_scores(
    first: Mapping[str, Score],
    second: Mapping[str, Score],
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Comparison]:
    """Each score that both have, for the same examples in the same order.

    The interval is that of a paired bootstrap (Koehn 2004), the p-value that of approximate randomisation: each group
    changes sides with probability 1/2 (Noreen 1989; Riezler and Maxwell 2005).
    """
    codes = group_codes(groups)
    names = [name for name in first if name in second]
    before, after = ({name: _group_sums(side[name].statistics, codes) for name in names} for side in (first, second))
    formulas = {name: first[name].formula for name in names}
    drawn_before, drawn_after = _resampled(formulas, [before, after], resamples, seed)
    shuffled = _shuffled(formulas, before, after, resamples, seed)
    found = {}
    for name in names:
        difference = second[name].value - first[name].value
        gains = (second[name].each - first[name].each) * (1 if first[name].higher_is_better else -1)
        extreme = np.abs(shuffled[name]) >= abs(difference) - _EQUAL
        found[name] = Comparison(
            first=first[name].value,
            second=second[name].value,
            difference=difference,
            interval=_percentile(drawn_after[name] - drawn_before[name], int(codes.max()) + 1),
            p_value=float(extreme.sum() + 1) / (resamples + 1),
            wins=int((gains > _EQUAL).sum()),
            losses=int((gains < -_EQUAL).sum()),
            ties=int((np.abs(gains) <= _EQUAL).sum()),
        )
    return found


def resampled(
    models: Sequence[Mapping[str, Score]], groups: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED
) -> list[dict[str, Numbers]]:
    """Each score of each resample, (resamples), of several models that have the same scores for the same examples in
    the same order: the same groups are drawn for all."""
    codes = group_codes(groups)
    sums = [{name: _group_sums(own.statistics, codes) for name, own in model.items()} for model in models]
    return _resampled({name: own.formula for name, own in models[0].items()}, sums, resamples, seed)


def rank_correlation(
    first: Numbers, second: Numbers, groups: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, Interval] | None:
    """Spearman's (1904) of two numbers of each example, with its 95 % interval from a bootstrap over the groups. None
    where all of the first, or all of the second, are equal."""
    levels = [np.unique(side, return_inverse=True)[1] for side in (first, second)]
    found = _spearman(levels, np.ones(len(first)))
    if found is None:
        return None
    return found, interval_of(lambda counts: _spearman(levels, counts), groups, resamples, seed)


def interval_of(
    statistic: Callable[[Numbers], float | None],
    groups: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Of a number that depends on how often each example occurs, (N), by a bootstrap over the groups. `statistic` is
    None for resamples that it is not known of."""
    codes, random = group_codes(groups), np.random.default_rng(seed)
    number = int(codes.max()) + 1
    counts = (np.bincount(random.integers(number, size=number), minlength=number) for _ in range(resamples))
    drawn = [statistic(own[codes].astype(np.float64)) for own in counts]
    return _percentile(np.array([own for own in drawn if own is not None]), number)


def _spearman(levels: Sequence[np.ndarray[Any, np.dtype[np.int64]]], weights: Numbers) -> float | None:
    """Of examples that occur so often each. `levels` number the different values of either side, the lowest from 0:
    equal ones share the mean of their ranks."""
    first, second = (_centred_ranks(own, weights) for own in levels)
    if first is None or second is None:
        return None
    return float(weights @ (first * second) / math.sqrt((weights @ first**2) * (weights @ second**2)))


def _centred_ranks(levels: np.ndarray[Any, np.dtype[np.int64]], weights: Numbers) -> Numbers | None:
    """None where only one level occurs."""
    counts = np.bincount(levels, weights)
    if (counts > 0).sum() < 2:
        return None
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[levels]
    return ranks - (weights @ ranks) / weights.sum()


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values, corrected for testing several scores (Holm 1979)."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def _group_sums(statistics: Numbers, codes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Numbers:
    """(groups, K)"""
    sums = np.zeros((int(codes.max()) + 1, statistics.shape[1]))
    np.add.at(sums, codes, statistics)
    return sums


def _resampled(
    formulas: Mapping[str, str], sides: Sequence[Mapping[str, Numbers]], resamples: int, seed: int
) -> list[dict[str, Numbers]]:
    """Each score of each resample, (resamples), for each side: the same groups are drawn for all."""
    found: list[dict[str, list[Numbers]]] = [{name: [] for name in formulas} for _ in sides]
    groups = len(next(iter(sides[0].values()), ()))
    random = np.random.default_rng(seed)
    for size in _portions(resamples, groups):
        drawn = random.integers(groups, size=(size, groups)) + groups * np.arange(size)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=size * groups).reshape(size, groups).astype(np.float64)
        for side, sums in zip(found, sides, strict=True):
            for name, formula in formulas.items():
                side[name].append(FORMULAS[formula](counts @ sums[name]))
    return [{name: np.concatenate(parts) for name, parts in side.items()} for side in found]


def _shuffled(
    formulas: Mapping[str, str], first: Mapping[str, Numbers], second: Mapping[str, Numbers], resamples: int, seed: int
) -> dict[str, Numbers]:
    """The difference of each score if each group is given to either side by chance: (resamples)."""
    found: dict[str, list[Numbers]] = {name: [] for name in formulas}
    groups = len(next(iter(first.values()), ()))
    random = np.random.default_rng(seed)
    for size in _portions(resamples, groups):
        changed = random.integers(2, size=(size, groups)).astype(np.float64)
        for name, formula in formulas.items():
            moved = changed @ (second[name] - first[name])
            one, other = first[name].sum(0) + moved, second[name].sum(0) - moved
            found[name].append(FORMULAS[formula](other) - FORMULAS[formula](one))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _portions(resamples: int, groups: int) -> Iterator[int]:
    """So many resamples at a time as fit into memory; none of no groups."""
    if not groups:
        return
    size = max(1, _DRAWN_AT_ONCE // groups)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _is_share(score: Score) -> bool:
    """Whether each example is right (all 1 or all 100) or wrong (0), and counts as one. Also where nothing is right at
    all, or everything: no resample of equal numbers tells how far from them the truth may be."""
    counted = score.statistics[:, 1] > 0
    if score.formula != "ratio" or not counted.any():
        return False
    right = np.unique(score.each[score.each != 0]).tolist()
    if right not in ([], [1.0], [100.0]):
        return False
    return not right or bool((score.statistics[:, 1] == 1).all()) or bool(score.each[counted].all())


def _scale(score: Score) -> float:
    """Its largest possible value: shares of faults are from 0 to 1, scores from 0 to 100."""
    return float(score.each.max()) or (100.0 if score.higher_is_better else 1.0)


def _wilson(sums: Numbers, scale: float) -> Interval:
    """Of groups' right answers (times `scale`) and examples. Groups without any say nothing."""
    sums = sums[sums[:, 1] > 0]
    right, every = sums[:, 0] / scale, sums[:, 1]
    if len(sums) == 1 < every[0]:
        return _UNKNOWN
    share = float(right.sum() / every.sum())
    total = _effective_number(right, every) if len(sums) < every.sum() else float(every.sum())
    middle = (share + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
    half = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2)) / (1 + _Z**2 / total)
    # by rounding, a share of 0 or 1 could lie outside
    low, high = max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)
    return Interval(scale * low, scale * high, scale * half / _Z)


def _effective_number(right: Numbers, every: Numbers) -> float:
    """So many unrelated examples would give the same error as these in groups of like ones. Where no group differs from
    another, each counts as one example."""
    groups, total = len(every), float(every.sum())
    share = float(right.sum() / total)
    error = float((right - share * every).std(ddof=1)) * math.sqrt(groups) / total
    number = min(share * (1 - share) / error**2, total) if error else groups
    return number * (_Z / _student(groups - 1)) ** 2


def _percentile(drawn: Numbers, groups: int) -> Interval:
    if groups < 2:
        return _UNKNOWN
    level = NormalDist().cdf(-math.sqrt(groups / (groups - 1)) * _student(groups - 1))
    low, high = np.quantile(drawn, [level, 1 - level])
    return Interval(float(low), float(high), float(drawn.std()) * math.sqrt(groups / (groups - 1)))


def _without_gaps(sums: Numbers) -> Numbers:
    """The statistics of `ece`, moved so that each bin of all groups together is calibrated."""
    return np.concatenate([sums[:, :-1] - sums[:, :-1].mean(0), sums[:, -1:]], 1)


def _of_gaps(value: float, drawn: Numbers, without_gaps: Numbers, groups: int) -> Interval:
    """Of a calibration error: chance alone makes gaps, so it is too large, and in a resample still more. The lower end
    is therefore a reflected quantile (Davison and Hinkley 1997, equation 5.6), or 0 where chance alone makes such
    gaps."""
    own, chance = _percentile(drawn, groups), _percentile(without_gaps, groups)
    if own is _UNKNOWN:
        return own
    low = 0.0 if value <= chance.high else min(max(2 * value - own.high, 0.0), value)
    return Interval(low, max(own.high, value), own.error)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by its expansion (Abramowitz and Stegun 1964, 26.7.5)."""
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**order for order, term in enumerate(terms, start=1))
