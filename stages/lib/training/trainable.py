"""The weights that are trained: all, those that are not frozen, or adapters beside frozen weights."""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from stages.lib.core.process import UserError
from stages.lib.params.fit import Fit, Freeze
from stages.lib.training.adapters import add_adapters, choose

_LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")  # names of stacks in transformers


class Place(NamedTuple):
    """A layer: its number in a stack, counted from the input."""

    stack: str
    number: int


def make_trainable(network: PreTrainedModel, settings: Fit, new: Collection[str] = ()) -> PreTrainedModel:
    """The same network, with gradients only for weights that `fit.freeze` and `fit.adapters` leave trainable.

    Args:
        new: names of random weights in a pretrained network; adapters beside them would not make up for them.

    Raises:
        UserError: a pattern matches nothing, there are fewer layers, adapters don't fit this model, or nothing is left
            to train. Each mistake has a line.
    """
    mistakes = _freeze(network, settings.freeze)
    if not trainable_count(network):
        mistakes.append("fit -> freeze: nothing is left to train")
    elif settings.adapters is not None:
        choice, more = choose(network, settings.adapters, new)
        mistakes += more
    if mistakes:
        raise UserError(mistakes)
    if settings.adapters is not None:
        add_adapters(network, settings.adapters, choice)
    return network


def trainable_count(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters() if weights.requires_grad)


def _freeze(network: PreTrainedModel, freeze: Freeze) -> list[str]:
    """Freezes what can be found, and returns a line for each mistake."""
    parameters = dict(network.named_parameters(remove_duplicate=False))  # a shared weight has several names
    frozen = set[str]()
    mistakes = []
    for pattern in freeze.names:
        matching = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matching:
            there = ", ".join([*parameters][:3])
            mistakes.append(f"fit -> freeze -> names: `{pattern}` matches no parameter; there are {there} ...")
        frozen.update(matching)
    if freeze.first_layers:
        layers = {name: place.number for name, place in places_in_stacks(parameters).items()}
        number = max(layers.values(), default=-1) + 1
        if freeze.first_layers > number:
            mistakes.append(f"fit -> freeze -> first_layers: the model has {number}")
        frozen.update(name for name, layer in layers.items() if layer < freeze.first_layers)
    if freeze.embeddings:  # also of an output layer that shares them, since that is the same parameter
        frozen.update(f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Embedding))
    for name in frozen:
        parameters[name].requires_grad_(False)
    return mistakes


def places_in_stacks(names: Iterable[str]) -> dict[str, Place]:
    """Name of each parameter in a layer -> its place."""
    found = {name: _LAYER.search(f".{name}") for name in names}
    return {name: Place(at.string[: at.start()], int(at[1])) for name, at in found.items() if at}
