"""What a model has forgotten in training: its loss on general text, beside that of the model before training.

Catastrophic forgetting (McCloskey and Cohen 1989), measured as in fine-tuned language models (Luo et al. 2023), but by
the loss itself, which needs no task: on the same windows of text, in bits a byte.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stages.lib.core.process import UserError
from stages.lib.records.text_losses import WindowLoss
from stages.lib.scores.resampling import Comparison, Interval, compare_scores, intervals
from stages.lib.scores.score import Score, ratio_score

GENERAL = "general_bits_per_byte"


@dataclass(frozen=True)
class GeneralText:
    """`change` is that of training; None where the model before training was not asked. `says` is a sentence."""

    score: Score
    interval: Interval
    change: Comparison | None
    says: str


def general_text(after: Sequence[WindowLoss], before: Sequence[WindowLoss]) -> GeneralText | None:
    """None where nobody has asked for it. The bootstrap draws whole texts, or the windows of the only text (blocks:
    Carlstein 1986).

    Raises:
        UserError: the losses before training are of other windows.
    """
    if not after:
        return None
    if before and not same_windows(before, after):
        raise UserError("evaluate: predict and predict-base have read other general texts; run `make repro`")
    texts = [own.text for own in after]
    groups = texts if len(set(texts)) > 1 else list(map(str, range(len(texts))))
    scores = [{GENERAL: _score(side)} for side in (after, before) if side]
    change = compare_scores(scores[1], scores[0], groups)[GENERAL] if before else None
    return GeneralText(scores[0][GENERAL], intervals(scores[0], groups)[GENERAL], change, _sentence(change))


def same_windows(first: Sequence[WindowLoss], second: Sequence[WindowLoss]) -> bool:
    return [(own.text, own.bytes) for own in first] == [(own.text, own.bytes) for own in second]


def _score(losses: Sequence[WindowLoss]) -> Score:
    bits, size = [own.nats / math.log(2) for own in losses], [own.bytes for own in losses]
    return ratio_score(bits, size, "per:UTF-8 byte of the general texts|loss:summed", higher_is_better=False)


def _sentence(change: Comparison | None) -> str:
    if change is None:
        return "what was forgotten is not known: predict_base.enabled is false, so there is no loss before training"
    interval, size = change.interval, f"{abs(change.difference):.2g}"
    if interval.low <= 0 <= interval.high:
        known = f" ({interval.low:.2g} to {interval.high:.2g})" if math.isfinite(interval.error) else ""
        return f"on general text no change by training is shown: {change.difference:+.2g} bits a byte{known}"
    low, high = sorted(map(abs, (interval.low, interval.high)))
    ends = f"({low:.2g} to {high:.2g}; {change.first:.4g} -> {change.second:.4g})"
    if change.difference < 0:
        return f"on general text the model needs {size} bits a byte less than before training {ends}"
    return (
        f"on general text the model needs {size} bits a byte more than before training {ends}: it has forgotten; "
        f"docs/training.md names what helps"
    )
