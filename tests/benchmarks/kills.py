"""Kills `dvc repro train` and its stage with SIGKILL, again and again: every other time at any moment after its launch,
else after a new checkpoint. Run: `python -m tests.benchmarks.kills [KILLS]`. The model is the small one of the tests,
on a hundred rows of the sample. Claims: each run resumes from its newest checkpoint, and the final model is, byte for
byte, that of a run that nobody killed."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.test_pipeline import ENVIRONMENT, copy_of_the_project, edit, run

INTERVAL = 0.5  # seconds between checkpoints
LONGEST_START, LONGEST_LIFE = 20.0, 4.0  # seconds until a kill, after the launch or after a new checkpoint


def main() -> None:
    kills = int(sys.argv[1]) if sys.argv[1:] else 50
    random.seed(1)
    with tempfile.TemporaryDirectory() as place:
        unbroken, killed = (Path(place) / name for name in ("unbroken", "killed"))
        for folder in (unbroken, killed):
            folder.mkdir()
            copy_of_the_project(folder)
            edit(folder, "\ntrain:\n  epochs: 1", f"\ntrain:\n  epochs: {30 * kills}")
            edit(folder, "checkpoint_seconds: 600", f"checkpoint_seconds: {INTERVAL}")
            run(folder, "dvc", "repro", "tune-hyperparameters")
        newest, done = 0, 0
        while done < kills:
            step = _killed_run(killed)
            if step is None:
                raise SystemExit(f"it ended after {done} kills; make it longer")
            if step < newest:
                raise SystemExit(f"kill {done + 1}: a newer checkpoint, of step {newest}, was lost")
            print(f"kill {done + 1}: newest checkpoint at step {step}", flush=True)
            newest, done = step, done + 1
        for folder in (unbroken, killed):
            run(folder, "dvc", "repro", "train")
        same = (unbroken / "dvc.lock").read_bytes() == (killed / "dvc.lock").read_bytes()
        print(f"{done} kills, {done} recoveries; the bytes of the unbroken run: {'yes' if same else 'NO'}")


def _killed_run(folder: Path) -> int | None:
    """Step of the newest complete checkpoint, or None if the run ended before the kill."""
    before, is_early = _newest(folder), random.random() < 0.5
    process = subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not is_early and process.poll() is None and _newest(folder) == before:
            time.sleep(0.05)
        time.sleep(random.uniform(0, LONGEST_START if is_early else LONGEST_LIFE))
        return None if process.poll() is not None else _newest(folder)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _newest(folder: Path) -> int:
    marks = folder.glob(".scratch/train/*/checkpoint-*/complete.json")
    return max((int(mark.parent.name.split("-")[1]) for mark in marks), default=0)


if __name__ == "__main__":
    main()
