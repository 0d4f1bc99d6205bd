"""How much of the references' wording a text has: BLEU, chrF, TER and ROUGE, by the libraries that papers quote."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from stages.lib.params.evaluate import Evaluate
from stages.lib.predictions import Prediction
from stages.lib.scores.score import Score, mean

_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def bleu(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus BLEU (Papineni et al. 2002) against all references of each text."""
    return {"bleu": _corpus_score(BLEU(lowercase=params.lowercase, tokenize=params.bleu_tokenizer), predictions)}


def chrf(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus chrF (Popović 2015): n-grams of characters."""
    return {"chrf": _corpus_score(CHRF(lowercase=params.lowercase), predictions)}


def ter(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Translation edit rate (Snover et al. 2006): edits and moves for each 100 words of reference; lower is better."""
    return {"ter": _corpus_score(TER(case_sensitive=not params.lowercase), predictions)}


def _corpus_score(metric: Any, predictions: Sequence[Prediction]) -> Score:
    texts = [prediction.prediction for prediction in predictions]
    score = metric.corpus_score(texts, _reference_columns([prediction.references for prediction in predictions]))
    return Score(float(score.score), str(metric.get_signature()))


def _reference_columns(references: Sequence[list[str]]) -> Any:
    """sacreBLEU's layout: the first reference of every text, then the second of every text or None ... (its own
    types do not know of the None that it documents)."""
    most = max(map(len, references))
    return [[own[column] if column < len(own) else None for own in references] for column in range(most)]


def rouge(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """ROUGE F1 (Lin 2004); of several references the one that scores best counts. Lsum splits sentences at newlines."""
    words = _UnicodeWords() if params.rouge_words == "unicode" else None
    scorer = RougeScorer(list(_ROUGE), use_stemmer=params.rouge_stemmer, tokenizer=words)
    per_text = [scorer.score_multi(own.references, own.prediction) for own in predictions]
    stemmer = "yes" if params.rouge_stemmer else "no"
    how = f"refs:best|words:{params.rouge_words}|stemmer:{stemmer}|mean:texts"
    signature = f"{how}|rouge-score:{version('rouge-score')}"
    return {name: Score(100 * mean(scores[name].fmeasure for scores in per_text), signature) for name in _ROUGE}


class _UnicodeWords:
    """rouge-score's own tokenizer keeps a to z and digits alone: of a Chinese text nothing, of a Polish one pieces."""

    def tokenize(self, text: str) -> list[str]:
        # scripts written without spaces (CJK, kana) count by the character
        return re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff]+", text.lower())


def sentence_chrf(prediction: Prediction) -> float:
    """chrF of one text, to rank predictions by: unlike BLEU it is never zero for a near miss."""
    return float(CHRF().sentence_score(prediction.prediction, prediction.references).score)
