"""Short answers, compared as SQuAD does: without case, punctuation and articles, and with the best of several
references."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from stages.lib.core.words import answer_words, shared_words
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, mean

_HOW = "norm:squad|refs:best|mean:texts"
_BETA = 1.2  # recall counts more than precision: the convention of captioning (Chen et al. 2015) and TweetQA


def exact_match(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Share of answers that equal a reference (Rajpurkar et al. 2016)."""
    return {"exact_match": Score(_best_of_each(predictions, lambda answer, truth: float(answer == truth)), _HOW)}


def token_f1(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """F1 of the words that answer and reference share (Rajpurkar et al. 2016)."""
    return {"token_f1": Score(_best_of_each(predictions, shared_words), _HOW)}


def answer_overlap(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """BLEU-1 and ROUGE-L of each answer, as in TweetQA (Xiong et al. 2019)."""
    return {
        "answer_bleu1": Score(_best_of_each(predictions, _bleu1), f"{_HOW}|sacrebleu:{version('sacrebleu')}"),
        "answer_rougeL": Score(_best_of_each(predictions, _rouge_l), f"{_HOW}|beta:{_BETA}"),
    }


def _best_of_each(
    predictions: Sequence[Prediction], likeness: Callable[[Sequence[str], Sequence[str]], float]
) -> float:
    """Mean over the predictions, 0 to 100. `likeness` compares two lists of words, 0 to 1."""
    return 100 * mean(
        max(likeness(answer_words(own.prediction), answer_words(reference)) for reference in own.references)
        for own in predictions
    )


def _bleu1(answer: Sequence[str], truth: Sequence[str]) -> float:
    if not answer or not truth:
        return float(answer == truth)
    return float(_bleu1_metric().sentence_score(" ".join(answer), [" ".join(truth)]).score) / 100


@cache
def _bleu1_metric() -> Any:
    from sacrebleu.metrics.bleu import BLEU  # a second to import

    return BLEU(tokenize="none", max_ngram_order=1, smooth_method="none", effective_order=True, force=True)


def _rouge_l(answer: Sequence[str], truth: Sequence[str]) -> float:
    if not answer or not truth:
        return float(answer == truth)
    common = _common_subsequence(answer, truth)
    precision, recall = common / len(answer), common / len(truth)
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision) if common else 0.0


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        above = row
        row = [0]
        for place, other in enumerate(second, start=1):
            row.append(above[place - 1] + 1 if word == other else max(above[place], row[-1]))
    return row[-1]
