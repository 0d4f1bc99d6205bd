"""A network that is sharded over several processes: each holds a part of every weight, gradient and moment of Adam
(FSDP2: torch's fully_shard; Zhao et al. 2023, after ZeRO, Rajbhandari et al. 2020). The weights of a layer are gathered
only while it computes, so all processes must compute the same number of times."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from stages.lib.models.devices import layers, own_device
from stages.lib.models.memory import is_sharded

# only several processes need torch.distributed, so the functions below import its modules

_MOMENTS = "optimizer"  # folder in a checkpoint


def shard(network: nn.Module) -> None:
    """Replaces the weights by this process's shards of them, on its device; in place. A second call does nothing."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if is_sharded(network):
        return
    processes = PartialState(cpu=not torch.cuda.is_available()).num_processes  # also connects them
    mesh = init_device_mesh(own_device().type, (processes,))
    for layer in layers(network):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)  # else weights can stay gathered after a pass


def reshard(network: nn.Module) -> None:
    """Frees the weights that a pass has left gathered, as one does whose gradients end at the embeddings."""
    for module in network.modules():
        if is_sharded(module):
            module.reshard()  # type: ignore[operator]


def gather_trained_weights(network: nn.Module) -> dict[str, Tensor]:
    """The full weights, on the CPU of the main process; no weights in the others. All processes must call this
    together."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights: Any = get_model_state_dict(network, options=options)
    return dict(weights)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads full weights."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(network, dict(weights), options=StateDictOptions(full_state_dict=True, strict=False))


def save_moments(network: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Each process writes its shard. Raises OSError."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(get_optimizer_state_dict(network, optimizer), checkpoint_id=str(checkpoint / _MOMENTS))
    except CheckpointException as error:  # a BaseException with many lines
        (failure, _), *_ = error.failures.values()
        raise OSError(str(failure)) from None


def load_moments(network: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Each process reads its shard."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    moments = get_optimizer_state_dict(network, optimizer)
    load(moments, checkpoint_id=str(checkpoint / _MOMENTS))
    set_optimizer_state_dict(network, optimizer, moments)
