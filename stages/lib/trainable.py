"""What of a network learns: all of it, what freezing leaves, or small adapters beside frozen weights."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState

from stages.lib.params.fit import Adapters, Fit, Freeze
from stages.lib.process import UserError
from stages.lib.quantized import dequantize, is_quantized, quantize
from stages.lib.vocabulary import first_line

_LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")  # as the models of transformers name their stacks
# new weights: with adapters, these learn as a whole
_HEADS = ("classifier", "pre_classifier", "score", "classification_head")


def student(network: PreTrainedModel, settings: Fit) -> PreTrainedModel:
    """The same network, with gradients only where `fit.freeze` and `fit.adapters` leave them; adapters come with a
    wrapper that behaves like it.

    Raises:
        UserError: a pattern matches no parameter, there are fewer layers, or nothing is left to learn.
    """
    _freeze(network, settings.freeze)
    if settings.adapters is not None:
        return _adapted(network, settings.adapters)
    if not learned_count(network):
        raise UserError("fit -> freeze: nothing is left that could learn")
    return network


def merged(network: PreTrainedModel) -> PreTrainedModel:
    """An ordinary network: what adapters have learned is added to the weights beside them (Hu et al. 2022)."""
    if not isinstance(network, PeftModel):
        return network
    whole: PreTrainedModel = (_beside_whole_weights(network) if is_quantized(network) else network).merge_and_unload()
    return whole


def _beside_whole_weights(network: PeftModel) -> PeftModel:
    """The same adapters, where the weights beside them are quantized no more, and on the CPU, since a GPU may have no
    room for them: those can be added to."""
    config, learned = network.peft_config["default"], get_peft_model_state_dict(network)
    base: Any = network.unload()
    dequantize(base)
    base.cpu()
    wrapped: Any = get_peft_model(base, config)
    set_peft_model_state_dict(wrapped, learned)
    return cast(PeftModel, wrapped)


def take(network: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Replaces what a checkpoint of the fit holds: all weights, or those that are learned."""
    if isinstance(network, FSDPModule):
        set_model_state_dict(network, dict(weights), options=StateDictOptions(full_state_dict=True, strict=False))
    elif isinstance(network, PeftModel):
        set_peft_model_state_dict(network, weights)
    else:
        network.load_state_dict(weights, strict=False)  # tied ones are saved once


class Thaw(TrainerCallback):
    """The highest layer learns first, then the one below it too, and last what is below all layers (gradual
    unfreezing: Howard and Ruder 2018)."""

    def __init__(self, network: PreTrainedModel, epochs: float) -> None:
        self._epochs = epochs
        layers = _layers(name for name, _ in network.named_parameters())
        self._depth = max(layers.values(), default=-1) + 1
        self._weights = {name: weights for name, weights in network.named_parameters() if weights.requires_grad}
        # what stands behind all layers, such as a head, is above them; what stands elsewhere, below
        last = max((at for at, name in enumerate(self._weights) if name in layers), default=-1)
        self._layer = {
            name: layers.get(name, self._depth if at > last else -1) for at, name in enumerate(self._weights)
        }

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        open_layers = 1 + int((state.epoch or 0.0) / self._epochs)
        for name, layer in self._layer.items():
            self._weights[name].requires_grad_(layer >= self._depth - open_layers)


def inner(network: PreTrainedModel) -> PreTrainedModel:
    """What an adapters' wrapper holds, adapters and all: its `generate` heeds its own settings."""
    return cast(PreTrainedModel, network.get_base_model()) if isinstance(network, PeftModel) else network


def learned_count(network: nn.Module) -> int:
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
    if freeze.embeddings:  # the output layer too, where it shares them: that is one parameter of one name
        frozen.update(f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Embedding))
    if lines:
        raise UserError(lines)
    for name, parameter in network.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def _layers(names: Iterable[str]) -> dict[str, int]:
    """Of each parameter that belongs to a layer, counted from the lowest."""
    return {name: int(found[1]) for name in names if (found := _LAYER.search(f".{name}"))}


def _adapted(network: PreTrainedModel, adapters: Adapters) -> PreTrainedModel:
    heads = [name for name, _ in network.named_children() if name in _HEADS]
    if adapters.quantize:
        quantize(network, heads)
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,
        lora_dropout=adapters.dropout,
        target_modules=adapters.modules or "all-linear",
        use_dora=adapters.kind == "dora",
        modules_to_save=heads or None,
    )
    try:
        wrapped: Any = get_peft_model(network, config)
    except ValueError as error:
        raise UserError(f"fit -> adapters: {first_line(error)}") from None
    return wrapped
