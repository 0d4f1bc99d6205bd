"""The best trials, trained again at full length with several seeds: short trials alone mislead.

Trials that are short, or read few examples, favour settings that learn fast and regularise little (Li et al. 2018,
section 3.1: ranks can change with the budget). So the settings of the best few, and those of params.yaml, have to show
themselves once more.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.lib.tuning.study import Objective, Trial

_DRAWS = 20_000


@dataclass(frozen=True)
class Confirmed:
    """The settings of a trial at full length."""

    number: int  # of the trial
    values: tuple[float, ...]  # of the metric, one for each seed whose run did not fail
    mean: float
    sd: float | None  # over the seeds; None: there was one
    chance_best: float | None  # that its true mean is the best of all; None: no seed was repeated


def finalists(trials: Sequence[Trial], objective: Objective, most: int) -> list[Trial]:
    """The first trial, and at most so many others, the best first. None that was pruned or failed."""
    if not most:
        return []
    first = [trial for trial in trials if trial.number == 0 and trial.state == "complete"]
    return first + by_value([trial for trial in trials if trial.number > 0], objective)[:most]


def by_value(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """Complete trials, the best first. Of equals, the earlier one comes first."""
    ranked = [(objective.rank(own.value), own) for own in trials if own.state == "complete" and own.value is not None]
    finite = [pair for pair in ranked if math.isfinite(pair[0])]
    return [own for _, own in sorted(finite, key=lambda pair: (pair[0], pair[1].number))]


def confirmed(finals: Sequence[Trial], runs: Sequence[Trial], seeds: int, objective: Objective) -> list[Confirmed]:
    """The finalists by the mean of their runs, the best first; those of which a run has failed, after all others. Run
    number r is of finalist r // seeds."""
    values: dict[int, list[float]] = {}
    for run in runs:
        if run.state == "complete" and run.value is not None:
            values.setdefault(finals[run.number // seeds].number, []).append(run.value)
    chances = _chances_best([[objective.rank(value) for value in own] for own in values.values()])
    ended = [
        Confirmed(number, tuple(own), statistics.mean(own), statistics.stdev(own) if len(own) > 1 else None, chance)
        for (number, own), chance in zip(values.items(), chances, strict=True)
    ]
    return sorted(ended, key=lambda own: (-len(own.values), objective.rank(own.mean), own.number))


def _chances_best(ranks: Sequence[Sequence[float]]) -> list[float | None]:
    """Of each group, the probability that its true mean is the lowest: the groups are normal with one variance, which
    all together estimate, under the usual flat prior (Gelman et al. 2013, section 3.2)."""
    freedom = sum(len(own) - 1 for own in ranks)
    squares = sum(sum((value - statistics.mean(own)) ** 2 for value in own) for own in ranks)
    if not freedom or not squares:
        return [None] * len(ranks)
    random = np.random.default_rng(0)
    variances = squares / random.chisquare(freedom, _DRAWS)
    errors = random.standard_normal((_DRAWS, len(ranks))) * np.sqrt(variances)[:, None]
    means = [statistics.mean(own) for own in ranks]
    lowest = np.argmin(np.array(means) + errors / np.sqrt([len(own) for own in ranks]), axis=1)
    return [float(np.mean(lowest == place)) for place in range(len(ranks))]
