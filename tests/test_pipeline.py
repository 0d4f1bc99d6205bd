"""The promises that only DVC can show, on a copy of the project with a model of two narrow layers.

What a stage computes is the same in this process as in one of its own, and starting one takes seconds: so stages run
as processes where that is what is shown, and else here.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import TypeVar

import pytest
import torch
from dvc.repo import Repo
from filelock import FileLock
from safetensors.torch import load_file

from stages.lib.core.finished import settle
from stages.lib.core.params import read_section
from stages.lib.params.fit import Fit
from tests.build import contents, copy_dvcignore, run_stage

PROJECT = Path(__file__).parent.parent
STAGES = ["prepare", "tokenize", "tune-hyperparameters", "train", "predict-base", "predict", "evaluate"]
HEAVY = STAGES[:-1]
TRAIN, PREDICT = ((sys.executable, "-m", f"stages.{stage}") for stage in ("train", "predict"))
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

pytestmark = pytest.mark.pipeline


T = TypeVar("T")


def run(folder: Path, *command: str) -> str:
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def ran(output: str) -> list[str]:
    """Stages whose command was run, or with --dry would be, in the order of the chain."""
    found = re.findall(r"Running stage '([\w-]+)'", output)
    assert len(found) == len(set(found))
    return sorted(found, key=STAGES.index)


def stale(folder: Path) -> list[str]:
    """What `dvc repro --dry` would say, without the second in which a process of its own imports DVC."""
    with chdir(folder), Repo() as repo:
        return sorted((stage.name for stage in repo.reproduce(dry=True)), key=STAGES.index)


def take_outs(folder: Path, stage: str | None = None) -> None:
    """As `dvc commit --force` does: of all stages if none is named."""
    with chdir(folder), Repo() as repo:
        repo.commit(stage, force=True)


def edit(folder: Path, pattern: str, replacement: str, file: str = "params.yaml") -> None:
    text = (folder / file).read_text()
    changed, count = re.subn(pattern, replacement, text)
    assert count, f"{pattern} is not in {file}"
    (folder / file).write_text(changed)


def copy_of_the_project(folder: Path) -> Path:
    """What git would clone, with a hundred rows of the sample as three files, and few of another scenario."""
    for name in ("dvc.yaml", ".gitignore", "tests/params.yaml"):
        shutil.copy(PROJECT / name, folder)
    copy_dvcignore(folder)
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
    """Reproduced once for all processes of the tests, and committed; each test leaves it unchanged."""
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
def unedited(project: Path) -> Path:
    """For tests that run no stage."""
    run(project, "git", "checkout", "-q", ".")
    return project


@pytest.fixture
def restored(unedited: Path) -> Path:
    with chdir(unedited), Repo() as repo:
        repo.checkout(force=True)
    return unedited


def longer_training(folder: Path, epochs: int) -> None:
    """Of other epochs in each test: DVC would take the result of a run with the same settings from its cache."""
    edit(folder, "\ntrain:\n  epochs: 1", f"\ntrain:\n  epochs: {epochs}")
    edit(folder, "checkpoint_seconds: 600", "checkpoint_seconds: 0.2")
    edit(folder, "\n  dropout: 0.1", "\n  dropout: 0.0")
    (folder / "data/tune_hyperparameters/best.json").write_text("{}")
    take_outs(folder, "tune-hyperparameters")


def kill_in_training(folder: Path) -> None:
    """Kills `dvc repro` after the first checkpoint, and waits until its stage has ended too."""
    # a plain sh stays between DVC and the stage, where bash would not
    shell = ENVIRONMENT | {"SHELL": "/bin/sh"}
    dvc = subprocess.Popen(["dvc", "repro", "train"], cwd=folder, env=shell, stdout=PIPE, stderr=PIPE)
    checkpoints = wait_for(lambda: list(folder.glob(".scratch/train/*/checkpoint-*/complete.json")))
    stage = int((checkpoints[0].parents[1] / "lock").read_text())
    dvc.kill()
    dvc.wait()
    wait_for(lambda: not Path(f"/proc/{stage}").exists())
    assert not (folder / "data/train/model").exists(), "it was killed too late to show anything"


def test_after_a_kill_no_stage_is_left_and_the_next_run_gives_the_same_bytes(restored: Path) -> None:
    longer_training(restored, epochs=20)
    run_stage(restored, "train")
    expected = contents(restored / "data/train")
    kill_in_training(restored)
    run(restored, "dvc", "repro", "train")
    assert contents(restored / "data/train") == expected
    assert_no_state_is_left(restored)


def assert_no_state_is_left(folder: Path) -> None:
    """The next process would delete it, as DVC's cache has the outs."""
    with chdir(folder):
        settle()
    assert not list(folder.glob(".scratch/train/*"))


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_resume_after_a_kill(restored: Path) -> None:
    """Their losses are those of one process, except for rounding. Each process saves what it alone knows."""
    longer_training(restored, epochs=19)
    run_stage(restored, "train")
    alone = json.loads((restored / "data/train/report/curve.json").read_text())
    edit(restored, "train_processes: 1", "train_processes: 2")
    assert run(restored, *TRAIN).count("train: best validation loss") == 1
    assert_same_curve(restored, alone)
    expected = contents(restored / "data/train")
    kill_in_training(restored)
    run(restored, "dvc", "repro", "train")
    assert contents(restored / "data/train") == expected
    assert_no_state_is_left(restored)


