"""Kills `dvc repro` of a stage with SIGKILL, again and again: every other time at any moment after its launch, else
after a new checkpoint of training, a new finished trial of tuning, or a new batch of texts or losses of predict.

Run: `python -m tests.benchmarks.kills [train|tune-hyperparameters|predict] [KILLS]`. The model is the small one of the
tests, on a hundred rows of the sample. Claims: each run of training resumes from its newest checkpoint; a search keeps
all of its finished trials, and predict its batches; and the outputs are, byte for byte, those of a run that nobody
killed.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from tests.build import PROJECT
from tests.test_pipeline import ENVIRONMENT, copy_of_the_project, edit, run

INTERVAL = 0.5  # seconds between checkpoints
LONGEST_START, LONGEST_LIFE = 20.0, 4.0  # seconds until a kill, after the launch or after new work is done

_FINISHED = """
    SELECT study_name, number, state, value
    FROM trials JOIN studies USING (study_id) LEFT JOIN trial_values USING (trial_id)
    WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')
"""


def main(stage: str = "train", kills: str = "50") -> None:
    case, wanted = CASES[stage], int(kills)
    random.seed(1)
    with tempfile.TemporaryDirectory() as place:
        unbroken, killed = (Path(place) / name for name in ("unbroken", "killed"))
        for folder in (unbroken, killed):
            folder.mkdir()
            copy_of_the_project(folder)
            case.lengthen(folder, wanted)
            edit(folder, "checkpoint_seconds: 600", f"checkpoint_seconds: {INTERVAL}")
            run(folder, "dvc", "repro", case.before)
        done = set[str]()
        for kill in range(1, wanted + 1):
            if not _was_killed(killed, stage):
                raise SystemExit(f"it ended after {kill - 1} kills; make it longer")
            kept = case.done(killed)
            if lost := done - kept:
                raise SystemExit(f"kill {kill} has lost {', '.join(sorted(lost))}")
            print(f"kill {kill}: {len(kept)} {case.done.__name__} are kept", flush=True)
            done = kept
        for folder in (unbroken, killed):
            run(folder, "dvc", "repro", stage)
        same = (unbroken / "dvc.lock").read_bytes() == (killed / "dvc.lock").read_bytes()
        print(f"{wanted} kills, {wanted} recoveries; the bytes of the unbroken run: {'yes' if same else 'NO'}")


def updates(folder: Path) -> set[str]:
    """Those that the newest complete checkpoint of training has."""
    marks = folder.glob(".scratch/train/*/checkpoint-*/complete.json")
    return {f"update {step}" for mark in marks for step in range(1, 1 + int(mark.parent.name.split("-")[1]))}


def trials(folder: Path) -> set[str]:
    """The finished ones, those at full length too, and what came of them."""
    found = set[str]()
    for file in folder.glob(".scratch/tune-hyperparameters/*/study.db"):
        with closing(sqlite3.connect(file)) as database, suppress(sqlite3.OperationalError):  # it has no tables yet
            found |= {" ".join(map(str, row)) for row in database.execute(_FINISHED)}
    return found


def batches(folder: Path) -> set[str]:
    """The files with the results of finished ones."""
    return {file.name for file in folder.glob(".scratch/predict/*/*.jsonl")}


def longer_training(folder: Path, kills: int) -> None:
    edit(folder, "\ntrain:\n  epochs: 1", f"\ntrain:\n  epochs: {30 * kills}")


def longer_search(folder: Path, kills: int) -> None:
    """With all that a kill could upset: trials that depend on others, pruning, and confirmation."""
    edit(folder, "trials: 2", f"trials: {4 * kills}")
    edit(folder, "sampler: random", "sampler: tpe")
    edit(folder, "pruner:", "pruner: successive_halving")
    edit(folder, "cost:\n  epochs: 1", "cost:\n  epochs: 20")
    edit(folder, r"confirm: \{trials: 0", "confirm: {trials: 2")
    edit(folder, "evals_per_run: 2", "evals_per_run: 9")


def longer_prediction(folder: Path, kills: int) -> None:
    """More texts, each a batch of its own."""
    header, *rows = (PROJECT / "data/raw/data_to_text/places.csv").read_text().splitlines(keepends=True)
    (folder / "data/raw/data_to_text/test.csv").write_text("".join([header, *rows[800 : 800 + 30 * kills]]))
    edit(folder, "strategy: greedy\n      max_new_tokens: 8", "strategy: beam\n      max_new_tokens: 90")
    edit(folder, "generation_batch_tokens:", "generation_batch_tokens: 500")


class Case(NamedTuple):
    before: str  # the stage that has run before
    lengthen: Callable[[Path, int], None]  # edits params.yaml for so many kills
    done: Callable[[Path], set[str]]  # the work that must not be lost


CASES = {
    "train": Case("tune-hyperparameters", longer_training, updates),
    "tune-hyperparameters": Case("tokenize", longer_search, trials),
    "predict": Case("train", longer_prediction, batches),
}


def _was_killed(folder: Path, stage: str) -> bool:
    """Whether a run of the stage was killed before its end."""
    done = CASES[stage].done
    before, is_early = done(folder), random.random() < 0.5
    process = subprocess.Popen(
        ["dvc", "repro", stage],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not is_early and process.poll() is None and done(folder) == before:
            time.sleep(0.05)
        time.sleep(random.uniform(0, LONGEST_START if is_early else LONGEST_LIFE))
        return process.poll() is None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
