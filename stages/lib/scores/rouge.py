"""ROUGE: the words, word pairs and word sequences that a text shares with its references."""

import re
from collections.abc import Sequence
from importlib.metadata import version

from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, mean

_NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
# in scripts without spaces (kana, ideographs) each character counts as a word
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def rouge(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """ROUGE F1 (Lin 2004); of several references the best counts. Lsum splits sentences at newlines."""
    from rouge_score.rouge_scorer import RougeScorer  # seconds to import

    words = _UnicodeWords() if params.rouge_words == "unicode" else None
    scorer = RougeScorer(list(_NAMES), use_stemmer=params.rouge_stemmer, tokenizer=words)
    per_text = [scorer.score_multi(own.references, own.prediction) for own in predictions]
    stemmer = "yes" if params.rouge_stemmer else "no"
    how = f"refs:best|words:{params.rouge_words}|stemmer:{stemmer}|mean:texts"
    signature = f"{how}|rouge-score:{version('rouge-score')}"
    return {name: Score(100 * mean(scores[name].fmeasure for scores in per_text), signature) for name in _NAMES}


class _UnicodeWords:
    """rouge-score's own tokenizer keeps only a to z and digits: of a Chinese text nothing, of a Polish one pieces."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())
