"""The trials of a search in a database: several processes share them, and none is lost or run twice.

As a program, `python -m tests.test_study`, this file is one such process. Its trials only take some time.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from stages.lib.core.process import UserError
from stages.lib.params.fit import Fit
from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.tuning import study as module
from stages.lib.tuning.samplers import make_sampler
from stages.lib.tuning.space import Space
from stages.lib.tuning.study import Attempt, Budget, Objective, Pruned, Study
from tests.build import PROJECT, section

PROCESS = "TEXTGEN_TEST_STUDY"  # environment variable: what a process does, in JSON


SIX = Budget(6)


def study_of(
    url: str, owner: str = "here", budget: Budget = SIX, pruner: BasePruner | None = None, cost: str | None = None
) -> Study:
    sampler = RandomSampler(seed=1)
    return Study(url, "search", Objective("loss", cost), sampler, pruner or NopPruner(), budget, owner)


def main() -> None:
    """Trials until there are none. The process kills itself, or ends with a code, in the trial of the given number."""
    does = json.loads(os.environ[PROCESS])
    study = study_of(does["url"], does["owner"], Budget(does["trials"]))
    while (attempt := study.next()) is not None:
        attempt.take({"process": os.getpid()})
        with attempt.lease():
            if attempt.number == does.get("killed_in"):
                os.kill(os.getpid(), signal.SIGKILL)
            if attempt.number == does.get("fails_in"):
                sys.exit(2)
            time.sleep(does["seconds"])
        attempt.complete([float(attempt.number)], 5)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process counts as dead after a second."""
    for name, seconds in (("RENEWED", 0.1), ("DEAD", 1.0), ("LOOK", 0.1)):
        monkeypatch.setattr(module, f"_{name}_SECONDS", seconds)


def asked(study: Study) -> Attempt:
    attempt = study.next()
    assert attempt is not None
    return attempt


def test_what_became_of_a_trial_is_noted(url: str) -> None:
    study = study_of(url, pruner=SuccessiveHalvingPruner(min_resource=1))
    done, worse, broken = asked(study), asked(study), asked(study)
    done.take({"learning_rate": 0.1, "adapters": {"type": "lora"}})
    done.report(1, 5, 2.0)
    done.report(2, 10, 1.5)
    done.complete([1.5], 10)
    with pytest.raises(Pruned):
        worse.report(1, 5, 3.0)
    worse.prune()
    broken.fail("it diverged")
    asked(study)  # one that runs is not among them
    first, second, third = study_of(url).trials()
    assert (first.number, first.state, first.value, first.updates) == (0, "complete", 1.5, 10)
    assert first.course == {1: 2.0, 2: 1.5}
    assert first.settings == {"learning_rate": 0.1, "adapters": {"type": "lora"}}
    assert (second.state, second.value, second.updates, second.reason) == ("pruned", 3.0, 5, "")
    assert (third.state, third.value, third.updates, third.reason) == ("failed", None, 0, "it diverged")


def test_the_first_trial_is_not_pruned_by_what_runs_beside_it(url: str) -> None:
    """Others are compared with it, and it is among those that are confirmed."""
    study = study_of(url, pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=2))
    first, second, third = asked(study), asked(study), asked(study)
    second.report(1, 5, 1.0)
    first.report(1, 5, 2.0)
    with pytest.raises(Pruned):
        third.report(1, 5, 1.5)


def test_two_objectives_are_told_and_nothing_is_pruned(url: str) -> None:
    study = study_of(url, cost="flops", pruner=SuccessiveHalvingPruner())
    first, second = asked(study), asked(study)
    first.report(1, 5, 2.0)
    first.complete([2.0, 1e6], 10)
    second.fail("no memory")
    assert [(own.value, own.cost, own.updates) for own in study.trials()] == [(2.0, 1e6, 10), (None, None, 0)]


def finished(study: Study, updates: int = 10) -> int:
    """How many trials are run until there are no more."""
    count = 0
    while (attempt := study.next()) is not None:
        attempt.complete([1.0], updates)
        count += 1
    return count


