"""Runs of the chain that differ from the present one in a single parameter, made by DVC as experiments.

A run is known by what its stages have read, as its dvc.lock says. So a run that is there is not made again, whoever has
made it: an earlier call of the same tool, `dvc exp run -S`, or a colleague whose experiments were pulled.
"""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from ruamel.yaml import YAML
from tqdm import tqdm

from stages.lib.comparison.lock import Lock, Value
from stages.lib.comparison.run import Run
from stages.lib.comparison.series import check_answers
from stages.lib.core.files import read_json, write_json
from stages.lib.core.finished import states
from stages.lib.core.params import PARAMS, PIPELINE
from stages.lib.core.process import UserError, die_with_parent
from stages.lib.models.cost import duration
from stages.tools.compare import WORKSPACE, run_of

LOCK = Path("dvc.lock")
_SHOWN = 3


class Variants(NamedTuple):
    """The runs of one state of the project that differ in one parameter: value -> a revision."""

    parameter: str  # as `fit.seed`
    revisions: Mapping[Value, str]

    def run(self, value: Value, name: str) -> Run:
        """Raises UserError if its scores are not at hand. `name`: what people are told."""
        return run_of(self.revisions[value], name)

    def content(self, value: Value, path: str) -> str:
        """Of a file that git keeps."""
        revision = self.revisions[value]
        return Path(path).read_text("utf-8") if revision == WORKSPACE else _git("show", f"{revision}:./{path}")


def present_value(parameter: str) -> Value:
    """Of the run in the workspace.

    Raises:
        UserError: the workspace has no finished run, DVC could not copy what the run has read, or there are no scores.
    """
    _check_tracked()
    _check_finished()
    check_answers([run_of(WORKSPACE)])
    return _present_lock().value(parameter)


def finished(parameter: str, revision: str = WORKSPACE) -> Variants:
    """The finished runs that read the same as that of a revision, but for the parameter.

    Raises:
        UserError: the revision is unknown, or has no finished run.
    """
    lock = _present_lock() if revision == WORKSPACE else _lock_of(revision)
    if not lock.is_whole():
        raise UserError(f"{revision}: its dvc.lock is of no finished run: run `make repro` there, and commit it")
    wanted = lock.inputs_but_for(parameter)
    found = {}
    for commit in _experiments():
        with suppress(UserError):  # it started from a commit without such a pipeline
            other = _lock_at(commit, commit)
            if other.is_whole() and other.inputs_but_for(parameter) == wanted:
                found[other.value(parameter)] = commit
    return Variants(parameter, found | {lock.value(parameter): revision})


def complete(parameter: str, values: Sequence[Value], jobs: int) -> Variants:
    """The runs with these values of the parameter. Makes those that are not there, `jobs` at once; each is kept when it
    ends. The workspace stays as it is.

    Raises:
        UserError: a run has failed. What it prints is above, or with several at once in a file that is named.
    """
    there = finished(parameter)
    missing = [value for value in values if value not in there.revisions]
    print(_plan(parameter, values, missing, jobs), flush=True)
    if missing:
        _make(parameter, missing, jobs)
        there = finished(parameter)
    if lost := [str(value) for value in values if value not in there.revisions]:
        raise UserError(f"{parameter} = {', '.join(lost)}: DVC has kept no such run; see what it prints above")
    return Variants(parameter, {value: there.revisions[value] for value in values})


def _plan(parameter: str, values: Sequence[Value], missing: Sequence[Value], jobs: int) -> str:
    start = f"{parameter} = {', '.join(map(str, values))}: {len(values) - len(missing)} runs are there"
    if not missing:
        return start
    together = f", {jobs} at once" if jobs > 1 else ""
    seconds = _last_seconds()
    cost = f"the last one took {duration(seconds)}" if seconds else "how long one takes shows when the first has ended"
    return f"{start}, {len(missing)} will be made{together}; {cost}"


