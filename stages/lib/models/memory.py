"""Batches that are halved where memory ends, for work whose results do not depend on the batch."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed

from stages.lib.core.process import UserError

T = TypeVar("T")
R = TypeVar("R")


class Halving:
    """Works on batches. Where memory ends, it works on halves of them from then on, or on halves of these. One of
    several processes does not: the others wait for as many passes of the network as theirs."""

    def __init__(self) -> None:
        self._parts = 1

    def __call__(self, work: Callable[[Sequence[T]], list[R]], batch: Sequence[T]) -> list[R]:
        """What `work` returns for the items of the batch, in their order.

        Raises:
            UserError: memory ends on one item alone.
        """
        while True:
            size = math.ceil(len(batch) / self._parts)
            try:
                return [result for start in range(0, len(batch), size) for result in work(batch[start : start + size])]
            except RuntimeError as error:
                if not _memory_has_ended(error) or torch.distributed.is_initialized():
                    raise
            # after the except clause, which would keep the tensors of the failed work alive
            if size == 1:
                raise UserError(
                    "memory has ended on a single text: lower tokenize.max_source_tokens, tokenize.max_target_tokens "
                    "and max_new_tokens, or take a smaller model"
                )
            self._parts *= 2
            torch.cuda.empty_cache()


def _memory_has_ended(error: RuntimeError) -> bool:
    """Of a GPU, or of the machine."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
