"""Measures of broken output: empty texts, texts without an end, repetition, copies of the source."""

from collections.abc import Sequence

from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import mean, ngrams


def diagnostics(predictions: Sequence[Prediction]) -> dict[str, float]:
    """All except `distinct` and `length_ratio` are shares, 0 to 1, that should be near 0.

    empty: texts without a word. never_ended: texts that reached the length limit. repeated_4grams: 4-grams that occur
    earlier in the same text (seq-rep-4 of Welleck et al. 2020). distinct_1, distinct_2: different n-grams among all
    n-grams of the predictions (Li et al. 2016). length_ratio: words of the texts over words of the references, each
    the reference nearest in length. copied_from_source: 4-grams of a text that are in its source.
    """
    words = [prediction.prediction.split() for prediction in predictions]
    return {
        "empty": mean(not own for own in words),
        "never_ended": mean(own.finish_reason == "length" and not own.reference_truncated for own in predictions),
        "repeated_4grams": mean(_repeated(list(ngrams(own, 4))) for own in words),
        "distinct_1": _distinct([ngram for own in words for ngram in ngrams(own, 1)]),
        "distinct_2": _distinct([ngram for own in words for ngram in ngrams(own, 2)]),
        "length_ratio": _length_ratio(words, predictions),
        "copied_from_source": mean(
            _copied(list(ngrams(own, 4)), set(ngrams(prediction.source.split(), 4)))
            for own, prediction in zip(words, predictions, strict=True)
        ),
    }


def _repeated(own: Sequence[tuple[str, ...]]) -> float:
    return 1 - _distinct(own) if own else 0.0


def _distinct(own: Sequence[tuple[str, ...]]) -> float:
    return len(set(own)) / len(own) if own else 0.0


def _copied(own: Sequence[tuple[str, ...]], source: set[tuple[str, ...]]) -> float:
    return mean(ngram in source for ngram in own) if own else 0.0


def _length_ratio(words: Sequence[Sequence[str]], predictions: Sequence[Prediction]) -> float:
    nearest = [
        min((len(reference.split()) for reference in prediction.references), key=lambda n: (abs(n - len(own)), n))
        for own, prediction in zip(words, predictions, strict=True)
    ]
    return sum(map(len, words)) / sum(nearest)
