"""Whether predictions of a probability p are right in a share p of the cases.

Only where a prediction is right or wrong as a whole: labels, and texts with `accuracy` or `exact_match`. Its
probability is that of the label among all labels, or that of the whole text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.answers import exact_match
from stages.lib.scores.formulas import FORMULAS, Numbers
from stages.lib.scores.labels import accuracy
from stages.lib.scores.resampling import SEED, Interval, share_interval
from stages.lib.scores.score import Score, mean_score

ROUNDING = 5e-5  # confidence is stored with four decimals

_MOST_BINS = 15  # as Guo et al. 2017
_FEWEST_IN_BIN = 50  # with fewer, chance alone makes large gaps
_RESAMPLES = 200


@dataclass(frozen=True)
class Judged:
    """Predictions that are right (1) or wrong (0). The arrays are (N); `judge` names the score."""

    judge: str
    log_probabilities: Numbers
    right: Numbers
    groups: list[str]

    def with_log_probabilities(self, log_probabilities: Numbers) -> "Judged":
        return Judged(self.judge, log_probabilities, self.right, self.groups)


@dataclass(frozen=True)
class Bin:
    """Examples of like probability: its mean, and the share of right ones. All from 0 to 1."""

    examples: int
    probability: float
    right: float
    interval: Interval  # of the share


@dataclass(frozen=True)
class Scaling:
    """Probability p -> sigmoid(slope * logit(p) + offset)."""

    slope: float
    offset: float

    def __call__(self, log_probabilities: Numbers) -> Numbers:
        """The scaled log-probabilities."""
        return -np.logaddexp(0.0, -(self.slope * _logits(log_probabilities) + self.offset))


def judged(predictions: Sequence[Prediction], params: Evaluate, labels: Sequence[str]) -> Judged | None:
    """None where the task has no score that says right or wrong, or a probability is not known."""
    if not predictions or any(own.confidence is None or not own.prediction_tokens for own in predictions):
        return None
    if labels or "accuracy" in params.metrics:
        scores = accuracy(predictions, params)
    elif "exact_match" in params.metrics:
        scores = exact_match(predictions, params)
    else:
        return None
    ((judge, score),) = scores.items()
    sums = [(own.confidence or 0.0) * own.prediction_tokens for own in predictions]
    return Judged(judge, np.minimum(sums, 0.0), score.each / 100, [own.group for own in predictions])


def calibration_scores(own: Judged) -> dict[str, Score]:
    """From 0 to 1, lower is better. ece: mean distance of probability and share of right ones, over bins of equally
    many examples (`formulas.ece`). brier: mean squared distance of probability and right (1) or wrong (0) (Brier 1950,
    of the predicted text alone)."""
    probabilities, (bins, count) = np.exp(own.log_probabilities), _bins(own.log_probabilities)
    gaps = probabilities - own.right
    statistics = np.zeros((len(gaps), count + 1))
    statistics[np.arange(len(gaps)), bins], statistics[:, -1] = gaps, 1
    how = f"right:{own.judge}|probability:label or whole text"
    return {
        "ece": Score(statistics, "ece", np.abs(gaps), f"{how}|bins:{count} of equal mass", higher_is_better=False),
        "brier": mean_score(gaps**2, f"{how}|mean:texts", higher_is_better=False),
    }


def ece_by_chance(own: Judged) -> float:
    """The mean ECE of a perfectly calibrated model with these probabilities: where examples are few, it is not 0
    (consistency resampling: Bröcker and Smith 2007)."""
    (bins, count), probabilities = _bins(own.log_probabilities), np.exp(own.log_probabilities)
    random = np.random.default_rng(SEED)
    found = []
    for _ in range(_RESAMPLES):
        gaps = probabilities - (random.random(len(probabilities)) < probabilities)
        found.append(FORMULAS["ece"](np.append(np.bincount(bins, gaps, count), len(gaps))))
    return float(np.mean(found))


def reliability(own: Judged) -> list[Bin]:
    """The bins of the ECE, from unsure to sure. Of many equal probabilities, there are fewer."""
    bins, count = _bins(own.log_probabilities)
    groups = np.array(own.groups)
    found = []
    for number in range(count):
        if (inside := bins == number).any():
            right = own.right[inside]
            mean = float(np.exp(own.log_probabilities[inside]).mean())
            interval = share_interval(right.tolist(), groups[inside].tolist())
            found.append(Bin(int(inside.sum()), mean, float(right.mean()), interval))
    return found


def scaling_of(validation: Judged) -> Scaling:
    """The scaling that makes the probabilities of validation likeliest (Platt 1999, with his targets, which keep it
    finite where all are right; without the offset, this is temperature scaling of two labels: Guo et al. 2017)."""
    from scipy.optimize import minimize

    logits, right = _logits(validation.log_probabilities), validation.right
    ones, zeros = right.sum(), (1 - right).sum()
    targets = np.where(right > 0, (ones + 1) / (ones + 2), 1 / (zeros + 2))

    def loss(weights: Numbers) -> tuple[float, Numbers]:
        scaled = weights[0] * logits + weights[1]
        gaps = np.exp(-np.logaddexp(0.0, -scaled)) - targets
        nats = np.logaddexp(0.0, scaled) - targets * scaled
        return float(nats.mean()), np.array([(gaps * logits).mean(), gaps.mean()])

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return Scaling(float(slope), float(offset))


def _logits(log_probabilities: Numbers) -> Numbers:
    logs = np.minimum(log_probabilities, -ROUNDING)
    return logs - np.log(-np.expm1(logs))


def _bins(log_probabilities: Numbers) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int]:
    """The bin of each example (N), and how many there are. Equal probabilities share one."""
    count = min(max(len(log_probabilities) // _FEWEST_IN_BIN, 1), _MOST_BINS)
    edges = np.quantile(log_probabilities, np.arange(1, count) / count)
    return np.searchsorted(edges, log_probabilities, side="right"), count
