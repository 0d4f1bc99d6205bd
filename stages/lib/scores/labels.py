"""Texts that are right or wrong as a whole: labels, and answers of a dialogue."""

from collections.abc import Iterator, Sequence

from stages.lib.params.evaluate import Evaluate
from stages.lib.predictions import Prediction
from stages.lib.scores.score import Score, mean


def accuracy(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Share of texts that equal a reference, character for character: of labels, or of responses."""
    value = 100 * mean(own.prediction in own.references for own in predictions)
    return {"accuracy": Score(value, "refs:any|mean:texts")}


def macro_f1(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """F1 of each label among predictions and first references, and their mean: rare labels count as much as others."""
    pairs = list(confusion(predictions))
    labels = sorted({label for pair in pairs for label in pair})
    value = 100 * mean(_f1(pairs, label) for label in labels)
    return {"macro_f1": Score(value, f"labels:{len(labels)}|mean:labels")}


def confusion(predictions: Sequence[Prediction]) -> Iterator[tuple[str, str]]:
    """What a label is and what it was taken for."""
    return ((own.references[0], own.prediction) for own in predictions)


def _f1(pairs: Sequence[tuple[str, str]], label: str) -> float:
    right = sum(actual == predicted == label for actual, predicted in pairs)
    named = sum((actual == label) + (predicted == label) for actual, predicted in pairs)
    return 2 * right / named
