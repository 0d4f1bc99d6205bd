"""The scores of predicted texts, by the metrics that the scenario names: 0 to 100, unless a metric says otherwise."""

from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from stages.lib.params.evaluate import Evaluate, Metric
from stages.lib.records.predictions import Prediction
from stages.lib.scores.answers import answer_overlap, exact_match, token_f1
from stages.lib.scores.bleu_chrf_ter import bleu, chrf, chrf_plus_plus, ter
from stages.lib.scores.cider import cider
from stages.lib.scores.gleu import gleu
from stages.lib.scores.labels import accuracy, macro_f1
from stages.lib.scores.nist import nist
from stages.lib.scores.parent import parent
from stages.lib.scores.rouge import rouge
from stages.lib.scores.score import Score
from stages.lib.scores.semantic_similarity import semantic_similarity

_SHOWN_AFTER = 5  # seconds: quick scores need no progress bar

_METRICS: Mapping[Metric, Callable[[Sequence[Prediction], Evaluate], dict[str, Score]]] = {
    "bleu": bleu,
    "chrf": chrf,
    "chrf++": chrf_plus_plus,
    "ter": ter,
    "rouge": rouge,
    "nist": nist,
    "cider": cider,
    "parent": parent,
    "gleu": gleu,
    "exact_match": exact_match,
    "token_f1": token_f1,
    "answer_overlap": answer_overlap,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}


def text_scores(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Name -> score, in the order of `params.metrics`. Semantic similarity is the last, if an encoder is named.

    Raises:
        UserError: a metric can't read the sources, or the sentence encoder can't be loaded.
    """
    scores: dict[str, Score] = {}
    for metric in tqdm(params.metrics, desc="evaluate", unit=" metrics", delay=_SHOWN_AFTER, leave=False):
        scores |= _METRICS[metric](predictions, params)
    return scores | semantic_similarity(predictions, params)
