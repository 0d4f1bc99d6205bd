"""Short answers, compared without case, punctuation and articles, with all references that a question has."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_

from stages.lib.core.words import answer_words, normalised_answer, shared_words
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, common_subsequence, mean_score

_BETA = 1.2  # recall counts more than precision (Chen et al. 2015)

Words = Sequence[str]


def exact_match(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Share of answers that equal a reference (SQuAD, Rajpurkar et al. 2016)."""
    truths = [set(map(normalised_answer, own.references)) for own in predictions]
    right = (normalised_answer(own.prediction) in wanted for own, wanted in zip(predictions, truths, strict=True))
    return {"exact_match": mean_score((100.0 * found for found in right), "norm:squad|refs:best|mean:texts")}


def token_f1(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """F1 of the words that answer and reference share (SQuAD). In scripts without blanks, a word is a character.

    The formulas are those of both versions of SQuAD, except where answer and reference have no word: then the answer
    is right, as in 2.0. In 1.1 its F1 is 0.
    """
    best = _compared(predictions, lambda answer, truths: max(shared_words(answer, truth) for truth in truths))
    return {"token_f1": mean_score(best, "norm:squad|refs:best|no words:2.0|mean:texts")}


def answer_overlap(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """BLEU-1 and ROUGE-L of each answer against all references at once, as TweetQA's evaluator computes them (Xiong et
    al. 2019)."""
    how = "norm:squad|refs:all|mean:texts"
    return {
        "answer_bleu1": mean_score(_compared(predictions, _bleu1), f"{how}|smooth:none"),
        "answer_rougeL": mean_score(_compared(predictions, _rouge_l), f"{how}|beta:{_BETA}"),
    }


def _compared(predictions: Sequence[Prediction], likeness: Callable[[Words, Sequence[Words]], float]) -> list[float]:
    """For each prediction, 0 to 100. `likeness` compares the words of an answer and of its references, 0 to 1."""
    return [
        100 * likeness(answer_words(own.prediction), list(map(answer_words, own.references))) for own in predictions
    ]


def _bleu1(answer: Words, truths: Sequence[Words]) -> float:
    """Papineni et al. 2002, with words only. 0 for an answer without a word, even if a reference has none."""
    right = (Counter(answer) & reduce(or_, map(Counter, truths))).total()
    if not right:
        return 0.0
    nearest = min(map(len, truths), key=lambda length: (abs(length - len(answer)), length))
    return right / len(answer) * math.exp(min(0.0, 1 - nearest / len(answer)))


def _rouge_l(answer: Words, truths: Sequence[Words]) -> float:
    """The largest precision and the largest recall may be of different references. A text without a word counts as one
    empty word, so it equals only another such text."""
    answer, truths = answer or [""], [truth or [""] for truth in truths]
    common = [common_subsequence(answer, truth) for truth in truths]
    precision = max(common) / len(answer)
    recall = max(shared / len(truth) for shared, truth in zip(common, truths, strict=True))
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision) if precision else 0.0
