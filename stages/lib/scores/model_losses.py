"""How well the model expects the references: scores of its losses, whatever texts it writes."""

import math
from collections.abc import Sequence

import numpy as np

from stages.lib.records.predictions import Prediction
from stages.lib.scores.formulas import FORMULAS
from stages.lib.scores.score import Score, ratio_score


def model_losses(predictions: Sequence[Prediction]) -> dict[str, Score]:
    """Over all references: the summed loss, divided by all tokens or bytes. So no text counts more than its tokens.

    Perplexity depends on the tokenizer. Bits per byte of UTF-8 does not, so it compares any two models. They mean
    nothing for labels that a classifier chooses.
    """
    nats = [own.reference_nats for own in predictions]
    statistics = np.stack([np.array(nats), np.array([own.reference_tokens for own in predictions], np.float64)], 1)
    each = FORMULAS["perplexity"](statistics)
    bits, size = [own / math.log(2) for own in nats], [own.reference_bytes for own in predictions]
    return {
        "perplexity": Score(statistics, "perplexity", each, "per:target token|loss:summed", higher_is_better=False),
        "bits_per_byte": ratio_score(
            bits, size, "per:UTF-8 byte of the references|loss:summed", higher_is_better=False
        ),
    }
