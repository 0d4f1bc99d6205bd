"""Frozen weights in 4 bits, NormalFloat, below adapters (QLoRA: Dettmers et al. 2023)."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from stages.lib.core.process import UserError


def quantize(network: PreTrainedModel, heads: Sequence[str]) -> None:
    """Quantizes linear layers to 4 bits, in place. Excluded are the output layer, `heads` (names of children with new
    weights), and layers that the architecture itself keeps in full precision, such as T5's `wo`.

    Raises:
        UserError: bitsandbytes is not installed, or there is no such layer.
    """
    kernels = _bitsandbytes()
    kept = getattr(network, "_keep_in_fp32_modules", None) or ()
    excluded = {network.get_output_embeddings(), *(part for name in heads for part in getattr(network, name).modules())}
    found = [
        (parent, name, layer)
        for parent, name, layer in _children(network, nn.Linear)
        if layer not in excluded and parent is not network and name not in kept
    ]
    if not found:
        raise UserError(f"fit -> adapters -> quantize: {type(network).__name__} has no linear layers inside")
    for parent, name, layer in found:
        small = kernels.nn.Linear4bit(layer.in_features, layer.out_features, quant_type="nf4")
        small.weight = kernels.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        small.bias = layer.bias
        small.support_avx512bf16_for_cpu = False  # it would repack weights in place, and adapters would learn nothing
        setattr(parent, name, small.to(layer.weight.device))


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
    for parent, name, small in _children(network, kernels.nn.Linear4bit):
        layer = nn.Linear(small.in_features, small.out_features, bias=False)
        layer.weight.data = kernels.functional.dequantize_4bit(small.weight.data, small.weight.quant_state).cpu()
        if small.bias is not None:
            layer.bias = nn.Parameter(small.bias.float().cpu())
        setattr(parent, name, layer)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # an extra
    except ImportError:
        raise UserError('fit -> adapters -> quantize: needs bitsandbytes; pip install -e ".[qlora]"') from None
    return bitsandbytes


def _children(network: nn.Module, layer_class: type[nn.Module]) -> Iterator[tuple[nn.Module, str, Any]]:
    """Every module of exactly this class, with its parent and its name there."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is layer_class:
                yield parent, name, child
