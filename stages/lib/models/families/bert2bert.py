"""Encoders (BERT, RoBERTa ...) on text tasks: one reads the source, and a copy with cross-attention writes the target
(Rothe, Narayan and Severyn 2020). The result is saved and loaded as a seq2seq model."""

from typing import Any, cast

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stages.lib.checkpoint.architecture import BERT2BERT, ModelClass
from stages.lib.core.process import first_line
from stages.lib.models.families.interface import Loaded, accepted_arguments, load, with_new_tokens
from stages.lib.models.families.seq2seq import Seq2Seq


class Bert2Bert(Seq2Seq):
    name: ModelClass = "bert2bert"

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        return _joined(AutoModel.from_config(config), AutoModelForCausalLM.from_config(_decoder(config)))

    def from_pretrained(
        self, place: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, **options: Any
    ) -> Loaded:
        if config.model_type == BERT2BERT:
            network, new = load(EncoderDecoderModel, place, config, **options)
            return Loaded(_without_pooler(network), new)
        # once joined, they can't be resized
        encoder = with_new_tokens(load(AutoModel, place, config, **options), tokenizer)
        decoder = with_new_tokens(load(AutoModelForCausalLM, place, _decoder(config), **options), tokenizer)
        new = {f"encoder.{name}" for name in encoder.new} | {f"decoder.{name}" for name in decoder.new}
        return Loaded(_joined(encoder.network, decoder.network), new)


def _decoder(config: PreTrainedConfig) -> PreTrainedConfig:
    return type(config).from_dict(config.to_dict() | {"is_decoder": True, "add_cross_attention": True})


def _joined(encoder: PreTrainedModel, decoder: PreTrainedModel) -> PreTrainedModel:
    if "encoder_hidden_states" not in accepted_arguments(decoder):
        raise ValueError(
            f"{decoder.config.model_type} can't be used as bert2bert: its decoder has no attention to a source; BERT, "
            f"RoBERTa and ELECTRA have"
        )
    both = EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
    # its copies would leave the layers with other settings than the models above them, such as those of attention
    both.encoder, both.decoder = encoder.config, decoder.config
    network = _without_pooler(EncoderDecoderModel(both, encoder, decoder))
    _check_writes(network)
    return network


def _check_writes(network: PreTrainedModel) -> None:
    """Raises ValueError where transformers' own code of this type fails beside an encoder (BigBird, Megatron-BERT)."""
    source, generate = torch.ones(1, 3, dtype=torch.long), cast(Any, network.generate)
    try:
        generate(source, decoder_start_token_id=1, eos_token_id=None, pad_token_id=0, max_new_tokens=3)
    except Exception as error:  # of any class
        raise ValueError(
            f"{network.config.decoder.model_type} can't be used as bert2bert: transformers' decoder of this type fails "
            f"({first_line(error)}); BERT, RoBERTa and ELECTRA work"
        ) from None


def _without_pooler(network: PreTrainedModel) -> PreTrainedModel:
    """Freezes the pooler of the encoder, which is for classification and gets no gradient from a decoder."""
    for name, weights in network.named_parameters():
        if ".pooler." in name:
            weights.requires_grad_(False)
    return network


INTERFACE = Bert2Bert()
