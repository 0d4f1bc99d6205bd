"""Encoders (BERT, RoBERTa ...) on text tasks: one reads the source, and a copy with cross-attention writes the target
(Rothe, Narayan and Severyn 2020). The result is saved and loaded as a seq2seq model."""

from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from stages.lib.checkpoint.architecture import BERT2BERT, ModelClass
from stages.lib.models.families.interface import with_embeddings
from stages.lib.models.families.seq2seq import Seq2Seq


class Bert2Bert(Seq2Seq):
    name: ModelClass = "bert2bert"

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        both = EncoderDecoderConfig.from_encoder_decoder_configs(config, self._decoder(config))
        return _without_pooler(EncoderDecoderModel(both))

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        if config.model_type == BERT2BERT:
            return _without_pooler(EncoderDecoderModel.from_pretrained(place, config=config, **options))
        encoder = AutoModel.from_pretrained(place, config=config, **options)
        decoder = AutoModelForCausalLM.from_pretrained(place, config=self._decoder(config), **options)
        # once joined, they can't be resized
        both = EncoderDecoderModel(encoder=with_embeddings(encoder, tokens), decoder=with_embeddings(decoder, tokens))
        return _without_pooler(both)

    def _decoder(self, config: PreTrainedConfig) -> PreTrainedConfig:
        settings = config.to_dict() | {"is_decoder": True, "add_cross_attention": True}
        return type(config).from_dict(settings)


def _without_pooler(network: EncoderDecoderModel) -> EncoderDecoderModel:
    """Freezes the pooler of the encoder, which is for classification and gets no gradient from a decoder."""
    for name, weights in network.named_parameters():
        if ".pooler." in name:
            weights.requires_grad_(False)
    return network


INTERFACE = Bert2Bert()
