"""How fluent predictions are: how well a language model expects them that has not seen their source and was not
fine-tuned. It is lower for better text, but lowest for text that repeats itself (Holtzman et al. 2020), so that of the
references stands beside it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stages.lib.records.text_losses import Fluency
from stages.lib.scores.score import Score, ratio_score

FLUENCY = "fluency_bits_per_byte"


class FluencyScores(NamedTuple):
    """Name -> score, in bits a byte, which compares models with any tokenizers. None of predictions where nobody asked
    for it, none of references where nobody knows them."""

    of_predictions: dict[str, Score]
    of_references: dict[str, Score]


NOT_ASKED = FluencyScores({}, {})


def fluency_scores(losses: Sequence[Fluency], model: str) -> FluencyScores:
    """`model` is the name of the one that judges."""
    if not losses:
        return NOT_ASKED
    has_answers = any(own.reference_bytes for own in losses)
    return FluencyScores(
        _score(((own.nats, own.bytes) for own in losses), model),
        _score(((own.reference_nats, own.reference_bytes) for own in losses), model) if has_answers else {},
    )


def _score(losses: Iterable[tuple[float, int]], model: str) -> dict[str, Score]:
    nats, size = zip(*losses, strict=True)
    how = f"model:{model}|source:not given|per:UTF-8 byte|loss:summed"
    return {FLUENCY: ratio_score((own / math.log(2) for own in nats), size, how, higher_is_better=False)}
