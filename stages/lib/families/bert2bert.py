"""Encoders (BERT, RoBERTa ...) on text tasks: one reads the source, a copy with cross-attention writes the target
(Rothe, Narayan and Severyn 2020). Once made it is a model of the seq2seq family, and is opened as one."""

from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from stages.lib.families.family import with_embeddings
from stages.lib.families.seq2seq import Seq2Seq

MADE = "encoder-decoder"  # the model_type of one that was made before


class Bert2Bert(Seq2Seq):
    name = "bert2bert"
    needs = "it can choose among labels (`labels` of a scenario) but not write; BERT, RoBERTa and ELECTRA can"

    def builds(self, config: PreTrainedConfig) -> bool:
        return config.model_type == MADE or config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        both = EncoderDecoderConfig.from_encoder_decoder_configs(config, self._decoder(config))
        return _without_pooler(EncoderDecoderModel(both))

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        if config.model_type == MADE:
            return _without_pooler(EncoderDecoderModel.from_pretrained(place, config=config, **options))
        encoder = AutoModel.from_pretrained(place, config=config, **options)
        decoder = AutoModelForCausalLM.from_pretrained(place, config=self._decoder(config), **options)
        # the pair of them can't be resized
        both = EncoderDecoderModel(encoder=with_embeddings(encoder, tokens), decoder=with_embeddings(decoder, tokens))
        return _without_pooler(both)

    def _decoder(self, config: PreTrainedConfig) -> PreTrainedConfig:
        settings = config.to_dict() | {"is_decoder": True, "add_cross_attention": True}
        return type(config).from_dict(settings)


def _without_pooler(network: EncoderDecoderModel) -> EncoderDecoderModel:
    """What the encoder has for classification gets no gradient from a decoder, and learns nothing."""
    for name, weights in network.named_parameters():
        if ".pooler." in name:
            weights.requires_grad_(False)
    return network


FAMILY = Bert2Bert()
