"""dvc.yaml against the code: a missing dep makes a stale result, a surplus one a needless rerun."""

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.lib.core.params import schemas
from tests.imports import closure, imports

YAML_12 = YAML(typ="safe", pure=True)
STAGES: dict[str, Any] = YAML_12.load(Path("dvc.yaml"))["stages"]


def module_of(stage: str) -> str:
    return stage.replace("-", "_")


def outs_of(stage: str) -> set[str]:
    entries = [*STAGES[stage]["outs"], *STAGES[stage].get("metrics", [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def test_the_stages_are_the_files_of_the_folder_in_the_order_of_the_chain() -> None:
    assert sorted(map(module_of, STAGES)) == sorted(file.stem for file in Path("stages").glob("[a-z]*.py"))
    chain = ["prepare", "tokenize", "tune-hyperparameters", "train", "predict", "evaluate"]
    assert [stage for stage in STAGES if stage != "predict-base"] == chain


# what a declared folder holds and the stage does not import: an edit there reruns the stage for nothing, which is the
# price of a short dvc.yaml
SURPLUS = {
    "prepare": set[str](),
    "tokenize": {"core/words.py", "records/predictions.py", "records/text_losses.py"},
    "tune-hyperparameters": {
        "checkpoint/without_torch.py",
        "core/markdown.py",
        "training/estimate.py",
        "training/saving.py",
    },
    "train": {"checkpoint/without_torch.py", "core/markdown.py"},
    "predict-base": {"checkpoint/without_torch.py", "core/markdown.py", "core/words.py"},
    "predict": {"checkpoint/without_torch.py", "core/markdown.py", "core/words.py"},
    "evaluate": {"core/templates.py"},
}


def code_deps(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_that_the_stage_imports(stage: str) -> None:
    imported = closure(Path("stages") / f"{module_of(stage)}.py")
    declared = {dep: modules_in(dep) for dep in code_deps(stage)}
    assert all(found & imported for found in declared.values()), "a dep that the stage does not reach"
    every = set().union(*declared.values())
    assert imported - every == set(), "imported and not declared"
    assert {path.removeprefix("stages/lib/") for path in every - imported} == SURPLUS[stage]


def modules_in(dep: str) -> set[str]:
    """Files with code, of a folder at any depth."""
    files = Path(dep).rglob("*.py") if Path(dep).is_dir() else [Path(dep)]
    return {str(file) for file in files if file.stat().st_size}


# a room imports from itself and from these
ROOMS = {
    "core": set[str](),
    "params": {"core"},
    "records": {"core"},
    "overlap": {"core"},
    "ingest": {"core", "params", "records", "overlap"},
    "checkpoint": {"core", "params", "records"},
    "encoding": {"core", "params", "records", "checkpoint"},
    "models": {"core", "params", "records", "checkpoint"},
    "generation": {"core", "params", "records", "checkpoint", "models"},
    "inference": {"core", "params", "records", "ingest", "checkpoint", "encoding", "models", "generation"},
    "export": {"core", "params", "records", "checkpoint", "models", "generation", "scores"},
    "attribution": {"core", "records", "checkpoint", "encoding", "models", "inference"},
    "training": {"core", "params", "records", "checkpoint", "models", "generation"},
    "tuning": {"core", "params", "records", "checkpoint", "models", "generation", "training"},
    "scores": {"core", "params", "records", "overlap"},
    "reports": {"core", "records", "scores"},
    "comparison": {"core", "records", "scores", "reports"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_downwards_only(room: str) -> None:
    imported = {
        path.parts[2]
        for file in Path("stages/lib", room).rglob("*.py")
        for path in imports(file)
        if path.parts[:2] == ("stages", "lib") and len(path.parts) > 3
    }
    assert imported - {room} <= ROOMS[room]


def test_every_room_is_known_and_no_stage_imports_another() -> None:
    assert set(ROOMS) == {path.name for path in Path("stages/lib").iterdir() if path.is_dir()} - {"__pycache__"}
    stages = set(Path("stages").glob("[a-z]*.py"))
    assert not {path for stage in stages for path in imports(stage)} & stages


def test_no_metric_is_code_of_training() -> None:
    for stage in ("tune-hyperparameters", "train"):
        assert not any("/scores" in dep for dep in code_deps(stage))


def test_tokenize_does_not_depend_on_the_code_of_networks() -> None:
    assert not any("/models" in dep or "/training" in dep for dep in code_deps("tokenize"))


def sections_of(stage: str) -> set[str]:
    return {param.partition(".")[0] for param in STAGES[stage]["params"]} - {"scenarios"}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_and_command_and_description_go_together(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"exec python -m stages.{module_of(stage)}"
    assert STAGES[stage]["desc"]


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_exactly_the_sections_that_the_stage_reads(stage: str) -> None:
    imported = {Path(file).stem for file in closure(Path("stages") / f"{module_of(stage)}.py") if "/params/" in file}
    # machine can't change a result; training generates by the code of predict, but greedily; a trial has the form of
    # the final training run, but its own length
    forms = {"train": {"predict"}, "tune-hyperparameters": {"predict", "train"}}
    read = imported - {"machine"} - forms.get(stage, set())
    assert sections_of(stage) - {"architectures"} == read


@pytest.mark.parametrize("stage", STAGES)
def test_what_depends_on_the_task_is_declared_with_the_section_that_it_completes(stage: str) -> None:
    of_scenario = {param for param in STAGES[stage]["params"] if param.startswith("scenario")}
    read = [name for name in sections_of(stage) if name in STAGES[stage]["params"] and name in schemas()]
    wanted = {name for name in read if schemas()[name].of_scenario}
    assert of_scenario == {f"scenarios.${{scenario}}.{name}" for name in wanted}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_reads_the_model_depends_on_the_chosen_architecture_alone(stage: str) -> None:
    params = STAGES[stage]["params"]
    assert ("architectures.${model.architecture}" in params) == ("model" in params)
    assert "architectures" not in params


def test_no_stage_declares_what_cannot_change_a_result() -> None:
    assert not [stage for stage in STAGES for param in STAGES[stage]["params"] if param.startswith("machine")]


@pytest.mark.parametrize("stage", STAGES)
def test_path_constants_are_the_data_deps_and_the_folder_of_the_outs(stage: str) -> None:
    module = importlib.import_module(f"stages.{module_of(stage)}")
    constants = {name: str(value) for name, value in vars(module).items() if name.isupper() and isinstance(value, Path)}
    constants.pop("REPORTS", None)  # a place of training for people, which DVC ignores
    targets = [constants.pop(name) for name in ("TARGET", "PAGES") if name in constants]
    assert all(any(f"{out}/".startswith(f"{target}/") for target in targets) for out in outs_of(stage))
    data = {dep for dep in STAGES[stage]["deps"] if dep.startswith("data/")}
    sources = constants.values()
    assert all(any(dep == path or dep.startswith(f"{path}/") for path in sources) for dep in data)
    assert all(any(dep == path or dep.startswith(f"{path}/") for dep in data) for path in sources)


@pytest.mark.parametrize("stage", STAGES)
def test_every_out_is_made_by_one_stage_and_heavy_ones_stay_out_of_git(stage: str) -> None:
    others = set().union(*(outs_of(other) for other in STAGES if other != stage))
    assert not outs_of(stage) & others
    folders = ("metrics/",) if stage == "evaluate" else ()
    assert all(f"{out}/".startswith((f"data/{module_of(stage)}/", *folders)) for out in outs_of(stage))


def test_a_registry_finds_what_training_has_made_of_the_task() -> None:
    artifacts = YAML_12.load(Path("dvc.yaml"))["artifacts"]
    assert {own["path"] for own in artifacts.values()} == outs_of("train") - {"data/train/report"}
    assert all(own["type"] == "model" and "${scenario}" in own["labels"] for own in artifacts.values())


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


@pytest.mark.skipif("CI" not in os.environ, reason="the README has the scores of the sample; elsewhere they are yours")
def test_the_scores_in_the_readme_are_those_in_git() -> None:
    scores = json.loads(Path("metrics/evaluate.json").read_text())
    every = json.loads(Path("metrics/scores.json").read_text())["scores"]
    rows = r"^\| `(\w+)`[^|]*\| ([\d.]+) \| ([\d.]+\u2013[\d.]+) \| ([\d.]+) \|$"
    told = re.findall(rows, Path("README.md").read_text(), re.MULTILINE)
    assert {name for name, *_ in told} == set(every) & set(scores)
    for name, after, interval, before in told:
        assert (float(after), interval) == (scores[name], scores[f"{name}_95"]), name
        assert float(before) == every[name]["before_training"], name
