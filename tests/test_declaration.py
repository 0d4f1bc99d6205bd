"""dvc.yaml against the code: a missing dep is a stale result, a surplus one a needless rerun."""

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any, cast

import pytest
from ruamel.yaml import YAML

from stages.lib.params import Section
from stages.lib.params.fit import Fit
from stages.lib.params.tune_hyperparameters import UNHEEDED
from tests.imports import closure

YAML_12 = YAML(typ="safe", pure=True)
STAGES: dict[str, Any] = YAML_12.load(Path("dvc.yaml"))["stages"]
SECTIONS = [file.stem for file in Path("stages/lib/params").glob("[a-z]*.py")]


def module_of(stage: str) -> str:
    return stage.replace("-", "_")


def outs_of(stage: str) -> set[str]:
    entries = [*STAGES[stage]["outs"], *STAGES[stage].get("metrics", [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def test_the_stages_are_the_files_of_the_folder_in_the_order_of_the_chain() -> None:
    assert sorted(map(module_of, STAGES)) == sorted(file.stem for file in Path("stages").glob("[a-z]*.py"))
    assert list(STAGES) == ["prepare", "tokenize", "tune-hyperparameters", "train", "predict", "evaluate"]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_exactly_the_modules_that_the_stage_imports(stage: str) -> None:
    declared = {dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")}
    assert declared == closure(Path("stages") / f"{module_of(stage)}.py")


def sections_of(stage: str) -> set[str]:
    return {param.partition(".")[0] for param in STAGES[stage]["params"]} - {"scenarios"}


def schema_of(section: str) -> type[Section]:
    module = importlib.import_module(f"stages.lib.params.{section}")
    return cast(type[Section], getattr(module, section.title().replace("_", "")))


@pytest.mark.parametrize("stage", STAGES)
def test_stage_and_command_and_description_go_together(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"exec python -m stages.{module_of(stage)}"
    assert STAGES[stage]["desc"]


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_exactly_the_sections_that_the_stage_reads(stage: str) -> None:
    schemas = {Path(file).stem for file in closure(Path("stages") / f"{module_of(stage)}.py") if "/params/" in file}
    # machine can't change a result; train chooses by the code of predict and evaluate, but by settings of its own
    read = schemas - {"__init__", "machine"} - ({"predict", "evaluate"} if stage == "train" else set())
    assert sections_of(stage) == read


@pytest.mark.parametrize("stage", STAGES)
def test_what_depends_on_the_task_is_declared_with_the_section_that_it_completes(stage: str) -> None:
    of_scenario = {param for param in STAGES[stage]["params"] if param.startswith("scenario")}
    read = [name for name in sections_of(stage) if name in STAGES[stage]["params"]]
    wanted = {name for name in read if schema_of(name).of_scenario}
    assert of_scenario == {f"scenarios.${{scenario}}.{name}" for name in wanted}


def test_tuning_depends_on_every_setting_of_fit_that_trials_heed() -> None:
    params = STAGES["tune-hyperparameters"]["params"]
    declared = {param.removeprefix("fit.") for param in params if param.startswith("fit.")}
    assert declared == set(Fit.model_fields) - set(UNHEEDED)


def test_no_stage_declares_what_cannot_change_a_result() -> None:
    assert not [stage for stage in STAGES for param in STAGES[stage]["params"] if param.startswith("machine")]


@pytest.mark.parametrize("stage", STAGES)
def test_path_constants_are_the_data_deps_and_the_folder_of_the_outs(stage: str) -> None:
    module = importlib.import_module(f"stages.{module_of(stage)}")
    constants = {name: str(value) for name, value in vars(module).items() if name.isupper() and isinstance(value, Path)}
    target = constants.pop("TARGET")
    assert all(out.startswith(f"{target}/") for out in outs_of(stage))
    data = {dep for dep in STAGES[stage]["deps"] if dep.startswith("data/")}
    sources = constants.values()
    assert all(any(dep == path or dep.startswith(f"{path}/") for path in sources) for dep in data)
    assert all(any(dep == path or dep.startswith(f"{path}/") for dep in data) for path in sources)


@pytest.mark.parametrize("stage", STAGES)
def test_every_out_is_made_by_one_stage_and_heavy_ones_stay_out_of_git(stage: str) -> None:
    others = set().union(*(outs_of(other) for other in STAGES if other != stage))
    assert not outs_of(stage) & others
    folder = "metrics/" if stage == "evaluate" else f"data/{module_of(stage)}/"
    assert all(out.startswith(folder) for out in outs_of(stage))


def test_only_evaluate_writes_what_git_keeps() -> None:
    """A `cache: false` out on a heavy stage would make a colleague's `dvc repro --pull` run it again."""
    for stage, declared in STAGES.items():
        uncached = [entry for entry in [*declared["outs"], *declared.get("metrics", [])] if isinstance(entry, dict)]
        assert bool(uncached) == (stage == "evaluate")


def test_the_readme_table_names_every_stage_with_what_it_reads_and_writes() -> None:
    table = Path("README.md").read_text().partition("| stage | reads |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    assert [row[0] for row in rows] == list(STAGES)
    for stage, reads, writes, reruns in rows:
        assert set(re.findall(r"`(\w+)`", reruns)) == sections_of(stage), stage
        folders = {"/".join(dep.split("/")[:2]) for dep in STAGES[stage]["deps"] if re.match("data/(?!raw)", dep)}
        assert set(re.findall(r"`(data/\w+|metrics)/?`", reads)) == folders, stage
        target = "metrics" if stage == "evaluate" else f"data/{module_of(stage)}"
        assert f"`{target}/`" in writes, stage


@pytest.mark.skipif("CI" not in os.environ, reason="the README tells of the shipped sample; elsewhere scores are yours")
def test_the_readme_tells_the_scores_that_are_in_git() -> None:
    scores = json.loads(Path("metrics/evaluate.json").read_text())
    told = re.findall(r"^\| `(\w+)`[^|]*\| ([\d.]+) \| ([\d.]+) \|$", Path("README.md").read_text(), re.MULTILINE)
    assert len(told) >= 5
    for name, after, before in told:
        holder = scores if name in scores else scores["signs"]
        earlier = scores["before_training"] if name in scores else scores["before_training"]["signs"]
        assert (float(after), float(before)) == (holder[name], earlier[name]), name
