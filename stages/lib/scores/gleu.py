"""GLEU for rewriting (Napoles et al. 2015, as revised in "GLEU Without Tuning", 2016): n-grams that a text shares with
its reference count for it. N-grams that it keeps from the source, but the reference does not, count against it."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stages.lib.core.words import words
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.formulas import FORMULAS
from stages.lib.scores.score import Score, ngrams

_ORDER = 4
# where texts have several references, each draw takes one for each text; the number is that of the authors' script
_DRAWS = 500
_DRAWN_REFERENCES = 750_000  # of more texts, so few draws are as exact as the 500 of fewer


def gleu(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus GLEU. With several references, the mean over random draws of one for each text, by the seeds of the
    authors' script. In scripts without blanks, a word is a character.

    The counts are those of that script, by which published scores were computed. The equation of the paper also
    subtracts n-grams that text and source repeat more often than the reference. A text alone has the mean over its
    references, with a count of 0 raised to 1.
    """
    rows = [np.array([_counts(own, reference) for reference in own.references]) for own in predictions]
    several = any(len(own) > 1 for own in rows)
    draws = min(_DRAWS, max(1, _DRAWN_REFERENCES // len(rows))) if several else 1
    drawn = np.array([_drawn(draw, list(map(len, rows))) for draw in range(draws)])
    statistics = np.stack([own[places].reshape(-1) for own, places in zip(rows, drawn.T, strict=True)])
    each = np.array([FORMULAS["gleu"](np.maximum(own, 1.0)).mean() for own in rows])
    return {"gleu": Score(statistics, "gleu", each, f"order:{_ORDER}|words:blanks|draws:{draws}")}


def _counts(prediction: Prediction, reference: str) -> list[float]:
    """Words of the text and of the reference; then for each order, n-grams that count and all n-grams of the text."""
    text, source, truth = map(words, (prediction.prediction, prediction.source, reference))
    counts = [len(text), len(truth)]
    for n in range(1, _ORDER + 1):
        own, wanted, before = (Counter(ngrams(side, n)) for side in (text, truth, source))
        kept = Counter({ngram: count for ngram, count in before.items() if ngram not in wanted})
        counts += [max((own & wanted).total() - (own & kept).total(), 0), own.total()]
    return list(map(float, counts))


def _drawn(draw: int, references: Sequence[int]) -> list[int]:
    """The reference of each text."""
    chance = random.Random(101 * draw)
    return [int(chance.random() * count) for count in references]
