"""What happens between the steps of training: evaluation, checkpoints, early stopping and the progress bar."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from stages.lib.training.checkpoints import keep_only


def best_steps(state: TrainerState, most: int) -> list[int]:
    """The steps of at most so many evaluations, the best first. Among equals, the earlier step comes first."""
    points = [entry for entry in state.log_history if "eval_loss" in entry]
    points.sort(key=lambda entry: -entry["eval_score"] if "eval_score" in entry else entry["eval_loss"])
    return [int(entry["step"]) for entry in points[:most]]


def patience_is_over(state: TrainerState, patience: int) -> bool:
    """Whether `patience` evaluations have passed since the best one. The state is part of every checkpoint."""
    steps = [entry["step"] for entry in state.log_history if "eval_loss" in entry]
    return bool(steps) and len(steps) - 1 - steps.index(best_steps(state, 1)[0]) >= patience


class EvaluationSchedule(TrainerCallback):
    """Evaluates and saves at evenly spaced steps, the last step included: each can turn out to be the best."""

    def __init__(self, steps: int, evals_per_run: int) -> None:
        self._at = {round(steps * number / evals_per_run) for number in range(1, evals_per_run + 1)}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        if state.global_step in self._at:
            control.should_log = control.should_evaluate = control.should_save = True
        return control


class EarlyStopping(TrainerCallback):
    """Ends training after `patience` evaluations without a better one."""

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        if patience_is_over(state, self._patience):
            control.should_training_stop = True
        return control


class Checkpointing(TrainerCallback, ExportableState):
    """Saves every `seconds`, and at once when training is asked to stop. After each complete checkpoint, older ones are
    deleted, except for the `best` ones."""

    def __init__(self, trainer: Any, seconds: float, best: int, asked_to_stop: Callable[[], bool]) -> None:
        self._trainer, self._seconds, self._best, self._asked_to_stop = trainer, seconds, best, asked_to_stop
        self._saved_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """What Trainer does not save: each process's training loss since the last point of the curve, and how often
        micro-batches were halved."""
        trainer: Any = self._trainer
        if not hasattr(trainer, "unlogged"):  # Trainer also calls this before the first step
            return {}
        logged_at = trainer._globalstep_last_logged
        return {"losses": trainer.unlogged, "logged_at": logged_at, "halvings": trainer.halvings}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step:
            trainer: Any = self._trainer
            saved = cast(Any, state.stateful_callbacks)[type(self).__name__]
            trainer._tr_loss += saved["losses"][args.process_index]
            trainer.halvings = saved["halvings"]
            trainer._globalstep_last_logged = saved["logged_at"]
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        is_due, stops = self._agreed(time.monotonic() - self._saved_at > self._seconds, self._asked_to_stop())
        if is_due or stops:
            control.should_save = True
        if stops:
            control.should_training_stop = True
        return control

    def _agreed(self, *wishes: bool) -> list[bool]:
        """What any process wishes, on all of them: a process that saves alone would wait for the others forever."""
        if self._trainer.args.world_size == 1:
            return list(wishes)
        sums = torch.tensor(wishes, dtype=torch.float32, device=self._trainer.args.device)
        return [count > 0 for count in self._trainer.accelerator.reduce(sums, "sum").tolist()]

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            keep_only(Path(str(args.output_dir)), {state.global_step, *best_steps(state, self._best)})
        self._saved_at = time.monotonic()


class Progress(TrainerCallback):
    """A bar with the newest losses and the tokens read per second."""

    def __init__(self, trainer: Any, title: str) -> None:
        self._trainer, self._title = trainer, title
        self._shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        hidden = not state.is_world_process_zero
        self._bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc=self._title, unit=" steps", disable=hidden
        )
        self._begun, self._tokens = time.monotonic(), self._trainer.tokens

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        tokens = (self._trainer.tokens - self._tokens) * args.world_size
        self._shown["tokens/s"] = f"{tokens / (time.monotonic() - self._begun):,.0f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for name, label in (("loss", "train"), ("eval_loss", "validation"), ("eval_score", "score")):
            if (value := kwargs["logs"].get(name)) is not None:
                self._shown[label] = f"{value:.3f}"

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._bar.close()
