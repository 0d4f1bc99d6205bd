"""How the trials of a search are chosen, and which of them end early."""

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from zlib import crc32

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.tuning.space import Settings, Space, encoded

EXAMPLE_LOSSES = "example_losses_"  # and the number of the evaluation: an attribute of a trial

_REDUCTION = 3  # of successive halving: a third of the trials goes on
_STARTED_TRIALS = 5  # of the median rule: none is pruned before so many have ended
_WORSE_P = 0.05


class SeededByNumber(BaseSampler):
    """Gives each trial a sampler of its own, made from the trial's number, and each setting that is drawn by itself one
    made from its name too. So a search that was killed draws what an unbroken one draws, whatever was drawn before."""

    def __init__(self, make: Callable[[int, str], BaseSampler]) -> None:
        self._make = lru_cache(maxsize=1)(lambda number: make(number, ""))
        self._make_alone = make

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._make(trial.number).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._make(trial.number).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        alone = self._make_alone(trial.number, param_name)
        return alone.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._make(trial.number).before_trial(study, trial)


class Point(BaseSampler):
    """Draws nothing: a trial gets the given settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = encoded(settings)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._settings[param_name]


def make_sampler(params: TuneHyperparameters, space: Space) -> BaseSampler:
    """The first trial has the settings of params.yaml; the sampler chooses those of the others.

    grid: all combinations, in an order that `seed` draws. random: Bergstra and Bengio (2012). quasi_random: a scrambled
    Sobol sequence. tpe: tree-structured Parzen estimators (Bergstra et al. 2011), multivariate, settings that only some
    trials read apart. gp: a Gaussian process. cma_es: Hansen and Ostermeier (2001). The last two draw settings that
    only some trials read at random.
    """
    if params.sampler == "grid":
        points: Callable[[int], Settings] = _shuffled_grid(params, space).__getitem__
    elif params.sampler == "quasi_random":
        points = _sobol_points(params, space)

    def make(number: int, name: str) -> BaseSampler:
        seed = crc32(f"{params.seed} {number} {name}".encode())
        if number == 0:
            return Point(space.of_params())
        match params.sampler:
            case "grid" | "quasi_random":
                return Point(points(number - 1))
            case "random":
                return RandomSampler(seed=seed)
            case "tpe":
                return TPESampler(seed=seed, multivariate=True, group=True)
            case "gp":
                return GPSampler(seed=seed, warn_independent_sampling=False)
            case "cma_es":
                return CmaEsSampler(seed=seed, warn_independent_sampling=False)

    return SeededByNumber(make)


def trial_count(params: TuneHyperparameters, space: Space) -> int:
    """How many trials the search has at most: a grid stops at its end."""
    return min(params.trials, 1 + len(_shuffled_grid(params, space))) if params.sampler == "grid" else params.trials


def _shuffled_grid(params: TuneHyperparameters, space: Space) -> list[Settings]:
    """Without the settings of params.yaml, which the first trial has."""
    first = space.of_params()
    points = [point for point in space.grid if point != first]
    random.Random(params.seed).shuffle(points)
    return points


def _sobol_points(params: TuneHyperparameters, space: Space) -> Callable[[int], Settings]:
    from scipy.stats.qmc import Sobol

    def point(number: int) -> Settings:
        sequence = Sobol(len(space.names), scramble=True, rng=params.seed)
        if number:
            sequence.fast_forward(number)
        return space.at(dict(zip(space.names, sequence.random(1)[0].tolist(), strict=True)))

    return point


def make_pruner(params: TuneHyperparameters, evaluations: int) -> BasePruner:
    """Ends trials early, after one of their evaluations on validation.

    median: worse than the median of the ended trials at this evaluation (Golovin et al. 2017). successive_halving: not
    among the best third at evaluation 1, 3, 9 ... (ASHA: Li et al. 2020). hyperband: the same with several first
    evaluations (Li et al. 2018). wilcoxon: the losses of single validation examples are higher than those of the best
    trial at this evaluation (signed-rank test, p < 0.05).
    """
    match params.pruner:
        case None:
            return NopPruner()
        case "median":
            return MedianPruner(n_startup_trials=_STARTED_TRIALS)
        case "successive_halving":
            return SuccessiveHalvingPruner(min_resource=1, reduction_factor=_REDUCTION)
        case "hyperband":
            return HyperbandPruner(min_resource=1, max_resource=evaluations, reduction_factor=_REDUCTION)
        case "wilcoxon":
            return WilcoxonOverExamples()


class WilcoxonOverExamples(BasePruner):
    """Prunes a trial whose validation examples have higher losses than they have in the best trial at the same
    evaluation (Wilcoxon 1945, one-sided)."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        name = f"{EXAMPLE_LOSSES}{trial.last_step}"
        own, best = trial.user_attrs.get(name), min(ended, key=lambda other: other.values[0], default=None)
        if own is None or best is None or name not in best.user_attrs:
            return False
        from scipy.stats import wilcoxon

        differences = [one - other for one, other in zip(own, best.user_attrs[name], strict=True)]
        return any(differences) and bool(wilcoxon(differences, alternative="greater").pvalue < _WORSE_P)
