"""One fit: a model, its pairs and settings in; the model with the best validation loss and its curve out.

transformers' Trainer does the work; what is ours is the batches, the loss and when it is validated.
"""

import functools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from stages.lib.checkpoints import mark_complete, newest_complete
from stages.lib.devices import bfloat16_wanted
from stages.lib.families import family_of
from stages.lib.families.family import Batch
from stages.lib.losses import pair_losses, summed_loss
from stages.lib.models import check_reads_source, check_room
from stages.lib.pairs import Pairs
from stages.lib.params.fit import Fit
from stages.lib.process import UserError

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_POOL = 50  # batches whose pairs are sorted by length together: enough for little padding, few enough for chance
_CURVE_POINTS = 100


class Diverged(UserError):
    """The loss of a fit is no longer a finite number."""


@dataclass(frozen=True)
class Curve:
    """Losses in nats a target token, by update step; training loss as optimised, label smoothing included."""

    training: list[tuple[int, float]]
    validation: list[tuple[int, float]]

    def best(self) -> tuple[int, float]:
        return min(self.validation, key=lambda point: point[1])


def fit(
    network: PreTrainedModel, train: Pairs, validation: Pairs, settings: Fit, folder: Path, workers: int, title: str
) -> Curve:
    """Trains `network` in place and leaves it with the weights of its best validation.

    Args:
        folder: for checkpoints; one that a killed run of the same work left is gone on from.
        workers: processes that prepare batches.
        title: of the progress bar.

    Raises:
        UserError: a pair is longer than the model's context, or what it predicts does not depend on the source.
        Diverged: the loss is no longer a finite number.
    """
    for pairs in (train, validation):
        check_room(family_of(network), network.config, pairs)
    check_reads_source(network, train)
    steps = update_steps(len(train), settings)
    callbacks = [_Validate(steps, settings.validations), _Progress(title), _MarkComplete()]
    if settings.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    trainer = _TargetTrainer(
        network, train, validation, settings, _arguments(settings, steps, folder, workers), callbacks
    )
    # transformers' own bar would break ours at every checkpoint, and its remarks on them mean nothing here
    disable_progress_bar()
    set_verbosity_error()
    checkpoint = newest_complete(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return _curve(trainer.state)


def _curve(state: TrainerState) -> Curve:
    def points(name: str) -> list[tuple[int, float]]:
        return [(int(entry["step"]), entry[name]) for entry in state.log_history if name in entry]

    return Curve(training=points("loss"), validation=points("eval_loss"))


def update_steps(pairs: int, settings: Fit) -> int:
    return max(1, math.ceil(math.ceil(pairs / settings.batch_size) * settings.epochs))


def _arguments(settings: Fit, steps: int, folder: Path, workers: int) -> TrainingArguments:
    never = steps + 1  # `_Validate` chooses the steps; Trainer wants a period all the same
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=max(1, settings.batch_size // settings.micro_batches // processes),
        per_device_eval_batch_size=settings.batch_size // settings.micro_batches,
        gradient_accumulation_steps=settings.micro_batches,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULES[settings.schedule],
        warmup_steps=round(settings.warmup_fraction * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        neftune_noise_alpha=settings.neftune_alpha or None,
        optim="adamw_torch_fused",
        bf16=bfloat16_wanted(settings.precision),
        use_cpu=not torch.cuda.is_available(),  # else bf16 is refused where there is no GPU
        seed=settings.seed,
        eval_strategy="steps",
        eval_steps=never,
        save_strategy="steps",
        save_steps=never,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=max(1, steps // _CURVE_POINTS),
        logging_nan_inf_filter=False,
        dataloader_num_workers=workers,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )


class _TargetTrainer(Trainer):
    """Trainer with our batches, and losses that are means over all target tokens, not means of batch means."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        network: PreTrainedModel,
        train: Pairs,
        validation: Pairs,
        settings: Fit,
        arguments: TrainingArguments,
        callbacks: list[TrainerCallback],
    ) -> None:
        self._family = family_of(network)
        collate = functools.partial(self._family.training_batch, pad_id=int(network.config.pad_token_id))
        super().__init__(network, arguments, collate, train_dataset=train, eval_dataset=validation, callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self._network, self._train, self._validation, self._settings = network, train, validation, settings
        self.model_accepts_loss_kwargs = True  # so that it counts the target tokens of all micro-batches
        decayed = set(self.get_decay_parameter_names(network))  # what weight decay reaches, L1 does
        self._decayed = [w for name, w in network.named_parameters() if name in decayed and w.requires_grad]
        self._loss_shifts_labels = False  # our labels stand at the position that predicts them

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return _ByLength(self._train.lengths(), self._settings.batch_size, self._settings.seed)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = summed_loss(self._family, model, inputs, self._settings.label_smoothing)
        # the gradients of several processes are averaged, so each one's share is scaled up
        loss = loss / num_items_in_batch * self.args.world_size
        if self._settings.l1 and model.training:
            sizes = torch.stack([weights.abs().sum() for weights in self._decayed])
            loss = loss + self._settings.l1 * sizes.sum() / self.args.gradient_accumulation_steps
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        own = range(self.args.process_index, len(self._validation), self.args.world_size)
        losses = pair_losses(self._network, self._validation, own, self.args.eval_batch_size)
        sums = torch.zeros(2, dtype=torch.float64)
        for _, loss, tokens in losses:
            sums += torch.tensor([loss, tokens], dtype=torch.float64)
        total_loss, total_tokens = self.accelerator.reduce(sums.to(self.args.device), "sum").tolist()
        metrics = {"eval_loss": total_loss / total_tokens}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _ByLength(Sampler[int]):
    """Pairs in a new random order every epoch, alike in length within a batch; fixed by the seed and the epoch."""

    def __init__(self, lengths: np.ndarray[Any, Any], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self._epoch))
        order = random.permutation(len(self._lengths))
        batches: list[np.ndarray[Any, Any]] = []
        for start in range(0, len(order), self._batch_size * _POOL):
            pool = order[start : start + self._batch_size * _POOL]
            by_length = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += [by_length[at : at + self._batch_size] for at in range(0, len(pool), self._batch_size)]
        # only the last batch can be short, and the loader cuts batches by count: it must stay the last
        for index in [*random.permutation(len(batches) - 1), len(batches) - 1]:
            yield from batches[index].tolist()


class _Validate(TrainerCallback):
    """Validates and saves at evenly spaced steps, the last one among them."""

    def __init__(self, steps: int, validations: int) -> None:
        self._at = {round(steps * number / validations) for number in range(1, validations + 1)}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        if state.global_step in self._at:
            # logged as well: a loss not yet logged is no part of the checkpoint, and the curve would differ on resume
            control.should_log = control.should_evaluate = control.should_save = True
        return control


class _MarkComplete(TrainerCallback):
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


class _Progress(TrainerCallback):
    """A bar with the newest losses, and an end to a fit whose loss is no number."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._losses: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        hidden = not state.is_world_process_zero
        self._bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc=self._title, unit=" steps", disable=hidden
        )

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for name, label in (("loss", "train"), ("eval_loss", "validation")):
            if (value := kwargs["logs"].get(name)) is not None:
                if not math.isfinite(value):
                    raise Diverged(
                        f"{self._title}: the {label} loss is {value} at step {state.global_step}; "
                        f"lower fit.learning_rate or fit.max_grad_norm"
                    )
                self._losses[label] = f"{value:.3f}"
        self._bar.set_postfix(self._losses, refresh=False)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._bar.close()
