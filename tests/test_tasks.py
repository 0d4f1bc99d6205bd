"""Several tasks in one project: a change reruns those that it concerns, and a newer version of the project leaves the
rest as it is. What stages compute is not the matter here, so the outs of their runs are invented."""

import re
import shutil
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.lib.core.params import read_section, read_yaml
from stages.lib.core.process import UserError
from stages.lib.params.fit import Fit
from stages.tools import check_params, tasks
from stages.tools.compare import compared
from tests.build import copy_dvcignore
from tests.shell import dvc, run

PROJECT = Path(__file__).parent.parent
FILES = (".gitignore", ".gitattributes", "dvc.yaml", "params.yaml", "dvc.lock")
FOLDERS = (
    ".dvc/plots",
    "stages",
    "metrics",
    *(
        f"data/raw/{name}"
        for name in ("models", "teacher", "general_text", "fluency_model", "sentence_encoder", "screen")
    ),
)


def edit(file: Path, pattern: str, replacement: str) -> None:
    changed, count = re.subn(pattern, replacement, file.read_text(), flags=re.MULTILINE)
    assert count == 1, f"{pattern} is {count} times in {file}"
    file.write_text(changed)


def copy_of_the_project(folder: Path) -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    copy_dvcignore(folder)
    for name in FOLDERS:
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "data/raw/base", folder / "data/raw/base", ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def add(project: Path, name: str, scenario: str) -> Path:
    with chdir(project):
        tasks.add(name, scenario)
        assert list(tasks.renew(tasks.TASKS / name)) == []
    return project / "tasks" / name


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_of_the_project(tmp_path / "project")


def mistakes(project: Path) -> list[str]:
    with chdir(project):
        try:
            check_params.main()
        except UserError as error:
            return error.lines
    return []


def test_a_new_task_wants_its_files_and_nothing_else(project: Path) -> None:
    added = {name: add(project, name, "data_to_text") for name in ("places", "venues")}
    wanted = "data/raw/{0}/places.csv: no such file; see prepare -> train of the scenario"
    assert mistakes(project) == [f"tasks/{name}: {wanted.format(name)}" for name in added]
    for name, folder in added.items():
        shutil.copy(PROJECT / "data/raw/data_to_text/places.csv", folder / "data/raw" / name)
    assert mistakes(project) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("places", "dialogue"), "tasks/places: there is such a task already"),
        (("my-task", "dialogue"), "my-task: a name begins with a letter, and has letters, digits and underscores only"),
        (("talk", "dialog"), "params.yaml: scenarios -> dialog: no such scenario; did you mean dialogue?"),
        (("talk",), "usage: python -m stages.tools.tasks [NAME SCENARIO]"),
    ],
)
def test_a_mistake_is_one_line(
    project: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "tasks/places").mkdir(parents=True)
    (project / "tasks/places/params.yaml").touch()
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["tasks", *arguments])
    with pytest.raises(UserError) as error:
        tasks.main()
    assert error.value.lines == [message]


def test_a_task_of_an_older_version_gets_what_it_lacks_and_keeps_its_own(project: Path) -> None:
    task = add(project, "places", "data_to_text")
    params = task / "params.yaml"
    edit(params, "^  learning_rate: .*", "  learning_rate: 0.01             # ours")
    edit(params, r"^  search:\n(    .*\n)+", "  search: {}\n")  # what the task leaves out on purpose
    newest = params.read_text()
    edit(params, "^  dropout: .*\n", "")
    edit(params, "^    seeds: .*\n", "")
    edit(params, r"^predict_base:\n(  .*\n)+\n", "")
    with chdir(project):
        (change,) = tasks.renew(Path("tasks/places"))
    added = "tune_hyperparameters -> confirm -> seeds, fit -> dropout, predict_base"
    assert sorted(change.removeprefix("params.yaml has got ").split(", ")) == sorted(added.split(", "))
    assert params.read_text().replace("  search: {}\n", "").split() == newest.replace("  search: {}\n", "").split()
    assert read_yaml(params)["tune_hyperparameters"]["search"] == {}


def test_no_stage_runs_by_an_outdated_dvc_yaml(project: Path) -> None:
    """DVC would not know of the code that has become a dep since."""
    task = add(project, "places", "data_to_text")
    edit(project / "dvc.yaml", "Raw text -> examples", "Raw text -> better examples")
    with pytest.raises(UserError) as error:
        read_section(Fit, task / "params.yaml")
    remedy = f"run `python -m stages.tools.tasks` in {project}"
    assert error.value.lines == [f"{task}/dvc.yaml: differs from the project's; {remedy}"]
    with chdir(project):
        assert list(tasks.renew(Path("tasks/places"))) == ["dvc.yaml is the project's again"]
    assert read_section(Fit, task / "params.yaml")


