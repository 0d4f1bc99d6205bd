"""How soon a search finds what a full grid finds, on the sample with the base model.

Run: `python -m tests.benchmarks.search_grid OUT [SEEDS]`. Every point of a grid over four settings is trained once. OUT
is a file that keeps the points: a killed run goes on. Then each method is replayed on these points, with several seeds.
The table says after which share of the grid's updates a method has a trial whose validation loss is within 1 % of the
grid's best (the median over seeds), what it has after a quarter of the updates, and how many of the trials until then
were pruned, or had the settings of an earlier one.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from stages import prepare, tokenize
from stages.lib.core.params import read_section
from stages.lib.core.process import keep_freed_memory
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import OWN, Model
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.tuning.space import Settings, Space, listed
from stages.lib.tuning.trials import Candidates, run_trial, settings_of_trial
from tests.benchmarks.search_replay import Curve, Ended, Evaluation, Method, best_after, computed, replay, space_of
from tests.build import PROJECT, params_of

EPOCHS, TRAIN, VALIDATION, EVALUATIONS = 1, 300, 100, 4
CHOICES: dict[str, list[Any]] = {
    "learning_rate": [0.001, 0.002, 0.004, 0.008],
    "batch_size": [8, 16, 32],
    "schedule": ["cosine", "linear", "constant"],
    "layer_decay": [0.8, 0.9, 1.0],
}
CLOSE, SHARE = 1.01, 0.25
METHODS = [
    Method("grid"),
    Method("random"),
    Method("tpe"),
    Method("tpe", "median"),
    Method("tpe", "successive_halving"),
    Method("tpe", "hyperband"),
]


def main(out: Path, seeds: int) -> None:
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        params = params_of("data_to_text", Path(place), fit__evals_per_run=EVALUATIONS)
        space = space_of(CHOICES, read_section(Fit, params))
        candidates = cache(lambda: prepared(params, Path(place)))

        def train(settings: Settings) -> dict[str, Any]:
            return {"curve": trained(candidates(), space.values(settings), read_section(Machine, params))}

        rows = computed(out, [{"settings": settings} for settings in space.grid], train)
    points = {listed(row["settings"]): [Evaluation(*point) for point in row["curve"]] for row in rows}
    report(space, points, seeds)


def prepared(params: Path, folder: Path) -> Candidates:
    prepare.run(read_section(Prepare, params), 1, PROJECT / "data/raw/data_to_text", folder / "prepare")
    model = read_section(Model, params)
    tokenize.run(read_section(Tokenize, params), model, 1, folder / "prepare", folder / "tokenize")
    return Candidates({OWN: model}, {OWN: folder / "tokenize"}, TRAIN, VALIDATION)


def trained(candidates: Candidates, fit: Mapping[str, Any], machine: Machine) -> Curve:
    curve = list[Evaluation]()

    def watch(number: int, updates: int, value: float, losses: Sequence[float]) -> None:
        curve.append(Evaluation(updates, value))

    settings = settings_of_trial(fit, EPOCHS, "loss", VALIDATION)
    with tempfile.TemporaryDirectory() as folder:
        run_trial(candidates, OWN, settings, machine, Path(folder), "grid", watch, with_losses=False)
    return curve


def report(space: Space, points: Mapping[str, Curve], seeds: int) -> None:
    losses = sorted(min(own.value for own in curve) for curve in points.values())
    updates = sum(curve[-1].effort for curve in points.values())
    close = sum(loss <= CLOSE * losses[0] for loss in losses)
    first = min(own.value for own in points[listed(space.of_params())])
    print(
        f"{len(points)} points, {updates:,.0f} updates; loss {losses[0]:.4f} to {losses[-1]:.4f}, median "
        f"{statistics.median(losses):.4f}, {close} within 1 % of the best; first trial {first:.4f}; {seeds} seeds"
    )
    print(f"{'':28}{'within 1 % after':>18}{'seeds by 25 %':>15}{'above at 25 %':>15}{'trials, pruned, again':>23}")
    for method in METHODS:
        runs = [_searched(method, space, points, updates, seed) for seed in range(seeds)]
        print(f"{method!s:28}{_told(runs, losses[0], updates)}", flush=True)


def _searched(method: Method, space: Space, points: Mapping[str, Curve], updates: float, seed: int) -> list[Ended]:
    params = method.params(trials=10 * len(points), seed=seed)
    return list(replay(params, space, EVALUATIONS, lambda settings: points[listed(settings)], updates))


def _told(runs: Sequence[Sequence[Ended]], best: float, updates: float) -> str:
    shares = [_first_close(run, CLOSE * best) / updates for run in runs]
    above = statistics.median(best_after(run, SHARE * updates).value / best - 1 for run in runs)
    early = [[own for own in run if own.effort <= SHARE * updates] for run in runs]
    counts = [
        (len(own), sum(trial.is_pruned for trial in own), len(own) - len({listed(trial.settings) for trial in own}))
        for own in early
    ]
    told = ", ".join(f"{statistics.mean(column):.0f}" for column in zip(*counts, strict=True))
    sooner = f"{sum(share <= SHARE for share in shares)} of {len(runs)}"
    return f"{statistics.median(shares):>18.0%}{sooner:>15}{above:>15.1%}{told:>23}"


def _first_close(run: Sequence[Ended], limit: float) -> float:
    """Infinite, where no trial came so far."""
    return next((own.effort for own in run if not own.is_pruned and own.value <= limit), float("inf"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int((sys.argv[2:] or ["5"])[0]))