def test_no_trial_begins_after_the_last_or_after_so_many_updates(url: str, tmp_path: Path) -> None:
    assert finished(study_of(url, budget=Budget(3))) == 3
    assert finished(study_of(url, budget=Budget(5))) == 2
    assert finished(study_of(f"sqlite:///{tmp_path / 'other.db'}", budget=Budget(9, updates=25))) == 3


def test_no_trial_begins_after_so_many_minutes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all trials together, also of those that were killed on the way."""
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    study = study_of(url, budget=Budget(9, seconds=60))
    killed = asked(study)
    now[0] += 25
    killed.report(1, 5, 2.0)
    study.take_over()
    for seconds in (10, 20):
        attempt = asked(study)
        now[0] += seconds
        attempt.complete([1.0], 10)
    assert [own.seconds for own in study.trials()] == [35, 20]
    last = asked(study)
    now[0] += 5
    last.complete([1.0], 10)
    assert study.next() is None


def test_a_trial_of_a_killed_process_goes_on_where_it_was(url: str) -> None:
    params = section(TuneHyperparameters, sampler="random", search={"dropout": {"low": 0.0, "high": 0.5}})
    space = Space(params, section(Fit))

    def again() -> Study:
        own = Study(url, "s", Objective("loss"), make_sampler(params, space), NopPruner(), Budget(3), "here")
        own.take_over()
        return own

    asked(again()).complete([1.0], 10)
    killed = asked(again())
    settings = killed.suggest(space)
    killed.report(1, 5, 2.0)
    killed.report(2, 10, 1.5)
    resumed = asked(again())
    assert (resumed.number, resumed.suggest(space)) == (1, settings)
    resumed.fail("it diverged between two evaluations")
    assert [(own.updates, own.course) for own in again().trials()] == [(10, {}), (10, {1: 2.0, 2: 1.5})]


def test_only_trials_of_this_machine_are_taken_over(url: str) -> None:
    here, there = study_of(url, "here"), study_of(url, "there")
    assert [asked(here).number, asked(there).number] == [0, 1]
    begins = optuna.load_study(storage=url, study_name="search").ask()  # on a machine that has not noted its name yet
    here.take_over()
    assert begins.number == 2
    assert [asked(here).number, asked(here).number] == [0, 3]


def test_the_trial_of_a_dead_machine_is_put_back_and_that_of_a_live_one_is_not(url: str, hurried: None) -> None:
    here, there = study_of(url, "here", Budget(2)), study_of(url, "there", Budget(2))
    dead, live = asked(there), asked(there)

    def train() -> None:
        with live.lease():
            time.sleep(3)  # three times as long as a dead process is waited for
        live.complete([1.0], 10)

    training = threading.Thread(target=train)
    training.start()
    taken = asked(here)
    assert training.is_alive()
    taken.complete([2.0], 10)
    assert here.next() is None
    training.join()
    assert (taken.number, [own.value for own in here.trials()]) == (0, [2.0, 1.0])
    with pytest.raises(UpdateFinishedTrialError):  # it was only cut off for a while
        dead.complete([3.0], 10)


def test_a_lease_outlives_a_database_that_does_not_answer_for_a_while(
    url: str, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = study_of(url, "here", Budget(1)), study_of(url, "there", Budget(1))
    note, notes = optuna.Trial.set_user_attr, Counter[str]()

    def sometimes(trial: optuna.Trial, name: str, value: Any) -> None:
        notes[name] += 1
        if name == "lease" and notes[name] % 2:
            raise StorageInternalError("no route to host")
        note(trial, name, value)

    monkeypatch.setattr(optuna.Trial, "set_user_attr", sometimes)
    attempt, found = asked(here), list[Attempt | None]()
    waiting = threading.Thread(target=lambda: found.append(there.next()))
    waiting.start()
    with attempt.lease():
        time.sleep(2.5)
    attempt.complete([1.0], 10)
    waiting.join()
    assert found == [None]
    assert notes["lease"] > 2


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("postgresql://host:port/x", "this is no URL of a database: invalid literal for int"),
        ("nosuch://host/x", "can't use nosuch://host/x: Can't load plugin: sqlalchemy.dialects:nosuch"),
        ("postgresql+psycopg2://me:secret@/x?host=/no", "can't use postgresql+psycopg2://me:***@/x?host=%2Fno: "),
        (
            "sqlite+pysqlcipher://:secret@/x",
            "No module named 'pysqlcipher3'; install the driver and name it in the URL",
        ),
        ("sqlite:///{folder}", "can't use sqlite:///{folder}: unable to open database file; mend that and run again"),
        ("sqlite:///{folder}/text", "can't use sqlite:///{folder}/text: file is not a database; mend that and run"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(
    given: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    (tmp_path / "text").write_text("This is no database at all, but some text.\n" * 100)
    with pytest.raises(UserError) as error:
        study_of(given.replace("{folder}", str(tmp_path)))
    (found,) = error.value.lines
    place = "params.yaml: machine -> study_database: "
    assert found.startswith(place + line.replace("{folder}", str(tmp_path)))
    assert "secret" not in found


# several processes


@pytest.fixture
def does(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what each process does."""

    def tell(**does: Any) -> None:
        values = {"url": url, "owner": "here", "trials": 6, "seconds": 0.1}
        monkeypatch.setenv(PROCESS, json.dumps(values | does))

    return tell


