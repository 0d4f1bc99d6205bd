"""How much each searched setting decides whether a trial is among the best, and how sure that is."""

import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from stages.lib.tuning.scales import is_logarithmic, is_number, label
from stages.lib.tuning.study import Objective, Trial

FEWEST_COMPLETE = 10  # trials; of fewer, luck decides

_BEST_SHARE = 0.1  # of the trials are the best ones
_FEWEST_BEST = 5
_RESAMPLES = 100
_SEED = 1

Spaces = Mapping[str, BaseDistribution]


class Importance(NamedTuple):
    """A setting's share of all importance, with the ends of its 95 % interval."""

    setting: str
    share: float
    low: float
    high: float


def importances(trials: Sequence[Trial], names: Sequence[str], objective: Objective) -> list[Importance]:
    """The largest first; none if fewer than 10 trials are complete.

    PED-ANOVA (Watanabe, Bansal and Hutter 2023): how far the values of a setting among the best tenth of the trials, or
    the best five, are distributed otherwise than among all. Settings that only some trials read are compared among
    those (conditional PED-ANOVA, arXiv 2601.20800). A pruned trial counts as one of the worst. The intervals are
    percentiles of a bootstrap over the trials, always with the same seed.
    """
    ended = [trial for trial in trials if trial.state != "failed"]
    if sum(trial.state == "complete" for trial in ended) < FEWEST_COMPLETE:
        return []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    frozen, draw = _frozen(ended, names, objective), random.Random(_SEED)
    shares = _shares(frozen)
    resampled = [_shares(draw.choices(frozen, k=len(frozen))) for _ in range(_RESAMPLES)]
    found = []
    for name, share in shares.items():
        low, high = np.quantile([own.get(name, 0.0) for own in resampled], (0.025, 0.975))
        found.append(Importance(name, share, min(float(low), share), max(float(high), share)))
    return sorted(found, key=lambda own: (-own.share, own.setting))


def _frozen(trials: Sequence[Trial], names: Sequence[str], objective: Objective) -> list[FrozenTrial]:
    """In Optuna's form; the value is the place among the complete trials, from 0, the best one's."""
    spaces = {name: _distribution([own.settings[name] for own in trials if name in own.settings]) for name in names}
    ranks = {
        own.number: objective.rank(own.value) for own in trials if own.state == "complete" and own.value is not None
    }
    order = sorted(ranks.values())
    frozen = []
    for trial in trials:
        params = dict(_params(trial.settings, spaces))
        frozen.append(
            create_trial(
                params=params,
                distributions={name: spaces[name] for name in params},
                value=order.index(ranks[trial.number]) if trial.number in ranks else len(order),
                user_attrs={"complete": trial.number in ranks},
            )
        )
    return frozen


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    """Of values that recur, the choices; else the range of the numbers."""
    words, numbers = sorted(set(map(label, values))), [value for value in values if is_number(value)]
    if not numbers or 2 * len(words) <= len(values):
        return CategoricalDistribution(words or [""])
    return FloatDistribution(min(numbers), max(numbers), log=is_logarithmic(numbers))


def _params(settings: Mapping[str, Any], spaces: Spaces) -> Iterator[tuple[str, Any]]:
    """A word outside a range of numbers is left out, as if the trial did not read the setting."""
    for name, space in spaces.items():
        if name in settings:
            if isinstance(space, CategoricalDistribution):
                yield name, label(settings[name])
            elif is_number(settings[name]):
                yield name, float(settings[name])


def _shares(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Setting -> its importance, of those that some of the trials have."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # a second, for scikit-learn

    complete = sum(trial.user_attrs["complete"] for trial in trials)
    best = max(1, min(max(_FEWEST_BEST, math.ceil(_BEST_SHARE * len(trials))), complete))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=(best - 0.5) / len(trials))  # it rounds up
    study = optuna.create_study()
    study.add_trials(trials)
    with warnings.catch_warnings(action="ignore"):  # of settings that fewer than two trials read
        return get_param_importances(
            study, evaluator=evaluator, params=sorted({name for own in trials for name in own.params})
        )
