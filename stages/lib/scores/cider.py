"""CIDEr-D (Vedantam et al. 2015): the cosine of the n-grams of a text and of its references, weighted by how few other
references have them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.bleu_chrf_ter import lowered_words
from stages.lib.scores.score import Score, mean, mean_score, ngrams

_ORDERS = range(1, 5)
_SIGMA = 6.0  # of the penalty for another length
_PUNCTUATION = frozenset(".,:;?!-'\"`()[]{}")

Ngram = tuple[str, ...]


def cider(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """As pycocoevalcap computes it, from 0 to 10: mean over the texts, their references and the orders 1 to 4.

    Its tokenizer needs Java; here `bleu_tokenizer` splits the words, in lower case, and punctuation does not count. The
    weights are those of all references, whatever is resampled. Of a single example, every weight is 0.
    """
    tokenize = lowered_words(params.bleu_tokenizer)
    texts = [_words(tokenize(own.prediction)) for own in predictions]
    references = [[_words(tokenize(reference)) for reference in own.references] for own in predictions]
    rarity = _rarity(references)
    each = (
        mean(_likeness(_vector(text, rarity), _vector(reference, rarity)) for reference in wanted)
        for text, wanted in zip(texts, references, strict=True)
    )
    how = f"case:lc|tok:{params.bleu_tokenizer}|punct:no|refs:mean|sacrebleu:{version('sacrebleu')}"
    return {"cider": mean_score(each, how)}


class Rarity(NamedTuple):
    """The logarithm of the number of examples, and for each n-gram that of how many have it among their references."""

    examples: float
    of: Mapping[Ngram, float]


class Vector(NamedTuple):
    """For each order the weights of its n-grams, and their norm. `length` is the number of word pairs, as there."""

    weights: list[dict[Ngram, float]]
    norms: list[float]
    length: int


def _words(tokens: Sequence[str]) -> list[str]:
    return [token for token in tokens if not _PUNCTUATION.issuperset(token)]


def _rarity(references: Sequence[Sequence[Sequence[str]]]) -> Rarity:
    owners = Counter(
        ngram for own in references for ngram in {ngram for words in own for n in _ORDERS for ngram in ngrams(words, n)}
    )
    return Rarity(math.log(len(references)), {ngram: math.log(count) for ngram, count in owners.items()})


def _vector(words: Sequence[str], rarity: Rarity) -> Vector:
    counts = [Counter(ngrams(words, n)) for n in _ORDERS]
    weights = [
        {ngram: count * (rarity.examples - rarity.of.get(ngram, 0.0)) for ngram, count in own.items()} for own in counts
    ]
    norms = [math.hypot(*own.values()) for own in weights]
    return Vector(weights, norms, counts[1].total())


def _likeness(text: Vector, reference: Vector) -> float:
    """0 to 10. A weight of the text counts only up to that of the reference."""
    penalty = math.exp(-((text.length - reference.length) ** 2) / (2 * _SIGMA**2))
    cosines = []
    norms = map(math.prod, zip(text.norms, reference.norms, strict=True))
    for own, wanted, norm in zip(text.weights, reference.weights, norms, strict=True):
        product = math.fsum(
            min(weight, wanted[ngram]) * wanted[ngram] for ngram, weight in own.items() if ngram in wanted
        )
        cosines.append(product / norm if norm else product)
    return 10 * penalty * mean(cosines)
