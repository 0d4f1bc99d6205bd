"""Which layers get adapters. Some weights are trained in full beside them, as new random ones must be."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from torch import nn
from transformers import Conv1D, PreTrainedModel

from stages.lib.core.process import UserError, first_line
from stages.lib.models.adapters import insert_adapters, parameters_of, sharing, untie
from stages.lib.models.quantization import quantize
from stages.lib.params.fit import Adapters

_PLACE = "fit -> adapters"
_HEADS = ("classifier", "pre_classifier", "score", "classification_head")  # trained in full
_LINEAR = (nn.Linear, Conv1D)
_READ_BY_KERNELS = ("dt_proj", "out_proj")  # of state models such as Mamba: an adapter beside them computes nothing


class _Choice(NamedTuple):
    """What is trained, by names in the network."""

    layers: list[str]  # modules that get an adapter
    experts: list[str]  # parameters that get an adapter for each expert: those of all experts are one tensor
    full: list[str]  # modules whose own parameters are trained themselves


def choose(network: PreTrainedModel, adapters: Adapters, new: Collection[str]) -> tuple[_Choice, list[str]]:
    """What is trained of the weights that are not frozen, and a line for each mistake in `fit.adapters`.

    Args:
        new: names of random weights in a pretrained network, which are trained in full.
    """
    full, mistakes = _trained_in_full(network, adapters.modules_to_save, new)
    parameters = parameters_of(network)
    taken = {id(weights) for name in full for weights in network.get_submodule(name).parameters(recurse=False)}
    free = {name for name, weights in parameters.items() if weights.requires_grad and id(weights) not in taken}
    if adapters.target_modules is None:
        layers = [name for name in _usual_layers(network) if f"{name}.weight" in free]
        experts = [name for name in _experts(network) if name in free]
        if not layers and not experts:
            mistakes.append(f"{_PLACE}: every linear layer is frozen or trained in full")
    else:
        layers, experts, more = _named_layers(network, adapters.target_modules, free)
        mistakes += more
    if experts and (adapters.type == "dora" or adapters.dropout):
        mistakes.append(
            f"{_PLACE}: experts, such as {experts[0]}, allow only `type: lora` and `dropout: 0.0`; write these, or "
            f"name other layers in target_modules"
        )
    return _Choice(layers, experts, full), mistakes


def add_adapters(network: PreTrainedModel, adapters: Adapters, choice: _Choice) -> None:
    """In place. The names of weights beside adapters change until `merge_adapters`.

    Raises:
        UserError: peft can't adapt such a layer, or there is nothing to quantize.
    """
    from peft import LoraConfig  # it takes seconds to import

    untie(network, choice.layers)
    if adapters.quantize:
        quantize(network, kept=choice.full)
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,
        lora_dropout=adapters.dropout,
        use_rslora=adapters.rank_stabilized,
        use_dora=adapters.type == "dora",
        target_modules=choice.layers,
        target_parameters=choice.experts or None,
    )
    full = [weights for name in choice.full for weights in _own_unfrozen(network.get_submodule(name))]
    try:
        insert_adapters(network, config)
    except ValueError as error:
        raise UserError(f"{_PLACE}: {first_line(error)}") from None
    for weights in full:
        weights.requires_grad_(True)


def modules_in_full(network: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the modules beside adapters that are trained themselves: the outermost ones."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, child in network.named_children():
        if isinstance(child, BaseTunerLayer):
            continue
        weights, is_list = list(child.parameters()), isinstance(child, nn.ModuleList | nn.ModuleDict)
        is_whole = weights and all(each.requires_grad for each in weights) and not is_list  # peft takes no lists
        if is_whole or _own_unfrozen(child):
            yield prefix + name
        else:
            yield from modules_in_full(child, f"{prefix}{name}.")


def _trained_in_full(
    network: PreTrainedModel, patterns: Iterable[str], new: Collection[str]
) -> tuple[list[str], list[str]]:
    """Names of modules, and mistakes."""
    modules = {name: module for name, module in network.named_modules() if name and [*module.parameters(recurse=False)]}
    owners = {name.rpartition(".")[0] for name in new}
    full = {name for name in modules if name in owners or name.partition(".")[0] in _HEADS}
    mistakes = []
    for pattern in patterns:
        matching = {name for name in modules if f".{pattern}." in f".{name}."}
        if not matching:
            mistakes.append(f"{_PLACE} -> modules_to_save: `{pattern}` matches nothing; {_there(network)}")
        elif not any(_own_unfrozen(modules[name]) for name in matching):
            mistakes.append(f"{_PLACE} -> modules_to_save: `{pattern}` is frozen; take it out here or in fit -> freeze")
        full |= matching
    return [name for name in modules if name in full and _own_unfrozen(modules[name])], mistakes


def _own_unfrozen(module: nn.Module) -> list[nn.Parameter]:
    return [weights for weights in module.parameters(recurse=False) if weights.requires_grad]


def _usual_layers(network: PreTrainedModel) -> list[str]:
    """Every linear layer, except for the output layer and others that share their weights."""
    output, modules = network.get_output_embeddings(), dict(network.named_modules())
    shared = sharing(network)

    def is_usual(name: str, module: nn.Module) -> bool:
        parent, _, own = name.rpartition(".")
        is_read = own in _READ_BY_KERNELS and hasattr(modules[parent], "conv1d")
        return _is_linear(module) and module is not output and f"{name}.weight" not in shared and not is_read

    return [name for name, module in modules.items() if is_usual(name, module)]


def _is_linear(module: nn.Module) -> bool:
    """Also by what it computes: the routers of some experts return a choice."""
    return isinstance(module, _LINEAR) and type(module).forward in [kind.forward for kind in _LINEAR]


def _named_layers(
    network: PreTrainedModel, patterns: Iterable[str], free: Collection[str]
) -> tuple[list[str], list[str], list[str]]:
    """Names of the layers and experts that the patterns match as a whole or in their end, and mistakes."""
    modules, experts, shared = dict(network.named_modules()), _experts(network), sharing(network)
    chosen, mistakes = list[str](), list[str]()
    for pattern in patterns:
        place = f"{_PLACE} -> target_modules: `{pattern}`"
        matching = [name for name in (*modules, *experts) if f".{name}".endswith(f".{pattern}")]
        fitting = [name for name in matching if name in experts or _can_adapt(modules[name])]
        usable = [name for name in fitting if name in free or f"{name}.weight" in free]
        if not matching:
            mistakes.append(f"{place} matches nothing; {_there(network)}")
        elif not fitting:
            kind = type(modules[matching[0]]).__name__
            mistakes.append(f"{place} is a {kind}, neither linear nor an embedding; {_there(network)}")
        elif not usable:
            mistakes.append(f"{place} is frozen (fit -> freeze) or trained in full (modules_to_save)")
        for name in usable:
            if (others := shared.get(f"{name}.weight")) and not _can_untie(network, modules[name]):
                mistakes.append(
                    f"{place} shares its weight with {', '.join(others)}, so it can't have an adapter of its own; "
                    f"write it into modules_to_save, which trains this weight in full"
                )
        chosen += usable
    return [name for name in modules if name in chosen], [name for name in experts if name in chosen], mistakes


def _can_adapt(module: nn.Module) -> bool:
    return _is_linear(module) or isinstance(module, nn.Embedding)


def _there(network: PreTrainedModel) -> str:
    """What can be named."""
    kinds = dict.fromkeys(name.rpartition(".")[2] for name in [*_usual_layers(network), *_experts(network)])
    return f"there are {', '.join([*kinds][:8])} ..."


def _experts(network: nn.Module) -> list[str]:
    """Parameters of (experts, ..., ...): the layers of all experts in one tensor."""
    return [
        f"{name}.{own}"
        for name, module in network.named_modules()
        for own, weights in module.named_parameters(recurse=False)
        if weights.dim() == 3 and len(weights) == getattr(module, "num_experts", None)
    ]


def _can_untie(network: PreTrainedModel, layer: Any) -> bool:
    """Whether only the output layer and one table of embeddings share this weight: configurations can say that they
    don't."""
    output: Any = network.get_output_embeddings()
    names = [name for name, weights in parameters_of(network).items() if weights is layer.weight]
    return output is not None and output.weight is layer.weight and len(names) == 2
