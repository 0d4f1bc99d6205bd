"""A search: trials until the budget is used up, then the best few at full length.

Each process works on both studies until nothing is left to do, and all find the same outcome.
"""

import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler

from stages.lib.core.process import UserError, first_line
from stages.lib.models.cost import duration
from stages.lib.models.memory import OutOfMemory
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import OWN, Model
from stages.lib.params.tune_hyperparameters import MODEL, TuneHyperparameters
from stages.lib.training.checkpoints import Unwritable
from stages.lib.training.loop import Diverged
from stages.lib.tuning.confirmation import Confirmed, by_value, confirmed, finalists
from stages.lib.tuning.samplers import make_pruner, make_sampler, trial_count
from stages.lib.tuning.space import Settings, Space, listed
from stages.lib.tuning.study import Attempt, Budget, Objective, Pruned, Study, Trial
from stages.lib.tuning.trials import Candidates, Result, Watch, run_trial, settings_of_trial

STAGE = "tune-hyperparameters"


@dataclass(frozen=True)
class Outcome:
    objective: Objective
    trials: list[Trial]
    confirmed: list[Confirmed]  # the best first; empty without confirmation
    best: Trial

    def conclusion(self) -> Iterator[str]:
        """What a person has to know at the end of the search."""
        ended = Counter(trial.state for trial in self.trials)
        others = "".join(f", {ended[state]} {state}" for state in ("pruned", "failed") if ended[state])
        place = f"trial {self.best.number + 1} of {len(self.trials)} is best{others}"
        yield f"{place}; {self.objective.metric} {self.best.value:.4f}: {listed(self.best.settings)}"
        if self.confirmed:
            yield f"at full length: {'; '.join(map(_told, self.confirmed))}"
        yield from self.notes()

    def notes(self) -> Iterator[str]:
        """What makes the choice less sure."""
        short = by_value(self.trials, self.objective)[0].number
        if self.confirmed and short != self.best.number:
            yield (
                f"trial {short + 1} was best when short, and is not at full length: trust short trials less, or raise "
                f"tune_hyperparameters.epochs and max_train_examples"
            )


def _told(own: Confirmed) -> str:
    spread = "" if own.sd is None else f" ± {own.sd:.4f}"
    chance = "" if own.chance_best is None else f" ({own.chance_best:.0%} sure to be the best)"
    return f"trial {own.number + 1} {own.mean:.4f}{spread}{chance}"


