"""State of unfinished work: whose it is, and when it is not to be used."""

import os
from pathlib import Path

import pytest

from stages.lib.checkpoints import mark_complete, newest_complete
from stages.lib.process import UserError
from stages.lib.scratch import scratch


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  train:\n    deps: [code.py, data, '${model.folder}']\n    params: [fit, model.name]\n"
    )
    (tmp_path / "params.yaml").write_text(
        "fit: {epochs: 1}\nmodel: {name: x, folder: weights, revision: a}\nmachine: {workers: 0}\n"
    )
    (tmp_path / "code.py").write_text("pass")
    for folder in ("data", "weights"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("content")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def state() -> Path:
    """Where a killed stage would find its state now; left behind as a kill leaves it."""
    try:
        with scratch("train") as folder:
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
def test_other_inputs_never_find_the_state(project: Path, file: str, content: str) -> None:
    before = state()
    (project / file).write_text(content)
    assert state() != before


def test_a_state_that_nobody_came_back_to_is_removed_in_time(project: Path) -> None:
    old, new = state(), project / ".scratch/train/new"
    new.mkdir()
    (old / "checkpoint").write_text("weights")
    for path in (old, *old.iterdir()):
        os.utime(path, (1e9, 1e9))
    (project / "code.py").write_text("print()")
    state()
    assert not old.exists()
    assert new.exists()


def test_what_the_stage_does_not_depend_on_keeps_the_state(project: Path) -> None:
    before = state()
    text = (project / "params.yaml").read_text().replace("workers: 0", "workers: 4")
    (project / "params.yaml").write_text(f"# a comment\n{text}")
    assert state() == before


def test_state_lies_in_the_main_checkout_and_goes_when_the_work_is_done(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = tmp_path_factory.mktemp("main")
    monkeypatch.setenv("DVC_ROOT", str(main))
    with scratch("train") as folder:
        assert folder.is_relative_to(main / ".scratch" / "train")
    assert not folder.exists()


def test_a_second_writer_is_refused_by_name(project: Path) -> None:
    with scratch("train"), pytest.raises(UserError, match=r"process \d+ does this work already"), scratch("train"):
        pass


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (path / name).write_bytes(bytes(100))
    mark_complete(path)
    return path


def test_the_newest_whole_checkpoint_counts_by_its_step_not_its_name(tmp_path: Path) -> None:
    checkpoint(tmp_path, 900)
    newest = checkpoint(tmp_path, 1000)
    assert newest_complete(tmp_path) == newest


@pytest.mark.parametrize("damage", ["unmarked", "empty mark", "missing", "short", "flipped"])
def test_a_broken_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
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
