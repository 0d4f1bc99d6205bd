"""How much of the references' wording a text has: BLEU, chrF and TER, by the library that papers quote."""

from collections.abc import Sequence
from typing import Any

from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score

# sacreBLEU takes a second to import: each function imports what it uses


def bleu(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus BLEU (Papineni et al. 2002) against all references of each text."""
    from sacrebleu.metrics.bleu import BLEU

    return {"bleu": _corpus_score(BLEU(lowercase=params.lowercase, tokenize=params.bleu_tokenizer), predictions)}


def chrf(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus chrF (Popović 2015): n-grams of characters."""
    from sacrebleu.metrics.chrf import CHRF

    return {"chrf": _corpus_score(CHRF(lowercase=params.lowercase), predictions)}


def sentence_chrf(prediction: Prediction) -> float:
    """chrF of one text, to rank predictions by: unlike BLEU it is never zero for a near miss."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(prediction.prediction, prediction.references).score)


def ter(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Translation edit rate (Snover et al. 2006): edits and moves for each 100 words of reference; lower is better."""
    from sacrebleu.metrics.ter import TER

    return {"ter": _corpus_score(TER(case_sensitive=not params.lowercase), predictions)}


def _corpus_score(metric: Any, predictions: Sequence[Prediction]) -> Score:
    texts = [prediction.prediction for prediction in predictions]
    score = metric.corpus_score(texts, _reference_columns([prediction.references for prediction in predictions]))
    return Score(float(score.score), str(metric.get_signature()))


def _reference_columns(references: Sequence[list[str]]) -> list[list[str | None]]:
    """As sacreBLEU takes them: the first reference of every text, then the second of every text or None ..."""
    most = max(map(len, references))
    return [[own[column] if column < len(own) else None for own in references] for column in range(most)]
