"""Scores of parts of the test split: by metadata, lengths, and what training has seen."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.lib.core.words import count_words
from stages.lib.records.examples import Question
from stages.lib.records.predictions import Prediction
from stages.lib.scores.facts import form_of
from stages.lib.scores.resampling import Interval, intervals
from stages.lib.scores.score import Score
from stages.lib.scores.scored import scored

SMALL = 20  # groups of examples; a score of fewer says little
NEAR_DUPLICATES = "near-duplicate in training"
_MOST_VALUES = 12  # of a column; rarer ones are one part together


@dataclass(frozen=True)
class Part:
    """Examples that are alike in one respect, and a score of them."""

    by: str
    value: str
    examples: int
    groups: int
    score: str
    result: float
    interval: Interval

    @property
    def is_small(self) -> bool:
        return self.groups < SMALL


def breakdowns(
    predictions: Sequence[Prediction],
    scores: Mapping[str, Score],
    train: Sequence[Question],
    near_duplicates: Sequence[bool] = (),
) -> Iterator[Part]:
    """Each score of each part, by each respect in which the examples differ. `scores` are those of the predictions;
    `near_duplicates` says which of their examples training has nearly word for word, where that is known."""
    whole = scored(predictions, scores)
    for by, value, rows in parts(predictions, train, near_duplicates):
        part = whole.chosen(rows)
        found = intervals(part.scores, part.groups)
        for name, score in part.scores.items():
            yield Part(by, value, len(rows), len(set(part.groups)), name, score.value, found[name])


def parts(
    predictions: Sequence[Prediction], train: Sequence[Question], near_duplicates: Sequence[bool] = ()
) -> Iterator[tuple[str, str, list[int]]]:
    """Respect, value and rows of each part, by each respect in which the predictions differ."""
    respects = _respects(predictions, train)
    if len(set(near_duplicates)) > 1:
        respects[NEAR_DUPLICATES] = ["yes" if own else "no" for own in near_duplicates]
    for by, values in respects.items():
        for value in sorted(set(values), key=_natural):
            yield by, value, [row for row, own in enumerate(values) if own == value]


def _respects(predictions: Sequence[Prediction], train: Sequence[Question]) -> dict[str, list[str]]:
    """Respect -> the value of each prediction, for respects with at least two values."""
    found = {
        "source words": _quarters([count_words(own.source) for own in predictions]),
        "reference words": _quarters([count_words(own.references[0]) for own in predictions]),
        "references": [str(len(own.references)) if len(own.references) < 4 else "4 or more" for own in predictions],
    }
    if read := form_of([own.source for own in train]):
        seen = {fact for own in train for fact in read(own.source)}
        found["values in training"] = [
            "all seen" if seen.issuperset(read(own.source)) else "some unseen" for own in predictions
        ]
    references = [own.references[0] for own in predictions]
    if len(set(references)) <= _MOST_VALUES < len(predictions):
        found["reference"] = references
    for column in sorted({name for own in predictions for name in own.metadata}):
        values = [own.metadata.get(column, "") for own in predictions]
        if Counter(values).most_common(1)[0][1] > 1:  # a column of names says nothing about any of them
            found[column] = _frequent(values)
    return {by: values for by, values in found.items() if len(set(values)) > 1}


def _quarters(numbers: Sequence[int]) -> list[str]:
    """The quarter that each number is in, as its smallest and largest number."""
    borders = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75], method="lower"))
    places = np.searchsorted(borders, numbers)
    names = {}
    for place in set(places.tolist()):
        inside = [number for number, own in zip(numbers, places, strict=True) if own == place]
        names[place] = f"{min(inside)} to {max(inside)}" if min(inside) < max(inside) else str(min(inside))
    return [names[place] for place in places.tolist()]


def _frequent(values: Sequence[str]) -> list[str]:
    kept = {value for value, _ in Counter(values).most_common(_MOST_VALUES)}
    return [value if value in kept else "(others)" for value in values]


def _natural(value: str) -> tuple[float, str]:
    """Numbers in their order, then text."""
    first = value.partition(" ")[0]
    return (float(first), value) if first.isdecimal() else (float("inf"), value)
