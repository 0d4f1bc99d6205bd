"""The seq2seq family (T5, BART, Marian, mBART ...): an encoder reads the source, a decoder writes the target."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from stages.lib.families.family import (
    IGNORED,
    Batch,
    Lengths,
    has_class,
    learned_labels,
    masked,
    padded,
    positions,
    with_embeddings,
)
from stages.lib.pairs import Pair


class Seq2Seq:
    name = "seq2seq"
    needs = "it is no encoder with a decoder"
    auto_class = AutoModelForSeq2SeqLM

    def builds(self, config: PreTrainedConfig) -> bool:
        names = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        return bool(config.is_encoder_decoder) and has_class(config, names, self.auto_class)

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        network: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config)
        return network

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        network: PreTrainedModel = AutoModelForSeq2SeqLM.from_pretrained(place, config=config, **options)
        return with_embeddings(network, tokens)

    def training_batch(self, pairs: Sequence[Pair], pad_id: int) -> Batch:
        """input_ids and attention_mask are (B, S)."""
        sources = self.prompt_batch([pair.source_ids for pair in pairs], pad_id)
        return sources | {"labels": padded([learned_labels(pair) for pair in pairs], IGNORED, "right")}

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        return {"input_ids": padded(sources, pad_id, "right"), "attention_mask": masked(sources, "right")}

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        inner: Any = getattr(network, "module", network)  # below the wrapper of a multi-process run
        # every model shifts in its own way: behind its start token, or, as mBART, behind the code of the language
        shifted = inner.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return network(**inputs, decoder_input_ids=shifted, use_cache=False).logits

    def excess(self, network: PreTrainedModel, sources: Lengths, targets: Lengths) -> int:
        sides = ((sources, "encoder"), (targets, "decoder"))
        rooms = [(lengths, positions(getattr(network.config, side, network.config))) for lengths, side in sides]
        return max((int(lengths.max()) - room for lengths, room in rooms if room is not None), default=0)


FAMILY = Seq2Seq()
