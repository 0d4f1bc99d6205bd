"""The promises that only a real `dvc repro` can show, on a copy of the project with a model of two narrow layers."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import TypeVar

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

PROJECT = Path(__file__).parent.parent
STAGES = ["prepare", "tokenize", "tune-hyperparameters", "train", "predict", "evaluate"]
HEAVY = STAGES[:-1]
TRAIN = (sys.executable, "-m", "stages.train")
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

pytestmark = pytest.mark.pipeline


T = TypeVar("T")


def run(folder: Path, *command: str) -> str:
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def ran(output: str) -> list[str]:
    """Stages whose command was run, in order."""
    return re.findall(r"Running stage '([\w-]+)'", output)


def edit(folder: Path, pattern: str, replacement: str, file: str = "params.yaml") -> None:
    text = (folder / file).read_text()
    changed, count = re.subn(pattern, replacement, text)
    assert count, f"{pattern} is not in {file}"
    (folder / file).write_text(changed)


def copy_of_the_project(folder: Path) -> Path:
    """What git would clone, with a hundred rows of the sample as three files, and few of another scenario."""
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "tests/params.yaml"):
        shutil.copy(PROJECT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("stages", "data/raw"):
        shutil.copytree(PROJECT / name, folder / name, ignore=ignored)
    header, *rows = (folder / "data/raw/data_to_text/places.csv").read_text().splitlines(keepends=True)
    (folder / "data/raw/data_to_text/places.csv").unlink()
    for name, part in (("train", rows[:80]), ("validation", rows[400:410]), ("test", rows[800:812])):
        (folder / f"data/raw/data_to_text/{name}.csv").write_text("".join([header, *part]))
    reviews = folder / "data/raw/sentiment_analysis/reviews.csv"
    header, *rows = reviews.read_text().splitlines(keepends=True)
    reviews.write_text("".join([header, *rows[::6]]))
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "dvc", "init", "-q")
    run(folder, "git", "config", "user.name", "test")
    run(folder, "git", "config", "user.email", "test@example.org")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reproduced once, whatever the processes that test, and committed; each test leaves it as it was."""
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reproduced"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            folder = copy_of_the_project(tmp_path_factory.mktemp("original"))
            assert ran(run(folder, "dvc", "repro")) == STAGES
            run(folder, "git", "add", ".")
            run(folder, "git", "commit", "-q", "-m", "reproduced")
            folder.rename(made)
    return shutil.copytree(made, tmp_path_factory.mktemp("project") / "copy")


@pytest.fixture
def restored(project: Path) -> Path:
    run(project, "git", "checkout", "-q", ".")
    run(project, "dvc", "checkout", "-q", "--force")
    return project


def test_a_second_run_runs_no_stage_and_changes_no_file(restored: Path) -> None:
    assert ran(run(restored, "dvc", "repro")) == []
    assert run(restored, "git", "status", "--porcelain") == ""


def test_two_clean_runs_give_the_same_lock_and_metrics(restored: Path, tmp_path: Path) -> None:
    other = copy_of_the_project(tmp_path)
    run(other, "dvc", "repro")
    for file in [Path("dvc.lock"), *(path.relative_to(restored) for path in restored.glob("metrics/**/*.*"))]:
        assert (other / file).read_bytes() == (restored / file).read_bytes(), file


def test_nothing_in_an_out_names_this_machine(restored: Path) -> None:
    for file in restored.glob("data/*/**/*.*"):
        if "raw" not in file.parts:
            assert str(restored).encode() not in file.read_bytes(), file


def more_test_data(folder: Path) -> None:
    with (folder / "data/raw/data_to_text/test.csv").open("a") as rows:
        rows.write('name: The New Inn; kind: pub,"The New Inn is a pub."\n')


def what_changes_no_outcome(folder: Path) -> None:
    edit(folder, "\nfit:\n", "\n# longer\nfit: # a comment\n")
    edit(folder, "generation_batch_size: 64", "generation_batch_size: 3")
    edit(folder, "max_target_tokens: 8\n", "max_target_tokens: 9\n")  # of another scenario


