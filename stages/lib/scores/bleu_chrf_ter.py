"""How much of the references' wording a text has: BLEU, chrF and TER. sacreBLEU, the library that papers quote, counts
the statistics of each text."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from stages.lib.core.worker_pool import in_batches, ordered_map
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.formulas import FORMULAS, Numbers
from stages.lib.scores.score import Score

# sacreBLEU takes a second to import: each function imports what it uses

_SHOWN_AFTER = 5  # seconds: a quick TER needs no progress bar
# of TER; a cell is a word of the text beside a word of a reference, and takes about 0.1 ms
_TEXTS_AT_ONCE, _CELLS_AT_ONCE = 1000, 20_000
_SHARED_CELLS = 4_000_000  # only minutes of work are worth further processes

Pair = tuple[str, tuple[str, ...]]  # a text and its references


def bleu(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus BLEU (Papineni et al. 2002) against all references of each text."""
    from sacrebleu.metrics.bleu import BLEU

    # force: no warning about text that is tokenised already, which `bleu_tokenizer: none` wants
    metric = BLEU(lowercase=params.bleu_lowercase, tokenize=params.bleu_tokenizer, force=True)
    statistics = _statistics(metric, _pairs(predictions))
    each = FORMULAS["sentence_bleu"](statistics)
    return {"bleu": Score(statistics, "bleu", each, str(metric.get_signature()))}


def chrf(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus chrF (Popović 2015): n-grams of characters."""
    return {"chrf": _chrf(predictions, params, word_order=0)}


def chrf_plus_plus(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Corpus chrF++ (Popović 2017): n-grams of characters, words and word pairs."""
    return {"chrf++": _chrf(predictions, params, word_order=2)}


def ter(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Translation edit rate (Snover et al. 2006): edits and moves for each 100 words of reference; lower is better.

    Its time grows with the cube of the length, so processes share much work, and equal pairs are compared once.
    """
    from sacrebleu.metrics.ter import TER

    pairs = _pairs(predictions)
    edits = _edits(pairs, params.ter_case_sensitive)
    statistics = np.array([edits[pair] for pair in pairs], np.float64)
    columns: Any = _reference_columns([references for _, references in pairs])
    signature = TER(case_sensitive=params.ter_case_sensitive, references=columns).get_signature()
    return {"ter": Score(statistics, "ter", FORMULAS["ter"](statistics), str(signature), higher_is_better=False)}


def lowered_words(tokenizer: str) -> Callable[[str], list[str]]:
    """Text -> its words in lower case, by a tokenizer of sacreBLEU."""
    from sacrebleu.metrics.bleu import BLEU

    tokenize = BLEU(tokenize=tokenizer).tokenizer
    return lambda text: tokenize(text.lower().rstrip()).split()


def _chrf(predictions: Sequence[Prediction], params: Evaluate, word_order: int) -> Score:
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF(lowercase=params.chrf_lowercase, word_order=word_order)
    statistics = _statistics(metric, _pairs(predictions))
    return Score(statistics, "chrf", FORMULAS["chrf"](statistics), str(metric.get_signature()))


def _edits(pairs: Sequence[Pair], case_sensitive: bool) -> dict[Pair, Numbers]:
    """Edits, and words of the references, for each different pair."""
    found: dict[Pair, Numbers] = {}
    different = list(dict.fromkeys(pairs))
    workers = None if sum(map(_cells, different)) > _SHARED_CELLS else 1
    count = partial(_counted_edits, case_sensitive=case_sensitive)
    batches = in_batches(different, _cells, _TEXTS_AT_ONCE, _CELLS_AT_ONCE)
    with tqdm(total=len(different), desc="evaluate ter", unit=" texts", delay=_SHOWN_AFTER) as bar:
        for batch, rows in ordered_map(count, batches, workers):
            found.update(zip(batch, rows, strict=True))
            bar.update(len(batch))
    return found


def _cells(pair: Pair) -> int:
    text, references = pair
    return len(text.split()) * sum(len(reference.split()) for reference in references)


def _counted_edits(pairs: list[Pair], case_sensitive: bool) -> tuple[list[Pair], Numbers]:
    from sacrebleu.metrics.ter import TER

    return pairs, _statistics(TER(case_sensitive=case_sensitive), pairs)


def _pairs(predictions: Sequence[Prediction]) -> list[Pair]:
    return [(own.prediction, tuple(own.references)) for own in predictions]


def _statistics(metric: Any, pairs: Sequence[Pair]) -> Numbers:
    """One row for each text; the columns depend on the metric."""
    columns = _reference_columns([references for _, references in pairs])
    return np.array(metric._extract_corpus_statistics([text for text, _ in pairs], columns), np.float64)


def _reference_columns(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """As sacreBLEU takes them: the first reference of every text, then the second of every text or None ..."""
    most = max(map(len, references))
    return [[own[column] if column < len(own) else None for own in references] for column in range(most)]
