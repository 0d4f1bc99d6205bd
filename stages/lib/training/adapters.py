"""Low-rank matrices beside frozen weights, LoRA (Hu et al. 2022) or DoRA (Liu et al. 2024): which layers get them, and
how they become part of the weights. Some weights are trained in full beside them, as new random ones must be."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple
from warnings import catch_warnings

from torch import nn
from transformers import Conv1D, PreTrainedModel

from stages.lib.core.process import UserError, first_line
from stages.lib.models.quantization import dequantize, is_quantized, quantize
from stages.lib.params.fit import Adapters

# peft takes seconds to import, so only functions that need it import it

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
    parameters = _parameters(network)
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
    from peft import LoraConfig

    if not _sharing(network).keys().isdisjoint(f"{name}.weight" for name in choice.layers):
        _untie(network)
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
        _inject(network, config)
    except ValueError as error:
        raise UserError(f"{_PLACE}: {first_line(error)}") from None
    for weights in full:
        weights.requires_grad_(True)


def has_adapters(network: nn.Module) -> bool:
    return hasattr(network, "peft_config")


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


def merge_adapters(network: PreTrainedModel) -> PreTrainedModel:
    """The same network without adapters: their product is added to the weights beside them. Quantized weights are
    dequantized before, on the CPU, because they may not fit on a GPU."""
    if not has_adapters(network):
        return network
    if is_quantized(network):
        _dequantize_below(network)
    for _, layer in _adapted(network):
        layer.merge()
    _unload(network)
    return network


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
    shared = _sharing(network)

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
    modules, experts, shared = dict(network.named_modules()), _experts(network), _sharing(network)
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


def _parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Under each of their names: a weight that modules share has several."""
    return dict(network.named_parameters(remove_duplicate=False))


def _sharing(network: nn.Module) -> dict[str, list[str]]:
    """Name of a weight that several modules share -> its other names."""
    names = dict[int, list[str]]()
    for name, weights in _parameters(network).items():
        names.setdefault(id(weights), []).append(name)
    groups = [group for group in names.values() if len(group) > 1]
    return {name: [other for other in group if other != name] for group in groups for name in group}


def _can_untie(network: PreTrainedModel, layer: Any) -> bool:
    """Whether only the output layer and one table of embeddings share this weight: configurations can say that they
    don't."""
    output: Any = network.get_output_embeddings()
    names = [name for name, weights in _parameters(network).items() if weights is layer.weight]
    return output is not None and output.weight is layer.weight and len(names) == 2


def _untie(network: PreTrainedModel) -> None:
    """Gives each layer weights of its own. Else an adapter would be merged into all layers that share the weight."""
    tied = network.get_expanded_tied_weights_keys(all_submodels=True)
    for part in network.modules():
        if isinstance(part, PreTrainedModel):
            part.config.tie_word_embeddings = False
    for name in tied:
        place, _, own = name.rpartition(".")
        shared = network.get_parameter(name)
        setattr(network.get_submodule(place), own, nn.Parameter(shared.detach().clone(), shared.requires_grad))


def _inject(network: nn.Module, config: Any) -> None:
    from peft import inject_adapter_in_model

    with catch_warnings(action="ignore"):  # such as: GPT-2's weights are transposed
        inject_adapter_in_model(config, network)


def _adapted(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Layers of peft. Of experts, one contains the next."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return ((name, module) for name, module in network.named_modules() if isinstance(module, BaseTunerLayer))


def _unload(network: Any) -> None:
    """Removes the adapters, in place."""
    layers = dict(_adapted(network))
    for name, layer in layers.items():
        if name.rpartition(".")[0] not in layers:
            network.set_submodule(name, layer.get_base_layer())
    del network.peft_config


def _dequantize_below(network: Any) -> None:
    """The same adapters beside dequantized weights, to which they can be added."""
    config = network.peft_config["default"]
    trained = {name: weights.detach().cpu() for name, weights in network.named_parameters() if weights.requires_grad}
    _unload(network)
    dequantize(network)
    network.cpu()
    _inject(network, config)
    network.load_state_dict(trained, strict=False)
