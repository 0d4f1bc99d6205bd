"""Seq2seq models (T5, BART, Marian, mBART ...): an encoder reads the source, a decoder writes the target."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from stages.lib.checkpoint.architecture import ModelClass
from stages.lib.models.families.interface import IGNORED, Batch, WithEncoder, padded, target_labels
from stages.lib.records.tokenized_examples import TokenizedExample


class Seq2Seq(WithEncoder):
    name: ModelClass = "seq2seq"
    auto_class: Any = AutoModelForSeq2SeqLM

    def training_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """input_ids and attention_mask are (B, S)."""
        sources = self.prompt_batch([example.source_ids for example in examples], pad_id)
        return sources | {"labels": padded([target_labels(example) for example in examples], IGNORED, "right")}

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        unwrapped: Any = getattr(network, "module", network)  # without the wrapper of a multi-process run
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return network(**inputs, decoder_input_ids=decoder_inputs(unwrapped, batch["labels"]), use_cache=False).logits


def decoder_inputs(network: Any, labels: Tensor) -> Tensor:
    """The inputs of a decoder that predicts these labels: (B, T).

    Models shift labels in different ways: after a start token or, as mBART, after the code of the language.
    """
    if hasattr(network, "prepare_decoder_input_ids_from_labels"):
        return network.prepare_decoder_input_ids_from_labels(labels=labels)
    shifted = labels.roll(1, -1)  # M2M100, NLLB, Blenderbot shift labels only in their own loss
    shifted[:, 0] = network.config.decoder_start_token_id
    return shifted.masked_fill(shifted == IGNORED, network.config.pad_token_id)


INTERFACE = Seq2Seq()
