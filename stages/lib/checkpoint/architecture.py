"""What a configuration says about a model: its family, the class of transformers that fits a task, and the number of
positions."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from stages.lib.checkpoint.config import config_before_training, read_config, scratch_config
from stages.lib.core.process import UserError
from stages.lib.params.model import Family, Model

ModelClass = Literal["causal", "seq2seq", "bert2bert", "classifier"]
TokenCounts = np.ndarray[Any, np.dtype[np.int64]]

BERT2BERT = "encoder-decoder"  # the model_type of a saved bert2bert

# family -> (its class for text, its class for labels)
_CLASSES: dict[Family, tuple[ModelClass, ModelClass]] = {
    "causal": ("causal", "causal"),
    "seq2seq": ("seq2seq", "seq2seq"),
    "encoder": ("bert2bert", "classifier"),
}
_REFUSALS: dict[ModelClass, str] = {
    "causal": "transformers has no causal language model of this type",
    "seq2seq": "it is no encoder with a decoder",
    "bert2bert": "it can choose among labels (`labels` of a scenario) but not write; BERT, RoBERTa and ELECTRA can",
    "classifier": "transformers has no classification head for it",
}


def model_family(model: Model) -> Family:
    """Raises UserError where the checkpoint or the architecture can't be read."""
    if model.family is not None:
        return model.family
    config = read_config(model) if model.scratch is None else scratch_config(model.scratch, model.architecture, {})
    return family_of_config(config)


def family_of_config(config: PreTrainedConfig) -> Family:
    """The family that a model of this configuration was made for."""
    if config.model_type == BERT2BERT:
        return "encoder"
    if config.is_encoder_decoder:
        return "seq2seq"
    is_generator = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or ())
    return "encoder" if is_encoder(config) and not is_generator else "causal"


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether models of this type are usually encoders, in which a token also attends to the tokens after it."""
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def model_class(config: PreTrainedConfig, family: Family | None, is_label_task: bool) -> ModelClass:
    """The class that fine-tunes a model of this configuration.

    Args:
        family: use it as a model of this family; None means its own family.

    Raises:
        ValueError: transformers has no such class for it.
    """
    wanted = _CLASSES[family or family_of_config(config)][is_label_task]
    if not _exists(config, wanted):
        raise ValueError(f"{config.model_type} can't be used as {wanted}: {_REFUSALS[wanted]}")
    return wanted


def saved_class(class_name: str, config: PreTrainedConfig) -> ModelClass:
    """The class of a model that this project has made, by the name of its class in transformers. A bert2bert becomes a
    seq2seq model once it is made."""
    if class_name.endswith("ForSequenceClassification"):
        return "classifier"
    return "seq2seq" if config.is_encoder_decoder else "causal"


def check_fits(
    model: Model, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], sources: TokenCounts, targets: TokenCounts
) -> None:
    """Raises UserError where this model can't do this task, or an example of these lengths is too long for it."""
    config = config_before_training(model, tokenizer)
    try:
        used = model_class(config, model.family, bool(labels))
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    check_room(used, config, sources, targets)


def check_room(used: ModelClass, config: PreTrainedConfig, sources: TokenCounts, targets: TokenCounts) -> None:
    """Raises UserError where an example has more tokens than the model has positions for."""
    excess = excess_tokens(used, config, sources, targets) if len(sources) else 0
    if excess > 0:
        raise UserError(
            f"model: an example has {excess} tokens more than the model has positions for; lower max_source_tokens or "
            f"max_target_tokens in the scenario's tokenize"
        )


def excess_tokens(used: ModelClass, config: PreTrainedConfig, sources: TokenCounts, targets: TokenCounts) -> int:
    """By how many tokens the longest of these examples exceeds the model's positions; 0 or less fits."""
    if used == "causal":
        needed = [(sources + targets - 1, max_positions(config))]  # the last target token is never read
    elif used == "classifier":
        needed = [(sources, max_positions(config))]
    else:
        needed = [(sources, max_positions(config, "encoder")), (targets, max_positions(config, "decoder"))]
    return max((int(lengths.max()) - room for lengths, room in needed if room is not None), default=0)


# their positions start after the id of the pad token
_POSITIONS_AFTER_PAD = {
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def max_positions(config: PreTrainedConfig, side: Literal["encoder", "decoder"] | None = None) -> int | None:
    """The longest sequence, in tokens, that a model (or one side of it) has positions for; None means no limit."""
    config = getattr(config, str(side), config)  # the two halves of a bert2bert
    longest = getattr(config, f"max_{side}_position_embeddings", getattr(config, "max_position_embeddings", None))
    if not isinstance(longest, int) or longest <= 0:  # XLNet has -1: no limit
        return None
    return longest - int(config.pad_token_id or 0) - 1 if config.model_type in _POSITIONS_AFTER_PAD else longest


def _exists(config: PreTrainedConfig, used: ModelClass) -> bool:
    if used == "bert2bert":
        return config.model_type == BERT2BERT or config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if used == "causal":
        return _has_class(config, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "AutoModelForCausalLM")
    if used == "classifier":
        names = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        return _has_class(config, names, "AutoModelForSequenceClassification")
    names = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return bool(config.is_encoder_decoder) and _has_class(config, names, "AutoModelForSeq2SeqLM")


def _has_class(config: PreTrainedConfig, names: Collection[str], auto_class: str) -> bool:
    """Whether transformers, or the code of the checkpoint, has such a class for this model."""
    return config.model_type in names or auto_class in (getattr(config, "auto_map", None) or {})