@pytest.mark.slow
def test_two_nodes_hold_a_model_together_and_leave_an_ordinary_one(restored: Path) -> None:
    longer_training(restored, epochs=2)
    run_stage(restored, "train")
    alone = json.loads((restored / "data/train/report/curve.json").read_text())
    model = load_file(restored / "data/train/model/model.safetensors")
    edit(restored, "nodes: 1\n  rendezvous:", f"nodes: 2\n  rendezvous: localhost:{free_port()}")
    edit(restored, "sharded: false", "sharded: true")
    first = subprocess.Popen(TRAIN, cwd=restored, env=ENVIRONMENT, stdout=PIPE, stderr=STDOUT)
    run(restored, *TRAIN)
    printed = first.communicate()[0].decode()
    assert first.returncode == 0, printed
    assert_same_curve(restored, alone)
    put_together = load_file(restored / "data/train/model/model.safetensors")
    assert model.keys() == put_together.keys()
    assert all(torch.allclose(put_together[name], model[name], atol=1e-3) for name in model)


def assert_same_curve(folder: Path, expected: dict[str, list[tuple[int, float]]]) -> None:
    found = json.loads((folder / "data/train/report/curve.json").read_text())
    for name in ("training", "validation"):
        assert [step for step, _ in found[name]] == [step for step, _ in expected[name]]
        assert [loss for _, loss in found[name]] == pytest.approx([loss for _, loss in expected[name]], rel=1e-4)


