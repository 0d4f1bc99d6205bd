"""Kills the sample's train stage with SIGKILL at random moments, again and again. Run: `python -m
tests.benchmarks.kills [KILLS]`. Claims: every time it goes on from its newest checkpoint, and the model in the end is,
byte for byte, that of a run that nobody killed."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.test_pipeline import ENVIRONMENT, copy_of_the_project, edit, run

INTERVAL, LONGEST_LIFE = 0.5, 4.0  # seconds: between checkpoints; of a run, from its first step on


def main() -> None:
    kills = int(sys.argv[1]) if sys.argv[1:] else 50
    random.seed(1)
    with tempfile.TemporaryDirectory() as place:
        whole, killed = (Path(place) / name for name in ("whole", "killed"))
        for folder in (whole, killed):
            folder.mkdir()
            copy_of_the_project(folder)
            edit(folder, "\nfit:\n  epochs: 1", f"\nfit:\n  epochs: {60 * kills}")
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
        for folder in (whole, killed):
            run(folder, "dvc", "repro", "train")
        same = (whole / "dvc.lock").read_bytes() == (killed / "dvc.lock").read_bytes()
        print(f"{done} kills, {done} recoveries; the bytes of the unbroken run: {'yes' if same else 'NO'}")


def _killed_run(folder: Path) -> int | None:
    """Step of the newest whole checkpoint that is left, or None where the run ended before."""
    before = _newest(folder)
    process = subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None and _newest(folder) == before:  # it trains
            time.sleep(0.05)
        time.sleep(random.uniform(0, LONGEST_LIFE))
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
