"""What a team needs of git and DVC together: by the project's own files for them, on a chain of one quick stage."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

PROJECT = Path(__file__).parent.parent
FILES = (".gitignore", ".gitattributes", ".dvcignore", ".dvc/config", ".dvc/.gitignore")
# the base model's chain is another repository's: its outs are nowhere, so a command that sees it fails
BASE_MODEL = (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore", "dvc.yaml", "params.yaml")
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    **{f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
STAGE = """
stages:
  largest:
    cmd: grep value params.yaml | sort | tail -n 1 > data/largest.txt
    params:
      - first
      - second
    outs:
      - data/largest.txt
"""
PARAMS = """
first:
  value: 1

# sections stand apart, as in the project's own file

second:
  value: 5
"""

pytestmark = pytest.mark.pipeline


def run(folder: Path, command: str) -> str:
    result = subprocess.run(command.split(), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def addable(folder: Path) -> list[str]:
    """What git would add."""
    return run(folder, "git ls-files --others --exclude-standard").splitlines()


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "params.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def connect(folder: Path, remote: Path) -> None:
    """To a remote that git does not keep, so that the config of DVC is the project's own."""
    (folder / ".dvc/config.local").write_text(f"[core]\n    remote = team\n['remote \"team\"']\n    url = {remote}\n")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in (*FILES, *(f"data/base/{name}" for name in BASE_MODEL)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    run(folder, "git init -q -b main")
    run(folder, "git add .")
    run(folder, "git commit -q -m start")
    connect(folder, tmp_path / "remote")
    return folder


def test_raw_data_under_dvc_reaches_a_colleague_and_outlives_gc(project: Path, tmp_path: Path) -> None:
    """A command that overlooks it says nothing: `push` leaves it out, and `gc` deletes the only copy."""
    raw, kept = Path("data/raw/notes/large.txt"), "large\n"
    (project / raw).parent.mkdir(parents=True)
    (project / raw).write_text(kept)
    (project / "data/train").mkdir()
    (project / "data/train/model.bin").touch()
    run(project, f"dvc add {raw}")
    assert addable(project) == [f"{raw.parent}/.gitignore", f"{raw}.dvc"]  # not the data, nor what a stage made
    run(project, "git add .")
    run(project, "git commit -q -m data")
    run(project, "dvc push")
    run(tmp_path, "git clone -q project colleague")
    colleague = tmp_path / "colleague"
    connect(colleague, tmp_path / "remote")
    run(colleague, "dvc pull")
    assert (colleague / raw).read_text() == kept
    run(project, "dvc gc --workspace --force")
    (project / raw).unlink()
    run(project, "dvc checkout")
    assert (project / raw).read_text() == kept


def test_a_merge_of_two_runs_asks_for_a_run(project: Path, tmp_path: Path) -> None:
    """Their sections merge cleanly, and so would their locks: into a sum of both params with an out of one."""
    (project / "dvc.yaml").write_text(STAGE)
    (project / "params.yaml").write_text(PARAMS)
    run(project, "dvc repro")
    run(project, "git add .")
    run(project, "git commit -q -m run")
    for branch, old, new in (("one", "value: 1", "value: 3"), ("other", "value: 5", "value: 2")):
        run(project, f"git checkout -q -b {branch} main")
        edit(project, old, new)
        run(project, "dvc repro")
        run(project, "git commit -q -a -m run")
    merge = subprocess.run(["git", "merge", "-q", "one"], cwd=project, env=ENVIRONMENT, capture_output=True)
    assert merge.returncode == 1
    assert run(project, "git diff --name-only --diff-filter=U").split() == ["dvc.lock"]
    for side, command in (("ours", "dvc repro"), ("theirs", "dvc repro --pull")):
        folder = shutil.copytree(project, tmp_path / side)
        run(folder, f"git checkout --{side} dvc.lock")
        run(folder, command)
        out = (folder / "data/largest.txt").read_bytes()
        assert out == b"  value: 3\n"
        lock = YAML(typ="safe").load(folder / "dvc.lock")["stages"]["largest"]
        assert lock["params"]["params.yaml"] == {"first": {"value": 3}, "second": {"value": 2}}
        assert lock["outs"][0]["md5"] == hashlib.md5(out).hexdigest()
        run(folder, "git commit -q -a -m merged")