@pytest.mark.slow
def test_of_processes_that_fail_alike_one_reports(restored: Path) -> None:
    edit(restored, "train_processes: 1", "train_processes: 2")
    edit(restored, "learning_rate: 0.004", "learning_rate: 1.0e+30")
    (restored / "data/tune_hyperparameters/best.json").write_text("{}")
    failed = subprocess.run(TRAIN, cwd=restored, env=ENVIRONMENT, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.count("no finite number") == 1, failed.stderr
    assert "Traceback" not in failed.stderr, failed.stderr


@pytest.mark.slow
def test_two_processes_predict_as_one_does_and_go_on_after_a_kill(restored: Path) -> None:
    edit(restored, "strategy: greedy\n      max_new_tokens: 8", "strategy: beam\n      max_new_tokens: 90")
    edit(restored, "generation_batch_tokens:", "generation_batch_tokens: 500")
    run_stage(restored, "predict")
    expected = contents(restored / "data/predict")
    shutil.rmtree(restored / "data/predict")
    edit(restored, "predict_processes: 1", "predict_processes: 2")
    stage = subprocess.Popen(PREDICT, cwd=restored, env=ENVIRONMENT, stdout=PIPE, stderr=PIPE, start_new_session=True)
    finished = wait_for(lambda: list(restored.glob(".scratch/predict/*/texts-*.jsonl")))
    os.killpg(stage.pid, signal.SIGKILL)
    stage.wait()
    assert not (restored / "data/predict").exists(), "it was killed too late to show anything"
    again = subprocess.run(PREDICT, cwd=restored, env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    bar = re.search(r"predict: .+? (\d+)/\d+ ", again.stderr)
    assert bar, again.stderr
    assert int(bar[1]) >= len(finished)
    assert contents(restored / "data/predict") == expected
    assert not list(restored.glob(".scratch/predict/*"))


def test_a_second_run_runs_no_stage_and_changes_no_file(restored: Path) -> None:
    assert ran(run(restored, "dvc", "repro")) == []
    assert run(restored, "git", "status", "--porcelain") == ""


def test_two_runs_give_the_same_bytes(restored: Path, tmp_path: Path) -> None:
    """The second one in this process, after whatever else ran here."""
    other = copy_of_the_project(tmp_path)
    for stage in STAGES:
        run_stage(other, stage)
    for folder in [f"data/{stage.replace('-', '_')}" for stage in HEAVY] + ["metrics"]:
        assert contents(other / folder) == contents(restored / folder), folder


def test_no_out_names_this_machine(restored: Path) -> None:
    for file in restored.glob("data/*/**/*.*"):
        if "raw" not in file.parts:
            assert str(restored).encode() not in file.read_bytes(), file


def what_changes_no_result(folder: Path) -> None:
    edit(folder, "\nfit:\n", "\n# longer\nfit: # a comment\n")
    edit(folder, "generation_batch_tokens:", "generation_batch_tokens: 300")
    edit(folder, "max_target_tokens: 8\n", "max_target_tokens: 9\n")  # of another scenario
    edit(folder, "nodes: 1\n  rendezvous:", "nodes: 2\n  rendezvous: localhost:1234")
    edit(folder, "train_processes: 1", "train_processes: 4")
    edit(folder, "predict_processes: 1", "predict_processes: 2")
    edit(folder, "d_model: 32", "d_model: 64")  # of an architecture that is not chosen
    (folder / "data/raw/base/README.md").write_text("Another card.")
    (folder / "stages/lib/scores/NOTES.md").write_text("For people.")


def comment(file: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        with (folder / file).open("a") as code:
            code.write("\n# a comment\n")

    return add


# what DVC finds stale at once; what follows depends on the outs, see below
STALE: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "nothing that can change a result": (what_changes_no_result, []),
    "a setting of training": (
        lambda folder: edit(folder, "weight_decay: 0.01", "weight_decay: 0.02"),
        ["tune-hyperparameters", "train"],
    ),
    "a setting of the final training run": (
        lambda folder: edit(folder, "average_checkpoints: 1", "average_checkpoints: 2"),
        ["train"],
    ),
    "the base model's predictions": (lambda folder: edit(folder, "enabled: true", "enabled: false"), ["predict-base"]),
    "the chosen architecture": (
        lambda folder: edit(folder, "n_embd: 32", "n_embd: 64"),
        ["tokenize", "tune-hyperparameters", "train", "predict-base", "predict"],
    ),
    "code of a metric": (comment("stages/lib/scores/answers.py"), ["evaluate"]),
    "code of attention": (
        comment("stages/lib/models/attention.py"),
        ["tune-hyperparameters", "train", "predict-base", "predict"],
    ),
    "code of tokenizers": (
        comment("stages/lib/checkpoint/tokenizers.py"),
        ["tokenize", "tune-hyperparameters", "train", "predict-base", "predict"],
    ),
    "code of training": (comment("stages/lib/training/fit.py"), ["tune-hyperparameters", "train"]),
    "code of decoding": (
        comment("stages/lib/generation/decoding.py"),
        ["tune-hyperparameters", "train", "predict-base", "predict"],
    ),
    "code of reading": (comment("stages/lib/ingest/formats.py"), ["prepare"]),
}


@pytest.mark.parametrize("edited", STALE)
def test_an_edit_makes_stale_what_it_can_change(unedited: Path, edited: str) -> None:
    change, expected = STALE[edited]
    change(unedited)
    try:
        assert stale(unedited) == expected
    finally:
        run(unedited, "git", "clean", "-qf", "stages")


def test_the_vocabulary_of_an_architecture_matters_only_where_it_is_trained_from_scratch(restored: Path) -> None:
    edit(restored, "architecture: gpt2", "architecture: checkpoint")
    take_outs(restored)  # as if all stages had run so
    edit(restored, "vocabulary_size: 700", "vocabulary_size: 800")
    assert stale(restored) == []


def more_test_data(folder: Path) -> None:
    with (folder / "data/raw/data_to_text/test.csv").open("a") as rows:
        rows.write('name: The New Inn; kind: pub,"The New Inn is a pub."\n')


# which stages run again, with all that follows, by the account in the README
RERUNS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a convention of a metric": (
        lambda folder: edit(folder, r"metrics: \[bleu", "bleu_lowercase: true\n      metrics: [bleu"),
        ["evaluate"],
    ),
    "a metric of the scenario": (lambda folder: edit(folder, r"\[bleu, chrf", "[bleu, ter, chrf"), ["evaluate"]),
    "a setting of decoding": (
        lambda folder: edit(folder, "strategy: greedy", "strategy: beam"),
        ["predict-base", "predict", "evaluate"],
    ),
    "the length of the fit": (
        lambda folder: edit(folder, "\ntrain:\n  epochs: 1", "\ntrain:\n  epochs: 2"),
        ["train", "predict", "evaluate"],
    ),
    "test data": (more_test_data, ["prepare", "tokenize", "predict-base", "predict", "evaluate"]),
    # what it finds is the same, so nothing is trained again
    "code of the search": (comment("stages/tune_hyperparameters.py"), ["tune-hyperparameters"]),
}