class Search:
    """The search of the stage. The first trial has the settings of params.yaml, so what is chosen is not worse.

    Args:
        models: name -> model that a trial can have.
        folders: name -> tokenized data.
        folder: for the state. Its name stands for all that decides the outcome.

    Raises:
        UserError: a search that can't go well, or a database that can't be reached.
    """

    def __init__(
        self,
        params: TuneHyperparameters,
        fit: Fit,
        models: Mapping[str, Model],
        machine: Machine,
        folders: Mapping[str, Path],
        folder: Path,
    ) -> None:
        self.space, self.objective = Space(params, fit, list(models)), Objective(params.metric, params.cost)
        self.most = trial_count(params, self.space)
        self._params, self._fit, self._machine, self._folder = params, fit, machine, folder
        self._candidates: Callable[..., Candidates] = partial(Candidates, models, folders)
        most = Budget(self.most, params.max_updates or float("inf"), 60 * (params.max_minutes or float("inf")))
        sampler, pruner = make_sampler(params, self.space), make_pruner(params, fit.evals_per_run)
        self._study = self._opened("trials", self.objective, sampler, pruner, most)

    def plan(self) -> str:
        """What the search will do at most."""
        params, confirm = self._params, self._params.confirm
        whole = f" of a grid of {len(self.space.grid):,}" if params.sampler == "grid" else ""
        again = f", then {confirm.trials + 1} x {confirm.seeds} runs at full length" if confirm.trials else ""
        names = ", ".join(self.space.names)
        return f"{self.most} trials{whole} over {names}{again}"

    def take_over(self) -> None:
        """Before work, in the only process of this machine: goes on with the trials that a killed one has left."""
        self._study.take_over()
        self._confirming().take_over()

    def work(self) -> None:
        """Runs trials as long as there are any to run, then confirms the best.

        Raises:
            UserError: the settings of params.yaml can't be trained, the disk is full, or the database is gone.
            SystemExit: SIGTERM has come; the state is saved.
        """
        with self._study.answering():
            self._search()
            self._confirm()

    def fail(self, process: int, reason: str) -> bool:
        """Ends what a process of this machine has left, as failed. Returns whether it has left anything."""
        return any([study.fail(process, reason) for study in (self._study, self._confirming())])

    def outcome(self) -> Outcome:
        """When all work is done.

        Raises:
            UserError: no trial has ended well, or none of those at full length.
        """
        trials, runs = self._study.trials(), self._confirming().trials()
        ranking = by_value(trials, self.objective)
        if not ranking:
            raise UserError(
                f"{STAGE}: no trial has ended well; lower fit.learning_rate and its search, or fit.micro_batch_tokens"
            )
        ended = confirmed(self._finalists(), runs, self._params.confirm.seeds, self.objective)
        if runs and not ended:
            raise UserError(f"{STAGE}: no run at full length has ended well; the first: {runs[0].reason}")
        best = next((trial for trial in ranking if ended and trial.number == ended[0].number), ranking[0])
        return Outcome(self.objective, trials, ended, best)

    def _search(self) -> None:
        params = self._params
        candidates = self._candidates(params.max_train_examples, params.max_validation_examples)
        while (attempt := self._study.next()) is not None:
            settings = attempt.suggest(self.space)
            run = partial(self._train, settings, params.epochs, candidates)
            self._try(attempt, f"trial {attempt.number + 1}/{self.most}", run)
            self._say(self._study.trials(), attempt.number)

    def _confirm(self) -> None:
        finals, (seeds, epochs) = self._finalists(), (self._params.confirm.seeds, self._params.confirm.epochs)
        if not finals:
            return
        study, candidates = self._confirming(), self._candidates(None, None)
        while (attempt := study.next()) is not None:
            final, seed = finals[attempt.number // seeds], self._fit.seed + attempt.number % seeds
            settings = final.settings | {"seed": seed}
            attempt.take(settings)
            title = f"confirmation {attempt.number + 1}/{len(finals) * seeds}"
            self._try(attempt, title, partial(self._train, settings, epochs, candidates))

    def _finalists(self) -> list[Trial]:
        return finalists(self._study.trials(), self.objective, self._params.confirm.trials)

    def _confirming(self) -> Study:
        """The study of the finalists, with a run for each seed. It is for when the trials have ended."""
        runs = Budget(len(self._finalists()) * self._params.confirm.seeds)
        return self._opened("confirmation", Objective(self._params.metric), RandomSampler(), NopPruner(), runs)

    def _opened(
        self, name: str, objective: Objective, sampler: BaseSampler, pruner: BasePruner, budget: Budget
    ) -> Study:
        url = self._machine.study_database or f"sqlite:///{self._folder / 'study.db'}"
        return Study(url, f"{self._folder.name}-{name}", objective, sampler, pruner, budget, self._owner())

    def _owner(self) -> str:
        """Names this machine, or rather its folder, in a database that it shares."""
        file = self._folder / "owner"
        if not file.exists():
            file.write_text(uuid.uuid4().hex)
        return file.read_text()

    def _train(
        self, settings: Settings, epochs: float, candidates: Candidates, folder: Path, title: str, watch: Watch
    ) -> Result:
        name = settings.get(MODEL, OWN)
        examples = len(candidates.open(name).validation)
        values = settings_of_trial(self.space.values(settings), epochs, self._params.metric, examples)
        with_losses = self._params.pruner == "wilcoxon"
        return run_trial(candidates, name, values, self._machine, folder, title, watch, with_losses)

    def _try(self, attempt: Attempt, title: str, train: Callable[[Path, str, Watch], Result]) -> None:
        """One trial, from the checkpoint of a killed process if there is one."""
        folder = self._folder / title.partition("/")[0].replace(" ", "-")
        with suppress(UpdateFinishedTrialError):  # others took it for dead, and have ended it
            self._end(attempt, title, partial(train, folder, title, attempt.report))
        shutil.rmtree(folder, ignore_errors=True)

    def _end(self, attempt: Attempt, title: str, train: Callable[[], Result]) -> None:
        try:
            with attempt.lease():
                result = train()
        except Pruned:
            attempt.prune()
        except (Unwritable, StorageInternalError, UpdateFinishedTrialError):
            raise
        except Exception as error:
            # what the settings of params.yaml do wrong is a mistake there, or in the code
            if attempt.number == 0 and not isinstance(error, Diverged | OutOfMemory):
                raise
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            attempt.fail(f"{kind}{first_line(error).removeprefix(f'{title}: ')}")
        else:
            costs = {"parameters": result.parameters, "flops": result.flops}
            cost = [] if attempt.cost is None else [costs[attempt.cost]]
            attempt.complete([result.value, *cost], result.updates)

    def _say(self, trials: Sequence[Trial], number: int) -> None:
        """A line on the trial that has just ended, the best so far, and the time that is left."""
        own = next(trial for trial in trials if trial.number == number)
        told = own.reason if own.value is None else f"{self._params.metric} {own.value:.4f}"
        line = f"{STAGE}: trial {number + 1} of {self.most} {own.state}, {told}: {listed(own.settings)}"
        if ranking := by_value(trials, self.objective):
            line += f"; best so far {ranking[0].value:.4f} of trial {ranking[0].number + 1}"
        if left := self.most - len(trials):
            seconds = left * sum(trial.seconds for trial in trials) / len(trials) / self._machine.tune_workers
            line += f"; about {duration(seconds)} left"
        print(line, flush=True)
