"""Networks: of random weights, from a folder or from the hub, with their special tokens and generation settings."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from stages.lib.checkpoint.architecture import max_positions, model_family
from stages.lib.checkpoint.chat_template import ChatFormat
from stages.lib.checkpoint.config import (
    PICKLED,
    checkpoint_path,
    label_names,
    language_part,
    loading_options,
    read_whole_config,
    scratch_config,
    set_token_ids,
    special_token_ids,
    unloadable,
)
from stages.lib.checkpoint.tokenizers import load_tokenizer, target_from
from stages.lib.core.files import read_json
from stages.lib.core.process import UserError, first_line
from stages.lib.core.templates import RejectedRow
from stages.lib.models.adapters import load_adapter
from stages.lib.models.families import interface_for, interface_of, interface_of_saved
from stages.lib.models.families.interface import Loaded, ModelInterface, load, on_device, with_new_tokens
from stages.lib.models.families.seq2seq import decoder_inputs
from stages.lib.models.quantization import size
from stages.lib.params.model import Architecture, Family, Model
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample

disable_progress_bar()  # transformers shows one for every file, which would break ours
set_verbosity_error()  # its warnings are about new weights and tokens, which this project intends
getLogger("bitsandbytes").setLevel("ERROR")  # which peft imports: it warns of kernels that this project does without

# names of weights in a checkpoint that also reads images or sound -> their names in its language part
_OF_LANGUAGE_PART = {r"^language_model\.": "", r"^model\.(language_model|text_model)\.": "model."}
BASE = "base.json"  # what a saved adapter is merged into, in place of weights
_NO_LIMIT = 1024  # tokens that plain `generate` writes at most where the model has no limit of its own


def base_model(
    model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], dropout: float | None, seed: int
) -> PreTrainedModel:
    """The model before fine-tuning, with one embedding for every token of the tokenizer.

    Args:
        labels: the words that targets are chosen from; none for free text.
        dropout: for every dropout of the model; None keeps the model's own. With 0, no layer is dropped either
            (LayerDrop: Fan et al. 2019); other values leave that as it is.
        seed: of random weights, also for tokens and heads that the checkpoint does not have.

    Raises:
        UserError: no checkpoint or no weights in the folder or of that name, or an architecture that can't be built.
    """
    return load_base(model, tokenizer, labels, dropout, seed).network


def load_base(
    model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], dropout: float | None, seed: int
) -> Loaded:
    """As `base_model`. Where all weights are random, none of them is called new."""
    torch.manual_seed(seed)
    family = model_family(model)
    if model.scratch is None:
        network, new = _pretrained(model, tokenizer, labels, dropout)
    else:
        network, new = _from_scratch(model.scratch, model, tokenizer, labels, dropout), set[str]()
    config = network.config
    set_token_ids(config, special_token_ids(tokenizer))
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:  # bert2bert: its [CLS]
        config.decoder_start_token_id = tokenizer.bos_token_id
    for part in _parts(config):
        _make_storable(part)
    network.generation_config = _generation_config(network, tokenizer, family)
    return Loaded(network, new)


def trained_model(base: Model, trained: Path) -> PreTrainedModel:
    """The model that the train stage has saved. An adapter is merged into its base, in float32.

    Args:
        base: the model before training.
        trained: the folder with model/ and adapter/.

    Raises:
        UserError: the adapter is of another base, or this can't be loaded.
    """
    folder = trained / "model"
    if not is_adapter(trained):
        return saved_model(folder, base.trust_remote_code is not None)
    about = read_json(folder / BASE)
    if (about["base_model"], about["revision"]) != (base.public_name, base.hub_revision):
        raise UserError(
            f"{trained / 'adapter'} was trained on {about['base_model']}, and params.yaml names {base.title}; run "
            f"`dvc repro train`"
        )
    network = base_model(base, load_tokenizer(folder), about["labels"], dropout=None, seed=about["seed"])
    return load_adapter(network, trained / "adapter", about["quantized"])


def is_adapter(trained: Path) -> bool:
    """Whether the train stage has saved an adapter and the name of its base, in place of a whole model."""
    return (trained / "model" / BASE).is_file()


def saved_model(folder: Path, trust_remote_code: bool) -> PreTrainedModel:
    """A whole model that this project has saved."""
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
        return interface.from_scratch(_prepared(config, dropout))
    except Exception as error:  # of any class: settings that don't fit each other fail deep in the model's own code
        raise UserError(f"params.yaml: architectures -> {model.architecture}: {first_line(error)}") from None


def _pretrained(
    model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], dropout: float | None
) -> Loaded:
    place, whole = checkpoint_path(model), read_whole_config(model)
    if model.name == "folder" and not list(Path(place).glob("*.safetensors")):
        raise UserError(f"model -> folder: no weights (*.safetensors) in {place}; {PICKLED}")
    config = language_part(whole)
    for name, value in label_names(labels).items():
        setattr(config, name, value)
    options = loading_options(model) | {"use_safetensors": True, "dtype": torch.float32}
    try:
        interface = interface_for(config, model.family, bool(labels))
        loader = interface.from_pretrained if config is whole else partial(_language_part, interface)
        return loader(place, _prepared(config, dropout), tokenizer, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unloadable(place, error) from None


def _language_part(
    interface: ModelInterface, place: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, **options: Any
) -> Loaded:
    """The weights of this part of a checkpoint, as a model of its own."""
    loaded, new = load(interface.auto_class, place, config, key_mapping=_OF_LANGUAGE_PART, **options)
    if new and interface.name == "causal":  # a classifier has a new head
        raise ValueError(f"its language part, {config.model_type}, is not complete: {min(new)} is missing")
    # `loaded` itself would be saved with the names of weights in `place`
    network: PreTrainedModel = interface.auto_class.from_config(loaded.config)
    network.load_state_dict(loaded.state_dict(), assign=True)
    network.tie_weights()
    return with_new_tokens(Loaded(network, new), tokenizer)


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
        options["max_length"] = max_positions(network.config, "decoder") or _NO_LIMIT
    if pad != end:  # some models (Marian) give the pad token high scores
        options["suppress_tokens"] = [pad]
    return GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=pad, **options)


def _prepared(config: PreTrainedConfig, dropout: float | None) -> PreTrainedConfig:
    """With this dropout, and with a language where the model has weights for each (XMOD). Raises ValueError where the
    language is not clear."""
    languages = getattr(config, "languages", None)
    if languages and getattr(config, "default_language", "") is None:
        if len(languages) > 1:
            raise ValueError(f"{config.model_type}: its setting default_language must be one of {', '.join(languages)}")
        config.default_language = languages[0]
    if dropout is not None:
        for part in _parts(config):
            _set_dropout(part, dropout)
    return config


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    for name, value in vars(config).copy().items():
        # a checkpoint may write a dropout of 0 as an integer
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_dropout = "dropout" in name or name.endswith("_pdrop")
        if is_number and (is_dropout or (dropout == 0 and name.endswith("layerdrop"))):
            vars(config)[name] = dropout  # unchecked: MPT's class demands an integer, its network does not


def _make_storable(config: PreTrainedConfig) -> None:
    """As plain transformers can open it, and generates fast with it. The network has read its dropout already."""
    if getattr(config, "use_cache", True) is False:
        config.use_cache = True
    for field in fields(config):
        if field.type is int and isinstance(value := vars(config).get(field.name), float):
            setattr(config, field.name, int(value))


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """The configuration and those in it, such as the halves of a bert2bert."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value)
