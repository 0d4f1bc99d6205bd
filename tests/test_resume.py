"""State of unfinished work: which run it belongs to, and when it is not used."""

import os
from pathlib import Path

import pytest

from stages.lib.core.process import UserError
from stages.lib.training.checkpoints import mark_complete, newest_complete
from stages.lib.training.resume import resumable_state


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  train:\n    deps: [code.py, data, '${model.folder}']\n    params: [fit, model.name]\n"
    )
    (tmp_path / "params.yaml").write_text(
        "fit: {epochs: 1}\nmodel: {name: x, folder: weights, revision: a}\nmachine: {loader_workers: 0}\n"
    )
    (tmp_path / "code.py").write_text("pass")
    for folder in ("data", "weights"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("content")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def state() -> Path:
    """The folder where a stage would find its state now. It stays, as after a kill."""
    try:
        with resumable_state("train") as folder:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return folder


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("params.yaml", "fit: {epochs: 2}\nmodel: {name: x, folder: weights, revision: a}\n"),
        ("params.yaml", "fit: {epochs: 1}\nmodel: {name: y, folder: weights, revision: a}\n"),
        ("code.py", "print()"),
        ("data/file", "other"),
        ("data/new", "more"),
        ("weights/file", "other"),
    ],
)
def test_other_inputs_do_not_find_the_state(project: Path, file: str, content: str) -> None:
    before = state()
    (project / file).write_text(content)
    assert state() != before


def test_a_state_that_nobody_resumes_is_deleted_in_time(project: Path) -> None:
    old, new = state(), project / ".scratch/train/new"
    new.mkdir()
    (old / "checkpoint").write_text("weights")
    for path in (old, *old.iterdir()):
        os.utime(path, (1e9, 1e9))
    (project / "code.py").write_text("print()")
    state()
    assert not old.exists()
    assert new.exists()


def test_changes_that_the_stage_does_not_depend_on_keep_the_state(project: Path) -> None:
    before = state()
    text = (project / "params.yaml").read_text().replace("loader_workers: 0", "loader_workers: 4")
    (project / "params.yaml").write_text(f"# a comment\n{text}")
    assert state() == before


@pytest.mark.parametrize("name", ["weights/README.md", "data/__pycache__/code.cpython-311.pyc"])
def test_bytecode_and_prose_keep_the_state(project: Path, name: str) -> None:
    before = state()
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("new")
    assert state() == before


def test_the_state_is_in_the_main_checkout_and_deleted_after_the_work(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = tmp_path_factory.mktemp("main")
    monkeypatch.setenv("DVC_ROOT", str(main))
    with resumable_state("train") as folder:
        assert folder.is_relative_to(main / ".scratch" / "train")
    assert not folder.exists()


def test_a_second_process_is_refused_and_told_the_first(project: Path) -> None:
    with (
        resumable_state("train"),
        pytest.raises(UserError, match=r"process \d+ already does this work"),
        resumable_state("train"),
    ):
        pass


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (path / name).write_bytes(bytes(100))
    mark_complete(path)
    return path


def test_the_newest_complete_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    checkpoint(tmp_path, 900)
    newest = checkpoint(tmp_path, 1000)
    assert newest_complete(tmp_path) == newest


@pytest.mark.parametrize("damage", ["unmarked", "empty mark", "missing", "short", "flipped"])
def test_a_broken_checkpoint_is_deleted_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    before, broken = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    if damage == "unmarked":
        (broken / "complete.json").unlink()
    elif damage == "empty mark":
        (broken / "complete.json").write_bytes(b"")
    elif damage == "missing":
        (broken / "optimizer.pt").unlink()
    else:
        (broken / "optimizer.pt").write_bytes(bytes(50) if damage == "short" else bytes(99) + b"\1")
    assert newest_complete(tmp_path) == before
    assert not broken.exists()


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "nothing") is None
