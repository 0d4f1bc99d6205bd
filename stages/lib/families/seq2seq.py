"""The seq2seq family (T5, BART, Marian, mBART ...): an encoder reads the source, a decoder writes the target."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from stages.lib.families.family import (
    IGNORED,
    Batch,
    Lengths,
    ReadsAhead,
    has_class,
    learned_labels,
    padded,
    positions,
)
from stages.lib.pairs import Pair


class Seq2Seq(ReadsAhead):
    name = "seq2seq"
    needs = "it is no encoder with a decoder"
    auto_class = AutoModelForSeq2SeqLM

    def builds(self, config: PreTrainedConfig) -> bool:
        names = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        return bool(config.is_encoder_decoder) and has_class(config, names, self.auto_class)

    def training_batch(self, pairs: Sequence[Pair], pad_id: int) -> Batch:
        """input_ids and attention_mask are (B, S)."""
        sources = self.prompt_batch([pair.source_ids for pair in pairs], pad_id)
        return sources | {"labels": padded([learned_labels(pair) for pair in pairs], IGNORED, "right")}

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        inner: Any = getattr(network, "module", network)  # below the wrapper of a multi-process run
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return network(**inputs, decoder_input_ids=decoder_inputs(inner, batch["labels"]), use_cache=False).logits

    def excess(self, config: PreTrainedConfig, sources: Lengths, targets: Lengths) -> int:
        rooms = ((sources, positions(config, "encoder")), (targets, positions(config, "decoder")))
        return max((int(lengths.max()) - room for lengths, room in rooms if room is not None), default=0)


def decoder_inputs(network: Any, labels: Tensor) -> Tensor:
    """What a decoder reads while it predicts these labels: (B, T). Every model shifts in its own way: behind its start
    token, or, as mBART, behind the code of the language."""
    if hasattr(network, "prepare_decoder_input_ids_from_labels"):
        return network.prepare_decoder_input_ids_from_labels(labels=labels)
    shifted = labels.roll(1, -1)  # M2M100, NLLB, Blenderbot: these shift only inside their own loss
    shifted[:, 0] = network.config.decoder_start_token_id
    return shifted.masked_fill(shifted == IGNORED, network.config.pad_token_id)


FAMILY = Seq2Seq()
