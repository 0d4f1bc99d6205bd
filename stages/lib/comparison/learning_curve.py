"""How a score grows with the training data: runs on shares of train, and a line through them.

Over few doublings of the data, most learning curves are nearly straight in the logarithm of the number of examples
(Viering and Loog 2022, section 4, compare the forms that have been proposed). The line tells what a doubling is worth
there, and not beyond.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.lib.comparison.run import Run
from stages.lib.comparison.series import Estimate, Figures, estimate, rounded, series
from stages.lib.core.process import UserError
from stages.lib.reports.numbers import decimals
from stages.lib.scores.formulas import Numbers
from stages.lib.scores.resampling import CONFIDENCE, intervals

_FEWEST_SIZES = 3  # two are on a line whatever their scores are


def learning_curve(runs: Mapping[int, Run]) -> dict[str, Any]:
    """The headline scores of runs that differ in the number of training examples. Numbers have six digits.

    For each score: `points`, with the 95 % interval that the test examples give each; `doubling`, what twice the data
    is worth on the line of least squares, with its 95 % interval; `last_doubling`, what it was worth between the two
    largest sizes. With two sizes there is no line.

    Args:
        runs: number of training examples -> the run on them.

    Raises:
        UserError: there are fewer than two sizes, or no scores.
    """
    if len(runs) < 2:
        raise UserError("one size has no course: give two shares or more")
    sizes = sorted(runs)
    # facts are checked as the largest share teaches
    found = series([runs[size] for size in reversed(sizes)])
    ends = [intervals(scores, found.groups) for scores in found.scores]
    covariances, groups = found.covariances(), len(set(found.groups))
    scores = {}
    for name in found.names:
        values = found.values(name)[::-1]
        better = "higher" if found.scores[0][name].higher_is_better else "lower"
        line = _line(sizes, values, covariances[name][::-1, ::-1], groups)
        (before, last), (low, high) = values[-2:], sizes[-2:]
        scores[name] = {
            "better": better,
            "points": [
                {
                    "examples": size,
                    "score": rounded(value),
                    "low": rounded(own[name].low),
                    "high": rounded(own[name].high),
                }
                for size, value, own in zip(sizes, values, reversed(ends), strict=True)
            ],
            "last_doubling": rounded((last - before) / math.log2(high / low)),
            **({"doubling": _doubling(line)} if line else {}),
        }
        scores[name]["sentence"] = _sentence(name, scores[name], sizes)
    return {
        "task": found.runs[0].task,
        "model": found.runs[0].model,
        "examples": found.examples,
        "groups": groups,
        "refused": dict(found.refused),
        "scores": scores,
    }


def _line(sizes: Sequence[int], values: Numbers, covariance: Numbers, groups: int) -> Estimate | None:
    """The slope of the line over log2 of the sizes. What moves it: the luck of each training, seen in how the scores
    scatter around the line; and the choice of test examples, as far as it does not scatter them too."""
    if len(sizes) < _FEWEST_SIZES:
        return None
    places = np.log2(sizes) - np.log2(sizes).mean()
    weights, freedom = places / (places**2).sum(), len(sizes) - 2
    fitted = np.outer(places, weights) + 1 / len(sizes)
    around = np.eye(len(sizes)) - fitted  # scores -> their distances from the line
    scatter = float(values @ around @ values) / freedom
    of_examples = float(weights @ covariance @ weights)
    in_scatter = float(np.trace(around @ covariance)) / freedom  # the part of the scatter that is the examples'
    spread = float((weights**2).sum())
    parts = [(scatter * spread, freedom), (max(of_examples - in_scatter * spread, 0.0), groups - 1)]
    return estimate(float(weights @ values), parts)


def _doubling(line: Estimate) -> dict[str, float]:
    return {
        "gain": rounded(line.value),
        "low": rounded(line.value - line.half_width),
        "high": rounded(line.value + line.half_width),
        "p": rounded(line.p_value),
    }


def _sentence(name: str, score: Figures, sizes: Sequence[int]) -> str:
    scope = f"from {sizes[0]:,} to {sizes[-1]:,} examples"
    last = score["points"][-1]
    digits = decimals(last["score"], last["low"], last["high"])
    if "doubling" not in score:
        return f"{name}: two sizes show no course, {scope}: give three shares or more"
    gain, low, high = (f"{score['doubling'][end]:+z.{digits}f}" for end in ("gain", "low", "high"))
    told = f"{gain} {name} ({low} to {high}) {scope}"
    lately = f"; between the two largest sizes it was {score['last_doubling']:+z.{digits}f}"
    if score["doubling"]["p"] >= 1 - CONFIDENCE:
        return f"no gain of {name} from more data is shown: twice the data changes it by {told}{lately}"
    if (score["doubling"]["gain"] > 0) == (score["better"] == "higher"):
        return f"twice the data is worth about {told}{lately}"
    return f"more data makes {name} worse: twice the data changes it by {told}{lately}"
