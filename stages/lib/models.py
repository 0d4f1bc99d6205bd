"""Models: from random weights, a local folder or the hub; their special tokens, sizes and files."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from stages.lib.chat_format import ChatFormat
from stages.lib.families import family_for, family_of, family_of_saved, kind_of
from stages.lib.families.family import Family, on_device
from stages.lib.families.seq2seq import decoder_inputs
from stages.lib.pairs import Pair, Pairs
from stages.lib.params.model import Kind, Model
from stages.lib.process import UserError
from stages.lib.quantized import size
from stages.lib.templates import Unusable
from stages.lib.vocabulary import PICKLED, checkpoint_place, first_line, loading_options, target_from, unloadable

disable_progress_bar()  # transformers' own, for every file that it opens, would break ours


def base_model(
    model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], dropout: float | None, seed: int
) -> PreTrainedModel:
    """The model before fine-tuning, with one embedding for every token of the tokenizer.

    Args:
        labels: what a target is chosen from; none if it is free text.
        dropout: for every dropout of the model; None keeps the model's own.
        seed: draws random weights, also those of tokens and heads that the pretrained model lacks.

    Raises:
        UserError: no checkpoint at the place named, no weights in it, or an architecture that can't be built.
    """
    torch.manual_seed(seed)
    kind = model_kind(model)
    make = _built if model.name == "scratch" else _pretrained
    network = make(model, tokenizer, labels, dropout)
    config = network.config
    for name, token_id in _special_ids(tokenizer).items():
        setattr(config, name, token_id)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:  # bert2bert: its [CLS]
        config.decoder_start_token_id = tokenizer.bos_token_id
    network.generation_config = _generation_config(network, tokenizer, kind)
    return network


def trained_model(folder: Path, model: Model) -> PreTrainedModel:
    """What the train stage has saved of `model`, which says whether code that came with it may run."""
    options = {"local_files_only": True, "trust_remote_code": model.remote_code_of is not None}
    family = family_of_saved(AutoConfig.from_pretrained(folder, **options))
    network: PreTrainedModel = family.auto_class.from_pretrained(folder, use_safetensors=True, **options)
    return network


def model_kind(model: Model) -> Kind:
    """What kind of model it is, as far as its tokens depend on it. Raises UserError like `base_model`."""
    return model.family or kind_of(_architecture(model, {}) if model.name == "scratch" else _config(model))


def parameter_count(network: torch.nn.Module) -> int:
    return sum(map(size, network.parameters()))


def check_fits(model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], pairs: Pairs) -> None:
    """As `check_room`, before there is a network; and that such a model can be used for such a task."""
    config = _architecture(model, _special_ids(tokenizer)) if model.name == "scratch" else _config(model)
    try:
        family = family_for(config, model.family, bool(labels))
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    check_room(family, config, pairs)


def check_room(family: Family, config: PreTrainedConfig, pairs: Pairs) -> None:
    """Raises UserError where a pair has more tokens than the model has positions for."""
    excess = family.excess(config, pairs.source_lengths(), pairs.target_lengths()) if len(pairs) else 0
    if excess > 0:
        raise UserError(
            f"model: a pair has {excess} tokens more than the model has positions for; lower max_source_tokens or "
            f"max_target_tokens in the scenario's tokenize"
        )


def check_reads_source(network: PreTrainedModel, train: Pairs) -> None:
    """Raises UserError where the same target gets the same scores behind different sources, as in an encoder-decoder
    whose special tokens or cross-attention are wired wrongly: it would learn to ignore its input."""
    first = train[0]
    other = next((pair for pair in train if pair.source_ids != first.source_ids), None)
    if other is None:  # free text: nothing is asked of the source
        return
    network.eval()
    with torch.no_grad():
        logits = [_last_logits(network, first._replace(source_ids=pair.source_ids)) for pair in (first, other)]
    if torch.equal(*logits):
        raise UserError(
            f"model: what this {type(network).__name__} predicts does not depend on its input: its start, end or pad "
            f"token or its cross-attention is wired wrongly"
        )


def _last_logits(network: PreTrainedModel, pair: Pair) -> torch.Tensor:
    family = family_of(network)
    batch = family.training_batch([pair], int(network.config.pad_token_id))
    return family.target_logits(network, on_device(batch, network))[0, -1]


def _built(
    model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], dropout: float | None
) -> PreTrainedModel:
    config = _architecture(model, {"vocab_size": len(tokenizer), **_special_ids(tokenizer), **_label_names(labels)})
    try:
        family = family_for(config, model.family, bool(labels))
        return family.from_scratch(_with_dropout(config, dropout))
    except (ValueError, TypeError, RuntimeError) as error:
        place = f"params.yaml: model -> architectures -> {model.architecture}"
        raise UserError(f"{place}: {first_line(error)}") from None


def _architecture(model: Model, decided: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of `model.architecture`; `decided` is what the tokenizer and the labels say."""
    place = f"params.yaml: model -> architectures -> {model.architecture}"
    settings = dict(model.architectures[model.architecture])
    kind = settings.pop("model_type")
    try:
        known = AutoConfig.for_model(kind)
    except ValueError:
        raise UserError(f"{place} -> model_type: transformers knows no `{kind}`") from None
    if taken := sorted(settings.keys() & {*decided, "num_labels"}):
        raise UserError(f"{place} -> {name}: the tokenizer or the labels decide that; leave it out" for name in taken)
    start = _decoder_start(known, decided) if known.is_encoder_decoder else {}
    try:
        config = AutoConfig.for_model(kind, **{**start, **settings}, **decided)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"{place}: {' '.join(str(error).split())}") from None
    # a configuration keeps what it does not know as it stands; an old name that it knows, it turns into a new one
    if unknown := [name for name in settings if hasattr(config, name) and not hasattr(known, name)]:
        raise UserError(f"{place} -> {name}: no setting of {kind}" for name in unknown)
    return config


