"""The GPU and the precision that this process computes with."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic
from torch import nn

from stages.lib.core.process import UserError


def configure_gpu() -> None:
    """Chooses the GPU of this process, if there is one, and sets its global switches. Called once, by `main`."""
    if not torch.cuda.is_available():
        return
    torch.cuda.set_device(own_device())  # calls about "the" GPU, such as its memory, mean this one
    torch.backends.cuda.enable_cudnn_sdp(False)  # it takes milliseconds to plan each new shape of a batch
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product; see `deterministic`


def own_device() -> torch.device:
    """The GPU of this process, or the CPU if there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def move_to_own_device(network: nn.Module) -> None:
    """Raises UserError where the weights do not fit into its memory."""
    try:
        network.to(own_device())
    except torch.OutOfMemoryError:
        raise UserError(
            "params.yaml: model: its weights do not fit into the memory of this GPU; name a smaller one, or quantize "
            "it: fit -> adapters: {type: lora, rank: 8, quantize: true}"
        ) from None


@contextmanager
def deterministic() -> Iterator[None]:
    """Inside, a GPU gives the same sums to the last bit. Operations that can't raise RuntimeError."""
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(torch.cuda.is_available())
    memory.fill_uninitialized_memory = False  # it helps only code that reads memory before it writes it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]


def uses_bfloat16(precision: str) -> bool:
    """Whether `fit.precision` (float32 | bfloat16 | auto) means bfloat16 on this machine: auto does if it is native.

    Raises:
        UserError: `bfloat16` would be emulated, with steps more than ten times as long.
    """
    if precision == "bfloat16" and not _has_bfloat16():
        raise UserError(
            "params.yaml: fit -> precision: bfloat16 would be emulated here, far slower than float32; "
            "set float32, or auto, which chooses by the machine"
        )
    return precision != "float32" and _has_bfloat16()


def autocast(precision: str) -> torch.autocast:
    """The precision of training, for forward passes."""
    return torch.autocast(own_device().type, torch.bfloat16, uses_bfloat16(precision))


def peak_memory() -> int:
    """Bytes: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _has_bfloat16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
