"""Low-rank matrices beside the weights of a network, LoRA (Hu et al. 2022) or DoRA (Liu et al. 2024): how they get
there, how they are read from disk, and how they become part of the weights."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from warnings import catch_warnings

from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from stages.lib.models.quantization import dequantize, is_quantized, quantize

# peft takes seconds to import, so only functions that need it import it

WEIGHTS, PREFIX = "adapter_model.safetensors", "base_model.model."  # of a file and of its weights, as peft names them


def insert_adapters(network: nn.Module, config: Any) -> None:
    """In place. The names of weights beside adapters change until `merge_adapters`.

    Args:
        config: LoraConfig of peft.

    Raises:
        ValueError: peft can't adapt such a layer.
    """
    from peft import inject_adapter_in_model

    with catch_warnings(action="ignore"):  # such as: GPT-2's weights are transposed
        inject_adapter_in_model(config, network)


def load_adapter(base: PreTrainedModel, folder: Path, quantized: bool) -> PreTrainedModel:
    """The base with the adapter in a folder merged into its weights; in place.

    Args:
        quantized: whether the adapter was trained beside 4-bit weights. The base is rounded to these.

    Raises:
        UserError: bitsandbytes is not installed, and the adapter was trained with it.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    weights = load_file(folder / WEIGHTS)
    config = LoraConfig.from_pretrained(str(folder))
    config.modules_to_save = None  # what was trained in full replaces weights of the network itself
    untie(base, {name.removeprefix(PREFIX).partition(".lora_")[0] for name in weights if ".lora_" in name})
    if quantized:
        quantize(base, kept=())
        dequantize(base)
    insert_adapters(base, config)
    set_peft_model_state_dict(base, weights)
    return merge_adapters(base)


def has_adapters(network: nn.Module) -> bool:
    return hasattr(network, "peft_config")


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


def sharing(network: nn.Module) -> dict[str, list[str]]:
    """Name of a weight that several modules share -> its other names."""
    names = dict[int, list[str]]()
    for name, weights in parameters_of(network).items():
        names.setdefault(id(weights), []).append(name)
    groups = [group for group in names.values() if len(group) > 1]
    return {name: [other for other in group if other != name] for group in groups for name in group}


def parameters_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """Under each of their names: a weight that modules share has several."""
    return dict(network.named_parameters(remove_duplicate=False))


def untie(network: PreTrainedModel, adapted: Collection[str]) -> None:
    """Gives each layer weights of its own if one of the adapted layers shares them. Else its adapter would be merged
    into all layers that do."""
    if sharing(network).keys().isdisjoint(f"{name}.weight" for name in adapted):
        return
    tied = network.get_expanded_tied_weights_keys(all_submodels=True)
    for part in network.modules():
        if isinstance(part, PreTrainedModel):
            part.config.tie_word_embeddings = False
    for name in tied:
        place, _, own = name.rpartition(".")
        shared = network.get_parameter(name)
        setattr(network.get_submodule(place), own, nn.Parameter(shared.detach().clone(), shared.requires_grad))


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
    insert_adapters(network, config)
    network.load_state_dict(trained, strict=False)
