"""What a training run will cost in time and memory, measured before it starts."""

import time

import torch
from transformers import PreTrainedModel

from stages.lib.models.devices import own_device, peak_memory
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import on_device
from stages.lib.models.losses import summed_loss
from stages.lib.params.machine import Machine
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.fit import place, update_steps
from stages.lib.training.kernels import fast_dropout_generator, fuse_gelu, use_attention
from stages.lib.training.sampler import BatchSampler
from stages.lib.training.trainer import autocast, make_collator


def estimate(
    network: PreTrainedModel,
    train: TokenizedDataset,
    validation: TokenizedDataset,
    settings: FitSettings,
    machine: Machine,
) -> tuple[float, int]:
    """Seconds that training takes, and bytes of memory at the peak of each process.

    Computes one process's share of the longest batch, then times that of a usual batch.

    Raises:
        torch.OutOfMemoryError: the longest batch does not fit without halving its micro-batches.
        UserError: the weights do not fit.
    """
    interface, device = interface_of(network), own_device()
    place(network, machine)
    fuse_gelu(network)
    use_attention(network, settings)
    collate, lengths = make_collator(network, train, settings), train.lengths()
    network.train()
    if machine.gradient_checkpointing and network.supports_gradient_checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    batches = sorted(BatchSampler(lengths, settings).batches(0), key=lambda batch: int(lengths[batch].sum()))
    with autocast(settings), fast_dropout_generator():
        for batch in (batches[-1], batches[len(batches) // 2]):
            begun = _now(device)
            for micro_batch in collate([train[index] for index in batch[:: machine.world_size]])["micro_batches"]:
                summed_loss(interface, network, on_device(micro_batch, network), settings.label_smoothing).backward()
            network.zero_grad()
    seconds = (_now(device) - begun) * update_steps(train, settings)
    # a pass without gradients takes a third of the time
    evaluated = settings.evals_per_run * int(validation.lengths().sum())
    seconds += seconds / settings.epochs / 3 * evaluated / lengths.sum()
    # Adam holds two float32 numbers for each trained weight
    moments = 8 * sum(weights.numel() for weights in network.parameters() if weights.requires_grad)
    return seconds, peak_memory() + moments // (machine.world_size if machine.sharded else 1)


def _now(device: torch.device) -> float:
    """Seconds, when the GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()
