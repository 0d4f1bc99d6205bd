"""The gradient of an update, computed in micro-batches that are halved when memory ends."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.lib.core.process import first_line
from stages.lib.models.devices import autocast, deterministic, own_device
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import Batch, ModelInterface, on_device
from stages.lib.models.losses import summed_loss
from stages.lib.models.memory import OutOfMemory, is_out_of_memory, is_sharded
from stages.lib.params.train import FitSettings
from stages.lib.training.micro_batches import UpdateBatch, example_count, split_evenly, without_loss
from stages.lib.training.optimizers import decayed_weights
from stages.lib.training.state import State

# interface, network, batch, label smoothing -> the loss, summed over the target tokens
SummedLoss = Callable[[ModelInterface, nn.Module, Batch, float], Tensor]


class Gradient:
    """Computes gradients, which stay in the weights.

    Args:
        model: the network, or the wrapper of it that adds up the gradients of several processes.
        loss_of: None is the cross entropy.
        state: of the run; the number of halvings is part of it.
    """

    def __init__(
        self,
        model: nn.Module,
        network: PreTrainedModel,
        settings: FitSettings,
        accelerator: Accelerator,
        state: State,
        title: str,
        loss_of: SummedLoss | None,
    ) -> None:
        self._model, self._network, self._interface = model, network, interface_of(network)
        self._settings, self._accelerator, self._state, self._title = settings, accelerator, state, title
        self._loss_of = loss_of or summed_loss
        self._decayed = decayed_weights(network)
        # whether sums can differ from run to run; one of several processes could not compute an update again alone
        self._varies = accelerator.num_processes > 1

    def __call__(self, update: UpdateBatch) -> float:
        """Returns the mean loss of the update, over all processes.

        Raises:
            OutOfMemory: no smaller micro-batch helps.
        """
        self._model.train()
        targets = torch.tensor(float(update["targets"]), device=self._accelerator.device)
        targets = self._accelerator.reduce(targets, "sum")
        whole = [on_device(batch, self._network) for batch in update["micro_batches"]]
        while True:
            micro_batches = self._halved(whole)
            try:
                with nullcontext() if self._varies else deterministic():
                    loss = self._accumulated(micro_batches, targets)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    self._let_vary(error)
                    continue
            # after the except clause, which would keep the tensors of the failed pass alive
            self._halve(micro_batches)
        return float(self._accelerator.reduce(loss, "mean")) + (self._add_l1() if self._settings.l1 else 0.0)

    def _halved(self, whole: list[Batch]) -> list[Batch]:
        """The micro-batches, halved as often as memory has ended. Sharded processes have equally many: the additional
        ones have no loss."""
        batches = [half for batch in whole for half in split_evenly(batch, 2**self._state.halvings)]
        if not is_sharded(self._network):
            return batches
        counts = self._accelerator.gather(torch.tensor([len(batches)], device=self._accelerator.device))
        idle = without_loss(next(split_evenly(batches[-1], example_count(batches[-1]))))
        return batches + [idle] * (int(counts.max()) - len(batches))

    def _accumulated(self, micro_batches: list[Batch], targets: Tensor) -> Tensor:
        total = torch.zeros((), device=self._accelerator.device)
        # this outer context keeps weights in bfloat16 from one micro-batch to the next
        with torch.autocast(own_device().type, enabled=False):
            for number, batch in enumerate(micro_batches, start=1):
                is_last = number == len(micro_batches)
                with nullcontext() if is_last else self._accelerator.no_sync(self._model):
                    loss = self._share(batch, targets)
                    loss.backward()
                total += loss.detach()
        return total

    def _share(self, batch: Batch, targets: Tensor) -> Tensor:
        """Of a micro-batch in the loss of the update. The gradients of several processes are averaged, so it is scaled
        up."""
        with autocast(self._settings.precision):
            loss = self._loss_of(self._interface, self._model, batch, self._settings.label_smoothing)
        return loss / targets * self._accelerator.num_processes

    @torch.no_grad()
    def _add_l1(self) -> float:
        """Adds the gradient of the L1 term to the one that all processes have in common, and returns the term."""
        for weight in self._decayed:
            gradient = weight.sign() * self._settings.l1
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        norm: Any = torch.stack([weight.abs().sum() for weight in self._decayed]).sum()
        whole: Tensor = norm.full_tensor() if is_sharded(self._network) else norm
        return self._settings.l1 * float(whole)

    def _halve(self, micro_batches: list[Batch]) -> None:
        """Smaller micro-batches from now on; the gradients so far don't count."""
        largest = max(map(example_count, micro_batches))
        if largest == 1 or self._accelerator.num_processes > 1:  # the others wait for this one's gradients
            raise OutOfMemory(no_memory_line(self._title, f" at step {self._state.step + 1}"))
        self._state.halvings += 1
        self._model.zero_grad()
        torch.cuda.empty_cache()
        print(f"{self._title}: memory has ended; micro-batches now have at most {math.ceil(largest / 2)} examples")

    def _let_vary(self, error: Exception) -> None:
        """When an operation has no deterministic implementation: the usual ones from now on."""
        if self._varies or "deterministic" not in str(error):
            raise error
        self._varies = True
        self._model.zero_grad()
        print(f"{self._title}: sums vary on this GPU; after a kill, the last digits may differ ({first_line(error)})")


def no_memory_line(title: str, where: str = "") -> str:
    return (
        f"{title}: memory has ended{where}; lower fit.micro_batch_tokens, the lengths in tokenize or "
        f"machine.generation_batch_tokens, or set machine.gradient_checkpointing"
    )
