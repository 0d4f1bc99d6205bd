"""One training run: a network, its examples and settings in; the best weights on validation and the curve out.

`trainer.py` computes the steps. This module does the rest: checks, resuming, and the choice of the best checkpoint.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from stages.lib.checkpoint.architecture import check_room
from stages.lib.core.process import UserError, termination
from stages.lib.models.devices import move_to_own_device
from stages.lib.models.families import interface_of
from stages.lib.models.loading import check_reads_source
from stages.lib.params.machine import Machine
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.callbacks import Checkpointing, EarlyStopping, EvaluationSchedule, Progress, best_steps
from stages.lib.training.checkpoints import mean_weights
from stages.lib.training.fsdp import ShardedTrainer, shard
from stages.lib.training.kernels import check_compiler, check_liger, fast_dropout_generator, fuse_gelu, use_attention
from stages.lib.training.neftune import neftune_noise
from stages.lib.training.sampler import batches_per_epoch
from stages.lib.training.trackers import check_trackers, tracker_callbacks
from stages.lib.training.trainable import load_weights
from stages.lib.training.trainer import Scorer, TargetTrainer, autocast, no_memory_line, training_arguments


@dataclass(frozen=True)
class Curve:
    """Points of (update step, value). Losses are in nats per target token; the training loss is the one that is
    minimised, label smoothing included. There are scores on validation if `metric_for_best_model` names one."""

    training: list[tuple[int, float]]
    validation: list[tuple[int, float]]
    scores: list[tuple[int, float]]
    averaged: tuple[int, float] | None  # number of checkpoints, and value of their mean, if it is better than the best

    def best(self) -> tuple[int, float]:
        """Step of the best evaluation, and its loss, or its score if there are scores."""
        if self.scores:
            return max(self.scores, key=lambda point: point[1])
        return min(self.validation, key=lambda point: point[1])


def fit(
    network: PreTrainedModel,
    train: TokenizedDataset,
    validation: TokenizedDataset,
    settings: FitSettings,
    machine: Machine,
    folder: Path,
    title: str,
    scorer: Scorer | None = None,
) -> Curve:
    """Trains `network` in place. Afterwards it has the weights of its best checkpoint, or the mean of several.

    Args:
        folder: for checkpoints; training resumes from those of a killed run of the same work.
        title: of the progress bar, and in front of every message.
        scorer: its score chooses the best checkpoint, in place of the loss.

    Raises:
        UserError: an example is longer than the model's context, the model ignores the source, or a checkpoint can't be
            written.
        Diverged: the loss is no longer a finite number.
        SystemExit: SIGTERM has come; the state is saved.
    """
    with _end_of_memory_reported(title), termination() as asked_to_stop:
        place(network, machine)
        _check(network, train, validation, settings, machine)
        fuse_gelu(network)
        use_attention(network, settings)
        arguments = training_arguments(settings, update_steps(train, settings), folder, machine, title)
        trainer_class = ShardedTrainer if machine.sharded else TargetTrainer
        trainer = trainer_class(network, train, validation, settings, arguments, scorer, title)
        for callback in _callbacks(trainer, settings, machine, asked_to_stop):
            trainer.add_callback(callback)
        with neftune_noise(network, settings.neftune_alpha), fast_dropout_generator():
            trainer.run(settings.early_stopping_patience)
        if asked_to_stop():
            print(f"{title}: stopped and saved at step {trainer.state.global_step:,}; run it again to continue")
            raise SystemExit(128 + 15)
        averaged = _average(trainer, folder, settings.average_checkpoints)
    return Curve(trainer.points("loss"), trainer.points("eval_loss"), trainer.points("eval_score"), averaged)


@contextmanager
def _end_of_memory_reported(title: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(no_memory_line(title)) from None


def place(network: nn.Module, machine: Machine) -> None:
    """Moves the network, or this process's shard of it, to the device of this process."""
    if machine.sharded:
        shard(network)
    else:
        move_to_own_device(network)


def _check(
    network: PreTrainedModel,
    train: TokenizedDataset,
    validation: TokenizedDataset,
    settings: FitSettings,
    machine: Machine,
) -> None:
    """Raises UserError for settings and data that would make training fail later or learn nothing."""
    for dataset in (train, validation):
        check_room(interface_of(network).name, network.config, dataset.source_lengths(), dataset.target_lengths())
    with autocast(settings):  # FlashAttention can't compute in float32
        check_reads_source(network, train)
    if machine.gradient_checkpointing and not network.supports_gradient_checkpointing:
        raise UserError(f"params.yaml: machine -> gradient_checkpointing: {type(network).__name__} can't; write false")
    if settings.liger:
        check_liger(network)
    if settings.compile:
        check_compiler()
    check_trackers(machine.report_to)


def update_steps(train: TokenizedDataset, settings: FitSettings) -> int:
    return max(1, math.ceil(batches_per_epoch(train.lengths(), settings) * settings.epochs))


def _callbacks(
    trainer: TargetTrainer, settings: FitSettings, machine: Machine, asked_to_stop: Callable[[], bool]
) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [
        EvaluationSchedule(trainer.args.max_steps, settings.evals_per_run),
        Checkpointing(trainer, machine.checkpoint_seconds, settings.average_checkpoints, asked_to_stop),
        Progress(trainer, trainer.title),
    ]
    if settings.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(settings.early_stopping_patience))
    return [*callbacks, *tracker_callbacks(machine.report_to)]


def _average(trainer: TargetTrainer, folder: Path, most: int) -> tuple[int, float] | None:
    """Gives the network the mean weights of its best checkpoints (Vaswani et al. 2017, section 6.1), if this mean is
    better than the best checkpoint."""
    best = best_steps(trainer.state, most)
    if len(best) < 2:
        return None
    load_weights(trainer.network, mean_weights([folder / f"checkpoint-{step}" for step in best]))
    sign = 1 if trainer.args.greater_is_better else -1
    value = trainer.evaluate_metric()
    if sign * value > sign * float(trainer.state.best_metric or 0.0):
        return len(best), value
    load_weights(trainer.network, mean_weights([folder / f"checkpoint-{best[0]}"]))
    return None
