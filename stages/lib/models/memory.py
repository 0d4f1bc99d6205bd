"""Batches that are halved where memory ends, for work whose results do not depend on the batch."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from stages.lib.core.process import UserError

T = TypeVar("T")
R = TypeVar("R")

# in messages of errors that have no class of their own: of torch on a CPU, and of the libraries of a GPU
_MESSAGES = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")


class OutOfMemory(UserError):
    """Memory has ended, and no smaller batch helps."""


class Halving:
    """Works on batches. Where memory ends, it works on halves of them from then on, or on halves of these. It does not
    where the network is sharded: the other processes wait for as many passes as theirs."""

    def __init__(self, network: nn.Module) -> None:
        self._network, self._parts = network, 1

    def __call__(self, work: Callable[[Sequence[T]], list[R]], batch: Sequence[T]) -> list[R]:
        """What `work` returns for the items of the batch, in their order.

        Raises:
            OutOfMemory: memory ends on one item alone, or the network is sharded.
        """
        while True:
            size = math.ceil(len(batch) / self._parts)
            try:
                return [result for start in range(0, len(batch), size) for result in work(batch[start : start + size])]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # after the except clause, which would keep the tensors of the failed work alive
            if size == 1:
                raise OutOfMemory(
                    "memory has ended on a single text: lower tokenize.max_source_tokens, tokenize.max_target_tokens "
                    "and max_new_tokens, or take a smaller model"
                )
            if is_sharded(self._network):
                raise OutOfMemory(
                    f"memory has ended on {size} texts, and a sharded network can't halve them: lower "
                    f"machine.generation_batch_tokens, fit.batch_size or fit.micro_batch_tokens"
                )
            self._parts *= 2
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU or of the machine has ended."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in str(error) for part in _MESSAGES)


def is_sharded(network: nn.Module) -> bool:
    """Whether each of several processes has a part of the weights (torch's FSDPModule)."""
    return hasattr(network, "unshard")
