"""The trials of a search in a database, which any number of processes and machines work on.

A trial that runs has a lease, which its process renews. One whose process is dead goes back to the queue with its
number and its settings, and who asks next goes on with it.
"""

import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from stages.lib.core.process import UserError, first_line
from stages.lib.tuning.samplers import EXAMPLE_LOSSES
from stages.lib.tuning.space import Settings, Space

_PLACE = "params.yaml: machine -> study_database"
_RENEWED_SECONDS = 10.0  # the lease
_DEAD_SECONDS = 90.0  # without a renewal
_LOOK_SECONDS = 1.0  # between two looks at what others do
_OPENINGS = 3  # tries to open the database
_LOCKED_SECONDS = 120  # that a process waits for others to write into a file


@dataclass(frozen=True)
class Objective:
    """What a search looks for: a good value of the metric and, if `cost` names one, a low cost."""

    metric: str
    cost: str | None = None

    @property
    def directions(self) -> list[StudyDirection]:
        own = StudyDirection.MINIMIZE if self.metric == "loss" else StudyDirection.MAXIMIZE
        return [own] if self.cost is None else [own, StudyDirection.MINIMIZE]

    def rank(self, value: float) -> float:
        """The lower, the better."""
        return value if self.metric == "loss" else -value


@dataclass(frozen=True)
class Budget:
    """No trial begins after one of these is used up. Seconds and updates are those of all ended trials together."""

    trials: int
    updates: float = float("inf")
    seconds: float = float("inf")


@dataclass(frozen=True)
class Trial:
    """One that has ended. Its settings are those that it has read."""

    number: int  # from 0, which has the settings of params.yaml
    state: str  # complete | pruned | failed
    settings: Settings
    value: float | None  # of the metric; None: failed
    cost: float | None
    updates: int
    seconds: float
    reason: str  # of a failed one
    course: dict[int, float]  # evaluation, from 1 -> value of the metric


class Pruned(Exception):
    """The trial is to end: others were better at the same evaluation."""


