"""What a model's confidence is worth: its calibration, and what abstaining from unsure answers gains."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stages.lib.scores.calibration import Bin, Judged, Scaling, calibration_scores, reliability, scaling_of
from stages.lib.scores.resampling import Interval, intervals
from stages.lib.scores.selective import Selective, aurc, coverage_curve, selective


@dataclass(frozen=True)
class Scaled:
    """Probabilities of test, scaled as is best on validation."""

    scaling: Scaling
    ece: float
    interval: Interval


@dataclass(frozen=True)
class Confidence:
    """Of the test split. `scaled` and `selective` need predictions for validation, where alone anything is chosen."""

    judge: str  # the score that says right or wrong
    probability: float  # mean over the predictions
    right: float  # share of them
    bins: list[Bin]
    curve: list[tuple[float, float]]  # coverage and accuracy
    aurc: float
    aurc_interval: Interval
    scaled: Scaled | None
    selective: Selective | None

    def notes(self, ece: Interval) -> Iterator[str]:
        if ece.low > 0:  # not by chance
            kind = "too sure" if self.probability > self.right else "not sure enough"
            told = f"its mean probability is {self.probability:.3g}, and {self.right:.3g} of its predictions are right"
            after = f"; scaled on validation, ece is {self.scaled.ece:.2g}" if self.scaled else ""
            yield f"ece: the model is {kind} of itself: {told}{after}"
        if self.selective:
            yield self.selective.says


def confidence(test: Judged, validation: Judged | None, wanted: float | None) -> Confidence:
    """`wanted`: the accuracy of answers, from 0 to 100, below which the model should abstain; None: it never does."""
    area, area_interval = aurc(test)
    return Confidence(
        judge=test.judge,
        probability=float(np.exp(test.log_probabilities).mean()),
        right=float(test.right.mean()),
        bins=reliability(test),
        curve=coverage_curve(test),
        aurc=area,
        aurc_interval=area_interval,
        scaled=_scaled(test, validation) if validation else None,
        selective=selective(test, validation, wanted) if validation and wanted is not None else None,
    )


def _scaled(test: Judged, validation: Judged) -> Scaled:
    scaling = scaling_of(validation)
    scaled = calibration_scores(test.with_log_probabilities(scaling(test.log_probabilities)))["ece"]
    return Scaled(scaling, scaled.value, intervals({"ece": scaled}, test.groups)["ece"])
