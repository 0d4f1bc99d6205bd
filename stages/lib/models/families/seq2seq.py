"""Seq2seq models (T5, BART, Marian, mBART ...): an encoder reads the source, a decoder writes the target."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from stages.lib.checkpoint.architecture import ModelClass
from stages.lib.models.attention import SDPA_VARLEN, SegmentPairs, relative_attention, segments
from stages.lib.models.families.interface import (
    IGNORED,
    Batch,
    WithEncoder,
    attention_of,
    is_packed,
    padded,
    target_labels,
    unwrap,
)
from stages.lib.records.tokenized_examples import TokenizedExample


class Seq2Seq(WithEncoder):
    name: ModelClass = "seq2seq"
    auto_class: Any = AutoModelForSeq2SeqLM

    def training_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """input_ids and attention_mask are (B, S)."""
        sources = self.prompt_batch([example.source_ids for example in examples], pad_id)
        return sources | {"labels": padded([target_labels(example) for example in examples], IGNORED, "right")}

    def may_pack(self, network: PreTrainedModel) -> bool:
        # others count positions over a whole row
        return attention_of(network) == SDPA_VARLEN and bool(relative_attention(network))

    def packed_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """input_ids (1, N) are the sources, labels (1, T) the targets."""
        return {
            "input_ids": torch.tensor([list(chain.from_iterable(example.source_ids for example in examples))]),
            "labels": torch.tensor([list(chain.from_iterable(map(target_labels, examples)))]),
            "lengths": torch.tensor([len(example.source_ids) for example in examples]),
            "label_counts": torch.tensor([len(example.target_ids) for example in examples]),
            "segment_sizes": torch.tensor([len(examples)]),
        }

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        if is_packed(batch):
            return _packed_logits(network, batch)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        decoder_input_ids = decoder_inputs(unwrap(network), batch["labels"])
        return network(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False).logits


def _packed_logits(network: nn.Module, batch: Batch) -> Tensor:
    """(1, T, vocabulary)."""
    ids, labels, counts = batch["input_ids"], batch["labels"], batch["label_counts"]
    is_label = (torch.arange(int(counts.max())) < counts[:, None]).to(labels.device)
    rows = labels.new_full(is_label.shape, IGNORED).masked_scatter(is_label, labels)
    pairs = SegmentPairs(*(segments(own, batch["segment_sizes"], ids.device) for own in (batch["lengths"], counts)))
    inputs: dict[str, Any] = {"input_ids": ids, "segments": pairs}
    decoder_input_ids = decoder_inputs(unwrap(network), rows)[is_label][None]
    return network(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False).logits


def decoder_inputs(network: Any, labels: Tensor) -> Tensor:
    """The inputs of a decoder that predicts these labels: (B, T).

    Models shift labels in different ways: after a start token or, as mBART, after the code of the language.
    """
    if hasattr(network, "prepare_decoder_input_ids_from_labels"):
        return network.prepare_decoder_input_ids_from_labels(labels=labels.clone())  # FSMT writes into its argument
    shifted = labels.roll(1, -1)  # M2M100, NLLB, Blenderbot shift labels only in their own loss
    shifted[:, 0] = network.config.decoder_start_token_id
    return shifted.masked_fill(shifted == IGNORED, network.config.pad_token_id)


INTERFACE = Seq2Seq()
