"""The loop of training, from the first update to the best weights.

accelerate connects the processes, wraps the network for data parallelism and speaks to trackers.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from torch import nn
from transformers import PreTrainedModel

from stages.lib.core.process import UserError
from stages.lib.models.devices import autocast
from stages.lib.models.layouts import Layout
from stages.lib.models.losses import losses_of
from stages.lib.models.memory import is_sharded
from stages.lib.params.machine import Machine
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.checkpoints import Checkpoints
from stages.lib.training.micro_batches import make_collator
from stages.lib.training.optimizers import make_optimizer
from stages.lib.training.progress import REPORTS, Progress
from stages.lib.training.sampler import BatchSampler, UpdateLoader, batches_per_epoch
from stages.lib.training.schedules import learning_rate_factor
from stages.lib.training.state import Curve, State
from stages.lib.training.update import Gradient, SummedLoss
from stages.lib.training.validation import Scorer, ValidationLoss

_CURVE_POINTS = 100


class Diverged(UserError):
    """The loss is no longer a finite number."""


class Loop:
    """One training run. The network is on its device.

    Args:
        layout: of its batches.
        asked_to_stop: whether the run has to save its state and end.
        class_weights: target ids of a label -> its weight in the loss.
        loss_of: that is minimised; None is the cross entropy.
        watch: gets the curve after every evaluation, and can end the run by an exception.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        train: TokenizedDataset,
        validation: TokenizedDataset,
        layout: Layout,
        settings: FitSettings,
        machine: Machine,
        folder: Path,
        title: str,
        asked_to_stop: Callable[[], bool],
        scorer: Scorer | None = None,
        class_weights: Mapping[tuple[int, ...], float] | None = None,
        loss_of: SummedLoss | None = None,
        watch: Callable[[Curve], None] | None = None,
    ) -> None:
        self._network, self._train, self._settings, self._machine = network, train, settings, machine
        self._title, self._asked_to_stop, self._scorer, self._loss_of = title, asked_to_stop, scorer, loss_of
        self._watch = watch
        self._accelerator = _accelerator(machine)
        self._collate = make_collator(network, train, layout, settings, class_weights)
        self._validation_loss = ValidationLoss(network, validation, layout, settings, self._accelerator)
        self._optimizer = make_optimizer(network, settings)
        self._checkpoints = Checkpoints(folder, network, self._optimizer, self._accelerator, title)
        self._steps = update_steps(train, settings)
        self._state, self._began = State(), 0.0
        self.stopped = False  # before its end, with its state saved

    def run(self) -> State:
        """Trains, from the newest complete checkpoint if there is one. Afterwards the network has its best weights.

        Raises:
            Diverged: the loss is no longer a finite number.
            OutOfMemory: no smaller micro-batch helps.
            UserError: a checkpoint can't be written.
        """
        set_seed(self._settings.seed, device_specific=True)  # each process draws its own dropout
        checkpoint = self._checkpoints.newest()
        if checkpoint is not None:
            self._state = self._checkpoints.restore(checkpoint)
        if not self._is_over():
            self._make_updates()
        if not self.stopped:
            self.load_mean(self._state.curve.best_steps(1))
        return self._state

    def load_mean(self, steps: Sequence[int]) -> None:
        """Gives the network the mean weights of the checkpoints of these steps."""
        self._checkpoints.load_mean(steps)

    def evaluate_metric(self) -> float:
        """The value of the present weights that decides between checkpoints: the score, or else the loss."""
        return self._validation_loss() if self._scorer is None else self._score(self._scorer)

    def _make_updates(self) -> None:
        state, settings = self._state, self._settings
        order = self._order(done=state.step)
        updates = UpdateLoader(self._train, order, self._collate, self._machine.loader_workers)
        gradient = Gradient(
            self._wrapped(), self._network, settings, self._accelerator, state, self._title, self._loss_of
        )
        weights = [own for own in self._network.parameters() if own.requires_grad]
        with closing(Progress(self._accelerator, self._title, self._steps, state.step)) as progress:
            saved_at, self._began = time.monotonic(), time.monotonic() - state.seconds
            for update in updates:
                self._set_learning_rate()
                loss = gradient(update)
                self._check_finite(loss)
                self._accelerator.clip_grad_norm_(weights, settings.max_grad_norm)
                self._optimizer.step()
                self._optimizer.zero_grad()
                state.note_loss(loss)
                is_late = time.monotonic() - saved_at > self._machine.checkpoint_seconds
                is_late, self.stopped = self._agreed(is_late, self._asked_to_stop())
                evaluates = self._evaluation_is_due()
                if evaluates or state.step % max(1, self._steps // _CURVE_POINTS) == 0:
                    progress.log(state.step, train_loss=state.end_point())
                if evaluates:
                    progress.log(state.step, **self._evaluate())
                    if self._watch is not None:  # before the checkpoint: a run that ends here ends here again
                        self._watch(state.curve)
                if evaluates or is_late or self.stopped:
                    self._checkpoints.save(state, kept=state.curve.best_steps(settings.average_checkpoints))
                    saved_at = time.monotonic()
                progress.advance(update["tokens"])
                if self.stopped or self._is_over():
                    break

    def _order(self, done: int = 0) -> BatchSampler:
        rank, processes = self._accelerator.process_index, self._accelerator.num_processes
        return BatchSampler(self._train.lengths(), self._settings, rank, processes, done)

    def _wrapped(self) -> nn.Module:
        """The network as it computes gradients: together with other processes, and compiled."""
        network: Any = self._network
        if not is_sharded(network):
            network = self._accelerator.prepare_model(network)
        wrapped: Any = torch.compile(network) if self._settings.compile else network
        return cast(nn.Module, wrapped)

    def _set_learning_rate(self) -> None:
        progress, warmup = self._progress(), self._settings.warmup_fraction
        if progress < warmup:  # the warm-up counts this update too, else the first one would have a rate of 0
            progress = min(progress + 1 / self._steps, warmup)
        factor = learning_rate_factor(self._settings, progress)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _progress(self) -> float:
        """The share of the run that is over, by its updates or by `max_minutes`."""
        minutes = self._settings.max_minutes
        return max(self._state.step / self._steps, self._state.seconds / (60 * minutes) if minutes else 0.0)

    def _is_over(self) -> bool:
        return self._progress() >= 1 or self._state.curve.patience_is_over(self._settings.early_stopping_patience)

    def _evaluation_is_due(self) -> bool:
        """Evaluations are evenly spaced, and the last one is at the end."""
        due, done = (
            math.floor(share * self._settings.evals_per_run + 1e-9)
            for share in (self._progress(), self._state.evaluated)
        )
        return due > done or self._progress() >= 1

    def _evaluate(self) -> dict[str, float]:
        step, curve = self._state.step, self._state.curve
        values = {"eval_loss": self._validation_loss()}
        if not math.isfinite(values["eval_loss"]):
            raise Diverged(
                f"{self._title}: the validation loss is {values['eval_loss']} at step {step}; lower "
                f"fit.learning_rate or fit.max_grad_norm"
            )
        if self._scorer is not None:
            values["eval_score"] = self._score(self._scorer)
            curve.scores.append((step, values["eval_score"]))
        curve.validation.append((step, values["eval_loss"]))
        self._agreed()  # an evaluation takes time too
        self._state.evaluated = self._progress()
        return values

    def _score(self, scorer: Scorer) -> float:
        """Of the same texts in every process. Their last digits may differ, and the choice of checkpoints must not."""
        with autocast(self._settings.precision):
            own = torch.tensor(scorer(self._network), dtype=torch.float64, device=self._accelerator.device)
        return float(self._accelerator.reduce(own, "mean"))

    def _agreed(self, *wishes: bool) -> list[bool]:
        """What any process wishes: one that saves alone would wait for the others forever. Notes the time too."""
        own = torch.tensor(
            [[time.monotonic() - self._began, *wishes]], dtype=torch.float64, device=self._accelerator.device
        )
        self._state.seconds, *wished = self._accelerator.gather(own).amax(0).tolist()
        return [wish > 0 for wish in wished]

    def _check_finite(self, loss: float) -> None:
        """Raises Diverged, in every process, if the loss of the update is not finite."""
        if math.isfinite(loss):
            return
        batch = [self._train[index] for index in self._order().at(self._state.step)]
        broken = [each for each in batch if not torch.isfinite(losses_of(self._network, [each])[0]).all()]
        where = f"{self._title}: the training loss is no finite number at step {self._state.step + 1}"
        if 0 < len(broken) < len(batch):
            names = _some([each.id for each in broken])
            raise Diverged(f"{where}: of {len(batch)} examples in the batch, on {names} (ids as in data/prepare/train)")
        names = _some([each.id for each in batch])
        raise Diverged(
            f"{where}, on the whole batch of {names} (ids as in data/prepare/train): lower fit.learning_rate or "
            f"fit.max_grad_norm"
        )


def update_steps(train: TokenizedDataset, settings: FitSettings) -> int:
    return max(1, math.ceil(batches_per_epoch(train.lengths(), settings) * settings.epochs))


def _accelerator(machine: Machine) -> Accelerator:
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        log_with=list(machine.report_to) or None,
        project_config=ProjectConfiguration(logging_dir=str(REPORTS / "tensorboard")),
        # a batch may pass by some weights, such as experts or a pooler
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
