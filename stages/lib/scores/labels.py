"""Scores of texts that are right or wrong as a whole: labels, and responses in a dialogue."""

from collections.abc import Iterator, Sequence

from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, mean


def accuracy(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Share of texts that equal a reference, character for character."""
    value = 100 * mean(own.prediction in own.references for own in predictions)
    return {"accuracy": Score(value, "refs:any|mean:texts")}


def macro_f1(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Mean F1 of all labels among the predictions and first references: rare labels count as much as others."""
    actual_predicted = list(confusion(predictions))
    labels = sorted({label for both in actual_predicted for label in both})
    value = 100 * mean(_f1(actual_predicted, label) for label in labels)
    return {"macro_f1": Score(value, f"labels:{len(labels)}|mean:labels")}


def confusion(predictions: Sequence[Prediction]) -> Iterator[tuple[str, str]]:
    """The actual label and the predicted one, of each prediction."""
    return ((own.references[0], own.prediction) for own in predictions)


def _f1(actual_predicted: Sequence[tuple[str, str]], label: str) -> float:
    right = sum(actual == predicted == label for actual, predicted in actual_predicted)
    named = sum((actual == label) + (predicted == label) for actual, predicted in actual_predicted)
    return 2 * right / named
