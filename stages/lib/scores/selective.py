"""Answers that a model is sure enough of, and the others, which it abstains from (El-Yaniv and Wiener 2010)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stages.lib.scores.calibration import ROUNDING, Judged
from stages.lib.scores.formulas import Numbers
from stages.lib.scores.resampling import CONFIDENCE, Interval, effective_number, interval_of, share_interval

_STARTS = (0.25, 0.5)  # shares of validation
_LEVELS = 100
_MOST_POINTS = 200  # of the curve, which is kept in git

Ranks = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Selective:
    """What abstaining below a threshold makes of test. Coverage is the share of examples that are answered, accuracy
    the share of right ones among them, both from 0 to 100. Without a threshold, nothing is answered.

    `verdict`: reached if the whole interval of the accuracy is at or above `wanted`, missed if it is below.
    """

    wanted: float
    chosen_on: int  # examples of validation
    threshold: float | None  # a probability
    coverage: float
    coverage_interval: Interval
    accuracy: float
    accuracy_interval: Interval
    verdict: Literal["reached", "missed", "undecided", "no threshold"]

    @property
    def says(self) -> str:
        if self.threshold is None:
            return (
                f"selective_accuracy: no threshold is shown to make {self.wanted:g} % of the answers right, by "
                f"{self.chosen_on:,} predictions for validation"
            )
        right, answered = _ends(self.accuracy_interval), _ends(self.coverage_interval)
        return (
            f"abstaining below {self.threshold:.4g} (chosen on validation) answers {self.coverage:.3g} % ({answered}) "
            f"of test, of which {self.accuracy:.3g} % ({right}) are right; {self.wanted:g} % was asked: {self.verdict}"
        )


def _ends(interval: Interval) -> str:
    return f"{interval.low:.3g} to {interval.high:.3g}" if math.isfinite(interval.error) else "interval unknown"


def log_threshold(validation: Judged, accuracy: float) -> float | None:
    """The lowest log-probability found above which a share of `accuracy` is right, with a certainty of 95 % over the
    choice of the validation examples. None if there is none.

    Fixed sequence testing with two starts (Angelopoulos et al. 2021, Learn then Test, section 2.2): from the surest
    quarter of validation, and from its surer half, one hundredth more is answered at a time, until an upper bound of
    the error is too large. Each start has half of the 5 %. The bound is that of the binomial distribution (Clopper and
    Pearson 1934); of examples in groups, with their effective number (Korn and Graubard 1998). The binary search of
    Geifman and El-Yaniv 2017, whose steps share the 5 %, answers fewer; without a bound, the threshold would fail on
    other examples half of the time.
    """
    order = np.argsort(-validation.log_probabilities, kind="stable")
    ranked, right = validation.log_probabilities[order], validation.right[order] > 0
    groups = [validation.groups[place] for place in order]
    found = None
    for start in _STARTS:
        for level in range(round(start * _LEVELS), _LEVELS + 1):
            lowest = ranked[-(-len(ranked) * level // _LEVELS) - 1]
            answered = int(np.searchsorted(-ranked, -lowest, side="right"))  # with those of equal probability
            error = _largest_error(right[:answered].tolist(), groups[:answered], (1 - CONFIDENCE) / len(_STARTS))
            if error > 1 - accuracy:
                break
            found = float(lowest) if found is None else min(found, float(lowest))
    return found


def _largest_error(right: Sequence[bool], groups: Sequence[str], level: float) -> float:
    """The upper bound of the share of wrong answers, which is too low in a share `level` of the cases."""
    from scipy.special import betaincinv

    number = effective_number(right, groups)
    wrong = number * (1 - sum(right) / len(right))
    return float(betaincinv(wrong + 1, number - wrong, 1 - level)) if wrong < number else 1.0


def selective(test: Judged, validation: Judged, wanted: float) -> Selective:
    """`wanted`: the accuracy, from 0 to 100."""
    logs = log_threshold(validation, wanted / 100)
    answered = np.zeros(len(test.right), bool) if logs is None else test.log_probabilities >= logs
    groups = [group for group, is_answered in zip(test.groups, answered, strict=True) if is_answered]
    right = test.right[answered]
    interval = share_interval((right > 0).tolist(), groups).scaled(100)
    verdict: Literal["reached", "missed", "undecided", "no threshold"] = "no threshold"
    if logs is not None:
        verdict = "reached" if interval.low >= wanted else "missed" if interval.high < wanted else "undecided"
    return Selective(
        wanted=wanted,
        chosen_on=len(validation.right),
        threshold=None if logs is None else math.exp(logs - ROUNDING),
        coverage=100 * float(answered.mean()),
        coverage_interval=share_interval(answered.tolist(), test.groups).scaled(100),
        accuracy=100 * float(right.mean()) if len(right) else 0.0,
        accuracy_interval=interval,
        verdict=verdict,
    )


def coverage_curve(own: Judged) -> list[tuple[float, float]]:
    """Coverage and accuracy, from 0 to 100, where only the surest are answered: from few of them to all. At most 200
    points."""
    accuracies = _accuracies(_ranks(own), own.right, np.ones(len(own.right)))
    places = sorted({-(-len(accuracies) * step // _MOST_POINTS) for step in range(1, _MOST_POINTS + 1)})
    return [(100 * place / len(accuracies), 100 * float(accuracies[place - 1])) for place in places]


def aurc(own: Judged) -> tuple[float, Interval]:
    """The share of wrong answers, as a mean over all coverages, from 0 to 1: the area under the risk-coverage curve
    (Geifman et al. 2019)."""
    ranks = _ranks(own)

    def area(counts: Numbers) -> float:
        return float((1 - _accuracies(ranks, own.right, counts)).mean())

    return area(np.ones(len(own.right))), interval_of(area, own.groups)


def _ranks(own: Judged) -> Ranks:
    """Of each example, (N), the rank of its probability: 0 for the highest. Equal ones share it."""
    return np.unique(-own.log_probabilities, return_inverse=True)[1]


def _accuracies(ranks: Ranks, right: Numbers, counts: Numbers) -> Numbers:
    """Of the k surest examples, for each k, where each example occurs so often. Of equally sure ones, each has the
    share of right ones among them."""
    each = np.bincount(ranks, counts)
    ranked = np.repeat(np.bincount(ranks, counts * right) / np.maximum(each, 1), each.astype(np.int64))
    return np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