EDITS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a comment, what fits the machine, another scenario": (what_changes_no_outcome, []),
    "a convention of a metric": (lambda folder: edit(folder, "lowercase: false", "lowercase: true"), ["evaluate"]),
    "a setting of decoding": (
        lambda folder: edit(folder, "strategy: greedy", "strategy: beam"),
        ["predict", "evaluate"],
    ),
    "a metric of the scenario": (lambda folder: edit(folder, "\\[bleu, chrf", "[bleu, ter, chrf"), ["evaluate"]),
    "the length of the fit": (
        lambda folder: edit(folder, "\nfit:\n  epochs: 1", "\nfit:\n  epochs: 2"),
        ["train", "predict", "evaluate"],
    ),
    "code of the scores": (
        lambda folder: edit(folder, "The signs of", "Signs of", file="stages/lib/scores/signs.py"),
        ["evaluate"],
    ),
    "test data": (more_test_data, ["prepare", "tokenize", "predict", "evaluate"]),
    "a section that other stages do not use": (
        lambda folder: edit(
            folder, "trials: Annotated", "trials : Annotated", "stages/lib/params/tune_hyperparameters.py"
        ),
        ["tune-hyperparameters"],  # what it finds comes out the same, so that nothing is trained again
    ),
}


@pytest.mark.parametrize("edited", EDITS)
def test_an_edit_reruns_what_it_touches(restored: Path, edited: str) -> None:
    change, expected = EDITS[edited]
    change(restored)
    assert ran(run(restored, "dvc", "repro")) == expected


def test_an_experiment_runs_with_a_parameter_of_its_own(restored: Path) -> None:
    output = run(restored, "dvc", "exp", "run", "-S", "fit.learning_rate=1e-5", "-S", "fit.epochs=1")
    assert ran(output) == ["tune-hyperparameters", "train", "predict", "evaluate"]
    account = json.loads((restored / "metrics/tune_hyperparameters.json").read_text())
    assert account["trials"] == 2
    assert "1e-05" in (restored / "params.yaml").read_text()


def test_an_experiment_without_tuning_takes_the_settings_of_params(restored: Path) -> None:
    run(restored, "dvc", "exp", "run", "-S", "tune_hyperparameters.trials=0", "tune-hyperparameters")
    assert json.loads((restored / "data/tune_hyperparameters/best.json").read_text()) == {}


def test_an_experiment_runs_another_scenario_and_the_first_one_is_not_lost(restored: Path) -> None:
    """Labels, by a head, from the sample that ships."""
    options = ("-S", "scenario=sentiment_analysis", "-S", "model.architecture=bert")
    assert ran(run(restored, "dvc", "exp", "run", *options)) == STAGES
    scores = json.loads((restored / "metrics/evaluate.json").read_text())
    assert {"accuracy", "macro_f1"} < set(scores)
    assert (restored / "metrics/plots/confusion.csv").read_text().count("\n") > 20
    run(restored, "git", "checkout", "-q", "params.yaml")
    assert ran(run(restored, "dvc", "repro")) == ["evaluate"]


def test_bad_input_is_one_line_and_loses_nothing(restored: Path) -> None:
    model = (restored / "data/train/model/model.safetensors").read_bytes()
    edit(restored, "{facts}", "{fact}")
    failed = subprocess.run(["dvc", "repro"], cwd=restored, env=ENVIRONMENT, capture_output=True, text=True)
    assert failed.returncode
    assert "data/raw/data_to_text/train.csv: no column fact; there are facts, text" in failed.stderr
    assert "Traceback" not in failed.stderr
    edit(restored, "{fact}", "{facts}")
    assert ran(run(restored, "dvc", "repro")) == []
    assert (restored / "data/train/model/model.safetensors").read_bytes() == model


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_leaves_no_stage_behind_and_the_next_one_ends_with_the_same_bytes(
    restored: Path, tmp_path: Path, processes: int
) -> None:
    """Of two processes, each is told to end, saves what it alone knows, and goes on from that."""
    edit(restored, "\nfit:\n  epochs: 1", "\nfit:\n  epochs: 20")
    edit(restored, "checkpoint_seconds: 600", "checkpoint_seconds: 0.2")
    edit(restored, "(?<=\n  )processes: 1(?=\n  nodes)", f"processes: {processes}")
    broken = tmp_path / "broken"
    shutil.copytree(restored, broken)
    run(restored, "dvc", "repro", "train")
    # a plain sh stays between DVC and the stage where bash would not
    shell = ENVIRONMENT | {"SHELL": "/bin/sh"}
    dvc = subprocess.Popen(["dvc", "repro", "train"], cwd=broken, env=shell, stdout=PIPE, stderr=PIPE)
    checkpoints = wait_for(lambda: list(broken.glob(".scratch/train/*/checkpoint-*/complete.json")))
    stage = int((checkpoints[0].parents[1] / "lock").read_text())
    dvc.kill()
    dvc.wait()
    wait_for(lambda: not Path(f"/proc/{stage}").exists())
    assert not (broken / "data/train/model").exists(), "it was killed too late to show anything"
    run(broken, "dvc", "repro", "train")
    assert (broken / "dvc.lock").read_bytes() == (restored / "dvc.lock").read_bytes()
    assert not list(broken.glob(".scratch/train/*"))


