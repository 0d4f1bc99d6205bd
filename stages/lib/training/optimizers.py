"""Optimizers by their names in `fit.optimizer`, with a learning rate and a weight decay for each weight."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from stages.lib.core.process import UserError
from stages.lib.models.devices import uses_bfloat16
from stages.lib.params.fit import Fit
from stages.lib.training.muon import Muon
from stages.lib.training.trainable import places_in_stacks

_NORM_OR_BIAS = re.compile(r"bias|layernorm|rmsnorm|(^|\.)norm(\.|$)|_norm(\.|$)")  # as transformers' Trainer has it
_BLOCK = 256  # weights that share the scale of their moments in bitsandbytes
_SMALLEST_QUANTIZED = 4096  # weights


def make_optimizer(network: PreTrainedModel, settings: Fit) -> Optimizer:
    """The optimizer of the trained weights. A group has all weights of equal learning rate and decay, so that an update
    is few calls; its `initial_lr` is its peak. Weights that the named optimizer is not for are updated by AdamW.

    Raises:
        UserError: bitsandbytes is not installed, Muon has no matrix, or the layers can't be told.
    """
    rates, decayed = _rates(network, settings), set(decayed_weights(network))

    def groups(weights: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        alike = defaultdict[tuple[float, float], list[nn.Parameter]](list)
        for weight in weights:
            alike[rates[weight], settings.weight_decay if weight in decayed else 0.0].append(weight)
        return [
            {"params": members, "lr": rate, "initial_lr": rate, "weight_decay": decay}
            for (rate, decay), members in alike.items()
        ]

    chosen, others = _divided(network, settings.optimizer)
    if not chosen:
        raise UserError(
            f"params.yaml: fit -> optimizer: {settings.optimizer} is not for the weights of this "
            f"{type(network).__name__} that are trained; write adamw"
        )
    optimizer = _named(settings, groups(chosen))
    return _Joined([optimizer, AdamW(groups(others), fused=True)]) if others else optimizer


def decayed_weights(network: nn.Module) -> list[nn.Parameter]:
    """The trained weights to which weight decay and L1 apply: all but norms and biases."""
    norms = {
        weight
        for module in network.modules()
        if "norm" in type(module).__name__.lower()
        for weight in module.parameters(recurse=False)
    }
    return [
        weight
        for name, weight in _trained(network).items()
        if weight not in norms and not _NORM_OR_BIAS.search(name.lower())
    ]


def optimizer_bytes(network: nn.Module, settings: Fit) -> int:
    """Bytes that the optimizer will hold: with sharded weights, in all processes together."""
    chosen, others = _divided(network, settings.optimizer)
    return sum(_bytes(settings.optimizer, weight) for weight in chosen) + sum(_bytes("adamw", each) for each in others)


def _bytes(optimizer: str, weight: Tensor) -> int:
    count = weight.numel()
    match optimizer:
        case "adamw_8bit" if count >= _SMALLEST_QUANTIZED:
            return 2 * count + 8 * math.ceil(count / _BLOCK)
        case "adafactor" if weight.ndim > 1:  # means of rows and columns
            return 4 * (count // weight.shape[-1] + count // weight.shape[-2])
        case "adafactor" | "muon":
            return 4 * count
    return 8 * count


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


def _rates(network: PreTrainedModel, settings: Fit) -> dict[nn.Parameter, float]:
    """The peak learning rate of each trained weight: `layer_decay` times that of the layer above (Howard and Ruder
    2018), in each stack by itself. The head has the full rate, embeddings the lowest."""
    below_head = _levels_below_head(network) if settings.layer_decay < 1 else {}
    return {
        weight: settings.learning_rate * settings.layer_decay ** below_head.get(weight, 0)
        for weight in _trained(network).values()
    }


def _levels_below_head(network: PreTrainedModel) -> dict[nn.Parameter, int]:
    """1 for the weights of a stack's last layer, 2 for those of the layer before it, and so on; and one more than the
    deepest stack has for embeddings, with their norms. Raises UserError if no layer is found."""
    weights = dict(network.named_parameters())
    places = places_in_stacks(weights)
    if not places:
        raise UserError(
            f"params.yaml: fit -> layer_decay: the layers of this {type(network).__name__} can't be told from its "
            f"parameters' names; write 1.0"
        )
    sizes = defaultdict[str, int](int)
    for stack, number in places.values():
        sizes[stack] = max(sizes[stack], number + 1)
    levels = {weights[name]: sizes[stack] - number for name, (stack, number) in places.items()}
    head, tables = network.get_output_embeddings(), _tables(network)
    heads = set[Tensor]() if head is None else set(head.parameters())
    for name, weight in weights.items():
        if weight in tables or ("emb" in name and weight not in heads):  # a tied head is in both
            levels.setdefault(weight, max(sizes.values()) + 1)
    return levels


def _tables(network: nn.Module) -> set[Tensor]:
    return {module.weight for module in network.modules() if isinstance(module, nn.Embedding)}


def _divided(network: nn.Module, optimizer: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained weights that this optimizer updates, and those that it leaves to AdamW: of Muon, all but the matrices
    in layers; with moments of 8 bits, embeddings, which need more (Dettmers et al. 2022)."""
    weights, tables = _trained(network), _tables(network)
    in_layers = places_in_stacks(weights)

    def is_for(name: str, weight: nn.Parameter) -> bool:
        if optimizer == "muon":
            return name in in_layers and weight.ndim == 2 and weight not in tables
        return optimizer != "adamw_8bit" or weight not in tables

    chosen = [weight for name, weight in weights.items() if is_for(name, weight)]
    return chosen, [weight for name, weight in weights.items() if not is_for(name, weight)]


def _named(settings: Fit, groups: list[dict[str, Any]]) -> Optimizer:
    match settings.optimizer:
        case "adamw":
            return AdamW(groups, fused=True)
        case "adamw_8bit":
            return _adamw_8bit(groups)
        case "adafactor":  # without Adafactor's own learning rate (Shazeer and Stern 2018)
            from transformers import Adafactor  # seconds, for the peft that it imports

            return Adafactor(groups, scale_parameter=False, relative_step=False)
        case "muon":
            return Muon(groups, torch.bfloat16 if uses_bfloat16(settings.precision) else torch.float32)


def _adamw_8bit(groups: list[dict[str, Any]]) -> Optimizer:
    try:
        import bitsandbytes  # an extra
    except ImportError:
        raise UserError(
            'params.yaml: fit -> optimizer: adamw_8bit needs bitsandbytes; pip install -e ".[qlora]"'
        ) from None
    library: Any = bitsandbytes
    optimizer: Optimizer = library.optim.AdamW8bit(groups, min_8bit_size=_SMALLEST_QUANTIZED)
    return optimizer


class _Joined(Optimizer):
    """Several optimizers as one: each updates its own groups."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts

    def step(self, closure: Any = None) -> Any:
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]  # loading replaces them
