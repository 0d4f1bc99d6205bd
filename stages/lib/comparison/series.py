"""Several runs on the same test examples, and how much their scores vary with another test split.

A score of several trained models varies for two reasons: training is luck, and so is the choice of the test examples.
The analysis is that of several readers of the same cases in radiology, where readers are here trained models, and cases
are test examples (Obuchowski and Rockette 1995, with the degrees of freedom of Hillis 2007; readers differ between the
compared: Hillis 2014). What varies with the examples is told by a bootstrap over their groups.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import t as student

from stages.lib.comparison.one_convention import scored_alike
from stages.lib.comparison.pairs import paired
from stages.lib.comparison.run import Run
from stages.lib.core.process import UserError
from stages.lib.scores.formulas import Numbers
from stages.lib.scores.resampling import CONFIDENCE, RESAMPLES, resampled
from stages.lib.scores.results import NO_ANSWERS
from stages.lib.scores.score import Score

Figures = Mapping[str, Any]  # of a report, as it is written


@dataclass(frozen=True)
class Series:
    """Runs that were scored alike on the same examples. `refused` has a line for each score that is left out."""

    runs: Sequence[Run]
    scores: Sequence[Mapping[str, Score]]  # of each run: its headline scores
    groups: Sequence[str]  # of each example
    refused: Mapping[str, str]

    @property
    def examples(self) -> int:
        return len(self.groups)

    @property
    def names(self) -> list[str]:
        return list(self.scores[0])

    def values(self, name: str) -> Numbers:
        """The score of each run, (runs)."""
        return np.array([scores[name].value for scores in self.scores])

    def covariances(self, resamples: int = RESAMPLES) -> dict[str, Numbers]:
        """How each score varies, and varies together, with another test split: (runs, runs)."""
        count = len(set(self.groups))
        drawn = resampled(self.scores, self.groups, resamples)
        widened = count / (count - 1)  # a bootstrap of few groups varies too little
        return {name: widened * np.cov([own[name] for own in drawn]) for name in self.names}


def series(runs: Sequence[Run]) -> Series:
    """
    Args:
        runs: two or more. Facts are checked as the training examples of the first one teach.

    Raises:
        UserError: there are no scores, or the runs can't be compared.
    """
    check_answers(runs)
    first, *others = runs
    for place, other in enumerate(others):
        first, others[place] = scored_alike(first, other)
    common = set.intersection(*(set(run.scored.ids) for run in (first, *others)))
    chosen = [_chosen(run, common) for run in (first, *others)]
    pairs = [paired(chosen[0], other) for other in chosen[1:]]
    refused = {name: line for pair in pairs for name, line in pair.refused.items()}
    sides = [pairs[0].first.scores, *(pair.second.scores for pair in pairs)]
    names = [name for name in sides[0] if name not in refused and any(name in run.headline for run in runs)]
    if not names:
        raise UserError([f"{', '.join(run.name for run in runs)} have no comparable score", *refused.values()])
    groups = min((pair.first.groups for pair in pairs), key=lambda groups: len(set(groups)))
    return Series(chosen, [{name: side[name] for name in names} for side in sides], groups, refused)


def check_answers(runs: Sequence[Run]) -> None:
    """Raises UserError if the test split of a run has no answers."""
    if blind := [run.name for run in runs if not any(own.references for own in run.predictions)]:
        raise UserError(f"{', '.join(blind)}: {NO_ANSWERS}")


def _chosen(run: Run, ids: Collection[str]) -> Run:
    rows = [row for row, own in enumerate(run.scored.ids) if own in ids]
    return replace(run, scored=run.scored.chosen(rows), predictions=[run.predictions[row] for row in rows])


@dataclass(frozen=True)
class Estimate:
    """Of a number that varies for several reasons, with its 95 % interval and the two-sided p-value of 0."""

    value: float
    error: float  # the standard error
    freedom: float  # degrees of freedom

    @property
    def half_width(self) -> float:
        return float(student.ppf((1 + CONFIDENCE) / 2, self.freedom)) * self.error if self.error else 0.0

    @property
    def p_value(self) -> float:
        if not self.error:
            return float(not self.value)
        return float(2 * student.sf(abs(self.value) / self.error, self.freedom))


def estimate(value: float, variances: Sequence[tuple[float, float]]) -> Estimate:
    """Of independent parts of the variance, each with its degrees of freedom (Satterthwaite 1946)."""
    total = sum(variance for variance, _ in variances)
    doubt = sum(variance**2 / freedom for variance, freedom in variances)
    return Estimate(value, math.sqrt(total), total**2 / doubt if doubt else math.inf)


def off_diagonal(covariance: Numbers) -> float:
    """The mean covariance of two different runs: what the choice of examples does to all alike."""
    count = len(covariance)
    return float((covariance.sum() - np.trace(covariance)) / (count * (count - 1)))


def rounded(value: float) -> float:
    return float(f"{value:.6g}")
