"""Scores of texts that are right or wrong as a whole: labels, and responses in a dialogue. Blanks around a text do not
count."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.resampling import Interval, share_interval
from stages.lib.scores.score import Score, mean_score

NO_LABEL = "(no label)"  # stands for all predicted texts that are none

_MOST_NOTES = 3
_MOST_COUNTS = 100_000_000  # predictions times labels: 1.6 GB


def accuracy(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Share of texts that equal a reference, character for character."""
    right = (own.prediction.strip() in {text.strip() for text in own.references} for own in predictions)
    return {"accuracy": mean_score((100.0 * found for found in right), "refs:any|mean:texts")}


def macro_f1(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Mean F1 of all labels among the first references: rare labels count as much as others.

    Predicted texts that are none of these labels count together as one more label, whose F1 is 0. So the statistics of
    two models have the same columns.

    Raises:
        UserError: the first references are so many different texts that their counts take too much memory.
    """
    pairs = list(confusion(predictions))
    column = {label: number for number, label in enumerate(sorted({actual for actual, _ in pairs}))}
    if len(pairs) * len(column) > _MOST_COUNTS:
        raise UserError(
            f"evaluate -> metrics: macro_f1 is for labels, but the references are {len(column):,} different texts; "
            "choose accuracy"
        )
    statistics = np.zeros((len(pairs), 2 * (len(column) + 1)))
    for row, (actual, predicted) in zip(statistics, pairs, strict=True):
        row[2 * column[actual]] = actual == predicted
        row[2 * column[actual] + 1] += 1
        row[2 * column.get(predicted, len(column)) + 1] += 1
    right = np.array([100.0 * (actual == predicted) for actual, predicted in pairs])
    return {"macro_f1": Score(statistics, "macro_f1", right, f"refs:first|labels:{len(column)}|mean:labels")}


def confusion(predictions: Sequence[Prediction]) -> Iterator[tuple[str, str]]:
    """The actual label and the predicted one, of each prediction."""
    return ((own.references[0].strip(), own.prediction.strip()) for own in predictions)


@dataclass(frozen=True)
class LabelScores:
    """Of one label, from 0 to 100. `right` of `predicted` predictions and of `support` first references; a share of
    none is 0."""

    label: str
    support: int
    predicted: int
    right: int
    precision: float
    precision_interval: Interval
    recall: float
    recall_interval: Interval
    f1: float


def label_scores(predictions: Sequence[Prediction], labels: Sequence[str]) -> list[LabelScores]:
    """Of each label, the worst F1 first. Predicted texts that are no label are told as one more, if there are any."""
    pairs = list(confusion(predictions))
    known = dict.fromkeys([*labels, *sorted({actual for actual, _ in pairs})])
    named = [(actual, predicted if predicted in known else NO_LABEL) for actual, predicted in pairs]
    support, taken, right = Counter(a for a, _ in named), Counter(p for _, p in named), Counter(named)
    groups = [own.group for own in predictions]
    return sorted(
        (
            LabelScores(
                label=label,
                support=support[label],
                predicted=taken[label],
                right=right[label, label],
                precision=_percent(right[label, label], taken[label]),
                precision_interval=_interval([(p, a == p) for a, p in named], label, groups),
                recall=_percent(right[label, label], support[label]),
                recall_interval=_interval([(a, a == p) for a, p in named], label, groups),
                f1=_percent(2 * right[label, label], support[label] + taken[label]),
            )
            for label in [*known, *([NO_LABEL] if taken[NO_LABEL] else [])]
        ),
        key=lambda own: own.f1,
    )


def notes_on_labels(scores: Sequence[LabelScores]) -> Iterator[str]:
    """The worst labels, if their recall is surely below that of all examples; and how many texts are no label."""
    support = sum(own.support for own in scores)
    recall = _percent(sum(own.right for own in scores), support)
    worse = [own for own in scores if own.support and own.recall_interval.high < recall]
    for own in worse[:_MOST_NOTES]:
        low, high = own.recall_interval.low, own.recall_interval.high
        yield (
            f"label {own.label}: {own.recall:.3g} % ({low:.3g} to {high:.3g}) of its {own.support:,} examples are "
            f"found, of all {recall:.3g} %"
        )
    for own in scores:
        if own.label == NO_LABEL:
            yield f"{own.predicted:,} predictions are no label, and count as wrong"


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def _interval(named: Sequence[tuple[str, bool]], label: str, groups: Sequence[str]) -> Interval:
    """Of the share of right ones among those that are named like this."""
    places = [place for place, (name, _) in enumerate(named) if name == label]
    return share_interval([named[place][1] for place in places], [groups[place] for place in places]).scaled(100)
