"""One training run: a network, its examples and settings in; the best weights on validation and the curve out.

`loop.py` makes the updates. This module does the rest: checks, kernels, and the mean of the best checkpoints.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from torch import nn
from transformers import PreTrainedModel

from stages.lib.checkpoint.architecture import check_room
from stages.lib.core.process import UserError, termination
from stages.lib.models.attention import without_segments
from stages.lib.models.devices import autocast, move_to_own_device
from stages.lib.models.families import interface_of
from stages.lib.models.layouts import Layout, check_causal, choose_layout
from stages.lib.models.loading import check_reads_source
from stages.lib.models.memory import OutOfMemory, is_out_of_memory
from stages.lib.params.machine import Machine
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.distillation import Teacher
from stages.lib.training.fsdp import reshard, shard
from stages.lib.training.kernels import check_compiler, fast_dropout_generator, use_kernels
from stages.lib.training.loop import Loop
from stages.lib.training.neftune import neftune_noise
from stages.lib.training.progress import check_trackers
from stages.lib.training.state import Curve
from stages.lib.training.update import no_memory_line
from stages.lib.training.validation import Scorer


def fit(
    network: PreTrainedModel,
    train: TokenizedDataset,
    validation: TokenizedDataset,
    settings: FitSettings,
    machine: Machine,
    folder: Path,
    title: str,
    scorer: Scorer | None = None,
    class_weights: Mapping[tuple[int, ...], float] | None = None,
    teacher: Teacher | None = None,
    watch: Callable[[Curve], None] | None = None,
) -> Curve:
    """Trains `network` in place. Afterwards it has the weights of its best checkpoint, or the mean of several.

    Args:
        folder: for checkpoints; training resumes from those of a killed run of the same work.
        title: of the progress bar, and in front of every message.
        scorer: its score chooses the best checkpoint, in place of the loss.
        class_weights: target ids of a label -> its weight in the training loss.
        watch: gets the curve after every evaluation, and can end the run by an exception.

    Raises:
        UserError: an example is longer than the model's context, the model ignores the source or sees what it must
            predict, or a checkpoint can't be written.
        OutOfMemory: memory ends on a single example.
        Diverged: the loss is no longer a finite number.
        SystemExit: SIGTERM has come; the state is saved.
    """
    with _end_of_memory_reported(title), termination() as asked_to_stop:
        layout = make_ready(network, train, validation, settings, machine, teacher)
        with neftune_noise(network, settings.neftune_alpha), fast_dropout_generator():
            loop = Loop(
                *(network, train, validation, layout, settings, machine, folder, title, asked_to_stop),
                scorer=scorer,
                class_weights=class_weights,
                loss_of=teacher.summed_loss if teacher else None,
                watch=watch,
            )
            state = loop.run()
        if not loop.stopped:
            state.curve.averaged = _average(loop, state.curve, settings.average_checkpoints)
        if loop.stopped or asked_to_stop():
            print(f"{title}: stopped and saved at step {state.step:,}; run it again to continue")
            raise SystemExit(128 + 15)
    return state.curve


@contextmanager
def _end_of_memory_reported(title: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(no_memory_line(title)) from None


def make_ready(
    network: PreTrainedModel,
    train: TokenizedDataset,
    validation: TokenizedDataset,
    settings: FitSettings,
    machine: Machine,
    teacher: Teacher | None = None,
) -> Layout:
    """Moves the network to its device, gives it fast kernels, and checks that training can go well. Returns the layout
    of its batches.

    Raises:
        UserError: see `fit`.
    """
    _check(network, train, validation, settings, machine)
    use_kernels(network, settings)
    place(network, machine)
    networks = [network] if teacher is None else [network, teacher.network]
    # torch.compile would compile for every length of a packed row; NEFTune's noise depends on the length of a row
    pack = not settings.compile and not settings.neftune_alpha
    with autocast(settings.precision):  # FlashAttention can't compute in float32
        check_causal(network, train)
        layouts: list[Layout] = [choose_layout(each, train, pack) for each in networks]
        check_reads_source(network, train)
    layout = max(layouts, key=get_args(Layout).index)  # they stand in the order of speed
    for each in networks if layout != "packed" else ():
        without_segments(each)
    reshard(network)
    return layout


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
    """Raises UserError for settings and data that would make training fail later."""
    for dataset in (train, validation):
        check_room(interface_of(network).name, network.config, dataset.source_lengths(), dataset.target_lengths())
    if machine.gradient_checkpointing:
        if not network.supports_gradient_checkpointing:
            name = type(network).__name__
            raise UserError(f"params.yaml: machine -> gradient_checkpointing: {name} can't; write false")
        network.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        check_compiler()
    check_trackers(machine.report_to)


def _average(loop: Loop, curve: Curve, most: int) -> tuple[int, float] | None:
    """Gives the network the mean weights of its best checkpoints (Vaswani et al. 2017, section 6.1), if this mean is
    better than the best checkpoint."""
    steps = curve.best_steps(most)
    if len(steps) < 2:
        return None
    loop.load_mean(steps)
    value, best = loop.evaluate_metric(), curve.best()[1]
    if value > best if curve.scores else value < best:
        return len(steps), value
    loop.load_mean(steps[:1])
    return None
