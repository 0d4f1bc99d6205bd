"""The GPU and the precision that this process computes with."""

import os
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import torch
import torch.utils.deterministic
from torch import nn

from stages.lib.core.process import UserError

_FREE_PART = 0.9  # of the free memory of a GPU that weights may take: texts need memory too


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


def place_network(network: nn.Module, title: str) -> None:
    """Moves the network to the device of this process, for inference. One that is too large for it is spread over all
    GPUs and the memory of the machine.

    Args:
        title: of the stage, for the line that says so.

    Raises:
        UserError: the network has to be spread, and other processes work beside this one.
    """
    device, size = own_device(), weight_bytes(network)
    if device.type != "cuda" or size < _FREE_PART * torch.cuda.mem_get_info(device)[0]:
        move_to_own_device(network)
        return
    needed = f"the weights ({size / 2**30:.1f} GiB) do not fit into the memory of one GPU"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"params.yaml: machine -> predict_processes: {needed}; write 1, and all GPUs share them")
    from accelerate.utils import get_max_memory

    print(f"{title}: {needed}; they are spread over all GPUs and the memory of the machine", flush=True)
    free = {device: int(_FREE_PART * own) for device, own in get_max_memory().items()}
    spread(network, free | {"cpu": size})  # where they are loaded already


def spread(network: nn.Module, memory: Mapping[int | str, int], folder: Path | None = None) -> None:
    """Divides the layers of a network among devices, for inference: each moves its input to where its weights are, or
    its weights to a GPU for as long as it computes (accelerate: dispatch_model).

    Args:
        memory: bytes on each device: the number of a GPU, `cpu` or `disk`; the first is filled first.
        folder: for weights on the disk.
    """
    from accelerate import dispatch_model, infer_auto_device_map

    getLogger("accelerate").setLevel("ERROR")  # it warns of what is meant
    whole = sorted({type(layer).__name__ for layer in layers(network)})
    with catch_warnings(action="ignore"):
        places = infer_auto_device_map(network, dict(memory), no_split_module_classes=whole)
        dispatch_model(network, places, offload_dir=folder)


def weight_bytes(network: nn.Module) -> int:
    return sum(weights.nbytes for weights in (*network.parameters(), *network.buffers()))


def layers(network: nn.Module) -> Iterator[nn.Module]:
    """The layers of every stack."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from layers(child)


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


def uses_bfloat16(precision: str, section: str = "fit") -> bool:
    """Whether the `precision` of a section (float32 | bfloat16 | auto) means bfloat16 on this machine: auto does if it
    is native.

    Raises:
        UserError: `bfloat16` would be emulated, with steps more than ten times as long.
    """
    if precision == "bfloat16" and not _has_bfloat16():
        raise UserError(
            f"params.yaml: {section} -> precision: bfloat16 would be emulated here, far slower than float32; "
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
