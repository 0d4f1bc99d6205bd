"""A stage as a process: how it ends after a mistake of its user, and after the death of its parent."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.lib.core.process import UserError, launch
from stages.tools import check_params
from tests.build import PARAMS


def test_a_mistake_ends_the_stage_with_code_2_and_prints_only_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError(["first: do this", "second: do that"])

    with pytest.raises(SystemExit) as end:
        launch(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == "first: do this\nsecond: do that\n"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "data/x"), RuntimeError("x: Disk quota exceeded")]
)
def test_a_full_disk_is_no_mistake_of_the_code(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        launch(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"{error}: make room and run again\n"


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_a_stage_does_not_outlive_the_dvc_that_started_it(tmp_path: Path) -> None:
    stage = f"""
import pathlib, os, time
from stages.lib.core.process import launch
def main():
    pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
    time.sleep(60)
launch(main)
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stage!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline, f"process {child} is still alive"
        time.sleep(0.05)


def test_all_missing_files_are_named_before_the_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    (tmp_path / "data/raw/data_to_text").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        check_params.main()
    assert [line.partition(",")[0].partition(";")[0].partition(" (")[0] for line in error.value.lines] == [
        "params.yaml: no folder data/raw/base",
        "params.yaml: no folder data/raw/models",
        "params.yaml: no folder data/raw/teacher",
        "params.yaml: no folder data/raw/general_text",
        "params.yaml: no folder data/raw/fluency_model",
        "params.yaml: no folder data/raw/sentence_encoder",
        "params.yaml: no folder data/raw/screen",
        "data/raw/data_to_text/train.csv: no such file",
        "data/raw/data_to_text/validation.csv: no such file",
        "data/raw/data_to_text/test.csv: no such file",
    ]


def test_aligned_files_folders_and_globs_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PARAMS.read_text().replace("train: train.csv", "train: {facts: a.en, text: a.de}")
    (tmp_path / "params.yaml").write_text(
        text.replace("n: validation.csv", "n: more").replace("t: test.csv", 't: "*.tsv"')
    )
    for file, content in (("a.en", "x"), ("a.de", "y"), ("more/b.csv", "facts,text"), ("c.tsv", "facts\ttext")):
        path = tmp_path / "data/raw/data_to_text" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    for folder in ("base", "models", "teacher", "general_text", "fluency_model", "sentence_encoder", "screen"):
        (tmp_path / "data/raw" / folder).mkdir()
    check_params.main()
