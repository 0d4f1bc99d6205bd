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
    for folder in ("data/raw/data_to_text", "data/raw/base", "data/raw/teacher", "data/raw/sentence_encoder"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/raw/data_to_text/places.csv").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        main()
    assert [line.partition(": ")[2].partition(": ")[0] for line in error.value.lines] == [
        "machine -> sharded",
        "tune_hyperparameters -> search -> cycles",
        "fit -> class_weights",
    ]
