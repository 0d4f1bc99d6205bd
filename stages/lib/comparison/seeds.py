"""How much a score varies with the seed of training, and whether two settings differ by more than seeds and examples
do. One run of each says less: another seed gives another model (Reimers and Gurevych 2017; Bouthillier et al. 2021).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2

from stages.lib.comparison.run import Run
from stages.lib.comparison.series import Estimate, Series, estimate, off_diagonal, rounded, series
from stages.lib.core.process import UserError
from stages.lib.scores.formulas import Numbers
from stages.lib.scores.resampling import CONFIDENCE, holm, intervals

FEWEST = 2  # seeds

_TAIL = (1 - CONFIDENCE) / 2  # the share of cases on either side of an interval


def spread(runs: Mapping[int, Run]) -> dict[str, Any]:
    """Of the headline scores of one setting, trained with several seeds. Numbers have six digits.

    For each score: `mean` with its 95 % interval over seeds, for these test examples (Student's t); `sd`, the standard
    deviation over seeds; `test_half_width`, half of the 95 % interval that the test examples give one run, as
    `evaluate` tells it; `seed_share`, the part of the seed in the variance of one run, which is that over seeds beside
    the bootstrap variance over test examples (Bouthillier et al. 2021, section 3), with the 95 % interval that the
    chi-square distribution of a variance of so few seeds gives.

    Args:
        runs: seed -> its run.

    Raises:
        UserError: there are fewer than two seeds, or no scores.
    """
    if len(runs) < FEWEST:
        raise UserError("one seed has no spread: give two or more")
    found = series(list(runs.values()))
    covariances = found.covariances()
    one_run = [intervals(scores, found.groups) for scores in found.scores]
    scores = {}
    for name in found.names:
        halves = [(own[name].high - own[name].low) / 2 for own in one_run]
        test = float(np.trace(covariances[name])) / len(runs)
        scores[name] = _spread(name, dict(zip(runs, found.values(name), strict=True)), sum(halves) / len(halves), test)
        scores[name]["better"] = "higher" if found.scores[0][name].higher_is_better else "lower"
    return {
        "task": found.runs[0].task,
        "model": found.runs[0].model,
        "examples": found.examples,
        "groups": len(set(found.groups)),
        "seeds": list(runs),
        "scores": scores,
    }


def _spread(name: str, values: Mapping[int, float], test_half_width: float, test: float) -> dict[str, Any]:
    """`test` is the variance of one run over test splits."""
    numbers, freedom = np.array(list(values.values())), len(values) - 1
    variance = float(numbers.var(ddof=1))
    mean = estimate(float(numbers.mean()), [(variance / len(values), freedom)])
    ends = [variance * freedom / float(chi2.ppf(share, freedom)) for share in (1 - _TAIL, _TAIL)]
    share, low, high = (_share(own, test) for own in (variance, *ends))
    return {
        "values": {str(seed): rounded(value) for seed, value in values.items()},
        "mean": rounded(mean.value),
        "low": rounded(mean.value - mean.half_width),
        "high": rounded(mean.value + mean.half_width),
        "sd": rounded(math.sqrt(variance)),
        "test_half_width": rounded(test_half_width),
        "seed_share": {"share": rounded(share), "low": rounded(low), "high": rounded(high)},
        "larger": _larger(low, high),
        "sentence": _sentence(name, len(values), share, low, high),
    }


def _share(seed: float, test: float) -> float:
    return seed / (seed + test) if seed else 0.0


def _larger(low: float, high: float) -> str:
    if low > 0.5:
        return "seed"
    return "test" if high < 0.5 else "undecided"


def _sentence(name: str, seeds: int, share: float, low: float, high: float) -> str:
    if not share:
        return f"{name}: all {seeds} seeds have the same score"
    percent, *ends = (f"{100 * number:.0f}" for number in (share, low, high))
    parts = f"{percent} % of the variance of one run is the seed's ({' to '.join(ends)}), the rest the test split's"
    larger = {
        "seed": "the seed is the larger part of the uncertainty",
        "test": "the choice of test examples is the larger part of the uncertainty",
        "undecided": f"{seeds} seeds don't decide whether seed or test split is the larger part of the uncertainty",
    }[_larger(low, high)]
    return f"{name}: {larger}: {parts}"


def difference(first: Sequence[Run], second: Sequence[Run]) -> dict[str, Any]:
    """Two settings, each trained with several seeds: whether their mean scores differ by more than other seeds and
    other test examples would make them differ. Differences are those of the second minus the first.

    The variance of a difference is that over seeds, divided by their number, of both (as in Welch's test), and what the
    choice of test examples adds by doing the same to all runs of a side, and another thing to the other side: the
    covariances of Obuchowski and Rockette 1995, from a bootstrap over groups of examples. p-values are corrected for
    the number of scores (Holm 1979).

    Raises:
        UserError: a side has fewer than two seeds, or they can't be compared.
    """
    if few := [runs[0].name for runs in (first, second) if len(runs) < FEWEST]:
        raise UserError(f"{', '.join(few)}: one seed has no spread: give two or more")
    found = series([*first, *second])
    covariances = found.covariances()
    estimates = {name: _difference(found, name, len(first), covariances[name]) for name in found.names}
    corrected = holm({name: own.p_value for name, own in estimates.items()})
    scores = {}
    for name, own in estimates.items():
        values, is_higher_better = found.values(name), found.scores[0][name].higher_is_better
        scores[name] = {
            "first": rounded(float(values[: len(first)].mean())),
            "second": rounded(float(values[len(first) :].mean())),
            "difference": rounded(own.value),
            "low": rounded(own.value - own.half_width),
            "high": rounded(own.value + own.half_width),
            "p": rounded(own.p_value),
            "p_holm": rounded(corrected[name]),
            "better": "higher" if is_higher_better else "lower",
            "verdict": _verdict(corrected[name], own.value, is_higher_better),
        }
    return {
        "examples": found.examples,
        "groups": len(set(found.groups)),
        "seeds": [len(first), len(second)],
        "refused": dict(found.refused),
        "scores": scores,
    }


def _difference(found: Series, name: str, split: int, covariance: Numbers) -> Estimate:
    values = found.values(name)
    sides = [values[:split], values[split:]]
    over_seeds = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in sides]
    own, other = covariance[:split, :split], covariance[split:, split:]
    of_examples = off_diagonal(own) + off_diagonal(other) - 2 * float(covariance[:split, split:].mean())
    groups = len(set(found.groups))
    return estimate(float(sides[1].mean() - sides[0].mean()), [*over_seeds, (max(of_examples, 0.0), groups - 1)])


def _verdict(p_value: float, value: float, is_higher_better: bool) -> str:
    if p_value >= 1 - CONFIDENCE:
        return "undecided"
    return "better" if (value > 0) == is_higher_better else "worse"
