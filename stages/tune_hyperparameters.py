"""Search on train and validation -> the best settings for training. params.yaml itself is never edited.

Reads:  data/tokenize/{train,validation}/, tokenizer/, label_ids.json and alternatives/; the base models.
Writes: data/tune_hyperparameters/best.json (settings that replace those of `fit`; none without trials), model.json (the
        alternative that replaces `model`, or null) and report/ (tables of the search).
Random: the settings of the trials, by `tune_hyperparameters.seed`; the training of each trial, by `fit.seed`. The first
        trial has the settings of params.yaml, so the chosen ones are not worse on the trials' validation examples.
"""

from pathlib import Path
from typing import Any

from stages.lib.core.files import write_json
from stages.lib.core.params import read_section
from stages.lib.core.process import launch
from stages.lib.models.devices import configure_gpu
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import OWN, Model, training_folder
from stages.lib.params.tune_hyperparameters import MODEL, TuneHyperparameters
from stages.lib.training.distributed import is_worker
from stages.lib.training.progress import REPORTS
from stages.lib.training.resume import resumable_state
from stages.lib.tuning.report import write_report, write_seconds
from stages.lib.tuning.search import Search
from stages.lib.tuning.space import Settings
from stages.lib.tuning.study import Trial
from stages.lib.tuning.workers import run_workers

SOURCE = Path("data/tokenize")
TARGET = Path("data/tune_hyperparameters")


def main() -> None:
    configure_gpu()
    # one process trains a trial, and no tracker follows it
    alone: dict[str, Any] = {"report_to": [], "train_processes": 1, "nodes": 1, "sharded": False}
    machine = read_section(Machine).model_copy(update=alone)
    sections = read_section(TuneHyperparameters), read_section(Fit), read_section(Model), machine
    with resumable_state("tune-hyperparameters") as folder:
        trials = run(*sections, source=SOURCE, target=TARGET, folder=folder)
    if not is_worker():
        write_seconds(REPORTS / "tune_hyperparameters/seconds.csv", trials)


def run(
    params: TuneHyperparameters, fit: Fit, model: Model, machine: Machine, source: Path, target: Path, folder: Path
) -> list[Trial]:
    """Returns the trials, which have ended."""
    if not params.trials:
        _write_choice(target, {})
        write_report(target, [], [], 0, params.metric, params.cost, [], [])
        print("tune-hyperparameters: no trials; the settings of fit are kept")
        return []
    models = model.candidates()
    folders = {name: training_folder(source, name) for name in models}
    search = Search(params, fit, models, machine, folders, folder)
    if is_worker():
        search.work()
        return []
    print(f"tune-hyperparameters: {search.plan()}", flush=True)
    search.take_over()
    if machine.tune_workers > 1:
        run_workers("stages.tune_hyperparameters", machine.tune_workers, search.fail)
    search.work()
    outcome = search.outcome()
    _write_choice(target, outcome.best.settings)
    names, best = search.space.names, outcome.best.number
    confirmed, notes = outcome.confirmed, list(outcome.notes())
    write_report(target, outcome.trials, names, best, params.metric, params.cost, confirmed, notes)
    for line in outcome.conclusion():
        print(f"tune-hyperparameters: {line}")
    return outcome.trials


def _write_choice(target: Path, settings: Settings) -> None:
    alternative = settings.get(MODEL, OWN)
    write_json(target / "best.json", {name: value for name, value in settings.items() if name != MODEL})
    write_json(target / "model.json", {"alternative": None if alternative == OWN else alternative})


if __name__ == "__main__":
    launch(main)
