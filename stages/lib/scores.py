"""Scores of predicted texts, each with the signature that says how it was taken, and the signs of broken output."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from stages.lib.params.evaluate import Evaluate
from stages.lib.predictions import Prediction

_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True)
class Score:
    value: float
    signature: str


def text_scores(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus BLEU and chrF (0 to 100) and mean ROUGE F1 (0 to 100), against all references of each prediction."""
    texts = [prediction.prediction for prediction in predictions]
    references = [prediction.references for prediction in predictions]
    return _sacrebleu_scores(texts, references, params) | _rouge_scores(texts, references, params)


def _sacrebleu_scores(texts: Sequence[str], references: Sequence[list[str]], params: Evaluate) -> dict[str, Score]:
    metrics = {
        "bleu": BLEU(lowercase=params.lowercase, tokenize=params.bleu_tokenizer),
        "chrf": CHRF(lowercase=params.lowercase),
    }
    columns = _reference_columns(references)
    scores = {name: metric.corpus_score(texts, columns).score for name, metric in metrics.items()}
    return {name: Score(score, str(metrics[name].get_signature())) for name, score in scores.items()}


def _reference_columns(references: Sequence[list[str]]) -> Any:
    """sacreBLEU's layout: the first reference of every text, then the second of every text or None ... (its own
    types do not know of the None that it documents)."""
    most = max(map(len, references))
    return [[own[column] if column < len(own) else None for own in references] for column in range(most)]


def _rouge_scores(texts: Sequence[str], references: Sequence[list[str]], params: Evaluate) -> dict[str, Score]:
    """ROUGE (Lin 2004); of several references the one that scores best counts. Lsum splits sentences at newlines."""
    words = _UnicodeWords() if params.rouge_words == "unicode" else None
    scorer = RougeScorer(list(_ROUGE), use_stemmer=params.rouge_stemmer, tokenizer=words)
    per_text = [scorer.score_multi(own, text) for text, own in zip(texts, references, strict=True)]
    stemmer = "yes" if params.rouge_stemmer else "no"
    how = f"refs:best|words:{params.rouge_words}|stemmer:{stemmer}|mean:texts"
    signature = f"{how}|rouge-score:{version('rouge-score')}"
    return {name: Score(100 * _mean(scores[name].fmeasure for scores in per_text), signature) for name in _ROUGE}


class _UnicodeWords:
    """rouge-score's own tokenizer keeps a to z and digits alone: of a Chinese text nothing, of a Polish one pieces."""

    def tokenize(self, text: str) -> list[str]:
        # scripts written without spaces (CJK, kana) count by the character
        return re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff]+", text.lower())


def sentence_chrf(prediction: Prediction) -> float:
    """chrF of one text (0 to 100), to rank predictions by: unlike BLEU it is never zero for a near miss."""
    return float(CHRF().sentence_score(prediction.prediction, prediction.references).score)


def signs(predictions: Sequence[Prediction]) -> dict[str, float]:
    """What broken output looks like. All but `distinct` and `length_ratio` are shares that should be near 0.

    empty: texts without a word. never_ended: texts cut at the limit. repeated_4grams: a text's 4-grams that it said
    before (seq-rep-4 of Welleck et al. 2020). distinct_1, distinct_2: different n-grams among all n-grams of the
    predictions (Li et al. 2016). length_ratio: words over those of the reference nearest in length.
    copied_from_source: a text's 4-grams that stand in its source.
    """
    words = [prediction.prediction.split() for prediction in predictions]
    return {
        "empty": _mean(not own for own in words),
        "never_ended": _mean(prediction.stopped == "length" for prediction in predictions),
        "repeated_4grams": _mean(_repeated(list(_ngrams(own, 4))) for own in words),
        "distinct_1": _distinct([ngram for own in words for ngram in _ngrams(own, 1)]),
        "distinct_2": _distinct([ngram for own in words for ngram in _ngrams(own, 2)]),
        "length_ratio": _length_ratio(words, predictions),
        "copied_from_source": _mean(
            _copied(list(_ngrams(own, 4)), set(_ngrams(prediction.source.split(), 4)))
            for own, prediction in zip(words, predictions, strict=True)
        ),
    }


def _ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _repeated(ngrams: Sequence[tuple[str, ...]]) -> float:
    return 1 - _distinct(ngrams) if ngrams else 0.0


def _distinct(ngrams: Sequence[tuple[str, ...]]) -> float:
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _copied(ngrams: Sequence[tuple[str, ...]], source: set[tuple[str, ...]]) -> float:
    return _mean(ngram in source for ngram in ngrams) if ngrams else 0.0


def _length_ratio(words: Sequence[Sequence[str]], predictions: Sequence[Prediction]) -> float:
    nearest = [
        min((len(reference.split()) for reference in prediction.references), key=lambda n: (abs(n - len(own)), n))
        for own, prediction in zip(words, predictions, strict=True)
    ]
    return sum(map(len, words)) / sum(nearest)


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected)
