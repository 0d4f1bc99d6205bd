"""Scores of texts that are right or wrong as a whole: labels, and responses in a dialogue. Blanks around a text do not
count."""

from collections.abc import Iterator, Sequence

import numpy as np

from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, mean_score

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
