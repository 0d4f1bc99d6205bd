"""What git and DVC keep of the raw files: what a copy of the project lacks, and what is too large for git."""

import subprocess
from pathlib import Path

import pytest

from stages.lib.core.process import UserError
from stages.lib.ingest.readers import raw_files
from stages.lib.ingest.tracking import check_copy, untracked
from stages.lib.params.prepare import Prepare
from stages.tools import check_params
from tests.build import params_of, section

RAW = Path("data/raw/data_to_text")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a", *arguments], cwd=folder, check=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    models = ("base", "models", "teacher", "fluency_model", "sentence_encoder")
    for name in ("data_to_text", "general_text", "screen", *models):
        (folder / "data/raw" / name).mkdir(parents=True)
    params_of("data_to_text", folder)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    monkeypatch.chdir(folder)
    return folder


def put(name: str, size: int = 0) -> None:
    (RAW / name).parent.mkdir(parents=True, exist_ok=True)
    (RAW / name).write_text("facts,text\n" + "x" * size)


def noted(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The files that check_params tells to add."""
    check_params.main()
    return capsys.readouterr().out.replace("`", "").partition("git add ")[2].split()


def test_raw_files_that_nothing_keeps_are_named_until_git_has_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put("places.csv")
    put("beside.csv")  # the scenario does not name it
    assert noted(capsys) == [str(RAW / "places.csv")]
    git(project, "add", "--intent-to-add", ".")
    assert noted(capsys) == []


@pytest.mark.parametrize("pointer", [f"{RAW}.dvc", f"{RAW}/places.csv.dvc"])
def test_of_what_dvc_keeps_the_dvc_file_is_named_until_git_has_it(project: Path, pointer: str) -> None:
    put("places.csv")
    (project / ".gitignore").write_text("*.csv\n")
    (project / pointer).touch()
    assert untracked([RAW / "places.csv"]) == [Path(pointer)]
    git(project, "add", pointer)
    assert untracked([RAW / "places.csv"]) == []


def test_what_is_too_large_for_git_is_given_to_dvc_before_git_add_takes_it(project: Path) -> None:
    put("places.csv", 11_000_000)
    (project / "data/raw/models/own").mkdir()
    (project / "data/raw/models/README.md").write_text("of the project")
    git(project, "add", "data/raw/models")
    (project / "data/raw/models/own/model.safetensors").write_bytes(bytes(12_000_000))
    with pytest.raises(UserError) as error:
        check_params.main()
    assert [line.partition("run ")[2] for line in error.value.lines] == [
        f"`dvc add {RAW}`",
        "`dvc add data/raw/models/own`",
    ]
    (project / ".gitignore").write_text(f"/{RAW}/\n/data/raw/models/own/\n")
    check_params.main()


def test_a_repository_of_dvc_within_that_of_git_is_no_copy(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = project / "data/base"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setenv("DVC_ROOT", str(inner))
    put("train/lost.csv")
    check_copy(lambda: raw_files(section(Prepare, train="train", validation=None, test=None), RAW))


def test_an_experiment_in_a_copy_is_refused_where_it_would_take_fewer_rows(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train/kept.csv", "train/lost.csv", "train/large.csv", "train/new.csv"):
        put(name)
    for name in ("large.csv.dvc", "new.csv.dvc"):
        (RAW / "train" / name).touch()
    git(project, "add", "params.yaml", *(f"{RAW}/train/{name}" for name in ("kept.csv", "large.csv.dvc")))
    git(project, "commit", "-q", "-m", "work")
    git(tmp_path, "clone", "-q", "project", "copy")
    params = section(Prepare, train="train", validation=None, test=None)
    monkeypatch.setenv("DVC_ROOT", str(project))
    check_copy(lambda: raw_files(params, RAW))  # here, the run has all files
    monkeypatch.chdir(tmp_path / "copy")
    with pytest.raises(UserError) as error:
        check_copy(lambda: raw_files(params, RAW))
    assert [line.partition(":")[0] for line in error.value.lines] == [
        str(RAW / "train/lost.csv"),
        str(RAW / "train/new.csv.dvc"),
    ]