def pretend_run(project: Path) -> None:
    """Outs of all stages of all tasks, and the locks that a run of them would leave."""
    stages = YAML(typ="safe").load(project / "dvc.yaml")["stages"].values()
    entries = [entry for stage in stages for entry in [*stage["outs"], *stage.get("metrics", [])]]
    pipelines = sorted(project.glob("tasks/*/dvc.yaml"))
    for folder in (pipeline.parent for pipeline in pipelines):
        for out in (entry if isinstance(entry, str) else next(iter(entry)) for entry in entries):
            file = folder / out if Path(out).suffix else folder / out / "content"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text('{"bleu": 30}')
    dvc(project, f"commit -q -f {' '.join(str(pipeline.relative_to(project)) for pipeline in pipelines)}")


def commit(project: Path, message: str) -> None:
    run(project, "git add .")
    run(project, f"git commit -q -m {message}")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A team's project with two tasks that have run. Tests leave it unchanged."""
    upstream = copy_of_the_project(tmp_path_factory.mktemp("upstream"))
    run(upstream, "git init -q -b main")
    dvc(upstream, "init -q -f")
    commit(upstream, "version-1")
    project = tmp_path_factory.mktemp("team") / "project"
    run(upstream, f"git clone -q -o upstream . {project}")
    for name, scenario in (("places", "data_to_text"), ("answers", "question_answering")):
        (add(project, name, scenario) / f"data/raw/{name}/rows").touch()
    pretend_run(project)
    commit(project, "tasks")
    return project


@pytest.fixture
def team(started: Path, tmp_path: Path) -> Path:
    return shutil.copytree(started, tmp_path / "project", symlinks=True)


def would_run(project: Path) -> list[str]:
    """Task and stage of each stage that would or may run."""
    found, task = [], ""
    for line in run(project, "python -m stages.tools.reruns").splitlines():
        task = line.removesuffix(":") if line.endswith(":") else task
        if " run: " in line:
            found.append(f"{task} {line.partition(' ')[0]}")
    return found


@pytest.mark.pipeline
def test_an_edit_of_a_task_concerns_that_task_alone(team: Path) -> None:
    assert run(team, "git ls-files tasks/places").split() == [
        *("tasks/places/data/raw/places/rows", "tasks/places/dvc.lock", "tasks/places/dvc.yaml"),
        *(f"tasks/places/{path.relative_to(team / 'tasks/places')}" for path in _files(team / "tasks/places/metrics")),
        *("tasks/places/params.yaml", "tasks/places/stages"),
    ]
    run(team, "git switch -q -c branch")
    edit(team / "tasks/places/params.yaml", "^      max_new_tokens: .*", "      max_new_tokens: 48")
    assert would_run(team) == [f"tasks/places {stage}" for stage in ("predict-base", "predict", "evaluate")]
    (team / "tasks/places/metrics/evaluate.json").write_text('{"bleu": 31}')
    (row,) = run(team, "dvc metrics diff main").splitlines()[1:]
    assert row.split() == ["tasks/places/metrics/evaluate.json", "bleu", "30", "31", "1"]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.pipeline
def test_a_newer_version_makes_stale_what_its_code_changes(team: Path) -> None:
    """It brings a parameter, a dep, a mended score and a run of its sample. None conflicts with what the team has."""
    upstream = Path(run(team, "git remote get-url upstream").strip())
    (upstream / "stages/lib/newest.py").write_text("NEWEST = True\n")
    for file, pattern, more in (
        ("stages/lib/scores/gleu.py", "^import random", "# mended\n"),
        ("stages/lib/params/evaluate.py", "^    shown_predictions:", "    newest: bool\n"),
        ("params.yaml", "^  shown_predictions:", "  newest: true                     # new\n"),
        ("params.yaml", "^  dropout:", "  # another comment\n"),
        ("dvc.yaml", "^      - stages/evaluate.py", "      - stages/lib/newest.py\n"),
    ):
        edit(upstream / file, pattern, rf"{more}\g<0>")
    (upstream / ".dvcignore").write_text((upstream / ".dvcignore").read_text() + "*.tmp\n")
    for name in ("dvc.lock", "metrics/evaluate.json"):
        (upstream / name).write_text("{}\n")
    commit(upstream, "version-2")

    run(team, "git pull -q --no-rebase --no-edit upstream main")
    run(team, "python -m stages.tools.tasks")
    changed = run(team, "git status --porcelain").splitlines()
    assert changed == [f" M tasks/{task}/{name}.yaml" for task in ("answers", "places") for name in ("dvc", "params")]
    assert would_run(team) == ["tasks/answers evaluate", "tasks/places evaluate"]


@pytest.mark.pipeline
def test_compare_reads_the_runs_of_the_task_in_whose_folder_it_is(team: Path) -> None:
    """The top folder has had a run at that commit, the task not yet."""
    with chdir(team / "tasks/places"), pytest.raises(UserError) as error:
        compared(["upstream/main", "main"])
    assert error.value.lines == ["upstream/main: no dvc.lock, so the pipeline has never run: run `make repro` there"]
