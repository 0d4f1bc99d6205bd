"""Networks: of random weights, from a folder or from the hub, with their special tokens and generation settings."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from stages.lib.checkpoint.architecture import model_family
from stages.lib.checkpoint.chat_template import ChatFormat
from stages.lib.checkpoint.config import (
    PICKLED,
    checkpoint_path,
    label_names,
    loading_options,
    read_config,
    scratch_config,
    special_token_ids,
    unloadable,
)
from stages.lib.checkpoint.tokenizers import target_from
from stages.lib.core.process import UserError, first_line
from stages.lib.core.templates import RejectedRow
from stages.lib.models.families import interface_for, interface_of, interface_of_saved
from stages.lib.models.families.interface import on_device
from stages.lib.models.families.seq2seq import decoder_inputs
from stages.lib.models.quantization import size
from stages.lib.params.model import Architecture, Family, Model
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample

disable_progress_bar()  # transformers shows one for every file, which would break ours


def base_model(
    model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], dropout: float | None, seed: int
) -> PreTrainedModel:
    """The model before fine-tuning, with one embedding for every token of the tokenizer.

    Args:
        labels: the words that targets are chosen from; none for free text.
        dropout: for every dropout of the model; None keeps the model's own.
        seed: of random weights, also for tokens and heads that the checkpoint does not have.

    Raises:
        UserError: no checkpoint or no weights in the folder or of that name, or an architecture that can't be built.
    """
    torch.manual_seed(seed)
    family = model_family(model)
    if model.scratch is None:
        network = _pretrained(model, tokenizer, labels, dropout)
    else:
        network = _from_scratch(model.scratch, model, tokenizer, labels, dropout)
    config = network.config
    for name, token_id in special_token_ids(tokenizer).items():
        setattr(config, name, token_id)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:  # bert2bert: its [CLS]
        config.decoder_start_token_id = tokenizer.bos_token_id
    network.generation_config = _generation_config(network, tokenizer, family)
    return network


def trained_model(folder: Path, trust_remote_code: bool) -> PreTrainedModel:
    """The model that the train stage has saved."""
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    interface = interface_of_saved(AutoConfig.from_pretrained(folder, **options))
    network: PreTrainedModel = interface.auto_class.from_pretrained(folder, use_safetensors=True, **options)
    return network


def parameter_count(network: torch.nn.Module) -> int:
    return sum(map(size, network.parameters()))


def check_reads_source(network: PreTrainedModel, train: TokenizedDataset) -> None:
    """Raises UserError where the same target has the same logits after different sources.

    This happens to an encoder-decoder with wrong special tokens or cross-attention: it would learn to ignore its input.
    """
    first = train[0]
    other = next((example for example in train if example.source_ids != first.source_ids), None)
    if other is None:  # free text has no source
        return
    network.eval()
    with torch.no_grad():
        logits = [_last_logits(network, first._replace(source_ids=example.source_ids)) for example in (first, other)]
    if torch.equal(*logits):
        raise UserError(
            f"model: what this {type(network).__name__} predicts does not depend on its input: its start, end or pad "
            f"token or its cross-attention is wrong"
        )


def _last_logits(network: PreTrainedModel, example: TokenizedExample) -> torch.Tensor:
    interface = interface_of(network)
    batch = interface.training_batch([example], int(network.config.pad_token_id))
    return interface.target_logits(network, on_device(batch, network))[0, -1]


def _from_scratch(
    architecture: Architecture,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    dropout: float | None,
) -> PreTrainedModel:
    decided = {"vocab_size": len(tokenizer), **special_token_ids(tokenizer), **label_names(labels)}
    config = scratch_config(architecture, model.architecture, decided)
    try:
        interface = interface_for(config, model.family, bool(labels))
        return interface.from_scratch(_with_dropout(config, dropout))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"params.yaml: architectures -> {model.architecture}: {first_line(error)}") from None


def _pretrained(
    model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], dropout: float | None
) -> PreTrainedModel:
    place, config = checkpoint_path(model), read_config(model)
    if model.name == "folder" and not list(Path(place).glob("*.safetensors")):
        raise UserError(f"model -> folder: no weights (*.safetensors) in {place}; {PICKLED}")
    for name, value in label_names(labels).items():
        setattr(config, name, value)
    options = loading_options(model) | {"use_safetensors": True, "dtype": torch.float32}
    try:
        interface = interface_for(config, model.family, bool(labels))
        return interface.from_pretrained(place, _with_dropout(config, dropout), len(tokenizer), **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unloadable(place, error) from None


def _generation_config(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: Family
) -> GenerationConfig:
    """How plain `generate` starts and ends a text with this model.

    Other settings of a checkpoint, such as sampling or penalties, are left out: params.yaml decides them.
    """
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ends: int | list[int] = end
    if tokenizer.chat_template:
        with suppress(RejectedRow):  # an unusable template, which tokenize refuses for conversations
            ends = sorted({int(end), ChatFormat(tokenizer).end_id()})
    options: dict[str, Any] = {}
    if network.config.is_encoder_decoder and network.can_generate():
        empty = target_from(tokenizer(text_target="")["input_ids"], tokenizer, family)
        # the inputs before an empty target: the start token, and for some models a language or a second start token
        before = decoder_inputs(network, torch.tensor([empty]))[0, : empty.index(end) + 1].tolist()
        options = {"decoder_start_token_id": before[0], "forced_bos_token_id": before[1] if before[1:] else None}
    if pad != end:  # some models (Marian) give the pad token high scores
        options["suppress_tokens"] = [pad]
    return GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=pad, **options)


def _with_dropout(config: PreTrainedConfig, dropout: float | None) -> PreTrainedConfig:
    for name, value in vars(config).copy().items():
        if isinstance(value, PreTrainedConfig):  # the halves of a bert2bert
            _with_dropout(value, dropout)
        # a checkpoint may write a dropout of 0 as an integer
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if dropout is not None and is_number and ("dropout" in name or name.endswith("_pdrop")):
            setattr(config, name, dropout)
    return config
