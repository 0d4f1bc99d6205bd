"""State of unfinished work: which run it belongs to, and when it is not used."""

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from stages.lib.core.finished import settle
from stages.lib.training.checkpoints import mark_complete, newest_complete
from stages.lib.training.resume import resumable_state


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  train:\n    deps: [code.py, data, '${model.folder}']\n    params: [fit, model.name]\n"
        "    outs: [model, report.json: {push: false}]\n"
    )
    (tmp_path / "params.yaml").write_text(
        "fit: {epochs: 1}\nmodel: {name: x, folder: weights, revision: a}\nmachine: {loader_workers: 0}\n"
    )
    (tmp_path / "code.py").write_text("pass")
    for folder in ("data", "weights"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("content")
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
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


def test_under_dvc_the_state_stays_until_the_cache_has_each_out(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[core]\n    no_scm = true\n[cache]\n    dir = ../cache\n")
    contents = {"model/weights": "w", "model/tokens/empty": "", "report.json": "r"}
    with resumable_state("train") as folder:
        for name, content in contents.items():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(content)
    for content in contents.values():
        assert settle() == []
        assert folder.exists()
        digest = hashlib.md5(content.encode()).hexdigest()
        (project / "cache/files/md5" / digest[:2]).mkdir(parents=True, exist_ok=True)
        (project / "cache/files/md5" / digest[:2] / digest[2:]).write_text(content)
    with resumable_state("train"):
        assert settle() == []
        assert folder.exists(), "it is in use"
    assert settle() == []
    assert not folder.exists()


def test_a_second_process_waits_and_continues_from_what_the_first_has_left(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    found = list[str]()

    def second() -> None:
        with resumable_state("train") as folder:
            found.append((folder / "work").read_text())

    (project / "model").touch()
    with resumable_state("train") as folder:
        other = threading.Thread(target=second)
        other.start()
        while (told := capsys.readouterr().out) == "":
            time.sleep(0.01)
        (folder / "work").write_text("done")
    other.join()
    assert told == f"train: process {os.getpid()} does this work; waiting for its end\n"
    assert found == ["done"]


def test_one_that_has_waited_for_a_deleted_state_makes_it_anew(project: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with resumable_state("train") as folder:
            assert (folder / "lock").exists()
            entered.set()

    with resumable_state("train"):  # without DVC, its end deletes the state
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.2)
    other.join()
    assert entered.is_set()


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
