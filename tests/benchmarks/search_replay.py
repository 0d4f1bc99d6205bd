"""Searches whose trials are looked up, not trained: samplers and pruners on curves that are known already."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from stages.lib.params.fit import Fit
from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.tuning.samplers import make_pruner, make_sampler, trial_count
from stages.lib.tuning.space import Settings, Space
from stages.lib.tuning.study import Objective
from tests.build import section


class Evaluation(NamedTuple):
    effort: float  # of the training run until now: updates or epochs
    value: float


Curve = Sequence[Evaluation]


class Method(NamedTuple):
    sampler: str
    pruner: str | None = None

    def __str__(self) -> str:
        return self.sampler if self.pruner is None else f"{self.sampler} + {self.pruner}"

    def params(self, trials: int, seed: int, metric: str = "loss") -> TuneHyperparameters:
        own = {"sampler": self.sampler, "pruner": self.pruner, "metric": metric}
        return section(TuneHyperparameters, trials=trials, seed=seed, **own)


def space_of(choices: Mapping[str, Sequence[Any]], fit: Fit) -> Space:
    search = {name: {"choices": list(values)} for name, values in choices.items()}
    return Space(section(TuneHyperparameters, search=search), fit)


class Ended(NamedTuple):
    """A trial."""

    settings: Settings
    value: float  # the best of its curve
    is_pruned: bool
    effort: float  # of it and all before it


def replay(
    params: TuneHyperparameters, space: Space, evaluations: int, curve_of: Callable[[Settings], Curve], effort: float
) -> Iterator[Ended]:
    """The trials of a search in their order, until one would begin after so much effort, as the stage runs them.

    Args:
        evaluations: of each trial that is not pruned.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective, spent = Objective(params.metric), 0.0
    study = optuna.create_study(
        study_name=f"{params.seed}",  # Hyperband divides trials by it
        directions=objective.directions,
        sampler=make_sampler(params, space),
        pruner=make_pruner(params, evaluations),
    )
    for _ in range(trial_count(params, space)):
        if spent >= effort:
            return
        trial = study.ask()
        settings = space.suggest(trial)
        seen, is_pruned = _watched(trial, curve_of(settings))
        spent += seen[-1].effort
        value = min((own.value for own in seen), key=objective.rank)
        study.tell(trial, *((None, TrialState.PRUNED) if is_pruned else (value, TrialState.COMPLETE)))
        yield Ended(settings, value, is_pruned, spent)


def best_after(run: Sequence[Ended], effort: float, metric: str = "loss") -> Ended:
    """The best trial of those that have ended after so much effort, without the pruned ones; or else the first."""
    ended = [own for own in run if not own.is_pruned and own.effort <= max(effort, run[0].effort)]
    return min(ended, key=lambda own: Objective(metric).rank(own.value))


def _watched(trial: optuna.Trial, curve: Curve) -> tuple[Curve, bool]:
    """The curve until the pruner ends the trial, and whether it has."""
    for number, own in enumerate(curve, 1):
        trial.report(own.value, number)
        if trial.should_prune():
            return curve[:number], True
    return curve, False


def computed(
    file: Path, wanted: Sequence[Mapping[str, Any]], compute: Callable[..., Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A row for each of `wanted`: its own values and those that are computed from them. They are kept in `file`, line
    by line, so a killed run goes on."""
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rows = []
    for number, keys in enumerate(wanted, 1):
        row = next((row for row in known if keys.items() <= row.items()), None)
        if row is None:
            begun = time.monotonic()
            row = {**keys, **compute(**keys)}
            with file.open("a") as opened:
                opened.write(f"{json.dumps(row)}\n")
            seconds = time.monotonic() - begun
            print(f"{number} of {len(wanted)}: {json.dumps(keys)}, {seconds:.1f} s", file=sys.stderr, flush=True)
        rows.append(row)
    return rows
