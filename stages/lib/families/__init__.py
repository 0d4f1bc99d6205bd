"""The families of models, one module each, and which of them a configuration or a network belongs to."""

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from stages.lib.families import bert2bert, causal, classifier, seq2seq
from stages.lib.families.family import Family
from stages.lib.params.model import Kind

# kind -> (its family for free text, its family for label tasks)
_FAMILIES: dict[Kind, tuple[Family, Family]] = {
    "causal": (causal.FAMILY, causal.FAMILY),
    "seq2seq": (seq2seq.FAMILY, seq2seq.FAMILY),
    "encoder": (bert2bert.FAMILY, classifier.FAMILY),
}


def family_for(config: PreTrainedConfig, kind: Kind | None, is_label_task: bool) -> Family:
    """The family that fine-tunes such a model: of the kind asked for, or that the model was made for.

    Raises:
        ValueError: there is no such use of this model.
    """
    family = _FAMILIES[kind or kind_of(config)][is_label_task]
    if not family.builds(config):
        raise ValueError(f"{config.model_type} can't be used as {family.name}: {family.needs}")
    return family


def kind_of(config: PreTrainedConfig) -> Kind:
    """What a model of this configuration was made for."""
    if config.model_type == bert2bert.MADE:
        return "encoder"
    if config.is_encoder_decoder:
        return "seq2seq"
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or ())
    return "encoder" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not writes else "causal"


def family_of(network: PreTrainedModel) -> Family:
    """Of a network that one of the families has made."""
    plain: Any = network
    if hasattr(plain, "get_base_model"):  # below peft's adapters
        plain = plain.get_base_model()
    return _family_named(type(plain).__name__, plain.config)


def family_of_saved(config: PreTrainedConfig) -> Family:
    """Of a network that a family has made and `save_pretrained` has written."""
    return _family_named((config.architectures or [""])[0], config)


def _family_named(class_name: str, config: PreTrainedConfig) -> Family:
    if class_name.endswith("ForSequenceClassification"):
        return classifier.FAMILY
    return seq2seq.FAMILY if config.is_encoder_decoder else causal.FAMILY