class Study:
    """The trials of one search.

    Args:
        url: of the database, as SQLAlchemy writes it.
        name: of the study; who gives the same name works on the same trials.
        owner: of the trials that this machine runs.

    Raises:
        UserError: the database can't be reached.
    """

    def __init__(
        self,
        url: str,
        name: str,
        objective: Objective,
        sampler: BaseSampler,
        pruner: BasePruner,
        budget: Budget,
        owner: str,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", ExperimentalWarning)
        self.objective, self._budget, self._owner = objective, budget, owner
        self._leases: dict[int, tuple[Any, float]] = {}  # number -> the newest lease, and when it was first seen
        self._url = url
        with _opening_errors(url):
            self._storage = _opened(url)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=objective.directions,
                sampler=sampler,
                pruner=pruner,
                load_if_exists=True,
            )

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Raises UserError where the database does not answer in this block, or the disk of its file is full."""
        try:
            yield
        except StorageInternalError as error:
            raise _unusable(self._url, error) from None

    def take_over(self) -> None:
        """Puts back the trials that an earlier process of this machine has left. No other one may run."""
        for trial in self._running():
            if trial.user_attrs.get("owner") == self._owner:
                self._put_back(trial)

    def next(self) -> "Attempt | None":
        """The next trial to run. Waits while others run the last ones; None where all have ended."""
        while True:
            self._put_back_dead()
            trials = self._study.get_trials(deepcopy=False)
            if any(trial.state == TrialState.WAITING for trial in trials) or not self._is_spent(trials):
                trial = self._study.ask()
                if trial.number < self._budget.trials:
                    return Attempt(self._study, trial, self._owner, self.objective)
                self._study.tell(trial, state=TrialState.FAIL)  # another process has asked for the last one
            elif not self._running():
                return None
            time.sleep(_LOOK_SECONDS)

    def trials(self) -> list[Trial]:
        """Those that have ended, in the order of their numbers."""
        ended = self._study.get_trials(deepcopy=False)[: self._budget.trials]
        return [_ended(trial) for trial in ended if trial.state.is_finished()]

    def fail(self, process: int, reason: str) -> bool:
        """Ends the trial that a process of this machine has left, as failed. Returns whether it has left one."""
        owned = [trial for trial in self._running() if trial.user_attrs.get("owner") == self._owner]
        left = [trial for trial in owned if trial.user_attrs.get("process") == process]
        for trial in left:
            self._storage.set_trial_user_attr(self._id_of(trial), "reason", reason)
            self._study.tell(trial.number, state=TrialState.PRUNED)
        return bool(left)

    def _is_spent(self, trials: Sequence[FrozenTrial]) -> bool:
        """Also while the trials that run will spend the rest."""
        updates, seconds = (
            sum(float(trial.user_attrs.get(name, 0)) for trial in trials) for name in ("updates", "seconds")
        )
        return len(trials) >= self._budget.trials or updates >= self._budget.updates or seconds >= self._budget.seconds

    def _running(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _put_back_dead(self) -> None:
        """A lease counts by the clock of who looks, so clocks of machines may differ."""
        now = time.monotonic()
        for trial in self._running():
            lease = trial.user_attrs.get("lease")
            known, seen = self._leases.get(trial.number, (None, now))
            if lease != known:
                seen = now
            self._leases[trial.number] = lease, seen
            if now - seen > _DEAD_SECONDS:
                self._put_back(trial)

    def _put_back(self, trial: FrozenTrial) -> None:
        try:
            self._storage.set_trial_state_values(self._id_of(trial), TrialState.WAITING)
        except UpdateFinishedTrialError:  # it was not dead
            return
        self._leases.pop(trial.number, None)

    def _id_of(self, trial: FrozenTrial) -> int:
        study = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)


class Attempt:
    """A trial that runs in this process."""

    def __init__(self, study: optuna.Study, trial: optuna.Trial, owner: str, objective: Objective) -> None:
        self._study, self._trial = study, trial
        self.number, self.cost = trial.number, objective.cost
        # of a process that was killed: its effort at its last evaluation
        self._updates, self._before = trial.user_attrs.get("updates", 0), trial.user_attrs.get("seconds", 0.0)
        self._begun = time.monotonic()
        known = study.get_trials(deepcopy=False)[trial.number]
        self._reported = set(known.intermediate_values)  # by a process that was killed
        self._renewals = int(known.user_attrs.get("lease", 0))
        trial.set_user_attr("owner", owner)
        trial.set_user_attr("process", os.getpid())

    def suggest(self, space: Space) -> Settings:
        """The settings of the trial."""
        settings = space.suggest(self._trial)
        self.take(settings)
        return settings

    def take(self, settings: Settings) -> None:
        """Notes the settings of a trial that did not suggest them."""
        self._trial.set_user_attr("settings", settings)

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Others leave the trial alone in this block."""
        over = threading.Event()

        def renew() -> None:
            while True:
                self._renewals += 1
                with suppress(StorageInternalError, UpdateFinishedTrialError):  # who trains finds out too
                    self._trial.set_user_attr("lease", self._renewals)
                if over.wait(_RENEWED_SECONDS):
                    return

        renewing = threading.Thread(target=renew, daemon=True)
        renewing.start()
        try:
            yield
        finally:
            over.set()
            renewing.join()

    def report(self, evaluation: int, updates: int, value: float, losses: Sequence[float] = ()) -> None:
        """Notes the value of the metric at an evaluation, from 1, after so many updates. The first trial, which others
        are compared with, always goes on.

        Args:
            losses: of each validation example, for a pruner that compares them.

        Raises:
            Pruned: the trial is to end.
        """
        self._note_effort(updates)
        if self.cost is not None:  # Optuna notes and prunes with one objective
            return
        if losses:
            self._trial.set_user_attr(f"{EXAMPLE_LOSSES}{evaluation}", list(losses))
        if evaluation not in self._reported:
            self._trial.report(value, evaluation)
        if self._trial.should_prune() and self.number > 0:
            raise Pruned

    def complete(self, values: Sequence[float], updates: int) -> None:
        self._note_effort(updates)
        self._study.tell(self._trial, list(values))

    def prune(self) -> None:
        self._note_effort(self._updates)
        self._study.tell(self._trial, state=TrialState.PRUNED)

    def fail(self, reason: str) -> None:
        """A failed trial is a bad one for the sampler, which then avoids its settings."""
        self._trial.set_user_attr("reason", reason)
        self.prune()

    def _note_effort(self, updates: int) -> None:
        self._updates = updates
        self._trial.set_user_attr("updates", updates)
        self._trial.set_user_attr("seconds", self._before + time.monotonic() - self._begun)


def _ended(trial: FrozenTrial) -> Trial:
    told, course = trial.user_attrs, dict(trial.intermediate_values)
    reason = told.get("reason", "")
    state = "failed" if reason else "complete" if trial.state == TrialState.COMPLETE else "pruned"
    values = trial.values or []
    value = None if state == "failed" else values[0] if values else None
    return Trial(
        number=trial.number,
        state=state,
        settings=told.get("settings", {}),
        value=value,
        cost=values[1] if len(values) > 1 else None,
        updates=told.get("updates", 0),
        seconds=told.get("seconds", 0.0),
        reason=reason,
        course=course,
    )


def _opened(url: str) -> RDBStorage:
    """Of processes that open a new database at the same moment, one makes its tables, and the others find them a little
    later."""
    options = {"connect_args": {"timeout": _LOCKED_SECONDS}} if url.startswith("sqlite") else {}
    for _ in range(_OPENINGS - 1):
        with suppress(DBAPIError):
            return RDBStorage(url, engine_kwargs=options)
        time.sleep(_LOOK_SECONDS)
    return RDBStorage(url, engine_kwargs=options)


@contextmanager
def _opening_errors(url: str) -> Iterator[None]:
    try:
        make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UserError(f"{_PLACE}: this is no URL of a database: {first_line(error)}") from None
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{_PLACE}: {error.__cause__ or error}; install the driver and name it in the URL, such as psycopg2-binary "
            f"for postgresql+psycopg2://"
        ) from None
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:  # the last: another version of its tables
        raise _unusable(url, error) from None


def _unusable(url: str, error: Exception) -> UserError:
    shown, cause = make_url(url).render_as_string(hide_password=True), error.__cause__
    reason = first_line(cause if isinstance(cause, Exception) else error)
    return UserError(f"{_PLACE}: can't use {shown}: {reason}; mend that and run again: the search goes on")