def _make(parameter: str, values: Sequence[Value], jobs: int) -> None:
    places: SimpleQueue[int] = SimpleQueue()
    for place in range(jobs):
        places.put(place)
    failed: list[str] = []

    def make(value: Value) -> None:
        if failed:  # the others would probably fail too
            return
        place = places.get()
        begun = time.monotonic()
        log = states() / f"variants/{parameter}={value}.log" if jobs > 1 else None
        if _run_experiment(parameter, value, place, jobs, log):
            failed.append(f"{parameter} = {value}: the run has failed; see {log or 'above'}")
        else:
            write_json(_seconds(), {"seconds": time.monotonic() - begun})
        places.put(place)

    bar = tqdm(total=len(values), desc=parameter, unit=" runs")
    with bar, ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(make, values):
            bar.update()
    if failed:
        raise UserError(failed)


def _run_experiment(parameter: str, value: Value, place: int, jobs: int, log: Path | None) -> int:
    """Returns its exit code. It ends with this process; DVC makes its copy of the workspace while no other does."""
    command = ["dvc", "--wait-for-lock", "exp", "run", "--temp", "-S", f"{parameter}={value}"]
    if log is None:
        return subprocess.run(command, preexec_fn=die_with_parent).returncode
    from stages.lib.tuning.workers import share_of_machine  # it imports torch, which takes seconds

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        share = share_of_machine(place, jobs)
        return subprocess.run(
            command, env=share, stdout=output, stderr=subprocess.STDOUT, preexec_fn=die_with_parent
        ).returncode


def _seconds() -> Path:
    """Where the time of the last run is noted."""
    return states() / "variants/seconds.json"


def _last_seconds() -> float | None:
    return float(read_json(_seconds())["seconds"]) if _seconds().is_file() else None


def _check_tracked() -> None:
    """A copy by DVC holds what git or DVC keeps: without a file of the code, the run would be another. One that lacks
    raw files stops by itself."""
    stages = YAML(typ="safe", pure=True).load(PIPELINE)["stages"]
    deps = {dep for stage in stages.values() for dep in stage.get("deps", ()) if "$" not in dep}
    # of a task, the code is the project's, and git lists nothing behind a link
    paths = [str(Path(path).resolve()) for path in (PIPELINE, PARAMS, *sorted(deps)) if Path(path).exists()]
    if unknown := _git("ls-files", "--others", "--exclude-standard", "--", *paths).splitlines():
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise UserError(f"{', '.join(unknown[:_SHOWN])}{more}: unknown to git, so a copy by DVC lacks it: `git add` it")


def _check_finished() -> None:
    if not LOCK.is_file():
        raise UserError(f"{LOCK}: there is none, so the pipeline has never run: run `make repro`")
    result = subprocess.run(["dvc", "status", "--json", PIPELINE], capture_output=True, text=True)
    if result.returncode:
        raise UserError(result.stderr.strip().splitlines() or "dvc status failed")
    if stale := list(json.loads(result.stdout)):
        raise UserError(
            f"the workspace has no finished run of {PARAMS} to start from ({', '.join(stale)} would run): "
            "run `make repro`, or `make pull` if others have shared it"
        )


def _present_lock() -> Lock:
    return Lock.parse(LOCK.read_text("utf-8"))


def _lock_of(revision: str) -> Lock:
    found = [_git("rev-parse", "--verify", "-q", f"{revision}^{{commit}}").strip(), *_experiments(revision)]
    if not (commit := next(filter(None, found), None)):
        raise UserError(f"{revision}: neither a commit nor an experiment")
    return _lock_at(commit, revision)


def _lock_at(commit: str, name: str) -> Lock:
    if not (text := _git("show", f"{commit}:./{LOCK}")):
        raise UserError(f"{name}: no {LOCK}, so the pipeline has never run there")
    return Lock.parse(text)


def _experiments(name: str = "*") -> list[str]:
    """The commits of the experiments that DVC keeps, at refs/exps/XX/REST/NAME for one that started from XXREST."""
    return _git("for-each-ref", "--format=%(objectname)", f"refs/exps/??/*/{name}").splitlines()


def _git(*arguments: str) -> str:
    """What it prints; nothing if there is no such thing."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout
