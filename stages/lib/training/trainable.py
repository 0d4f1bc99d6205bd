"""The weights that are trained: all, those that are not frozen, or small adapters beside frozen weights."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.lib.core.process import UserError, first_line
from stages.lib.models.quantization import dequantize, is_quantized, quantize
from stages.lib.params.fit import Adapters, Fit, Freeze

# peft takes seconds to import, so only functions that need it import it

_LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")  # names of stacks in transformers
# new weights, which are trained in full beside adapters
_HEADS = ("classifier", "pre_classifier", "score", "classification_head")


def make_trainable(network: PreTrainedModel, settings: Fit) -> PreTrainedModel:
    """The same network, with gradients only for weights that `fit.freeze` and `fit.adapters` leave trainable. With
    adapters, it is in a wrapper that behaves like the network.

    Raises:
        UserError: a pattern matches no parameter, there are fewer layers, adapters don't fit this model, or nothing is
            left to train.
    """
    _freeze(network, settings.freeze)
    if settings.adapters is not None:
        return _with_adapters(network, settings.adapters)
    if not trainable_count(network):
        raise UserError("fit -> freeze: nothing is left to train")
    return network


def merge_adapters(network: PreTrainedModel) -> PreTrainedModel:
    """A network without adapters: their product is added to the weights beside them (Hu et al. 2022)."""
    if not has_adapters(network):
        return network
    adapted: Any = _beside_dequantized_weights(network) if is_quantized(network) else network
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def load_weights(network: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Loads the weights of a checkpoint of the training run, which has all of them or the trained ones."""
    if hasattr(network, "unshard"):  # torch's FSDPModule
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(network, dict(weights), options=StateDictOptions(full_state_dict=True, strict=False))
    elif has_adapters(network):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(network, weights)
    else:
        network.load_state_dict(weights, strict=False)  # of tied weights, one is saved


def has_adapters(network: nn.Module) -> bool:
    return hasattr(network, "peft_config")


def without_adapters(network: PreTrainedModel) -> PreTrainedModel:
    """The network inside the wrapper of its adapters, which still compute. Its `generate` uses its own settings."""
    inner: Any = network
    if has_adapters(network):
        inner = inner.get_base_model()
    plain: PreTrainedModel = inner
    return plain


def trainable_count(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters() if weights.requires_grad)


def _freeze(network: PreTrainedModel, freeze: Freeze) -> None:
    names = [name for name, _ in network.named_parameters()]
    frozen = set[str]()
    lines = []
    for pattern in freeze.names:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            lines.append(
                f"fit -> freeze -> names: `{pattern}` matches no parameter; there are {', '.join(names[:3])} ..."
            )
        frozen.update(matching)
    if freeze.first_layers:
        layers = _layers(names)
        there = max(layers.values(), default=-1) + 1
        if freeze.first_layers > there:
            lines.append(f"fit -> freeze -> first_layers: the model has {there}")
        frozen.update(name for name, layer in layers.items() if layer < freeze.first_layers)
    if freeze.embeddings:  # also of an output layer that shares them, since that is the same parameter
        frozen.update(f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Embedding))
    if lines:
        raise UserError(lines)
    for name, parameter in network.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def _layers(names: Iterable[str]) -> dict[str, int]:
    """Name of each parameter in a layer -> number of the layer, counted from the input."""
    return {name: int(found[1]) for name in names if (found := _LAYER.search(f".{name}"))}


def _with_adapters(network: PreTrainedModel, adapters: Adapters) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    heads = [name for name, _ in network.named_children() if name in _HEADS]
    if adapters.quantize:
        quantize(network, heads)
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,
        lora_dropout=adapters.dropout,
        target_modules=adapters.target_modules or "all-linear",
        use_dora=adapters.type == "dora",
        modules_to_save=heads or None,
    )
    try:
        wrapped: Any = get_peft_model(network, config)
    except ValueError as error:
        raise UserError(f"fit -> adapters: {first_line(error)}") from None
    return wrapped


def _beside_dequantized_weights(network: Any) -> Any:
    """The same adapters beside dequantized weights, to which they can be added. On the CPU, because they may not fit
    on a GPU."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    config, trained = network.peft_config["default"], get_peft_model_state_dict(network)
    base = network.unload()
    dequantize(base)
    base.cpu()
    wrapped: Any = get_peft_model(base, config)
    set_peft_model_state_dict(wrapped, trained)
    return wrapped
