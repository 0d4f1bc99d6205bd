"""The search as a stage: what it tries, what it chooses, when it stops, and that a killed one goes on.

Most trials are not trained: their loss is a formula. As a program, `python -m tests.test_tune_hyperparameters`, this
file is a machine of its own that works on such a search.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.exceptions import StorageInternalError
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from sqlalchemy import create_engine, make_url
from sqlalchemy import text as sql

from stages import tune_hyperparameters
from stages.lib.checkpoint.tokenizers import train_tokenizer
from stages.lib.core.files import read_json
from stages.lib.core.process import UserError
from stages.lib.models.memory import OutOfMemory
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import Family, Model, training_folder
from stages.lib.params.train import FitSettings
from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.records.tokenized_examples import Label, TokenizedDataset, write_label_ids, write_tokenized_examples
from stages.lib.training.checkpoints import Unwritable
from stages.lib.training.loop import Diverged
from stages.lib.tuning import search as search_module
from stages.lib.tuning import study as study_module
from stages.lib.tuning import trials as trials_module
from stages.lib.tuning.study import Budget, Objective, Study
from stages.lib.tuning.trials import Candidates, Result
from tests import postgresql, tiny
from tests.build import PROJECT, contents, run_stage, scratch_model, section

SEARCH = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "early_stopping_patience": {"choices": [None, 2, 9]},
}
SCRATCH = {"vocabulary_size": 300, "pre_tokenizer": "words"} | tiny.ARCHITECTURE


class Killed(BaseException):
    """As if the process had been killed."""


class Formula:
    """Stands in for the training of a trial: its loss is the distance of the learning rate from 0.002.

    `before` is called with the number of the trial, from 1, and can raise. Evaluations are four, at every fifth update.
    """

    def __init__(self) -> None:
        self.seen: list[FitSettings] = []
        self.titles: list[str] = []
        self.examples = set[tuple[int, int]]()
        self.value: Callable[[FitSettings, str], float] = lambda settings, _: abs(settings.learning_rate - 0.002)
        self.before: Callable[[int], None] = lambda number: None
        self.title, self.number = "", 0  # of the present run

    def __call__(
        self,
        candidates: Candidates,
        name: str,
        settings: FitSettings,
        machine: Machine,
        folder: Path,
        title: str,
        watch: Callable[[int, int, float, Sequence[float]], None],
        with_losses: bool,
    ) -> Result:
        self.title, self.number = title, int(title.split()[1].partition("/")[0])
        self.before(self.number)
        self.seen.append(settings)
        self.titles.append(title)
        own = candidates.open(name)
        self.examples.add((len(own.train), len(own.validation)))
        value = self.value(settings, name)
        for evaluation in range(1, 5):
            now = value + 1 / evaluation
            watch(evaluation, 5 * evaluation, now, [now + share / 100 for share in range(6)] if with_losses else [])
        return Result(value, 20, 1000 * settings.batch_size, 1e6 * settings.batch_size)


def tokenized(folder: Path) -> Path:
    tokens = tiny.tokenizer()
    for split in ("train", "validation"):
        tiny.dataset(tokens, folder / split)
    tokens.save_pretrained(folder / "tokenizer")
    write_label_ids(folder / "label_ids.json", [])
    return folder


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenized(tmp_path_factory.mktemp("ids"))


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Formula:
    formula = Formula()
    monkeypatch.setattr(search_module, "run_trial", formula)
    return formula


def search(
    ids: Path,
    target: Path,
    fit: dict[str, Any] | None = None,
    model: Model | None = None,
    machine: dict[str, Any] | None = None,
    **overrides: Any,
) -> Path:
    """Runs the stage. All have a state of the same name, as one search has wherever it runs."""
    settings = {"learning_rate": 0.009, "early_stopping_patience": None, "max_grad_norm": 1e20, "batch_size": 4}
    params = section(TuneHyperparameters, **({"trials": 6, "search": SEARCH, "epochs": 1.5} | overrides))
    state = target.with_name(f"{target.name}-state") / "search"
    state.mkdir(parents=True, exist_ok=True)
    tune_hyperparameters.run(
        params,
        section(Fit, **(settings | (fit or {}))),
        model or scratch_model(tiny.ARCHITECTURE),
        section(Machine, **(machine or {})),
        source=ids,
        target=target,
        folder=state,
    )
    return target


def main() -> None:
    """One of several machines: says that it is ready, and waits for a line before it works on the search."""
    told = json.loads(sys.argv[1])
    formula = Formula()
    formula.before = lambda number: time.sleep(0.1)
    vars(search_module)["run_trial"] = formula
    print("ready", flush=True)
    input()
    search(Path(told["ids"]), Path(told["target"]), machine={"study_database": told["url"]}, **told["params"])
    print(json.dumps(formula.titles))


def best(target: Path) -> dict[str, Any]:
    return dict(read_json(target / "best.json"))


def rows(target: Path, table: str = "trials") -> list[dict[str, str]]:
    with (target / f"report/{table}.csv").open() as file:
        return list(csv.DictReader(file))


def states(target: Path) -> list[str]:
    return [row["state"] for row in rows(target)]


# what is tried, and what is chosen


@pytest.fixture(scope="module")
def plain(ids: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[FitSettings], Path]:
    """The settings of the six trials of a search, and what it has written."""
    formula = Formula()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "run_trial", formula)
        return formula.seen, search(ids, tmp_path_factory.mktemp("plain") / "run")


def test_the_first_trial_has_the_settings_of_params(plain: tuple[list[FitSettings], Path]) -> None:
    first = plain[0][0]
    assert (first.learning_rate, first.early_stopping_patience, first.batch_size) == (0.009, None, 4)


def test_trials_differ_within_the_range_and_are_as_short_as_asked(plain: tuple[list[FitSettings], Path]) -> None:
    seen, _ = plain
    assert len({settings.learning_rate for settings in seen}) == len(seen) == 6
    for settings in seen:
        assert 1e-4 <= settings.learning_rate <= 1e-2
        assert settings.early_stopping_patience in (None, 2, 9)
        assert (settings.epochs, settings.average_checkpoints, settings.teacher) == (1.5, 1, None)


def test_the_settings_of_the_best_trial_are_chosen(plain: tuple[list[FitSettings], Path]) -> None:
    seen, target = plain
    nearest = min(seen, key=lambda settings: abs(settings.learning_rate - 0.002))
    assert best(target) == {name: getattr(nearest, name) for name in SEARCH}
    assert nearest is not seen[0]


def test_the_table_has_a_row_for_every_trial(plain: tuple[list[FitSettings], Path]) -> None:
    seen, target = plain
    assert [float(row["learning_rate"]) for row in rows(target)] == [settings.learning_rate for settings in seen]
    assert {(row["state"], row["updates"]) for row in rows(target)} == {("complete", "20")}


def test_trials_read_as_many_examples_as_asked(formula: Formula, ids: Path, tmp_path: Path) -> None:
    search(ids, tmp_path / "few", trials=1, max_train_examples=7, max_validation_examples=5)
    search(ids, tmp_path / "all", trials=1, max_train_examples=None, max_validation_examples=None)
    assert formula.examples == {(7, 5), (12, 12)}


def test_the_settings_of_params_stay_if_no_trial_is_better(formula: Formula, ids: Path, tmp_path: Path) -> None:
    found = best(search(ids, tmp_path / "run", search={"learning_rate": {"low": 0.009, "high": 0.1}}))
    assert found == {"learning_rate": 0.009}


def test_without_trials_nothing_is_replaced(formula: Formula, ids: Path, tmp_path: Path) -> None:
    target = search(ids, tmp_path / "run", trials=0)
    assert (best(target), read_json(target / "model.json"), formula.seen) == ({}, {"alternative": None}, [])


def test_a_search_that_contradicts_itself_is_refused_before_any_trial(
    formula: Formula, ids: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="search -> cycles: only read with fit -> schedule: cosine_restarts"):
        search(ids, tmp_path / "run", search={"cycles": {"low": 2, "high": 5}})
    assert formula.seen == []


def test_a_grid_says_its_size_and_stops_at_its_end(
    formula: Formula, ids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"learning_rate": {"choices": [0.001, 0.009]}, "dropout": {"choices": [0.1, 0.2]}}
    search(ids, tmp_path / "run", sampler="grid", trials=100, search=grid)
    assert len(formula.seen) == 4
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "tune-hyperparameters: 4 trials of a grid of 4 over learning_rate, dropout"


def test_what_each_trial_came_to_is_told_with_the_best_so_far(
    formula: Formula, ids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def before(number: int) -> None:
        if number == 2:
            raise Diverged("trial 2/3: the loss is no number: lower fit.learning_rate")

    formula.before = before
    rates = {"learning_rate": {"choices": [0.009, 0.004]}, "adapters": {"choices": [None, {"type": "lora"}]}}
    search(ids, tmp_path / "run", sampler="grid", trials=3, search=rates)
    _, first, second, third, conclusion = capsys.readouterr().out.splitlines()
    place, best_of_all = "tune-hyperparameters: trial", "; best so far 0.0070 of trial 1; about "
    settings = "learning_rate 0.009, adapters null"
    assert first.startswith(f"{place} 1 of 3 complete, loss 0.0070: {settings}{best_of_all}")
    assert second.startswith(f"{place} 2 of 3 failed, the loss is no number: lower fit.learning_rate: learning_rate ")
    assert best_of_all in second
    assert third.startswith(f"{place} 3 of 3 complete, loss 0.00")
    assert " left" not in third
    assert conclusion.startswith("tune-hyperparameters: trial ")
    assert ", 1 failed; loss 0.00" in conclusion


# the objective


def test_a_higher_score_is_better(formula: Formula, ids: Path, tmp_path: Path) -> None:
    formula.value = lambda settings, _: 100 * settings.learning_rate
    found = best(search(ids, tmp_path / "run", trials=3, metric="bleu", max_validation_examples=7))
    assert found["learning_rate"] == max(settings.learning_rate for settings in formula.seen)
    judged = {(settings.metric_for_best_model, settings.generation_eval_examples) for settings in formula.seen}
    assert judged == {("bleu", 7)}


@pytest.mark.parametrize(("cost", "factor"), [("parameters", 1000), ("flops", 1e6)])
def test_with_a_second_objective_the_best_value_is_chosen_and_costs_are_noted(
    formula: Formula, ids: Path, tmp_path: Path, cost: str, factor: float
) -> None:
    sizes = {**SEARCH, "batch_size": {"choices": [4, 8, 16]}}
    target = search(ids, tmp_path / "run", trials=3, cost=cost, search=sizes)
    nearest = min(formula.seen, key=lambda settings: abs(settings.learning_rate - 0.002))
    assert best(target)["learning_rate"] == nearest.learning_rate
    assert [float(row["cost"]) for row in rows(target)] == [factor * settings.batch_size for settings in formula.seen]


def test_models_are_chosen_among(formula: Formula, ids: Path, tmp_path: Path) -> None:
    source = tokenized_for(ids, tmp_path / "ids", "small")
    model = scratch_model(tiny.ARCHITECTURE, alternatives={"small": {"scratch": SCRATCH}})
    values = {"model": 2.0, "small": 1.0}
    formula.value = lambda settings, name: values[name]
    options: dict[str, Any] = {"model": model, "sampler": "grid", "search": {}}
    target = search(source, tmp_path / "run", **options)
    assert [row["model"] for row in rows(target)] == ["model", "small"]
    assert (read_json(target / "model.json"), best(target)) == ({"alternative": "small"}, {})
    values["small"] = 3.0
    assert read_json(search(source, tmp_path / "own", **options) / "model.json") == {"alternative": None}


# trials that end early


@pytest.mark.parametrize("pruner", ["median", "successive_halving", "hyperband", "wilcoxon"])
def test_a_hopeless_trial_ends_early_and_is_not_chosen(
    formula: Formula, ids: Path, tmp_path: Path, pruner: str
) -> None:
    """The eighth; each one before is a little better than those before it."""
    formula.value = lambda settings, _: 5.0 if formula.number == 8 else 1 - formula.number / 100
    target = search(ids, tmp_path / "run", trials=9, pruner=pruner, fit={"evals_per_run": 4})
    assert states(target) == ["complete"] * 7 + ["pruned", "complete"]
    row = rows(target)[7]
    assert 5 <= int(row["updates"]) < 20
    assert float(row["value"]) > 5
    assert len([own for own in rows(target, "courses") if own["trial"] == "8"]) == int(row["updates"]) / 5
    assert best(target)["learning_rate"] == formula.seen[8].learning_rate


def test_a_pruned_trial_is_not_chosen_even_with_the_best_value(formula: Formula, ids: Path, tmp_path: Path) -> None:
    """At an early evaluation, a score can be higher than any at the end."""
    formula.value = lambda settings, _: 8.5 if formula.number == 2 else 9.0
    target = search(ids, tmp_path / "run", trials=3, metric="bleu", pruner="successive_halving")
    assert [(row["state"], row["value"]) for row in rows(target)] == [
        ("complete", "9.0"),
        ("pruned", "9.5"),
        ("complete", "9.0"),
    ]
    assert best(target)["learning_rate"] == formula.seen[0].learning_rate


FAILURES: list[tuple[Exception, str]] = [
    (Diverged("trial 2/3: the validation loss is nan at step 5"), "the validation loss is nan at step 5"),
    (OutOfMemory("trial 2/3: no memory"), "no memory"),
    (UserError("fit -> freeze -> first_layers: the model has 2"), "fit -> freeze -> first_layers: the model has 2"),
    (RuntimeError("a kernel is missing\nand more"), "RuntimeError: a kernel is missing"),
]


@pytest.mark.parametrize(("error", "reason", "cost"), [*((*own, None) for own in FAILURES), (*FAILURES[0], "flops")])
def test_a_trial_that_fails_is_noted_with_its_reason_and_the_search_goes_on(
    formula: Formula, ids: Path, tmp_path: Path, error: Exception, reason: str, cost: str | None
) -> None:
    def before(number: int) -> None:
        if number == 2:
            raise error

    formula.before = before
    target = search(ids, tmp_path / "run", cost=cost, trials=3)
    assert states(target) == ["complete", "failed", "complete"]
    assert (rows(target)[1]["reason"], rows(target)[1]["value"]) == (reason, "")
    assert best(target)["learning_rate"] in [settings.learning_rate for settings in formula.seen]


@pytest.mark.parametrize("error", [UserError("fit -> freeze: nothing is left to train"), RuntimeError("a bug")])
def test_what_the_settings_of_params_do_wrong_stops_the_search(
    formula: Formula, ids: Path, tmp_path: Path, error: Exception
) -> None:
    def before(number: int) -> None:
        raise error

    formula.before = before
    with pytest.raises(type(error), match=str(error)):
        search(ids, tmp_path / "run")


def test_settings_of_params_that_diverge_are_not_chosen(formula: Formula, ids: Path, tmp_path: Path) -> None:
    def before(number: int) -> None:
        if number == 1:
            raise Diverged("the loss is no number")

    formula.before = before
    target = search(ids, tmp_path / "run", trials=2)
    assert (states(target), best(target)["learning_rate"]) == (["failed", "complete"], formula.seen[0].learning_rate)


def test_a_search_of_which_no_trial_ends_well_is_one_line(formula: Formula, ids: Path, tmp_path: Path) -> None:
    def before(number: int) -> None:
        raise Diverged("the loss is no number")

    formula.before = before
    with pytest.raises(UserError) as error:
        search(ids, tmp_path / "run", trials=2)
    (line,) = error.value.lines
    assert line.startswith("tune-hyperparameters: no trial has ended well; lower fit.learning_rate and its search")


# budgets


def test_no_trial_begins_after_so_many_updates(formula: Formula, ids: Path, tmp_path: Path) -> None:
    search(ids, tmp_path / "run", max_updates=41)
    assert len(formula.seen) == 3


def test_no_trial_begins_after_so_many_minutes(
    formula: Formula, ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def before(number: int) -> None:
        now[0] += 31

    formula.before = before
    monkeypatch.setattr(study_module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    search(ids, tmp_path / "run", max_minutes=1.0)
    assert len(formula.seen) == 2


# the confirmation at full length

FULL = {"trials": 2, "seeds": 2, "epochs": 3.0}


def test_settings_that_are_best_when_short_and_worst_at_full_length_are_not_chosen(
    formula: Formula, ids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it goes with dropout: short trials would have none."""
    formula.value = lambda settings, _: (
        (settings.dropout or 0) if settings.epochs < 3 else 1 - (settings.dropout or 0) + settings.seed / 100
    )
    dropouts = {"dropout": {"choices": [0.0, 0.1, 0.2, 0.3]}}
    few = {"max_train_examples": 7, "max_validation_examples": 5}
    options: dict[str, Any] = {"sampler": "grid", "trials": 9, "search": dropouts, **few}
    target = search(ids, tmp_path / "run", confirm=FULL, fit={"dropout": 0.3}, **options)
    assert best(target) == {"dropout": 0.3}
    assert formula.examples == {(7, 5), (12, 12)}
    again = [(settings.dropout, settings.seed) for settings in formula.seen if settings.epochs == 3]
    assert again == [(dropout, seed) for dropout in (0.3, 0.0, 0.1) for seed in (1, 2)]
    assert formula.titles[4:] == [f"confirmation {number}/6" for number in range(1, 7)]
    found = rows(target, "confirmed")
    assert [row["mean"] for row in found] == ["0.715", "0.915", "1.015"]
    assert {row["sd"] for row in found} == {"0.0071"}
    assert float(found[0]["chance_best"]) > 0.99
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "tune-hyperparameters: 4 trials of a grid of 4 over dropout, then 3 x 2 runs at full length"
    at_full_length = "tune-hyperparameters: at full length: trial 1 0.7150 ± 0.0071 (100% sure to be the best)"
    assert told[-2].startswith(at_full_length)
    assert "was best when short, and is not at full length" in told[-1]