def test_workers_run_each_trial_once_and_the_one_of_a_killed_worker_has_failed(
    url: str, does: Callable[..., None]
) -> None:
    from stages.lib.tuning.workers import run_workers  # it imports torch, which processes of this file don't need

    does(trials=40, seconds=0.05, killed_in=3)
    study = study_of(url, budget=Budget(40))
    run_workers("tests.test_study", 2, study.fail)
    trials = study.trials()
    killed = trials.pop(3)
    assert (killed.state, killed.reason, killed.value) == ("failed", "signal 9 has ended its process", None)
    assert [own.value for own in trials] == [float(number) for number in range(40) if number != 3]
    processes = Counter(own.settings["process"] for own in trials)
    assert len(processes.keys() - killed.settings.values()) == 2, "one process has done everything"


def test_a_worker_that_fails_ends_the_others_with_its_code(url: str, does: Callable[..., None]) -> None:
    from stages.lib.tuning.workers import run_workers

    does(fails_in=0, seconds=60)
    with pytest.raises(SystemExit) as ended:
        run_workers("tests.test_study", 2, study_of(url).fail)
    assert ended.value.code == 2
    assert study_of(url).trials() == []


def test_workers_save_and_end_with_the_process_that_started_them(url: str, does: Callable[..., None]) -> None:
    does(seconds=60)
    start = "from stages.lib.tuning.workers import run_workers; run_workers('tests.test_study', 2, lambda *_: False)"
    study, known = study_of(url), optuna.load_study(storage=url, study_name="search")
    parent = subprocess.Popen([sys.executable, "-c", start], cwd=PROJECT)
    running = wait_for(lambda: known.get_trials(states=(TrialState.RUNNING,)), count=2)
    parent.terminate()
    assert parent.wait(timeout=30) == 128 + signal.SIGTERM
    workers = [own.user_attrs["process"] for own in running]
    assert not [number for number in workers if Path(f"/proc/{number}").exists()]
    study.take_over()
    assert [asked(study).number, asked(study).number] == [0, 1]


def wait_for(trials: Callable[[], list[FrozenTrial]], count: int) -> list[FrozenTrial]:
    """So many of them, each with its process noted."""
    for _ in range(2000):
        if len(found := [own for own in trials() if "process" in own.user_attrs]) == count:
            return found
        time.sleep(0.05)
    raise TimeoutError


if __name__ == "__main__":
    main()
