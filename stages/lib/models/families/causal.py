"""Causal models (GPT-2, GPT-Neo, Llama, Qwen ...): one stack reads the source and continues with the target."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import ModelClass, is_encoder
from stages.lib.models.attention import SDPA_VARLEN, segments
from stages.lib.models.families.interface import (
    IGNORED,
    Batch,
    Loaded,
    OneClass,
    accepted_arguments,
    attention_mask,
    attention_of,
    is_packed,
    packs_by_positions,
    padded,
    target_labels,
    unwrap,
)
from stages.lib.records.tokenized_examples import TokenizedExample


class Causal(OneClass):
    name: ModelClass = "causal"
    auto_class = AutoModelForCausalLM

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        return super().from_scratch(_for_training(config))

    def from_pretrained(
        self, place: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, **options: Any
    ) -> Loaded:
        return super().from_pretrained(place, _for_training(config), tokenizer, **options)

    def training_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """Examples aligned where the target begins: sources are padded on the left, targets on the right.

        The last T positions of every row predict the target, and only they need logits. input_ids, attention_mask and
        position_ids are (B, S + T - 1), because the last target token predicts nothing.
        """
        longest = max(len(example.source_ids) for example in examples)
        left = [longest - len(example.source_ids) for example in examples]
        tokens = [example.source_ids + example.target_ids[:-1] for example in examples]
        inputs = [[pad_id] * blank + row for blank, row in zip(left, tokens, strict=True)]
        attention = [[0] * blank + [1] * len(row) for blank, row in zip(left, tokens, strict=True)]
        mask = padded(attention, 0, "right")
        return {
            "input_ids": padded(inputs, pad_id, "right"),
            "attention_mask": mask,
            "position_ids": positions(mask),
            "labels": padded([target_labels(example) for example in examples], IGNORED, "right"),
        }

    def packed_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """labels (1, T) are the tokens with loss, and target_positions (T) the places in the row that predict them.
        position_ids (1, N) start again with each example."""
        written = np.array([len(example.target_ids) for example in examples])
        lengths = np.array([len(example.source_ids) for example in examples]) + written - 1
        tokens = chain.from_iterable(example.source_ids + example.target_ids[:-1] for example in examples)
        labels = np.fromiter(chain.from_iterable(map(target_labels, examples)), np.int64)
        # each target token is predicted at the position before it
        places = np.repeat(lengths.cumsum() - written.cumsum(), written) + np.arange(len(labels))
        has_loss = labels != IGNORED
        row = {
            "input_ids": np.fromiter(tokens, np.int64)[None],
            "position_ids": (np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths))[None],
            "labels": labels[has_loss][None],
            "target_positions": places[has_loss],
            "lengths": lengths,
            "label_counts": np.array([len(example.target_ids) - len(example.masked_positions) for example in examples]),
            "segment_sizes": np.array([len(examples)]),
        }
        return {name: torch.from_numpy(values) for name, values in row.items()}

    def may_pack(self, network: PreTrainedModel) -> bool:
        return packs_by_positions(network)

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        """Padded on the left, so that generation continues right after each source."""
        return {"input_ids": padded(sources, pad_id, "left"), "attention_mask": attention_mask(sources, "left")}

    def generation_inputs(self, network: PreTrainedModel, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        inputs = super().generation_inputs(network, sources, pad_id)
        if first := first_position(network):  # `generate` begins at 0
            inputs["position_ids"] = positions(inputs["attention_mask"]) + first
        return inputs

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": batch["input_ids"]}
        accepted = accepted_arguments(network)
        if "position_ids" in accepted:  # else positions are a bias of attention, as in BLOOM, or a state
            inputs["position_ids"] = batch["position_ids"] + first_position(network)
        if is_packed(batch):
            if attention_of(network) == SDPA_VARLEN:  # other attention finds the examples by their positions
                device = batch["input_ids"].device
                inputs["segments"] = segments(batch["lengths"], batch["segment_sizes"], device)
            return network(**inputs, use_cache=False, logits_to_keep=batch["target_positions"]).logits
        inputs["attention_mask"] = batch["attention_mask"]
        targets = batch["labels"].shape[1]
        if "logits_to_keep" in accepted:
            return network(**inputs, use_cache=False, logits_to_keep=targets).logits
        return network(**inputs, use_cache=False).logits[:, -targets:]


def positions(mask: Tensor) -> Tensor:
    """Of tokens in rows with this attention mask (B, S), from 0. Pads have none: the first token of a row is at 0."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def first_position(network: nn.Module) -> int:
    """Where the network's own forward pass begins to count. RoBERTa-like encoders begin after the id of their pad."""
    modules: Any = unwrap(network).modules()
    return next((m.padding_idx + 1 for m in modules if hasattr(type(m), "create_position_ids_from_input_ids")), 0)


def _for_training(config: PreTrainedConfig) -> PreTrainedConfig:
    # with `model.family: causal`; it must not see the tokens that it predicts
    if is_encoder(config) or config.model_type == "bert-generation":
        config.is_decoder = True
    if hasattr(config, "rescale_every"):  # RWKV would change its weights in every evaluation, and be saved so
        config.rescale_every = 0
    return config


INTERFACE = Causal()
