"""NIST (Doddington 2002): n-grams that a text shares with its references, weighted by how rare they are."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from importlib.metadata import version
from operator import or_

import numpy as np

from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.bleu_chrf_ter import lowered_words
from stages.lib.scores.formulas import FORMULAS
from stages.lib.scores.score import Score, ngrams

_ORDERS = range(1, 6)

Words = Sequence[str]
Information = Mapping[tuple[str, ...], float]


def nist(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """As NIST's mteval-v13a: in lower case, and an n-gram is right as often as one of the references has it.

    `bleu_tokenizer` splits the words. The weights are those of all references, whatever is resampled.
    """
    words = lowered_words(params.bleu_tokenizer)
    references = [[words(reference) for reference in own.references] for own in predictions]
    information = _information([reference for own in references for reference in own])
    rows = [
        _counts(words(own.prediction), wanted, information) for own, wanted in zip(predictions, references, strict=True)
    ]
    statistics = np.array(rows, np.float64)
    how = f"case:lc|tok:{params.bleu_tokenizer}|order:{_ORDERS[-1]}|refs:all|sacrebleu:{version('sacrebleu')}"
    return {"nist": Score(statistics, "nist", FORMULAS["nist"](statistics), how)}


def _information(references: Sequence[Words]) -> Information:
    """Bits that the last word of an n-gram adds to those before it (equation 2)."""
    counts = Counter(ngram for words in references for n in _ORDERS for ngram in ngrams(words, n))
    counts[()] = sum(map(len, references))
    return {ngram: math.log2(counts[ngram[:-1]] / count) for ngram, count in counts.items() if ngram}


def _counts(text: Words, references: Sequence[Words], information: Information) -> list[float]:
    """The columns of the formula `nist`."""
    right = []
    for n in _ORDERS:
        wanted = reduce(or_, (Counter(ngrams(reference, n)) for reference in references))
        shared = Counter(ngrams(text, n)) & wanted
        right.append(math.fsum(information[ngram] * count for ngram, count in shared.items()))
    every = [float(max(len(text) - n + 1, 0)) for n in _ORDERS]
    return [1.0, float(len(references)), float(len(text)), float(sum(map(len, references))), *right, *every]
