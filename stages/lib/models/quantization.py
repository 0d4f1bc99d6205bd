"""Frozen weights in 4 bits, NormalFloat, below adapters (QLoRA: Dettmers et al. 2023)."""

from collections.abc import Collection
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from stages.lib.core.process import UserError


def quantize(network: PreTrainedModel, kept: Collection[str]) -> None:
    """Quantizes linear layers to 4 bits, in place. Excluded are the output layer, other layers outside of the stacks,
    `kept` (names of layers), and those that the architecture itself keeps in full precision, such as T5's `wo`.

    Raises:
        UserError: bitsandbytes is not installed, or there is no such layer.
    """
    kernels = _bitsandbytes()
    precise = getattr(network, "_keep_in_fp32_modules", None) or ()
    output = network.get_output_embeddings()
    found = [
        (name, layer)
        for name, layer in _layers(network, nn.Linear)
        if layer is not output and "." in name and name not in kept and name.rpartition(".")[2] not in precise
    ]
    if not found:
        raise UserError(f"fit -> adapters -> quantize: {type(network).__name__} has no linear layers inside")
    for name, layer in found:
        small = kernels.nn.Linear4bit(layer.in_features, layer.out_features, quant_type="nf4")
        small.weight = kernels.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        small.bias = layer.bias
        small.support_avx512bf16_for_cpu = False  # it would repack weights in place, and adapters would learn nothing
        network.set_submodule(name, small.to(layer.weight.device))


def is_quantized(network: nn.Module) -> bool:
    return any(hasattr(weights, "quant_state") for weights in network.parameters())


def size(weights: nn.Parameter) -> int:
    """Number of weights; quantized ones are stored two to a byte."""
    state = getattr(weights, "quant_state", None)
    return weights.numel() if state is None else int(state.shape.numel())


def dequantize(network: nn.Module) -> None:
    """Replaces quantized layers, in place and on the CPU, by float32 weights with exactly the values that training
    used."""
    kernels = _bitsandbytes()
    for name, small in _layers(network, kernels.nn.Linear4bit):
        layer = nn.Linear(small.in_features, small.out_features, bias=False)
        layer.weight.data = kernels.functional.dequantize_4bit(small.weight.data, small.weight.quant_state).cpu()
        if small.bias is not None:
            layer.bias = nn.Parameter(small.bias.float().cpu())
        network.set_submodule(name, layer)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # an extra
    except ImportError:
        raise UserError('fit -> adapters -> quantize: needs bitsandbytes; pip install -e ".[qlora]"') from None
    return bitsandbytes


def _layers(network: nn.Module, layer_class: type[nn.Module]) -> list[tuple[str, Any]]:
    """Every module of exactly this class, with its name."""
    return [(name, module) for name, module in network.named_modules() if type(module) is layer_class]
