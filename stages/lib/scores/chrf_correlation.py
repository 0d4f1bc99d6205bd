"""Whether other scores of texts say anything that chrF does not: their rank correlation with it over the examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.lib.scores.resampling import Interval, rank_correlation
from stages.lib.scores.score import Score

_NEARLY_THE_SAME = 0.8


@dataclass(frozen=True)
class Correlation:
    """`rho` is Spearman's, from -1 to 1, of how good texts are by chrF and by the other score: where lower values of
    this are better, its sign is turned. `says` is what follows."""

    rho: float
    interval: Interval
    says: str


def chrf_correlations(scores: Mapping[str, Score], chrf: Score, groups: Sequence[str]) -> dict[str, Correlation]:
    """Of each score that differs among the examples. One of an empty text says nothing, so it does not count.

    Args:
        chrf: of each example alone it is sentence chrF (Popović 2015).
    """
    return {name: own for name, score in scores.items() if (own := _correlation(score, chrf, groups))}


def _correlation(score: Score, chrf: Score, groups: Sequence[str]) -> Correlation | None:
    rows = (score.statistics[:, -1] > 0).nonzero()[0].tolist()
    if not rows:
        return None
    each = score.each[rows] * (1 if score.higher_is_better else -1)
    found = rank_correlation(each, chrf.each[rows], [groups[row] for row in rows])
    return Correlation(*found, _says(found[1])) if found else None


def _says(interval: Interval) -> str:
    sizes = sorted(map(abs, (interval.low, interval.high)))
    if not math.isfinite(interval.error):
        return "one group of examples does not tell"
    if interval.low * interval.high > 0 and sizes[0] >= _NEARLY_THE_SAME:
        return "nearly the same as chrF"
    return "something that chrF does not say" if sizes[1] < _NEARLY_THE_SAME else "perhaps nearly the same as chrF"