def _decoder_start(known: PreTrainedConfig, decided: Mapping[str, Any]) -> dict[str, Any]:
    """The token that the type starts from, by its role: the end token (BART, M2M100) or the pad token (T5, Marian).
    The ids that it has by default are those of another vocabulary."""
    is_end = getattr(known, "decoder_start_token_id", None) == known.eos_token_id
    role = "eos_token_id" if is_end else "pad_token_id"
    return {"decoder_start_token_id": decided[role]} if role in decided else {}


def _pretrained(
    model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], dropout: float | None
) -> PreTrainedModel:
    place, config = checkpoint_place(model), _config(model)
    if model.name == "folder" and not list(Path(place).glob("*.safetensors")):
        raise UserError(f"model -> folder: no weights (*.safetensors) in {place}; {PICKLED}")
    for name, value in _label_names(labels).items():
        setattr(config, name, value)
    options = loading_options(model) | {"use_safetensors": True, "dtype": torch.float32}
    try:
        family = family_for(config, model.family, bool(labels))
        return family.from_pretrained(place, _with_dropout(config, dropout), len(tokenizer), **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unloadable(place, error) from None


def _config(model: Model) -> PreTrainedConfig:
    place = checkpoint_place(model)
    try:
        return AutoConfig.from_pretrained(place, **loading_options(model))
    except (OSError, ValueError) as error:
        raise unloadable(place, error) from None


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _label_names(labels: Sequence[str]) -> dict[str, dict[Any, Any]]:
    if not labels:
        return {}
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


def _generation_config(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: Kind) -> GenerationConfig:
    """How plain `generate` starts and ends a text with this model. What else a checkpoint asks for, such as sampling
    or penalties, is left out: params.yaml alone decides how text is made."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ends: int | list[int] = end
    if tokenizer.chat_template:
        with suppress(Unusable):  # a template that can't serve: tokenize refuses it where conversations are learned
            ends = sorted({int(end), ChatFormat(tokenizer).end_id()})
    forms: dict[str, Any] = {}
    if network.config.is_encoder_decoder and network.can_generate():
        empty = target_from(tokenizer(text_target="")["input_ids"], tokenizer, kind)
        # what stands in front of a target of no words: the start token, and for some a language or a second start
        before = decoder_inputs(network, torch.tensor([empty]))[0, : empty.index(end) + 1].tolist()
        forms = {"decoder_start_token_id": before[0], "forced_bos_token_id": before[1] if before[1:] else None}
    if pad != end:  # a pad is never meant, yet some models (Marian) score it high
        forms["suppress_tokens"] = [pad]
    return GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=pad, **forms)


def _with_dropout(config: PreTrainedConfig, dropout: float | None) -> PreTrainedConfig:
    for name, value in vars(config).copy().items():
        if isinstance(value, PreTrainedConfig):  # the halves of a bert2bert
            _with_dropout(value, dropout)
        # a switched-off dropout may be written as the whole number 0
        is_share = isinstance(value, int | float) and not isinstance(value, bool)
        if dropout is not None and is_share and ("dropout" in name or name.endswith("_pdrop")):
            setattr(config, name, dropout)
    return config
