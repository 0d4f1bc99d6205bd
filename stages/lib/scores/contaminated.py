"""Test examples that training has seen nearly word for word: what a model scores on them says little about others."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from stages.lib.overlap.minhash import bands_and_signatures, jaccard, normalised, shingles
from stages.lib.records.examples import Question
from stages.lib.records.predictions import Prediction

NEAR = 0.8  # Jaccard similarity of 5-character pieces: near-duplicates of Lee et al. (2022), as prepare finds them


class NearDuplicates:
    """Finds training examples that are nearly the same as test examples, however many there are: they are read in
    parts. Two examples are if both source and a reference are; the sources alone, where test has no answers."""

    def __init__(self, predictions: Sequence[Prediction]) -> None:
        self._is_found = [False] * len(predictions)
        self._has_answers = any(own.references for own in predictions)
        every = [(row, parts) for row, own in enumerate(predictions) for parts in self._parts(own)]
        self._rows = [row for row, _ in every]
        texts = [parts for _, parts in every]
        self._pieces = list(shingles(texts))
        self._holders: dict[tuple[int, int], list[int]] = defaultdict(list)  # band and key -> places in `every`
        for place, keys in enumerate(bands_and_signatures(texts, NEAR)[0].tolist()):
            for band in enumerate(keys):
                self._holders[band].append(place)

    def read(self, examples: Sequence[Question]) -> None:
        """Compares the test examples with training examples."""
        texts = [parts for own in examples for parts in self._parts(own)]
        candidates: dict[int, set[int]] = {}
        for number, keys in enumerate(bands_and_signatures(texts, NEAR)[0].tolist()):
            places = {place for band in enumerate(keys) for place in self._holders.get(band, ())}
            if unknown := {place for place in places if not self._is_found[self._rows[place]]}:
                candidates[number] = unknown
        for places, pieces in zip(candidates.values(), shingles([texts[number] for number in candidates]), strict=True):
            for place in places:
                # the lower one of both parts: different questions about the same long text are no duplicates
                self._is_found[self._rows[place]] |= min(map(jaccard, pieces, self._pieces[place])) >= NEAR

    def found(self) -> list[bool]:
        """Whether training has an example that is nearly the same as each test example."""
        return self._is_found

    def _parts(self, example: Question | Prediction) -> Iterator[tuple[str, ...]]:
        source = normalised(example.source)
        if not self._has_answers:
            yield (source,)
        for reference in example.references if self._has_answers else ():
            yield source, normalised(reference)
