"""A model's configuration: of a checkpoint in a folder or on the hub, or of an architecture to train from scratch."""

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from stages.lib.core.process import UserError, first_line
from stages.lib.params.model import Architecture, Model

# the end of a message about weights that could run code when they are opened
PICKLED = "pickled ones are refused: load them once where you trust them, and save them with save_pretrained"


# the models for text of which these are the language parts: text has the same position in time, height and width
_TEXT_MODELS = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}


def read_config(model: Model) -> PreTrainedConfig:
    """The configuration of the checkpoint; of one that also reads images or sound, that of its language part. Raises
    UserError where there is none."""
    return language_part(read_whole_config(model))


def read_whole_config(model: Model) -> PreTrainedConfig:
    """As the checkpoint has it. Raises UserError where there is none."""
    place = checkpoint_path(model)
    try:
        return AutoConfig.from_pretrained(place, **loading_options(model))
    except (OSError, ValueError, StrictDataclassError) as error:
        raise unloadable(place, error) from None


def language_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """Of a model that also reads images or sound, the part that reads text; else the same configuration."""
    part = getattr(config, "text_config", None)
    if not isinstance(part, PreTrainedConfig) or getattr(config, "auto_map", None):  # code of its own makes it whole
        return config
    if part.model_type in _TEXT_MODELS:
        settings = {name: value for name, value in part.to_dict().items() if name != "model_type"}
        part = AutoConfig.for_model(_TEXT_MODELS[part.model_type], **settings)
    if hasattr(config, "tie_word_embeddings"):  # the whole model decides it
        part.tie_word_embeddings = config.tie_word_embeddings
    return part


def scratch_config(architecture: Architecture, name: str, decided: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of an architecture of params.yaml.

    Args:
        name: of the architecture, for messages.
        decided: settings that the tokenizer and the labels decide.

    Raises:
        UserError: transformers doesn't know the model_type, or one of its settings.
    """
    place, settings = f"params.yaml: architectures -> {name}", architecture.settings
    model_type = architecture.model_type
    try:
        known = AutoConfig.for_model(model_type)
    except ValueError:
        raise UserError(f"{place} -> model_type: transformers knows no `{model_type}`") from None
    if (part := language_part(known)) is not known:
        raise UserError(f"{place} -> model_type: {model_type} does not only read text; write {part.model_type}")
    decided = _all_vocabularies(known, decided)
    if taken := sorted(settings.keys() & {*decided, "num_labels"}):
        raise UserError(f"{place} -> {name}: the tokenizer or the labels decide that; leave it out" for name in taken)
    start = _decoder_start(known, decided) if known.is_encoder_decoder else {}
    there = {name: value for name, value in decided.items() if value is not None}
    try:
        config = AutoConfig.for_model(model_type, **{**start, **settings}, **there)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"{place}: {' '.join(str(error).split())}") from None
    # a configuration keeps an unknown name as an attribute; it translates old names that it knows
    if unknown := [name for name in settings if _has(config, name) and not _is_setting(name, known)]:
        raise UserError(f"{place} -> {name}: no setting of {model_type}" for name in unknown)
    set_token_ids(config, {name: value for name, value in decided.items() if name.endswith("_token_id")})
    return config


def config_before_training(model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The configuration of the model before training. Raises UserError like the two functions above."""
    if model.scratch is None:
        return read_config(model)
    return scratch_config(model.scratch, model.architecture, special_token_ids(tokenizer))


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def set_token_ids(config: PreTrainedConfig, ids: Mapping[str, int | None]) -> None:
    """Makes them those of the configuration. Where its class must have a start token and the tokenizer has none, a text
    starts after an end token, as in GPT-2."""
    for name, token_id in ids.items():
        try:
            setattr(config, name, token_id)
        except StrictDataclassError:
            setattr(config, name, ids["eos_token_id"])


def label_names(labels: Sequence[str]) -> dict[str, Any]:
    """The labels and their numbers, as a configuration holds them, and that a text has one of them."""
    if not labels:
        return {}
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }


def checkpoint_path(model: Model) -> str:
    """A folder, or a name on the hub. Raises UserError where the folder holds no checkpoint."""
    if model.name == "folder" and not (Path(model.folder) / "config.json").is_file():
        raise UserError(f"model -> folder: no config.json in {model.folder}: not the folder of a checkpoint")
    return model.name_or_path


def loading_options(model: Model) -> dict[str, Any]:
    """For every `from_pretrained` of this model. The checkpoint's own code runs only if params.yaml trusts it."""
    revision = None if model.name == "folder" else model.revision
    return {"revision": revision, "trust_remote_code": model.trust_remote_code is not None}


def unloadable(place: str, error: Exception) -> UserError:
    """The error of transformers in one line, with a remedy where one is known."""
    text = str(error)
    if "trust_remote_code" in text:
        return UserError(f"model: {place} has its own code; if you trust it, set model.trust_remote_code to {place}")
    remedy = f"; {PICKLED}" if "safetensors" in text else ""
    return UserError(f"model: can't load {place}: {first_line(error)}{remedy}")


def _decoder_start(known: PreTrainedConfig, decided: Mapping[str, Any]) -> dict[str, Any]:
    """The token that a decoder starts from: the end token (BART, M2M100) or the pad token (T5, Marian). Only its role
    is taken from the default configuration, whose ids belong to another vocabulary."""
    is_end = getattr(known, "decoder_start_token_id", None) == getattr(known, "eos_token_id", None)
    role = "eos_token_id" if is_end else "pad_token_id"
    return {"decoder_start_token_id": decided[role]} if role in decided else {}


def _all_vocabularies(known: PreTrainedConfig, decided: Mapping[str, Any]) -> dict[str, Any]:
    """`decided`, also for classes that name the vocabularies of source and target (FSMT)."""
    names = [name for name in ("src_vocab_size", "tgt_vocab_size") if hasattr(known, name)]
    return {**decided, **{name: decided["vocab_size"] for name in names if "vocab_size" in decided}}


def _is_setting(name: str, known: PreTrainedConfig) -> bool:
    """Whether the configuration of this type, or the code of its models, reads such a setting. Some settings have no
    default in the configuration: they are looked up where they are used."""
    if _has(known, name):
        return True
    folder = Path(inspect.getfile(type(known))).parent
    mentioned = re.compile(rf"""(config\.|["']){re.escape(name)}\b""")
    return any(mentioned.search(file.read_text("utf-8")) for file in folder.glob("*.py"))


def _has(config: PreTrainedConfig, name: str) -> bool:
    """Like `hasattr`, which fails where layers differ in the value."""
    return name in config.attribute_map or name in dir(config)
