"""What a score is to be read against: predictions that no model made.

A ceiling says what a perfect model would score, since a tokenizer may not be able to write every reference. Floors say
what is scored without skill: a model near them has learned little, or ignores its source.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from stages.lib.core.words import words
from stages.lib.records.examples import Question
from stages.lib.records.predictions import Prediction

CEILING = "round_trip"

# examples with a word of the text, one by one: a search takes the rarest words, and about a millisecond
_MOST_LOOKUPS = 50_000


def bound_predictions(
    predictions: Sequence[Prediction], train: Sequence[Question], labels: Sequence[str], no_input: str | None
) -> dict[str, list[Prediction]]:
    """Name -> the same examples with other predictions.

    round_trip: the first reference, through the tokenizer and back. source_copied: the source itself.
    nearest_example: the first target of the training example whose source is most alike. majority_label: the most
    frequent label of training. no_input: what the model writes without a source. Left out: what there is not for this
    task.
    """
    found = {CEILING: [own.round_trip for own in predictions]}
    with_source = any(own.source for own in train) and all(own.source for own in predictions)
    if labels and train:
        majority = Counter(own.references[0] for own in train).most_common(1)[0][0]
        found["majority_label"] = [majority] * len(predictions)
    elif with_source:
        found["source_copied"] = [own.source for own in predictions]
    if with_source:
        nearest = Nearest([own.source for own in train])
        found["nearest_example"] = [train[nearest.to(own.source)].references[0] for own in predictions]
    if no_input is not None:
        found["no_input"] = [no_input] * len(predictions)
    return {
        name: [replace(own, prediction=text) for own, text in zip(predictions, texts, strict=True)]
        for name, texts in found.items()
    }


class Nearest:
    """Finds the most similar one of many texts: cosine of their words, weighted by rarity (idf: Spärck Jones 1972)."""

    def __init__(self, texts: Sequence[str]) -> None:
        bags = [set(words(text.lower())) for text in texts]
        holders: dict[str, list[int]] = defaultdict(list)
        for number, bag in enumerate(bags):
            for word in bag:
                holders[word].append(number)
        self._weights = {word: np.log(1 + len(texts) / len(own)) ** 2 for word, own in holders.items()}
        self._lengths = np.sqrt([max(sum(self._weights[word] for word in sorted(bag)), 1e-9) for bag in bags])
        self._holders: Mapping[str, Any] = {word: np.array(own) for word, own in holders.items()}

    def to(self, text: str) -> int:
        """The place of the most similar text; of equally similar ones, of the first."""
        shared = self._rarest(words(text.lower()))
        if not shared:
            return 0
        places = np.concatenate([self._holders[word] for word in shared])
        weights = np.repeat([self._weights[word] for word in shared], [len(self._holders[word]) for word in shared])
        return int((np.bincount(places, weights, len(self._lengths)) / self._lengths).argmax())

    def _rarest(self, found: Sequence[str]) -> list[str]:
        """As many of the rarest words as a search takes, in alphabetical order."""
        rarest = sorted(
            {word for word in found if word in self._holders}, key=lambda word: (len(self._holders[word]), word)
        )
        lookups = accumulate(len(self._holders[word]) for word in rarest)
        return sorted(word for word, so_far in zip(rarest, lookups, strict=True) if so_far <= _MOST_LOOKUPS)
