"""Recipes of public data sets: each makes valid params of the real file, comments and all else untouched."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.lib.core.params import read_section
from stages.lib.core.process import UserError
from stages.lib.params.model import Model
from stages.lib.params.prepare import Prepare
from stages.tools.recipe import RECIPES, apply, names
from tests.build import PROJECT


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(PROJECT / "params.yaml", tmp_path))


@pytest.mark.parametrize("name", names())
def test_a_recipe_makes_valid_params_and_says_where_its_files_are(name: str, params: Path) -> None:
    apply(name, "somewhere", params)
    assert read_section(Prepare, params).folder == "somewhere"
    assert read_section(Model, params).scratch is not None


def comments(file: Path) -> set[str]:
    return {line.partition("#")[2] for line in file.read_text().splitlines() if "#" in line}


@pytest.mark.parametrize("name", names())
def test_only_what_the_recipe_names_is_changed(name: str, params: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    before = yaml.load(params)
    apply(name, before["prepare"]["folder"], params)
    after, recipe = yaml.load(params), yaml.load(PROJECT / f"stages/tools/recipes/{name}.yaml")
    for section in before:
        if section not in recipe:
            assert after[section] == before[section], section
    assert before["scenarios"].items() <= after["scenarios"].items()
    assert comments(PROJECT / "params.yaml") <= comments(params)


def general(recipe: dict[str, Any], prefix: str = "") -> set[str]:
    """Parameters outside of scenarios and architectures."""
    return {
        path
        for name, value in recipe.items()
        if name not in ("scenario", "scenarios", "architecture", "architectures")
        for path in (general(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"})
    }


def test_no_recipe_leaves_to_chance_what_another_one_changes() -> None:
    yaml = YAML(typ="safe", pure=True)
    changed = {name: general(yaml.load(RECIPES / f"{name}.yaml")) for name in names()}
    every = set().union(*changed.values())
    assert {name: every - own for name, own in changed.items()} == {name: set() for name in changed}


def test_a_recipe_twice_is_a_recipe_once(params: Path) -> None:
    apply("sst2", "somewhere", params)
    once = params.read_text()
    apply("sst2", "somewhere", params)
    assert params.read_text() == once


def test_a_name_that_is_no_recipe_is_one_line(params: Path) -> None:
    with pytest.raises(UserError, match="recipe `sst3`: no such recipe; did you mean sst2"):
        apply("sst3", "somewhere", params)
