"""How the learning rate changes over a run."""

import math

from stages.lib.params.fit import Fit


def learning_rate_factor(settings: Fit, progress: float) -> float:
    """What the peak learning rate is multiplied by, 0 to 1.

    It rises from 0 during the warm-up. Then `schedule` takes it down to `final_fraction`, except for `constant`.

    Args:
        progress: share of the run that is over, at least 0 and below 1.
    """
    warmup = settings.warmup_fraction
    if progress < warmup:
        return progress / warmup
    height = _height(settings, progress, after_warmup=(progress - warmup) / (1 - warmup))
    return settings.final_fraction + (1 - settings.final_fraction) * height


def _height(settings: Fit, progress: float, after_warmup: float) -> float:
    """Where the factor is between the floor (0) and the peak (1). `after_warmup` is the share of what follows the
    warm-up that is over."""
    match settings.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - after_warmup
        case "cosine":
            return _cosine(after_warmup)
        case "cosine_restarts":  # Loshchilov and Hutter 2017, with cycles of equal length
            turns = round(settings.cycles * after_warmup, 12)  # rounded: a cycle begins at a whole number
            return _cosine(turns % 1 if turns < settings.cycles else 1.0)
        case "wsd":  # warm-up, stable, decay (Hu et al. 2024), which is linear (Hägele et al. 2024)
            decay = min(settings.decay_fraction, 1 - settings.warmup_fraction)
            return min(1.0, (1 - progress) / decay) if decay else 1.0


def _cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2
