"""The search: what it tries, what it chooses, and that a killed search resumes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import tune_hyperparameters
from stages.lib.core.process import UserError
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.train import FitSettings
from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.records.tokenized_examples import write_label_ids
from tests import tiny
from tests.build import contents, scratch_model, section

_validation_loss = tune_hyperparameters._validation_loss  # `tried` replaces it

SEARCH = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "early_stopping_patience": {"low": 2, "high": 9}}


class Killed(Exception):
    pass


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[FitSettings]:
    """The settings of each trial. No trial is trained: its loss is the distance of the learning rate from 0.002."""
    seen: list[FitSettings] = []

    def loss(settings: FitSettings, *_: Any) -> float:
        seen.append(settings)
        return abs(settings.learning_rate - 0.002)

    monkeypatch.setattr(tune_hyperparameters, "_validation_loss", loss)
    tokens = tiny.tokenizer()
    for split in ("train", "validation"):
        tiny.dataset(tokens, tmp_path / f"ids/{split}")
    tokens.save_pretrained(tmp_path / "ids/tokenizer")
    write_label_ids(tmp_path / "ids/label_ids.json", [])
    return seen


def search(folder: Path, name: str = "run", **overrides: Any) -> Path:
    params = section(TuneHyperparameters, **({"trials": 6, "search": SEARCH, "epochs": 1.5} | overrides))
    fit = section(Fit, learning_rate=0.009, early_stopping_patience=None, max_grad_norm=1e20, batch_size=4)
    target, state = folder / name, folder / f"{name}-state"
    state.mkdir(exist_ok=True)
    model = scratch_model(tiny.ARCHITECTURE)
    tune_hyperparameters.run(params, fit, model, section(Machine), source=folder / "ids", target=target, folder=state)
    return target


def best(target: Path) -> dict[str, Any]:
    return dict(json.loads((target / "best.json").read_text()))


def test_the_first_trial_has_the_settings_of_params(tried: list[FitSettings], tmp_path: Path) -> None:
    search(tmp_path)
    assert (tried[0].learning_rate, tried[0].early_stopping_patience) == (0.009, None)


def test_trials_read_as_many_examples_as_asked(
    tried: list[FitSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(settings: FitSettings, data: Any, *_: Any) -> float:
        read.add((len(data.train), len(data.validation)))
        return 1.0

    read = set[tuple[int, int]]()
    monkeypatch.setattr(tune_hyperparameters, "_validation_loss", loss)
    search(tmp_path, "few", trials=2, max_train_examples=7, max_validation_examples=5)
    search(tmp_path, "all", trials=2, max_train_examples=None, max_validation_examples=None)
    assert read == {(7, 5), (12, 12)}


def test_trials_differ_within_the_range_and_are_as_short_as_asked(tried: list[FitSettings], tmp_path: Path) -> None:
    search(tmp_path)
    assert len({settings.learning_rate for settings in tried}) == len(tried) == 6
    for settings in tried[1:]:
        assert 1e-4 <= settings.learning_rate <= 1e-2
        assert settings.early_stopping_patience in range(2, 10)
        assert settings.epochs == 1.5


def test_the_settings_of_the_best_trial_are_chosen(tried: list[FitSettings], tmp_path: Path) -> None:
    found = best(search(tmp_path))
    assert found["learning_rate"] == min(tried, key=lambda s: abs(s.learning_rate - 0.002)).learning_rate
    assert found.keys() == SEARCH.keys()


def test_the_settings_of_params_stay_if_no_trial_is_better(tried: list[FitSettings], tmp_path: Path) -> None:
    found = best(search(tmp_path, search={"learning_rate": {"low": 0.01, "high": 0.1}}))
    assert found == {"learning_rate": 0.009}


def test_without_trials_nothing_is_replaced(tried: list[FitSettings], tmp_path: Path) -> None:
    assert best(search(tmp_path, trials=0)) == {}
    assert tried == []


def test_a_search_over_what_no_trial_reads_is_refused(tried: list[FitSettings], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="search -> cycles: only read with fit -> schedule: cosine_restarts"):
        search(tmp_path, search={"cycles": {"low": 2, "high": 5}})
    assert tried == []


def test_choices_may_be_words(tried: list[FitSettings], tmp_path: Path) -> None:
    found = best(search(tmp_path, search={"schedule": {"choices": ["cosine", "linear"]}}))
    assert found["schedule"] in ("cosine", "linear")


def test_a_trial_that_diverges_is_ruled_out_and_the_search_continues(
    tried: list[FitSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_hyperparameters, "_validation_loss", _validation_loss)
    rates = {"learning_rate": {"choices": [1e20]}}
    target = search(tmp_path, search=rates, trials=2, epochs=2.0)
    assert best(target) == {"learning_rate": 0.009}
    with (target / "report/trials.csv").open() as file:
        assert [row["validation_loss"] == "" for row in csv.DictReader(file)] == [False, True]


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_search_repeats_no_finished_trial_and_gives_the_same_result(
    tried: list[FitSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    expected = contents(search(tmp_path, "unbroken"))
    loss: Callable[..., float] = vars(tune_hyperparameters)["_validation_loss"]
    tried.clear()

    def killed(settings: FitSettings, *rest: Any) -> float:
        if len(tried) == after:
            raise Killed
        return loss(settings, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(tune_hyperparameters, "_validation_loss", killed)
        with pytest.raises(Killed):
            search(tmp_path, "broken")
    assert contents(search(tmp_path, "broken")) == expected
    assert len(tried) == 6


def test_the_table_has_a_row_for_every_trial(tried: list[FitSettings], tmp_path: Path) -> None:
    with (search(tmp_path) / "report/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["learning_rate"]) for row in rows] == [settings.learning_rate for settings in tried]
