"""GLEU for rewriting (Napoles et al. 2015, as revised in "GLEU Without Tuning", 2016): n-grams that a text shares with
its reference count for it. N-grams that it keeps from the source, but the reference does not, count against it."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, ngrams

_ORDER = 4
_DRAWS = 500  # where texts have several references: each draw takes one for each text (the number of the paper)

Statistics = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def gleu(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus GLEU over words between blanks. With several references, the mean over draws of one for each text."""
    rows = [[_statistics(own, reference) for reference in own.references] for own in predictions]
    most = max(map(len, rows))
    random = np.random.default_rng(0)
    scores = []
    for _ in range(_DRAWS if most > 1 else 1):
        chosen = random.random(len(rows))
        total = sum(own[int(share * len(own))] for own, share in zip(rows, chosen, strict=True))
        scores.append(_score(np.asarray(total)))
    return {"gleu": Score(100 * float(np.mean(scores)), f"order:{_ORDER}|words:blanks|draws:{len(scores)}")}


def _statistics(prediction: Prediction, reference: str) -> Statistics:
    """Numbers: words of the text and of the reference; then for each order, n-grams that count and all n-grams of the
    text."""
    text, source, truth = (text.split() for text in (prediction.prediction, prediction.source, reference))
    counts = [len(text), len(truth)]
    for n in range(1, _ORDER + 1):
        own, wanted, before = (Counter(ngrams(words, n)) for words in (text, truth, source))
        kept = Counter({ngram: count for ngram, count in before.items() if ngram not in wanted})
        counts += [max((own & wanted).total() - (own & kept).total(), 0), own.total()]
    return np.array(counts, np.int64)


def _score(statistics: Statistics) -> float:
    if not statistics.all():
        return 0.0
    length, wanted, *counts = statistics.tolist()
    precisions = [math.log(right / all_) for right, all_ in zip(counts[::2], counts[1::2], strict=True)]
    return math.exp(min(0.0, 1 - wanted / length) + sum(precisions) / _ORDER)