def test_runs_at_full_length_that_fail_are_not_chosen(formula: Formula, ids: Path, tmp_path: Path) -> None:
    def before(number: int) -> None:
        if "confirmation" in formula.title and number in (4, 5):
            raise Diverged("the loss is no number")

    formula.before = before
    target = search(ids, tmp_path / "run", trials=3, confirm=FULL)
    first, *others = rows(target, "confirmed")
    assert (first["trial"], first["run_2"] != "") == ("1", True)
    assert best(target)["learning_rate"] == 0.009
    assert [row["run_2"] for row in others] == ["", ""]


def test_a_confirmation_of_which_no_run_ends_well_is_one_line(formula: Formula, ids: Path, tmp_path: Path) -> None:
    def before(number: int) -> None:
        if "confirmation" in formula.title:
            raise Diverged("the loss is no number")

    formula.before = before
    with pytest.raises(UserError, match="no run at full length has ended well; the first: the loss is no number"):
        search(ids, tmp_path / "run", trials=1, confirm=FULL)


# a search that was killed


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"sampler": "random", "trials": 3, "confirm": FULL | {"trials": 1}}, id="confirmed"),
        pytest.param({"sampler": "tpe", "pruner": "hyperband"}, id="pruned"),
    ],
)
def test_a_killed_search_repeats_no_finished_trial_and_gives_the_same_result(
    formula: Formula, ids: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """It is killed in every third run."""
    expected, runs = contents(search(ids, tmp_path / "unbroken", **options)), len(formula.seen)
    formula.seen.clear()
    killed = set[tuple[str, int]]()

    def before(number: int) -> None:
        place = formula.title.split()[0], number
        if number % 3 == 0 and place not in killed:
            killed.add(place)
            raise Killed

    formula.before = before
    while True:
        try:
            target = search(ids, tmp_path / "broken", **options)
            break
        except Killed:
            continue
    assert contents(target) == expected
    assert len(formula.seen) == runs
    assert len(killed) >= 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Unwritable("trial 2/2: the checkpoint can't be written"), "trial 2/2: the checkpoint can't be written"),
        (StorageInternalError("the disk is full"), "study.db: the disk is full; mend that and run again: the search"),
    ],
)
def test_a_full_disk_is_no_failure_of_a_trial(
    formula: Formula, ids: Path, tmp_path: Path, error: Exception, line: str
) -> None:
    def before(number: int) -> None:
        if number == 2:
            raise error

    formula.before = before
    with pytest.raises(UserError, match=line):
        search(ids, tmp_path / "run", trials=2)
    formula.before = lambda number: None
    assert states(search(ids, tmp_path / "run", trials=2)) == ["complete", "complete"]
    assert len(formula.seen) == 2


