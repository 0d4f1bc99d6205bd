"""Models: from random weights, a local folder or the hub; their special tokens, sizes and files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from stages.lib.causal import AUTO_CLASS
from stages.lib.params.model import Model
from stages.lib.process import UserError
from stages.lib.vocabulary import first_line, model_place


def base_model(model: Model, tokenizer: PreTrainedTokenizerBase, dropout: float | None, seed: int) -> PreTrainedModel:
    """The model before fine-tuning, with one embedding for every token of the tokenizer.

    Args:
        dropout: for every dropout of the model; None keeps the model's own.
        seed: draws random weights, also those of tokens that the pretrained model lacks.

    Raises:
        UserError: no checkpoint at the place named, no weights in it, or an architecture that can't be built.
    """
    set_seed(seed)
    if model.name == "scratch":
        network = _built(_with_dropout(_architecture(model.architecture, tokenizer), dropout))
    else:
        network = _pretrained(model, dropout)
    embedding: Any = network.get_input_embeddings()
    if len(tokenizer) > embedding.num_embeddings:
        network.resize_token_embeddings(len(tokenizer))
    for config in (network.config, network.generation_config):
        for name, token_id in _special_ids(tokenizer).items():
            setattr(config, name, token_id)
    return network


def trained_model(folder: Path) -> PreTrainedModel:
    """A model that the train stage has saved."""
    return AUTO_CLASS.from_pretrained(folder, local_files_only=True, use_safetensors=True)


def parameter_count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def context_length(network: PreTrainedModel) -> int | None:
    """The longest sequence that the model has positions for, in tokens; None if it has no such limit."""
    return getattr(network.config, "max_position_embeddings", None)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _architecture(architecture: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    settings = dict(architecture)
    kind = settings.pop("model_type")
    try:
        known = AutoConfig.for_model(kind)
    except ValueError:
        raise UserError(f"params.yaml: model -> architecture -> model_type: transformers knows no `{kind}`") from None
    try:
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **_special_ids(tokenizer), **settings)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"params.yaml: model -> architecture: {' '.join(str(error).split())}") from None
    # a configuration keeps what it does not know as it stands; an old name that it knows, it turns into a new one
    if unknown := [name for name in settings if hasattr(config, name) and not hasattr(known, name)]:
        raise UserError(f"params.yaml: model -> architecture -> {name}: no setting of {kind}" for name in unknown)
    return config


def _built(config: PreTrainedConfig) -> PreTrainedModel:
    try:
        return AUTO_CLASS.from_config(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"params.yaml: model -> architecture: {first_line(error)}") from None


def _pretrained(model: Model, dropout: float | None) -> PreTrainedModel:
    place, revision = model_place(model)
    if model.name == "folder" and not list(Path(place).glob("*.safetensors")):
        raise UserError(
            f"model -> folder: no weights (*.safetensors) in {place}; load a pickled checkpoint once where you trust "
            f"it and save it with save_pretrained"
        )
    try:
        config = AutoConfig.from_pretrained(place, revision=revision)
        return AUTO_CLASS.from_pretrained(
            place, revision=revision, config=_with_dropout(config, dropout), use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model: can't load {place}: {first_line(error)}") from None


def _with_dropout(config: PreTrainedConfig, dropout: float | None) -> PreTrainedConfig:
    for name, value in config.to_dict().items():
        if dropout is not None and isinstance(value, float) and ("dropout" in name or name.endswith("_pdrop")):
            setattr(config, name, dropout)
    return config
