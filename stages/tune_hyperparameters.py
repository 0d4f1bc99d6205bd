"""Search on train and validation -> the best settings for training. params.yaml itself is never edited.

Reads:  data/tokenize/{train,validation}/, tokenizer/ and label_ids.json; the base model.
Writes: data/tune_hyperparameters/best.json (settings that replace those of `fit`; none without trials) and report/:
        trials.csv and stats.json.
Random: the settings of the trials, by `tune_hyperparameters.seed` (random search, Bergstra and Bengio 2012); the
        training of each trial, by `fit.seed`. The first trial has the settings of params.yaml, so the chosen ones are
        not worse.
"""

import csv
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import atomic_file, write_json
from stages.lib.core.params import read_section
from stages.lib.core.process import UserError, launch
from stages.lib.models.devices import configure_gpu
from stages.lib.models.loading import load_base
from stages.lib.models.memory import OutOfMemory
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.train import NO_TEACHER, FitSettings
from stages.lib.params.tune_hyperparameters import Dimension, TuneHyperparameters, check_search
from stages.lib.records.tokenized_examples import TokenizedDataset, read_label_ids
from stages.lib.training.class_weights import class_weights
from stages.lib.training.fit import fit
from stages.lib.training.loop import Diverged
from stages.lib.training.resume import resumable_state
from stages.lib.training.trainable import make_trainable

SOURCE = Path("data/tokenize")
TARGET = Path("data/tune_hyperparameters")


@dataclass(frozen=True)
class Trial:
    number: int
    settings: dict[str, Any]
    validation_loss: float


def main() -> None:
    configure_gpu()
    # one process trains a trial, and no tracker follows it
    alone: dict[str, Any] = {"report_to": [], "train_processes": 1, "nodes": 1, "sharded": False}
    machine = read_section(Machine).model_copy(update=alone)
    sections = read_section(TuneHyperparameters), read_section(Fit), read_section(Model), machine
    with resumable_state("tune-hyperparameters") as folder:
        run(*sections, source=SOURCE, target=TARGET, folder=folder)


def run(
    params: TuneHyperparameters, fit_: Fit, model: Model, machine: Machine, source: Path, target: Path, folder: Path
) -> None:
    check_search(params, fit_)
    study = _study(folder / "study.journal")
    trials = _finished(study)
    if params.trials:
        data = _Data(source, params)
    for number in range(len(trials), params.trials):
        trial, chosen = _ask(study, number, params, fit_)
        settings = _settings(fit_, chosen, params.epochs)
        title = f"trial {number + 1}/{params.trials}"
        loss = _validation_loss(settings, data, model, machine, folder / "fit", title)
        study.tell(trial, loss)
        trials.append(Trial(number, chosen, loss))
    best = min(trials, key=lambda trial: trial.validation_loss, default=Trial(0, {}, 0.0))
    if math.isinf(best.validation_loss):
        raise UserError(
            "tune-hyperparameters: no trial has a finite loss; lower fit.learning_rate and its search, or "
            "fit.micro_batch_tokens"
        )
    write_json(target / "best.json", best.settings)
    write_json(target / "report/stats.json", _stats(trials, best))
    _write_trials(target / "report/trials.csv", trials, params.search)
    print(f"tune-hyperparameters: {_conclusion(trials, best)}")


class _Data:
    """What the trials have in common."""

    def __init__(self, source: Path, params: TuneHyperparameters) -> None:
        self.tokenizer = load_tokenizer(source / "tokenizer")
        self.labels = read_label_ids(source / "label_ids.json")
        self.train = TokenizedDataset(source / "train", first=params.max_train_examples)
        self.validation = TokenizedDataset(source / "validation", first=params.max_validation_examples)


def _study(journal: Path) -> optuna.Study:
    """On disk, so that a killed search repeats no finished trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))), study_name="fit", load_if_exists=True
    )


def _finished(study: optuna.Study) -> list[Trial]:
    complete = study.get_trials(states=[TrialState.COMPLETE])
    return [Trial(number, trial.user_attrs["settings"], trial.values[0]) for number, trial in enumerate(complete)]


def _ask(
    study: optuna.Study, number: int, params: TuneHyperparameters, fit_: Fit
) -> tuple[optuna.Trial, dict[str, Any]]:
    """A new trial and its settings: those of params.yaml for the first trial, random ones for the others."""
    # the number of the trial is part of the seed, so a resumed search draws what an unbroken one draws
    study.sampler = optuna.samplers.RandomSampler(seed=1000 * params.seed + number)
    trial = study.ask()
    if number == 0:
        chosen = {name: getattr(fit_, name) for name in params.search}
    else:
        chosen = {name: _suggest(trial, name, dimension) for name, dimension in params.search.items()}
    trial.set_user_attr("settings", chosen)
    return trial, chosen


def _suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        return trial.suggest_categorical(name, dimension.choices)
    if _is_whole(name):
        return trial.suggest_int(name, *map(int, dimension.ends()), log=dimension.log)
    # four digits: easy to copy, and no search is finer
    return float(f"{trial.suggest_float(name, *dimension.ends(), log=dimension.log):.4g}")


def _is_whole(name: str) -> bool:
    schema = Fit.model_json_schema()["properties"][name]
    return any(kind["type"] == "integer" for kind in schema.get("anyOf", [schema]))


def _settings(fit_: Fit, chosen: Mapping[str, Any], epochs: float) -> FitSettings:
    length = {"epochs": epochs, "max_minutes": None}
    choice = {"metric_for_best_model": "loss", "generation_eval_examples": 1, "average_checkpoints": 1}
    return FitSettings.model_validate({**fit_.model_dump(), **chosen, **length, **choice, **NO_TEACHER})


def _validation_loss(
    settings: FitSettings, data: _Data, model: Model, machine: Machine, folder: Path, title: str
) -> float:
    """The best loss of a training run with these settings, or infinity if it diverges or memory ends, which rules them
    out."""
    words, weights = [label.word for label in data.labels], class_weights(settings, data.labels, data.train)
    network, new = load_base(model, data.tokenizer, words, settings.dropout, settings.seed)
    network = make_trainable(network, settings, new)
    try:
        curve = fit(network, data.train, data.validation, settings, machine, folder, title, class_weights=weights)
        loss = curve.best()[1]
    except (Diverged, OutOfMemory) as error:
        print(f"tune-hyperparameters: {error}")
        loss = math.inf
    shutil.rmtree(folder, ignore_errors=True)
    return loss


def _stats(trials: list[Trial], best: Trial) -> dict[str, Any]:
    if not trials:
        return {"trials": 0}
    return {
        "trials": len(trials),
        "best_trial": best.number + 1,
        "validation_loss": round(best.validation_loss, 5),
        "settings": {name: value for name, value in best.settings.items() if isinstance(value, int | float)},
    }


def _write_trials(path: Path, trials: list[Trial], search: Mapping[str, Dimension]) -> None:
    with atomic_file(path) as part, part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", "validation_loss", *search])
        for trial in trials:
            settings = [trial.settings[name] for name in search]
            loss = round(trial.validation_loss, 5) if math.isfinite(trial.validation_loss) else ""
            table.writerow([trial.number + 1, loss, *settings])


def _conclusion(trials: list[Trial], best: Trial) -> str:
    if not trials:
        return "no trials; the settings of fit are kept"
    place = f"trial {best.number + 1} of {len(trials)}"
    return f"{place} is best, validation loss {best.validation_loss:.4f}: {_listed(best.settings)}"


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


if __name__ == "__main__":
    launch(main)