def test_two_processes_train_as_one_does(restored: Path) -> None:
    """With the same batches: losses agree but for rounding. So do two on two machines, which meet in this folder and
    hold the model together, and what they leave is a model as usual."""
    edit(restored, "\n  dropout: 0.1", "\n  dropout: 0.0")
    (restored / "data/tune_hyperparameters/best.json").write_text("{}")
    run(restored, *TRAIN)
    alone = json.loads((restored / "data/train/curve.json").read_text())
    edit(restored, "(?<=\n  )processes: 1(?=\n  nodes)", "processes: 2")
    assert run(restored, *TRAIN).count("train: best validation loss") == 1
    shared = json.loads((restored / "data/train/curve.json").read_text())
    edit(restored, "(?<=\n  )processes: 2(?=\n  nodes)", "processes: 1")
    edit(restored, "nodes: 1\n  rendezvous: null", f"nodes: 2\n  rendezvous: localhost:{free_port()}")
    edit(restored, "sharded: false", "sharded: true")
    model = load_file(restored / "data/train/model/model.safetensors")
    first = subprocess.Popen(TRAIN, cwd=restored, env=ENVIRONMENT, stdout=PIPE, stderr=STDOUT)
    run(restored, *TRAIN)
    said = first.communicate()[0].decode()
    assert first.returncode == 0, said
    apart = json.loads((restored / "data/train/curve.json").read_text())
    put_together = load_file(restored / "data/train/model/model.safetensors")
    assert model.keys() == put_together.keys()
    assert all(torch.allclose(put_together[name], model[name], atol=1e-3) for name in model)
    for name in ("training", "validation"):
        for curve in (shared[name], apart[name]):
            assert [step for step, _ in curve] == [step for step, _ in alone[name]]
            assert [loss for _, loss in curve] == pytest.approx([loss for _, loss in alone[name]], rel=1e-4)
    assert not list(restored.glob(".scratch/train/*"))


def test_of_processes_that_fail_alike_one_tells(restored: Path) -> None:
    edit(restored, "(?<=\n  )processes: 1(?=\n  nodes)", "processes: 2")
    edit(restored, "learning_rate: 0.004", "learning_rate: 1.0e+30")
    (restored / "data/tune_hyperparameters/best.json").write_text("{}")
    failed = subprocess.run(TRAIN, cwd=restored, env=ENVIRONMENT, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.count("no finite number") == 1, failed.stderr
    assert "Traceback" not in failed.stderr, failed.stderr


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("localhost", 0))
        return int(own.getsockname()[1])


def wait_for(condition: Callable[[], T]) -> T:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def test_a_colleague_pulls_every_heavy_stage_instead_of_running_it(restored: Path, tmp_path: Path) -> None:
    run(restored, "dvc", "remote", "add", "--local", "--force", "-d", "team", str(tmp_path / "remote"))
    run(restored, "dvc", "push", "--run-cache", "-q")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(restored), str(clone))
    run(clone, "dvc", "remote", "add", "--local", "-d", "team", str(tmp_path / "remote"))
    output = run(clone, "dvc", "repro", "--pull")
    assert not set(ran(output)) & set(HEAVY)
    assert (clone / "data/train/model/model.safetensors").is_file()
    assert run(clone, "git", "status", "--porcelain") == ""
