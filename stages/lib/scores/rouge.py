"""ROUGE: the words, word pairs and word sequences that a text shares with its references."""

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

from stages.lib.core.words import UNSPACED
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, mean_score


def rouge(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """ROUGE F1 (Lin 2004); of several references the best counts.

    rougeLsum splits sentences at newlines. Where no reference has one, it is left out: it would be rougeL again.
    """
    from rouge_score.rouge_scorer import RougeScorer  # seconds to import

    has_lines = any("\n" in reference for own in predictions for reference in own.references)
    names = ["rouge1", "rouge2", "rougeL", *(["rougeLsum"] if has_lines else [])]
    words = _UnicodeWords() if params.rouge_words == "unicode" else None
    scorer = RougeScorer(names, use_stemmer=params.rouge_stemmer, tokenizer=words)
    per_text = [scorer.score_multi(own.references, own.prediction) for own in predictions]
    stemmer = "yes" if params.rouge_stemmer else "no"
    how = f"refs:best|words:{params.rouge_words}|stemmer:{stemmer}|mean:texts"
    signature = f"{how}|rouge-score:{version('rouge-score')}"
    return {name: mean_score((100 * scores[name].fmeasure for scores in per_text), signature) for name in names}


class _UnicodeWords:
    """rouge-score's own tokenizer keeps only a to z and digits: of a Chinese text nothing, of a Polish one pieces.

    A word is a sequence of letters, digits and the marks that belong to them: vowels of Hindi and Arabic, say, and
    joiners. In scripts without blanks, it is a character.
    """

    def tokenize(self, text: str) -> list[str]:
        return list(self._word.findall(text.lower()))

    @cached_property
    def _word(self) -> Any:
        import regex  # type: ignore[import-untyped]  # `re` has no classes of letters and marks

        return regex.compile(
            rf"(?V1)[[{UNSPACED}]&&[\p{{L}}\p{{M}}\p{{N}}]]"
            rf"|[[\p{{L}}\p{{N}}_]--[{UNSPACED}]][[\p{{L}}\p{{M}}\p{{N}}_\u200c\u200d]--[{UNSPACED}]]*"
        )
