"""The formulas of the scores: sums of statistics (..., K) -> scores (...). They take many sums at once, so that a
thousand resamples cost one matrix product."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.float64]]

_LARGEST_EXPONENT = 340.0  # the square of e to this power is still a float, and so the standard error is
_NIST_BETA = math.log(0.5) / math.log(1.5) ** 2  # so texts of two thirds of the references' length get half the score


def ratio(sums: Numbers) -> Numbers:
    """K = 2: a part and its whole. 0 where the whole is 0."""
    return _divided(sums[..., 0], sums[..., 1])


def perplexity(sums: Numbers) -> Numbers:
    """K = 2: nats and tokens. Of a larger one than 1e147, this is told."""
    return np.exp(np.minimum(ratio(sums), _LARGEST_EXPONENT))


def bleu(sums: Numbers) -> Numbers:
    """K = 10: words of the texts and of the references, right n-grams of the orders 1 to 4, all n-grams of them.

    Papineni et al. 2002, equation 2, with the smoothing of mteval-v13a: the k-th order without a right n-gram has half
    a right one to the power of k. An order that no text is long enough for makes the score 0. From 0 to 100.
    """
    return _bleu(sums, effective_order=False)


def sentence_bleu(sums: Numbers) -> Numbers:
    """The same for short texts: of the orders, only those count that some text is long enough for."""
    return _bleu(sums, effective_order=True)


def _bleu(sums: Numbers, effective_order: bool) -> Numbers:
    length, wanted, right, every = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    zeros = np.cumsum((right == 0) & (every > 0), -1)
    smoothed = np.where(right > 0, right, 0.5**zeros)
    logs = np.where(every > 0, np.log(smoothed) - np.log(np.maximum(every, 1)), 0.0)
    orders = (every > 0).sum(-1)
    used = np.maximum(orders, 1) if effective_order else 4
    penalty = np.minimum(1 - _divided(wanted, length), 0.0)
    scores = 100 * np.exp(penalty + logs.sum(-1) / used)
    usable = (right.sum(-1) > 0) & ((orders == 4) | effective_order)
    return np.where(usable, scores, 0.0)


def chrf(sums: Numbers) -> Numbers:
    """K = 3 for each order: n-grams of the texts, of the references, and shared ones (Popović 2015, equation 1, beta
    2). Precision and recall are means over the orders that both have. From 0 to 100."""
    texts, references, shared = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    both = (texts > 0) & (references > 0)
    orders = both.sum(-1)
    precision = _divided(np.where(both, _divided(shared, texts), 0.0).sum(-1), orders)
    recall = _divided(np.where(both, _divided(shared, references), 0.0).sum(-1), orders)
    return 100 * _divided(5 * precision * recall, 4 * precision + recall)


def macro_f1(sums: Numbers) -> Numbers:
    """K = 2 for each label: how often it was right, and how often it was the actual or the predicted one (a right
    prediction counts twice). Labels that never occur do not count. From 0 to 100."""
    right, named = sums[..., 0::2], sums[..., 1::2]
    return 100 * _divided(_divided(2 * right, named).sum(-1), (named > 0).sum(-1))


def ter(sums: Numbers) -> Numbers:
    """K = 2: edits, and words of the references. 100 for edits where the references have no word (Snover et al. 2006).
    Lower is better, and it can exceed 100."""
    edits, words = sums[..., 0], sums[..., 1]
    return 100 * np.where(words > 0, _divided(edits, words), edits > 0)


def nist(sums: Numbers) -> Numbers:
    """K = 14: texts, their references, words of either; information of the right n-grams of the orders 1 to 5; all
    n-grams of the texts. Doddington 2002, equation 3; a text wants as many words as a reference has on average. It has
    no upper bound."""
    texts, references, length, words = (sums[..., column] for column in range(4))
    information, every = sums[..., 4:9], sums[..., 9:14]
    brevity = np.minimum(_divided(length * references, words * texts), 1.0)
    penalty = np.exp(_NIST_BETA * np.log(np.where(brevity > 0, brevity, 1.0)) ** 2) * (brevity > 0)
    return penalty * _divided(information, every).sum(-1)


def gleu(sums: Numbers) -> Numbers:
    """K = 10 for each draw of references: words of the texts and of the references; then for each of four orders,
    n-grams that count, and all. The mean over the draws (Napoles et al. 2016), without smoothing. From 0 to 100."""
    draws = sums.reshape(*sums.shape[:-1], -1, 10)
    length, wanted, counted, every = draws[..., 0], draws[..., 1], draws[..., 2::2], draws[..., 3::2]
    usable = (draws > 0).all(-1)
    logs = np.log(np.where(counted > 0, counted, 1.0)) - np.log(np.where(every > 0, every, 1.0))
    penalty = np.minimum(1 - _divided(wanted, length), 0.0)
    return np.where(usable, 100 * np.exp(penalty + logs.sum(-1) / 4), 0.0).mean(-1)


def ece(sums: Numbers) -> Numbers:
    """K = bins + 1: probability minus right answers, summed in each bin; the last number counts the examples. The
    expected calibration error (Naeini et al. 2015, Guo et al. 2017, equation 3), from 0 to 1."""
    return _divided(np.abs(sums[..., :-1]).sum(-1), sums[..., -1])


def _divided(part: Numbers, whole: Numbers) -> Numbers:
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)


FORMULAS: Mapping[str, Callable[[Numbers], Numbers]] = {
    "ratio": ratio,
    "perplexity": perplexity,
    "bleu": bleu,
    "sentence_bleu": sentence_bleu,
    "chrf": chrf,
    "macro_f1": macro_f1,
    "ter": ter,
    "nist": nist,
    "gleu": gleu,
    "ece": ece,
}
