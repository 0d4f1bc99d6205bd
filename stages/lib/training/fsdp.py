"""A network that is sharded over several processes: each holds a part of every weight, gradient and moment of Adam
(FSDP2: torch's fully_shard; Zhao et al. 2023, after ZeRO, Rajbhandari et al. 2020). The weights of a layer are gathered
only while it computes, so all processes must compute the same number of times."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer import SCHEDULER_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from stages.lib.models.devices import own_device
from stages.lib.models.families.interface import Batch
from stages.lib.training.checkpoints import mean_weights
from stages.lib.training.micro_batches import UpdateBatch, example_count, split_evenly, without_loss
from stages.lib.training.trainable import load_weights
from stages.lib.training.trainer import TargetTrainer

# only several processes need torch.distributed, so the functions below import its modules

_OPTIMIZER = "optimizer"  # folder in a checkpoint


def shard(network: nn.Module) -> None:
    """Replaces the weights by this process's shards of them, on its device; in place. A second call does nothing."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(network, FSDPModule):
        return
    processes = PartialState(cpu=not torch.cuda.is_available()).num_processes  # also connects them
    mesh = init_device_mesh(own_device().type, (processes,))
    for layer in _layers(network):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)  # else weights can stay gathered after a pass


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    """The layers of every stack."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)


def gather_trained_weights(network: nn.Module) -> dict[str, Tensor]:
    """The full weights, on the CPU of the main process; no weights in the others. All processes must call this
    together."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights: Any = get_model_state_dict(network, options=options)
    return dict(weights)


class ShardedTrainer(TargetTrainer):
    """Trains a sharded network. A checkpoint holds the full trained weights, and the moments in shards."""

    network: PreTrainedModel
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.is_distributed_loading_by_transformers = True  # Trainer then adds no wrapper

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """Nothing: `shard` has moved it."""

    def micro_batches(self, update: UpdateBatch) -> list[Batch]:
        """As many in every process as in the one with the most. The additional ones have no loss."""
        batches = super().micro_batches(update)
        most = int(self.accelerator.gather(torch.tensor([len(batches)], device=self.args.device)).max())
        idle = without_loss(next(split_evenly(batches[-1], example_count(batches[-1]))))
        return batches + [idle] * (most - len(batches))

    def l1_norm(self, weights: list[nn.Parameter]) -> Tensor:
        own: Any = super().l1_norm(weights)
        total: Tensor = own.full_tensor()
        return total

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        weights = gather_trained_weights(self.network)
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(exist_ok=True)
            save_file(weights, folder / SAFE_WEIGHTS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.network, mean_weights([Path(resume_from_checkpoint)]))

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
        from torch.distributed.checkpoint.state_dict_saver import save

        moments = get_optimizer_state_dict(self.network, self.optimizer)
        try:
            save(moments, checkpoint_id=f"{output_dir}/{_OPTIMIZER}")
        except CheckpointException as error:  # a BaseException with many lines
            (failure, _), *_ = error.failures.values()
            raise OSError(str(failure)) from None
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), f"{output_dir}/{SCHEDULER_NAME}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load

        if checkpoint is None:
            return
        moments = get_optimizer_state_dict(self.network, self.optimizer)
        load(moments, checkpoint_id=f"{checkpoint}/{_OPTIMIZER}")
        set_optimizer_state_dict(self.network, self.optimizer, moments)
        self.lr_scheduler.load_state_dict(torch.load(f"{checkpoint}/{SCHEDULER_NAME}", weights_only=True))
