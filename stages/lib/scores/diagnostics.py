"""Measures of broken output: empty texts, texts without an end, repetition, copies of the source."""

from collections.abc import Sequence

from stages.lib.core.words import words
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, mean, mean_score, ngrams

Ngrams = Sequence[tuple[str, ...]]

_HOW = "words:blanks"  # in scripts without blanks: characters


def diagnostics(predictions: Sequence[Prediction], labels: bool) -> dict[str, Score]:
    """Shares, 0 to 1, that should be near 0. Labels have the first two alone.

    empty: texts without a word. never_ended: texts that reached the length limit. repeated_4grams: 4-grams that occur
    earlier in the same text (seq-rep-4 of Welleck et al. 2020). copied_from_source: 4-grams of a text that are in its
    source. In scripts without blanks, a word is a character.
    """
    texts = [words(own.prediction) for own in predictions]
    cut = [own.finish_reason == "length" and not own.reference_truncated for own in predictions]
    broken = {"empty": _share([float(not own) for own in texts]), "never_ended": _share(list(map(float, cut)))}
    if labels:
        return broken
    sources = [words(own.source) for own in predictions]
    return broken | {
        "repeated_4grams": _share([_repeated(list(ngrams(own, 4))) for own in texts]),
        "copied_from_source": _share(
            [_copied(list(ngrams(own, 4)), set(ngrams(source, 4))) for own, source in zip(texts, sources, strict=True)]
        ),
    }


def properties(predictions: Sequence[Prediction]) -> dict[str, float]:
    """What is neither good nor bad by itself, but odd where it is far from that of the references.

    length_ratio: words of the texts over words of the references, each the reference nearest in length; left out where
    there are no references. distinct_1, distinct_2: different n-grams among all n-grams of the predictions (Li et al.
    2016). These have no interval: in a resample with repeated texts, fewer n-grams differ than in as many new texts.
    """
    texts = [words(own.prediction) for own in predictions]
    variety = {f"distinct_{n}": _different([ngram for own in texts for ngram in ngrams(own, n)]) for n in (1, 2)}
    has_references = all(own.references for own in predictions)
    return {**({"length_ratio": _length_ratio(texts, predictions)} if has_references else {}), **variety}


def _share(each: Sequence[float]) -> Score:
    return mean_score(each, f"{_HOW}|mean:texts", higher_is_better=False)


def _repeated(own: Ngrams) -> float:
    return 1 - _different(own) if own else 0.0


def _different(own: Ngrams) -> float:
    return len(set(own)) / len(own) if own else 0.0


def _copied(own: Ngrams, source: set[tuple[str, ...]]) -> float:
    return mean(ngram in source for ngram in own) if own else 0.0


def _length_ratio(texts: Sequence[Sequence[str]], predictions: Sequence[Prediction]) -> float:
    nearest = [
        min((len(words(reference)) for reference in prediction.references), key=lambda n: (abs(n - own), n))
        for own, prediction in zip(map(len, texts), predictions, strict=True)
    ]
    return sum(map(len, texts)) / max(sum(nearest), 1)
