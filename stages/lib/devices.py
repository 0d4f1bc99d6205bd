"""What this machine computes with."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic
from torch import nn

from stages.lib.process import UserError


def own_device() -> torch.device:
    """Of this process: its GPU, where there are any."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)  # what is asked of "the" GPU, such as its memory, is asked of this one
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape of a batch, which takes milliseconds
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read with the first product; see `repeatable`
    return device


def move_to_own_device(network: nn.Module) -> None:
    """Raises UserError where the weights alone are too much for it."""
    try:
        network.to(own_device())
    except torch.OutOfMemoryError:
        raise UserError(
            "params.yaml: model: its weights do not fit into the memory of this GPU; name a smaller one, or quantize "
            "it: fit -> adapters: {kind: lora, rank: 8, quantize: true}"
        ) from None


@contextmanager
def repeatable() -> Iterator[None]:
    """Sums on a GPU come out the same to the last bit, whichever of its threads is done first. What has no such way
    to be computed raises RuntimeError."""
    torch.use_deterministic_algorithms(torch.cuda.is_available())
    filling: Any = torch.utils.deterministic  # for those who read what they did not write
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def bfloat16_wanted(precision: str) -> bool:
    """Whether `fit.precision` (float32 | bfloat16 | auto) comes to bfloat16 here; auto takes it where it is native.

    Raises:
        UserError: bfloat16 is asked for, and would be emulated: a step then takes ten times as long, and more.
    """
    if precision == "bfloat16" and not _has_bfloat16():
        raise UserError(
            "params.yaml: fit -> precision: bfloat16 would be emulated here, far slower than float32; "
            "set float32, or auto, which takes what the machine has"
        )
    return precision != "float32" and _has_bfloat16()


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _has_bfloat16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
