"""What a training run will cost in time and memory, measured before it starts."""

import time

import torch
from transformers import PreTrainedModel

from stages.lib.models.devices import autocast, own_device, peak_memory
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import on_device
from stages.lib.models.losses import summed_loss
from stages.lib.params.machine import Machine
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.distillation import Teacher
from stages.lib.training.fit import make_ready
from stages.lib.training.kernels import fast_dropout_generator
from stages.lib.training.loop import update_steps
from stages.lib.training.micro_batches import make_collator
from stages.lib.training.optimizers import optimizer_bytes
from stages.lib.training.sampler import BatchSampler


def estimate(
    network: PreTrainedModel,
    train: TokenizedDataset,
    validation: TokenizedDataset,
    settings: FitSettings,
    machine: Machine,
    teacher: Teacher | None = None,
) -> tuple[float, int]:
    """Seconds that training takes, and bytes of memory at the peak of each process.

    Computes one process's share of the longest batch, then times that of a usual batch.

    Raises:
        RuntimeError, MemoryError: the longest batch does not fit without halving its micro-batches; `is_out_of_memory`.
        UserError: the weights do not fit, or `fit` would refuse to train.
    """
    interface, device = interface_of(network), own_device()
    layout = make_ready(network, train, validation, settings, machine, teacher)
    loss_of = teacher.summed_loss if teacher else summed_loss
    collate, lengths = make_collator(network, train, layout, settings, None), train.lengths()
    batches = sorted(BatchSampler(lengths, settings).batches(0), key=lambda batch: int(lengths[batch].sum()))
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    with fast_dropout_generator():
        for batch in (batches[-1], batches[len(batches) // 2]):
            begun = _now(device)
            for micro_batch in collate([train[index] for index in batch[:: machine.world_size]])["micro_batches"]:
                with autocast(settings.precision):
                    loss = loss_of(interface, network, on_device(micro_batch, network), settings.label_smoothing)
                loss.backward()
            network.zero_grad()
    for name, buffer in network.named_buffers():  # some networks change them in training
        buffer.copy_(buffers[name])
    seconds = (_now(device) - begun) * update_steps(train, settings)
    # a pass without gradients takes a third of the time
    evaluated = settings.evals_per_run * int(validation.lengths().sum())
    seconds += seconds / settings.epochs / 3 * evaluated / lengths.sum()
    if settings.max_minutes is not None:
        seconds = min(seconds, 60 * settings.max_minutes)
    moments = optimizer_bytes(network, settings)
    return seconds, peak_memory() + moments // (machine.world_size if machine.sharded else 1)


def _now(device: torch.device) -> float:
    """Seconds, when the GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()
