"""The signs of broken output: nothing said, no end, the same again and again, the source copied."""

from collections.abc import Sequence

from stages.lib.predictions import Prediction
from stages.lib.scores.score import mean, ngrams


def signs(predictions: Sequence[Prediction]) -> dict[str, float]:
    """What broken output looks like. All but `distinct` and `length_ratio` are shares that should be near 0.

    empty: texts without a word. never_ended: texts cut at the limit. repeated_4grams: a text's 4-grams that it said
    before (seq-rep-4 of Welleck et al. 2020). distinct_1, distinct_2: different n-grams among all n-grams of the
    predictions (Li et al. 2016). length_ratio: words over those of the reference nearest in length.
    copied_from_source: a text's 4-grams that stand in its source.
    """
    words = [prediction.prediction.split() for prediction in predictions]
    return {
        "empty": mean(not own for own in words),
        "never_ended": mean(own.stopped == "length" and not own.goes_on for own in predictions),
        "repeated_4grams": mean(_repeated(list(ngrams(own, 4))) for own in words),
        "distinct_1": _distinct([ngram for own in words for ngram in ngrams(own, 1)]),
        "distinct_2": _distinct([ngram for own in words for ngram in ngrams(own, 2)]),
        "length_ratio": _length_ratio(words, predictions),
        "copied_from_source": mean(
            _copied(list(ngrams(own, 4)), set(ngrams(prediction.source.split(), 4)))
            for own, prediction in zip(words, predictions, strict=True)
        ),
    }


def _repeated(said: Sequence[tuple[str, ...]]) -> float:
    return 1 - _distinct(said) if said else 0.0


def _distinct(said: Sequence[tuple[str, ...]]) -> float:
    return len(set(said)) / len(said) if said else 0.0


def _copied(said: Sequence[tuple[str, ...]], source: set[tuple[str, ...]]) -> float:
    return mean(ngram in source for ngram in said) if said else 0.0


def _length_ratio(words: Sequence[Sequence[str]], predictions: Sequence[Prediction]) -> float:
    nearest = [
        min((len(reference.split()) for reference in prediction.references), key=lambda n: (abs(n - len(own)), n))
        for own, prediction in zip(words, predictions, strict=True)
    ]
    return sum(map(len, words)) / sum(nearest)
