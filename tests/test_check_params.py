"""check_params: the new name of each renamed parameter, what sections contradict each other in, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.lib.core.process import UserError
from stages.tools.check_params import RENAMED, main, renamed
from tests.build import PROJECT, params_of


def with_parameter(path: str, value: Any) -> dict[str, Any]:
    *sections, name = path.replace("*", "data_to_text").split(".")
    values = {name: value}
    for section in reversed(sections):
        values = {section: values}
    return values


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_is_answered_with_the_new_one(old: str) -> None:
    (line,) = renamed(with_parameter(old, 1))
    place = old.replace("*", "data_to_text").replace(".", " -> ")
    assert line == f"params.yaml: {place}: is now {RENAMED[old]}"


def test_no_old_name_stands_in_the_real_file() -> None:
    assert list(renamed(YAML(typ="safe", pure=True).load(PROJECT / "params.yaml"))) == []


def test_all_that_sections_contradict_each_other_in_is_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params_of(
        "data_to_text",
        tmp_path,
        machine__sharded=True,
        machine__train_processes=2,
        fit__optimizer="adafactor",
        fit__class_weights="balanced",
        tune_hyperparameters__search={"cycles": {"low": 2, "high": 4}},
    )
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines_of(tmp_path, monkeypatch)] == [
        "machine -> sharded",
        "tune_hyperparameters -> search -> cycles",
        "fit -> class_weights",
    ]


def lines_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is wrong with the params.yaml of a folder, in which there are all files that it names."""
    for name in ("data_to_text", "base", "models", "teacher", "sentence_encoder"):
        (folder / "data/raw" / name).mkdir(parents=True, exist_ok=True)
    (folder / "data/raw/data_to_text/places.csv").touch()
    monkeypatch.chdir(folder)
    try:
        main()
    except UserError as error:
        return error.lines
    return []


QUANTIZED = {"adapters": {"choices": [None, {"rank": 4}]}, "adapters.quantize": {"choices": [False, True]}}


@pytest.mark.parametrize(
    ("search", "trials", "found"),
    [
        ({"optimizer": {"choices": ["adamw", "muon"]}}, 3, ["muon can't update sharded weights"]),
        ({"adapters": {"choices": [None, {"quantize": True}]}}, 3, ["quantized weights can't be sharded"]),
        (QUANTIZED, 3, ["quantized weights can't be sharded"]),
        (
            {"optimizer": {"choices": ["adamw", "muon"]}, **QUANTIZED},
            3,
            ["quantized weights can't be sharded", "muon can't update sharded weights"],
        ),
        ({"optimizer": {"choices": ["adamw", "muon"]}}, 0, []),
        ({"adapters": {"choices": [None, {"rank": 4}]}}, 3, []),
    ],
)
def test_what_the_search_may_find_must_fit_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: dict[str, Any], trials: int, found: list[str]
) -> None:
    """Trials are never sharded, so only training would meet it."""
    edits = {"tune_hyperparameters__search": search, "tune_hyperparameters__trials": trials}
    params_of("data_to_text", tmp_path, machine__sharded=True, machine__train_processes=2, **edits)
    lines = lines_of(tmp_path, monkeypatch)
    assert [line.partition(" -> sharded: ")[2].partition(";")[0] for line in lines] == found


def test_models_among_which_the_search_chooses_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"scratch": {"model_type": "gpt2", "vocabulary_size": 1024, "pre_tokenizer": "words"}}
    search = {"dropout": {"choices": [None, 0.1], "when": {"model": ["small", "tiny"]}}}
    edits = {"model__alternatives": {"small": small}, "tune_hyperparameters__search": search}
    params_of("data_to_text", tmp_path, **edits)
    (line,) = lines_of(tmp_path, monkeypatch)
    assert line.endswith("search -> dropout -> when -> model: no such model, tiny; there are model, small")