def test_a_trial_that_another_machine_has_ended_is_left_as_it_is(formula: Formula, ids: Path, tmp_path: Path) -> None:
    """This one was cut off, and taken for dead."""
    url = f"sqlite:///{tmp_path / 'study.db'}"

    def before(number: int) -> None:
        if number == 2:
            optuna.load_study(storage=url, study_name="search-trials").tell(1, 0.5)

    formula.before = before
    target = search(ids, tmp_path / "run", trials=3, machine={"study_database": url})
    assert [row["value"] for row in rows(target)][1] == "0.5"
    assert states(target) == ["complete"] * 3


# real training


def tokenized_for(ids: Path, folder: Path, name: str, family: Family = "causal") -> Path:
    """With an alternative of this name, of its own tokenizer."""
    shutil.copytree(ids, folder)
    own = training_folder(folder, name)
    tokens = train_tokenizer([*tiny.FACTS, *map(tiny.text, tiny.FACTS)], 280, family)
    for split in ("train", "validation"):
        tiny.dataset(tokens, own / split)
    tokens.save_pretrained(own / "tokenizer")
    write_label_ids(own / "label_ids.json", [])
    return folder


def test_the_model_is_loaded_once_and_each_trial_begins_with_its_own_weights(
    ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of equal settings have equal losses, also where adapters are random; equal searches, equal bytes."""
    loaded, load = Counter[float | None](), vars(trials_module)["load_base"]

    def counted(*arguments: Any) -> Any:
        loaded[arguments[3]] += 1
        return load(*arguments)

    monkeypatch.setattr(trials_module, "load_base", counted)
    same = {"learning_rate": {"choices": [0.009]}}
    options: dict[str, Any] = {"trials": 2, "epochs": 2.0, "search": same, "fit": {"adapters": {"rank": 2}}}
    targets = [search(ids, tmp_path / name, **options) for name in ("one", "other")]
    assert loaded == {0.1: 2}
    assert len({row["value"] for row in rows(targets[0])}) == 1
    assert contents(targets[0]) == contents(targets[1])
    search(ids, tmp_path / "dropout", **options | {"search": {"dropout": {"choices": [0.1, 0.3]}}, "sampler": "grid"})
    assert loaded == {0.1: 3, 0.3: 1}


def test_hopeless_and_broken_training_is_ended_and_noted(ids: Path, tmp_path: Path) -> None:
    rates = {"learning_rate": {"choices": [0.009, 1e-8, 1e20]}}
    options: dict[str, Any] = {"sampler": "grid", "trials": 3, "search": rates, "pruner": "wilcoxon"}
    target = search(ids, tmp_path / "run", epochs=8.0, fit={"evals_per_run": 4}, **options)
    found = {row["learning_rate"]: row for row in rows(target)}
    assert {rate: row["state"] for rate, row in found.items()} == {
        "0.009": "complete",
        "1e-08": "pruned",
        "1e+20": "failed",
    }
    assert int(found["1e-08"]["updates"]) < int(found["0.009"]["updates"]) == 24
    assert "loss is no finite number" in found["1e+20"]["reason"]
    assert best(target) == {"learning_rate": 0.009}


def test_settings_of_higher_accuracy_are_chosen(ids: Path, tmp_path: Path) -> None:
    source = tmp_path / "labels"
    shutil.copytree(ids, source)
    tokens = tiny.tokenizer()
    labels = [Label(word, [*tokens(word)["input_ids"], tokens.eos_token_id]) for word in tiny.COLOURS]
    targets = {label.word: label.target_ids for label in labels}
    examples = [
        tiny.example(tokens, fact)._replace(target_ids=targets[fact.split()[1].strip(";")], target_bytes=4)
        for fact in tiny.FACTS
    ]
    for split in ("train", "validation"):
        shutil.rmtree(source / split)
        write_tokenized_examples(source / split, [examples])
    write_label_ids(source / "label_ids.json", labels)
    options: dict[str, Any] = {"sampler": "grid", "metric": "accuracy", "cost": "flops", "epochs": 12.0}
    rates = {"learning_rate": {"choices": [1e-7, 0.01]}}
    target = search(source, tmp_path / "run", search=rates, fit={"learning_rate": 1e-7}, **options)
    before, after = rows(target)
    assert float(before["value"]) < 60 < float(after["value"]) <= 100
    assert best(target) == {"learning_rate": 0.01}
    assert float(before["cost"]) == float(after["cost"]) > 1e6


def test_a_loss_in_bits_a_byte_does_not_depend_on_the_tokenizer(ids: Path, tmp_path: Path) -> None:
    """Two models that give the same text the same probability have the same."""
    source = tokenized_for(ids, tmp_path / "ids", "other")
    models = dict.fromkeys(("model", "other"), scratch_model(tiny.ARCHITECTURE))
    folders = {name: training_folder(source, name) for name in models}
    both = [Candidates(models, folders, None, None).open(name) for name in models]
    tokens = [own.validation.target_tokens() for own in both]
    assert tokens[0] != tokens[1]
    nats, size = 300.0, sum(len(tiny.text(fact).encode()) for fact in tiny.FACTS)
    bits = [own.bits_per_byte(nats / count) for own, count in zip(both, tokens, strict=True)]
    assert bits == pytest.approx([nats / size / 0.6931472] * 2)


def test_models_of_different_families_are_compared(ids: Path, tmp_path: Path) -> None:
    architecture, family = tiny.ARCHITECTURES["t5"]
    source = tokenized_for(ids, tmp_path / "ids", "t5", family)
    scratch = {"vocabulary_size": 300, "pre_tokenizer": "words"} | architecture
    model = scratch_model(tiny.ARCHITECTURE, alternatives={"t5": {"scratch": scratch}})
    options: dict[str, Any] = {"sampler": "grid", "search": {}, "epochs": 2.0, "cost": "parameters"}
    both = search(source, tmp_path / "both", model=model, **options)
    alone = search(source, tmp_path / "alone", trials=1, **options)
    rated = {row["model"]: row for row in rows(both)}
    nats = float(rows(alone)[0]["value"])
    validation = TokenizedDataset(source / "validation")
    bits = nats * validation.target_tokens() / validation.target_bytes() / 0.6931472
    assert float(rated["model"]["value"]) == pytest.approx(bits, rel=1e-4)
    assert rated["model"]["cost"] == rows(alone)[0]["cost"] != rated["t5"]["cost"]
    better = min(rated, key=lambda name: float(rated[name]["value"]))
    assert read_json(both / "model.json") == {"alternative": None if better == "model" else "t5"}


# processes

EDITS = {
    r"trials: 2\b": "trials: 3",
    r"(\n  cost:\n  epochs: )1\b": r"\g<1>120",
    r"checkpoint_seconds: 600": "checkpoint_seconds: 0.1",
    r"tune_workers: 1": "tune_workers: 2",
}


@pytest.fixture
def project(ids: Path, tmp_path: Path) -> Path:
    """What the stage reads, with trials of a second or so, of which two workers run two at once."""
    folder = tmp_path / "project"
    for name in ("base", "models"):
        (folder / "data/raw" / name).mkdir(parents=True)
    shutil.copytree(ids, folder / "data/tokenize")
    (folder / "data/tokenize/alternatives").mkdir()
    (folder / "stages").symlink_to(PROJECT / "stages")
    shutil.copy(PROJECT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text((PROJECT / "tests/params.yaml").read_text())
    for old, new in EDITS.items():
        edit(folder, old, new)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the processes of a test have. Sums of several threads differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def edit(folder: Path, old: str, new: str) -> None:
    text, count = re.subn(old, new, (folder / "params.yaml").read_text())
    assert count, old
    (folder / "params.yaml").write_text(text)


def stage(folder: Path) -> subprocess.Popen[str]:
    """The stage in a process of its own, which is in a group with its workers."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command, environment = [sys.executable, "-m", "stages.tune_hyperparameters"], os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes)


@pytest.mark.slow
def test_trials_of_killed_workers_go_on_from_their_checkpoints_to_the_result_of_an_unbroken_search(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    """Random settings do not depend on what other trials have found, so workers come to the same as one process."""
    unbroken = shutil.copytree(project, tmp_path / "unbroken", symlinks=True)
    edit(unbroken, "tune_workers: 2", "tune_workers: 1")
    killed = stage(project)
    for _ in range(10_000):
        marks = list(project.glob(".scratch/tune-hyperparameters/*/trial-*/checkpoint-*/complete.json"))
        if marks or killed.poll() is not None:
            break
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    printed, errors = killed.communicate()
    assert marks, errors
    assert "trial 3 of 3" not in printed
    edit(project, "tune_workers: 2", "tune_workers: 1")
    run_stage(project, "tune-hyperparameters")
    printed, bars = capsys.readouterr()
    number = marks[0].parents[1].name.removeprefix("trial-")
    (first, *_) = re.findall(rf"trial {number}/3:.*? (\d+)/\d+ ", bars)
    assert int(first) > 0
    assert "trial 3 of 3 complete" in printed
    run_stage(unbroken, "tune-hyperparameters")
    assert contents(project / "data/tune_hyperparameters") == contents(unbroken / "data/tune_hyperparameters")
    assert not list(project.glob(".scratch/tune-hyperparameters/*"))


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    if reason := postgresql.missing():
        pytest.skip(reason)
    with postgresql.server() as url:
        yield url


@pytest.mark.slow
def test_two_machines_share_a_search(formula: Formula, ids: Path, tmp_path: Path, database: str) -> None:
    """Both open the empty database at the same moment."""
    params: dict[str, Any] = {"trials": 8, "sampler": "tpe", "confirm": FULL}
    told = {"ids": str(ids), "target": str(tmp_path / "there/run"), "url": database, "params": params}
    command = [sys.executable, "-m", "tests.test_tune_hyperparameters", json.dumps(told)]
    there = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert there.stdin is not None
    assert there.stdout is not None
    assert there.stdout.readline() == "ready\n"
    there.stdin.write("go\n")
    there.stdin.flush()
    formula.before = lambda number: time.sleep(0.1)
    here = search(ids, tmp_path / "here/run", machine={"study_database": database}, **params)
    printed, _ = there.communicate()
    assert there.returncode == 0
    titles = [formula.titles, json.loads(printed.splitlines()[-1])]
    assert all(titles), "one machine has done everything"
    assert sorted(titles[0] + titles[1]) == sorted(
        [*(f"trial {number}/8" for number in range(1, 9)), *(f"confirmation {number}/6" for number in range(1, 7))]
    )
    assert contents(here) == contents(tmp_path / "there/run")
    assert states(here) == ["complete"] * 8


def test_machines_can_open_an_empty_database_at_once(database: str) -> None:
    with create_engine(database, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sql("CREATE DATABASE empty"))
    url = make_url(database).set(database="empty").render_as_string()
    together = threading.Barrier(4)

    def opened(number: int) -> int:
        together.wait()
        study = Study(url, "search", Objective("loss"), RandomSampler(), NopPruner(), Budget(4), str(number))
        attempt = study.next()
        assert attempt is not None
        return attempt.number

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(opened, range(4))) == [0, 1, 2, 3]


if __name__ == "__main__":
    main()
