"""The form of params.yaml: DVC edits single lines of it, its schema for editors is that of the section classes, and
where it is no YAML, the message names the line of the mistake."""

import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from stages.lib.core.params import read_yaml
from stages.lib.core.process import UserError
from stages.tools.params_schema import TARGET, json_schema, rendered
from stages.tools.recipe import apply
from tests.build import PROJECT

FILES = ["params.yaml", "tests/params.yaml", "data/base/params.yaml"]


def lines_that_dvc_changes(file: Path) -> list[str]:
    """After `dvc exp run -S fit.learning_rate=...`, which writes the file in this way."""
    before = file.read_text().splitlines()
    with modify_yaml(str(file)) as values:
        values["fit"]["learning_rate"] = 1e-05
    after = file.read_text().splitlines()
    assert len(before) == len(after)
    return [new for old, new in zip(before, after, strict=True) if new != old]


@pytest.mark.parametrize("name", FILES)
def test_dvc_changes_the_line_of_the_value_and_no_other(name: str, tmp_path: Path) -> None:
    (line,) = lines_that_dvc_changes(Path(shutil.copy(PROJECT / name, tmp_path)))
    assert line.split("#")[0].strip() == "learning_rate: 1e-05"


def test_so_it_does_after_a_recipe(tmp_path: Path) -> None:
    file = Path(shutil.copy(PROJECT / "params.yaml", tmp_path))
    apply("e2e", "somewhere", file)
    assert len(lines_that_dvc_changes(file)) == 1


def real_values() -> Any:
    return YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")


def test_the_schema_in_git_is_that_of_the_section_classes() -> None:
    assert (PROJECT / TARGET).read_text() == rendered(), "run python -m stages.tools.params_schema"


@pytest.mark.parametrize("name", FILES)
def test_the_schema_accepts_the_real_files(name: str) -> None:
    jsonschema.validate(YAML(typ="safe", pure=True).load(PROJECT / name), json_schema())


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values["fit"].update(learning_rte=1),
        lambda values: values["fit"].pop("seed"),
        lambda values: values["fit"].update(schedule="cosin"),
        lambda values: values["scenarios"]["dialogue"]["predict"].update(beam=3),
        lambda values: values["architectures"]["gpt2"].pop("model_type"),
        lambda values: values["architectures"]["checkpoint"].update(n_layer=3),
        lambda values: values.update(predit={}),
    ],
)
def test_the_schema_marks_mistakes(edit: Any) -> None:
    values = real_values()
    edit(values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, json_schema())


@pytest.mark.parametrize(
    "quoted",
    ["source: '{facts}'", "target: '{text}'", "' | ']", 'prompt: "{source}\\n"', "target: '{answers}'", "top_p: '1'"],
)
def test_a_quote_that_is_not_closed_is_told_where_it_opens(quoted: str, tmp_path: Path) -> None:
    """YAML ends it at another quote below, or in a comment, or nowhere."""
    text = f"{(PROJECT / 'params.yaml').read_text()}top_p: '1'\n"
    start = text.index(quoted)
    end = start + len(quoted.rstrip("]")) - 1
    assert text[end] in "\"'"
    assert mistakes(text[:end] + text[end + 1 :], tmp_path)[0].startswith(f"line {text[:start].count(chr(10)) + 1}: ")


def mistakes(text: str, folder: Path) -> list[str]:
    (folder / "params.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(folder / "params.yaml")
    return [line.removeprefix(f"{folder}/params.yaml: ") for line in error.value.lines]


CONFLICT = "<<<<<<< HEAD\n  seed: 1\n=======\n  seed: 2\n>>>>>>> other\n"


def test_each_conflict_of_a_merge_is_told(tmp_path: Path) -> None:
    assert mistakes(f"fit:\n{CONFLICT}train:\n{CONFLICT}", tmp_path) == [
        f"line {number}: merge markers: resolve the conflict" for number in (2, 8)
    ]


def test_a_marker_that_is_left_is_told(tmp_path: Path) -> None:
    left = CONFLICT.partition("\n")[2]
    assert mistakes(f"fit:\n{left}", tmp_path) == ["line 3: merge markers: resolve the conflict"]


def test_a_wrong_escape_is_told_as_such(tmp_path: Path) -> None:
    assert mistakes('fit: "\\d"\n', tmp_path) == ["line 1: not valid YAML: found unknown escape character 'd'"]
