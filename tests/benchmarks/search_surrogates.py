"""Samplers and pruners on a published benchmark: which ones find good settings soonest.

Run: `python -m tests.benchmarks.search_surrogates FOLDER OUT [SEEDS]`. search_tables.py says what FOLDER has. OUT is a
file that keeps what is done: a killed run goes on, and one with more seeds adds them. The Gaussian process has no part:
50 trials take it a minute, which is little beside training, and too much for hundreds of searches.

Every method may spend as many epochs as 50 full trainings have, on each task. A training is evaluated after every 5th
epoch, and its error is the lowest of its evaluations. What a method has is the best of its trials that were not pruned.
All have the same first trial, the middle of the space. A regret is 1 at this trial and 0 at the best that is known of
the task. Methods are ranked, task by task, by their mean regret over the seeds. The intervals of the mean rank are of a
bootstrap over tasks, 95 %.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.stats import rankdata

from stages.lib.params.tune_hyperparameters import Dimension
from stages.lib.tuning.space import Settings, Space
from tests.benchmarks import search_tables
from tests.benchmarks.search_replay import Curve, Evaluation, Method, best_after, computed, replay

EVALUATIONS, EPOCHS = 10, 50
BUDGET = 50 * EPOCHS
MOMENTS = [share / 100 for share in range(1, 101)]  # of the budget
SHOWN = (0.25, 0.5, 1.0)
TASKS = 20  # those with the lowest numbers
METHODS = [
    Method("random"),
    Method("quasi_random"),
    Method("cma_es"),
    Method("tpe"),
    Method("random", "hyperband"),
    Method("tpe", "median"),
    Method("tpe", "successive_halving"),
    Method("tpe", "hyperband"),
]


class Ranges(Space):
    """Stands in for a search space of `fit`: all numbers, all read by each trial."""

    def __init__(self, ranges: dict[str, dict[str, Any]]) -> None:
        self._ranges = {name: Dimension(**own) for name, own in ranges.items()}
        self._whole = {name for name, own in ranges.items() if isinstance(own["low"], int)}

    @property
    def names(self) -> list[str]:
        return list(self._ranges)

    def of_params(self) -> Settings:
        return self.at(dict.fromkeys(self._ranges, 0.5))

    def at(self, shares: Any) -> Settings:
        return {name: own.at(shares[name], name in self._whole) for name, own in self._ranges.items()}

    def suggest(self, trial: optuna.Trial) -> Settings:
        return {name: self._drawn(trial, name, own) for name, own in self._ranges.items()}

    def _drawn(self, trial: optuna.Trial, name: str, own: Dimension) -> float:
        low, high = own.ends()
        if name in self._whole:
            return trial.suggest_int(name, int(low), int(high), log=own.log)
        return trial.suggest_float(name, low, high, log=own.log)


def main(folder: Path, out: Path, seeds: int) -> None:
    tasks = sorted(search_tables.tasks(folder), key=int)[:TASKS]
    wanted = [
        {"task": task, **method._asdict(), "seed": seed}
        for seed in range(seeds)
        for task in tasks
        for method in METHODS
    ]
    rows = computed(out, wanted, partial(search, folder))
    regrets = np.array([regrets_of(folder, task, [row for row in rows if row["task"] == task]) for task in tasks])
    print(f"{len(tasks)} tasks, {seeds} seeds; the regret of the best at shares of the budget, and its rank")
    print(f"{'':28}{''.join(f'{share:>22.0%}' for share in SHOWN)}{'all the way':>22}")
    columns = [_told(regrets[:, :, MOMENTS.index(share)]) for share in SHOWN] + [_told(regrets.mean(axis=2))]
    for method, *cells in zip(METHODS, *columns, strict=True):
        print(f"{method!s:28}{''.join(f'{cell:>22}' for cell in cells)}")


def search(folder: Path, task: str, sampler: str, pruner: str | None, seed: int) -> dict[str, Any]:
    def curve_of(settings: Settings) -> Curve:
        errors = search_tables.curve(folder, task, settings)
        step = EPOCHS // EVALUATIONS
        return [Evaluation(epoch, errors[epoch - 1]) for epoch in range(step, EPOCHS + 1, step)]

    params = Method(sampler, pruner).params(trials=BUDGET, seed=seed)
    run = list(replay(params, Ranges(search_tables.space(folder, task)), EVALUATIONS, curve_of, BUDGET))
    best = [best_after(run, share * BUDGET).value for share in MOMENTS]
    return {"trials": len(run), "pruned": sum(own.is_pruned for own in run), "best": best}


def regrets_of(folder: Path, task: str, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """[method, moment], the mean over seeds."""
    first = rows[0]["best"][0]  # 1 % of the budget are half a training: all methods have what the first trial will have
    lowest = min(search_tables.best(folder, task), *(row["best"][-1] for row in rows))
    own = [[row["best"] for row in rows if (row["sampler"], row["pruner"]) == method] for method in METHODS]
    return np.array([(np.mean(values, axis=0) - lowest) / (first - lowest) for values in own])


def _told(regrets: np.ndarray) -> list[str]:
    """Of each method: the mean regret, the mean rank and its interval. `regrets` is [task, method]."""
    ranks = rankdata(regrets, axis=1)
    chosen = np.random.default_rng(0).integers(len(ranks), size=(10_000, len(ranks)))
    low, high = np.quantile(ranks[chosen].mean(axis=1), [0.025, 0.975], axis=0)
    own = zip(regrets.mean(axis=0), ranks.mean(axis=0), low, high, strict=True)
    return [f"{regret:.3f}  {rank:.1f} [{least:.1f}, {most:.1f}]" for regret, rank, least, most in own]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["5"])[0]))
