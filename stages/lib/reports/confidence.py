"""The scores of each label, and what the model's confidence is worth, as figures for scores.json and the pages."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.lib.reports.charts import Chart, Point, chart
from stages.lib.reports.numbers import fixed, span
from stages.lib.scores.resampling import Interval
from stages.lib.scores.results import Results

Figures = Mapping[str, Any]

LABEL_HEADER = ("label", "F1", "precision", "95 % interval", "recall", "95 % interval", "examples", "predicted")


def label_figures(results: Results) -> list[dict[str, Any]]:
    """The worst F1 first."""
    return [
        {
            "label": own.label,
            "support": own.support,
            "predicted": own.predicted,
            "right": own.right,
            "f1": round(own.f1, 2),
            "precision": round(own.precision, 2),
            **_ends(own.precision_interval, 2, "precision_"),
            "recall": round(own.recall, 2),
            **_ends(own.recall_interval, 2, "recall_"),
        }
        for own in results.labels
    ]


def confidence_figures(results: Results) -> dict[str, Any]:
    """Empty where predictions are not right or wrong as a whole."""
    own = results.confidence
    if own is None:
        return {}
    found: dict[str, Any] = {
        "right_by": own.judge,
        "probability": round(own.probability, 4),
        "right": round(own.right, 4),
        "aurc": round(own.aurc, 5),
        **_ends(own.aurc_interval, 5, "aurc_"),
        "reliability": [
            {
                "probability": round(each.probability, 4),
                "right": round(each.right, 4),
                **_ends(each.interval, 4),
                "examples": each.examples,
            }
            for each in own.bins
        ],
    }
    if scaled := own.scaled:
        weights = {"slope": round(scaled.scaling.slope, 4), "offset": round(scaled.scaling.offset, 4)}
        found["scaled"] = weights | {"ece": round(scaled.ece, 5), **_ends(scaled.interval, 5)}
    if selective := own.selective:
        found["selective"] = {
            "wanted": selective.wanted,
            "validation_examples": selective.chosen_on,
            **({} if selective.threshold is None else {"threshold": float(f"{selective.threshold:.6g}")}),
            "coverage": round(selective.coverage, 2),
            **_ends(selective.coverage_interval, 2, "coverage_"),
            **({} if selective.threshold is None else {"accuracy": round(selective.accuracy, 2)}),
            **_ends(selective.accuracy_interval, 2, "accuracy_"),
            "verdict": selective.verdict,
        }
    return found


def coverage_curve(results: Results) -> list[tuple[float, float]]:
    """Coverage and accuracy, from 0 to 100."""
    own = results.confidence
    return [] if own is None else [(round(coverage, 2), round(accuracy, 2)) for coverage, accuracy in own.curve]


def label_rows(labels: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The columns of LABEL_HEADER."""
    for own in labels:
        precision, recall = (
            (fixed(own[name], 1), span(own.get(f"{name}_low"), own.get(f"{name}_high"), 1))
            for name in ("precision", "recall")
        )
        counts = f"{own['support']:,}", f"{own['predicted']:,}"
        yield own["label"], fixed(own["f1"], 1), *precision, *recall, *counts


def reliability_chart(confidence: Figures) -> Chart | None:
    """Both axes in percent, with the diagonal of a calibrated model."""
    bins = confidence.get("reliability", [])
    places = [(100 * own["probability"], 100 * own["right"]) for own in bins]
    points = [
        Point("complete", f"{own['examples']:,} predictions: probability {x:.3g} %, right {y:.3g} %", x, y)
        for own, (x, y) in zip(bins, places, strict=True)
    ]
    return chart({"calibrated": [(0, 0), (100, 100)], "predictions": places}, points) if bins else None


def coverage_chart(curve: Sequence[Sequence[float]]) -> Chart | None:
    """Both axes in percent."""
    return chart({"accuracy": curve})


def _ends(interval: Interval, digits: int, prefix: str = "") -> dict[str, float]:
    """Nothing where nothing is known."""
    if not math.isfinite(interval.error):
        return {}
    return {f"{prefix}low": round(interval.low, digits), f"{prefix}high": round(interval.high, digits)}