@pytest.mark.parametrize("edited", RERUNS)
def test_an_edit_reruns_what_it_touches(restored: Path, edited: str) -> None:
    change, expected = RERUNS[edited]
    change(restored)
    assert reproduced_here(restored) == expected


def reproduced_here(folder: Path) -> list[str]:
    """Does what `dvc repro` would do, with stages in this process: DVC says which is next, and takes its outs."""
    done: list[str] = []
    while following := stale(folder):
        assert following[0] not in done
        run_stage(folder, following[0])
        take_outs(folder, following[0])
        done.append(following[0])
    return done


@pytest.mark.slow
def test_an_experiment_with_other_parameters_leaves_the_first_run_in_the_cache(restored: Path) -> None:
    """Another scenario, by a classification head, from the sample that ships; and no search."""
    options = ("scenario=sentiment_analysis", "model.architecture=bert", "fit.learning_rate=1e-5")
    settings = [word for option in (*options, "tune_hyperparameters.trials=0") for word in ("-S", option)]
    assert ran(run(restored, "dvc", "exp", "run", *settings)) == STAGES
    assert "learning_rate: 1e-05" in (restored / "params.yaml").read_text()
    assert read_section(Fit, restored / "params.yaml").learning_rate == 1e-5
    assert json.loads((restored / "data/tune_hyperparameters/best.json").read_text()) == {}
    scores = json.loads((restored / "metrics/evaluate.json").read_text())
    assert {"accuracy", "macro_f1"} < set(scores)
    assert (restored / "metrics/plots/confusion.csv").read_text().count("\n") > 20
    run(restored, "git", "checkout", "-q", "params.yaml")
    assert not set(ran(run(restored, "dvc", "repro"))) & set(HEAVY)
    assert run(restored, "git", "status", "--porcelain") == ""


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


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("localhost", 0))
        return int(own.getsockname()[1])


def wait_for(condition: Callable[[], T]) -> T:
    deadline = time.monotonic() + 180
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
