"""What a team needs of git and DVC together: by the project's own files for them, on a chain of one quick stage."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import chdir
from functools import partial
from pathlib import Path
from subprocess import DEVNULL

import psutil
import pytest
from ruamel.yaml import YAML

from stages.tools.raw_data import other_than_dvc_keeps
from tests import shell
from tests.build import copy_dvcignore
from tests.shell import WITH_CODE

PROJECT = Path(__file__).parent.parent
FILES = (".gitignore", ".gitattributes", ".dvc/config", ".dvc/.gitignore")
# the base model's chain is another repository's: its outs are nowhere, so a command that sees it fails
BASE_MODEL = (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore", "dvc.yaml", "params.yaml")
run = partial(shell.run, environment=WITH_CODE)
dvc = partial(shell.dvc, environment=WITH_CODE)
# the raw files are declared as in the project's own dvc.yaml
STAGES = """
stages:
  prepare:
    cmd: mkdir -p data/prepare && cat ${prepare.folder}/${scenario}/*.csv > data/prepare/rows.txt
    deps:
      - ${prepare.folder}/${scenario}
    outs:
      - data/prepare/rows.txt
  train:
    cmd: exec python train.py
    deps:
      - train.py
      - data/prepare/rows.txt
    params:
      - train
    outs:
      - data/train
  predict:
    cmd: exec python predict.py
    deps:
      - predict.py
      - data/train
    params:
      - predict
    outs:
      - data/predict.json
  evaluate:
    cmd: mkdir -p metrics/plots && cp data/predict.json metrics/plots && cp data/predict.json metrics/evaluate.json
    deps:
      - data/predict.json
    metrics:
      - metrics/evaluate.json:
          cache: false
    outs:
      - metrics/plots:
          cache: false
"""
PARAMS = """
scenario: notes

prepare:
  folder: data/raw

# sections stand apart, as in the project's own file

train:
  epochs: 1
  megabytes: 0
  seconds: 0

# here too

predict:
  seed: 1
"""
# each run of it notes in {log} at which epoch it has begun
TRAIN = """
import time
from pathlib import Path
from ruamel.yaml import YAML
from stages.lib.core.process import launch
from stages.lib.training.resume import resumable_state

def main():
    settings = YAML(typ="safe").load(Path("params.yaml"))["train"]
    with resumable_state("train") as state:
        done = state / "epochs"
        begun = int(done.read_text()) if done.exists() else 0
        with open("{log}", "a") as log:
            print(begun, file=log)
        for epoch in range(begun, int(settings["epochs"])):
            time.sleep(settings.get("seconds", 0))
            done.write_text(str(epoch + 1))
        Path("data/train").mkdir(parents=True)
        Path("data/train/model").write_text(f"{settings['epochs']}" + settings.get("megabytes", 0) * 1_000_000 * " ")

launch(main)
"""
PREDICT = """
import json
from pathlib import Path
from ruamel.yaml import YAML
from stages.lib.core.process import launch

def main():
    seed = YAML(typ="safe").load(Path("params.yaml"))["predict"]["seed"]
    # so far apart that git could merge two of them
    scores = {"epochs": float(Path("data/train/model").read_text()), **dict.fromkeys("abc", 0), "seed": seed}
    Path("data/predict.json").write_text(json.dumps(scores, indent=1))

launch(main)
"""

pytestmark = pytest.mark.pipeline


def start_queue(folder: Path, workers: int) -> None:
    """The workers inherit the pipes of whoever starts them, and would keep them open to their end."""
    subprocess.run(["dvc", "queue", "start", "--jobs", str(workers)], cwd=folder, env=WITH_CODE, stdout=DEVNULL)


def kill_workers(folder: Path) -> None:
    for worker in psutil.process_iter(["cmdline", "cwd"]):
        if "queue-worker" in (worker.info["cmdline"] or ()) and worker.info["cwd"] == str(folder):
            for process in (worker, *worker.children(recursive=True)):
                process.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError


def addable(folder: Path) -> list[str]:
    """What git would add."""
    return run(folder, "git ls-files --others --exclude-standard").splitlines()


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "params.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def connect(folder: Path, remote: Path) -> None:
    """To a remote that git does not keep, so that the config of DVC is the project's own."""
    (folder / ".dvc/config.local").write_text(
        f"[core]\n    remote = team\n['remote \"team\"']\n    url = {remote}\n    verify = true\n"
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in (*FILES, *(f"data/base/{name}" for name in BASE_MODEL)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    copy_dvcignore(folder)
    run(folder, "git init -q -b main")
    run(folder, "git add .")
    run(folder, "git commit -q -m start")
    connect(folder, tmp_path / "remote")
    return folder


def add_stages(folder: Path) -> Path:
    """With a raw file of the scenario. Returns the log of training."""
    log = folder.parent / "log"
    (folder / "data/raw/notes").mkdir(parents=True)
    (folder / "data/raw/notes/a.csv").write_text("a\n")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "train.py").write_text(TRAIN.replace("{log}", str(log)))
    (folder / "predict.py").write_text(PREDICT)
    return log


def commit(folder: Path) -> None:
    run(folder, "git add .")
    run(folder, "git commit -q -m work")


def test_raw_data_under_dvc_outlives_gc_and_an_older_version_is_no_edit(project: Path, tmp_path: Path) -> None:
    """A command that overlooks it says nothing: `push` leaves it out, and `gc` deletes the only copy."""
    source, large = tmp_path / "source", project / "data/raw/other/large.txt"
    source.mkdir()
    (source / "a.csv").write_text("a\n")
    for file in (large, project / "data/train/model.bin"):
        file.parent.mkdir(parents=True)
        file.write_text("large\n")
    dvc(project, f"import-url {source} data/raw/notes")
    dvc(project, "add data/raw/other/large.txt")
    assert addable(project) == [  # not the data, nor what a stage made
        *("data/raw/.gitignore", "data/raw/notes.dvc", "data/raw/other/.gitignore", "data/raw/other/large.txt.dvc")
    ]
    commit(project)
    (source / "b.csv").write_text("b\n")
    dvc(project, "update data/raw/notes.dvc")
    commit(project)
    run(project, "git checkout -q HEAD~1")
    pointer = "data/raw/notes.dvc"
    assert said(project).startswith(f"data/raw/notes: is not what {pointer} says: `dvc checkout {pointer}` if git has")
    run(project, "git checkout -q main")
    dvc(project, "push")
    dvc(project, "gc --workspace --force")
    large.unlink()
    assert said(project) == "data/raw/other/large.txt: deleted: `dvc pull data/raw/other/large.txt.dvc` brings it"
    dvc(project, "checkout")
    assert large.read_text() == "large\n"
    assert said(project) == ""


def said(folder: Path) -> str:
    with chdir(folder):
        return "\n".join(other_than_dvc_keeps([Path("data/raw/notes"), Path("data/raw/other")]))


@pytest.mark.slow
def test_a_day_in_a_teams_life_is_twelve_commands_at_most(project: Path, tmp_path: Path) -> None:
    """Those of docs/team.md, with stages that take no time, on the project's own params.yaml."""
    log = add_stages(project)
    raw = project / "data/raw/data_to_text"
    raw.mkdir()
    (raw / "places.csv").write_text("facts,text\na,b\n")
    for name in ("base", "models", "teacher", "general_text", "fluency_model", "sentence_encoder", "screen"):
        (project / "data/raw" / name).mkdir()
        (project / "data/raw" / name / "README.md").touch()
    for name in ("params.yaml", "Makefile"):
        shutil.copy(PROJECT / name, project)
    for name in ("pyproject.toml", "constraints.txt"):
        (project / name).touch()
    commit(project)
    run(tmp_path, "git clone -q --bare project origin")
    run(tmp_path, "git clone -q origin clone")
    clone = tmp_path / "clone"
    connect(clone, tmp_path / "remote")
    # a colleague, yesterday
    run(project, "git rm -q -r --cached data/raw/data_to_text")
    dvc(project, "add data/raw/data_to_text")
    dvc(project, "repro")
    commit(project)
    dvc(project, "push --run-cache")
    run(project, f"git push -q {tmp_path / 'origin'} main")

    (clone / ".venv").mkdir()
    for name in ("extras", "ready"):  # so make finds the environment made
        (clone / ".venv" / name).write_text("\n")
    commands = day()
    assert len(commands) <= 12
    for command in commands:
        done = run(clone, command)
        if command.startswith("git switch"):
            edit(clone, "\n  epochs: 3 ", "\n  epochs: 4 ")
        if command == "make reruns":
            assert "train" in done
    assert log.read_text().split() == ["0", "0", "0"]  # of the colleague, of the try and of the edit
    assert scores(clone)[0] == 4
    dvc(clone, "status --cloud --quiet")  # else it fails
    assert run(clone, "git rev-parse HEAD") == run(tmp_path / "origin", "git rev-parse longer")


def day() -> list[str]:
    section = (PROJECT / "docs/team.md").read_text().partition("\n## A day\n")[2].partition("\n## ")[0]
    return [line.partition("#")[0].strip() for line in section.splitlines() if line.startswith("    ")]


def scores(folder: Path) -> tuple[float, int]:
    found = json.loads((folder / "metrics/evaluate.json").read_text())
    return found["epochs"], found["seed"]


def test_a_merge_of_two_runs_asks_for_a_run_and_needs_no_other_command(project: Path, tmp_path: Path) -> None:
    """Their sections merge cleanly, and so would their locks: into a sum of both params with an out of one."""
    add_stages(project)
    (project / "metrics").mkdir()
    (project / "metrics/old.txt").write_text("of a version before\n")
    dvc(project, "install")
    (project / ".git/hooks/pre-commit").unlink()  # only shows `dvc status`, for a second each
    dvc(project, "add data/raw/notes")
    dvc(project, "repro")
    commit(project)
    for branch, *edits in (
        ("one", ("epochs: 1", "epochs: 3"), ("scenario: notes", "scenario: notes # one")),
        ("other", ("seed: 1", "seed: 2"), ("scenario: notes", "scenario: notes # other")),
    ):
        run(project, f"git checkout -q -b {branch} main")
        for old, new in edits:
            edit(project, old, new)
        (project / f"data/raw/notes/{branch}.csv").write_text(branch)
        dvc(project, "repro")
        (project / "metrics/old.txt").write_text(branch)
        if branch == "other":
            (project / "metrics/old.txt").unlink()
        commit(project)
    merge = subprocess.run(["git", "merge", "-q", "one"], cwd=project, env=WITH_CODE, capture_output=True)
    assert merge.returncode == 1
    assert run(project, "git diff --name-only --diff-filter=U").split() == [
        *("dvc.lock", "metrics/evaluate.json", "metrics/old.txt", "metrics/plots/predict.json", "params.yaml")
    ]
    conflict = "<<<<<<< HEAD\nscenario: notes # other\n=======\nscenario: notes # one\n>>>>>>> one\n"
    edit(project, conflict, "scenario: notes\n")
    dvc(project, "checkout data/raw/notes.dvc")
    assert len(list((project / "data/raw/notes").iterdir())) == 3
    dvc(project, "repro")
    commit(project)
    assert scores(project) == (3, 2)
    lock = YAML(typ="safe").load(project / "dvc.lock")["stages"]
    assert lock["train"]["params"]["params.yaml"]["train"]["epochs"] == 3
    assert lock["predict"]["params"]["params.yaml"] == {"predict": {"seed": 2}}
    dvc(project, "status --quiet")  # else it fails


@pytest.mark.slow
def test_experiments_share_the_work_that_is_the_same_and_go_on_from_that_of_a_killed_one(
    project: Path, tmp_path: Path
) -> None:
    log = add_stages(project)
    commit(project)
    training = "-S train.epochs=60 -S train.seconds=0.1"
    run(project, f"dvc exp run --queue --name killed {training}")
    start_queue(project, workers=1)
    wait_for(lambda: any(int(state.read_text() or 0) > 3 for state in project.glob(".scratch/train/*/epochs")))
    kill_workers(project)
    run(project, f"dvc exp run --queue --name again {training}")
    run(project, f"dvc exp run --queue --name similar {training} -S predict.seed=2")
    start_queue(project, workers=2)
    wait_for(lambda: all(f"/{name}\n" in run(project, "git for-each-ref refs/exps") for name in ("again", "similar")))
    first, *later = map(int, log.read_text().split())
    assert first == 0
    assert all(begun > 3 for begun in later)
    assert later[1:] in ([], [60])  # DVC may have the result of the first before the second asks for it
    dvc(project, "exp apply similar")
    assert scores(project) == (60, 2)
    assert not list(project.glob(".scratch/train/*"))


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux")
def test_a_full_disk_of_the_cache_loses_no_finished_work(project: Path, tmp_path: Path) -> None:
    log = add_stages(project)
    edit(project, "megabytes: 0", "megabytes: 1")
    (project / ".dvc/cache").mkdir()
    steps = (
        "mount -t tmpfs -o size=200k tmpfs .dvc/cache || exit 77",
        "dvc repro; test $? != 0 || exit 1",
        "mount -o remount,size=4m .dvc/cache",
        "dvc repro && dvc status --quiet",
    )
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", "\n".join(steps)]
    result = subprocess.run(shell, cwd=project, env=WITH_CODE, capture_output=True, text=True)
    if result.returncode == 77 or "unshare:" in result.stderr:
        pytest.skip(f"no disk can be mounted: {result.stderr}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "has no room for what train has made: make room and run again" in result.stderr
    assert log.read_text().split() == ["0", "1"]
    assert not list(project.glob(".scratch/train/*"))
