"""check_params: the new name of each renamed parameter, and nothing about a file that is right."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.tools.check_params import RENAMED, renamed
from tests.build import PROJECT


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
