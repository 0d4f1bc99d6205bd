"""The causal family (GPT-2, GPT-Neo, Llama, Qwen ...): one stack that reads the source and goes on with the target."""

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from stages.lib.families.family import (
    IGNORED,
    Batch,
    Lengths,
    OneClass,
    has_class,
    learned_labels,
    masked,
    padded,
    positions,
)
from stages.lib.pairs import Pair


class Causal(OneClass):
    name = "causal"
    needs = "transformers has no causal language model of this type"
    auto_class = AutoModelForCausalLM

    def builds(self, config: PreTrainedConfig) -> bool:
        return has_class(config, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, self.auto_class)

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        return super().from_scratch(_looking_back(config))

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        return super().from_pretrained(place, _looking_back(config), tokens, **options)

    def training_batch(self, pairs: Sequence[Pair], pad_id: int) -> Batch:
        """Pairs aligned at the border of source and target: sources padded on the left, targets on the right.

        So the positions that predict a target are the last T of every row, and only they need logits. input_ids,
        attention_mask and position_ids are (B, S + T - 1), as the last target token predicts nothing.
        """
        longest = max(len(pair.source_ids) for pair in pairs)
        left = [longest - len(pair.source_ids) for pair in pairs]
        tokens = [pair.source_ids + pair.target_ids[:-1] for pair in pairs]
        inputs = [[pad_id] * blank + row for blank, row in zip(left, tokens, strict=True)]
        attention = [[0] * blank + [1] * len(row) for blank, row in zip(left, tokens, strict=True)]
        mask = padded(attention, 0, "right")
        return {
            "input_ids": padded(inputs, pad_id, "right"),
            "attention_mask": mask,
            # pads take no position: the first real token of every row stands at 0
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
            "labels": padded([learned_labels(pair) for pair in pairs], IGNORED, "right"),
        }

    def flat_batch(self, pairs: Sequence[Pair], pad_id: int) -> Batch:
        """Pairs end to end in one row, without pads; attention stays within a pair, as positions begin anew.

        input_ids and position_ids are (1, N), labels (1, T) of the tokens that are learned, and keep (T) says where
        they are predicted.
        """
        tokens = [pair.source_ids + pair.target_ids[:-1] for pair in pairs]
        positions = [place for row in tokens for place in range(len(row))]
        labels = [label for pair in pairs for label in [IGNORED] * (len(pair.source_ids) - 1) + learned_labels(pair)]
        learned = [place for place, label in enumerate(labels) if label != IGNORED]
        return {
            "input_ids": torch.tensor([[token for row in tokens for token in row]]),
            "position_ids": torch.tensor([positions]),
            "labels": torch.tensor([[labels[place] for place in learned]]),
            "keep": torch.tensor(learned),
        }

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        """Padded on the left, so that generation goes on right behind each."""
        return {"input_ids": padded(sources, pad_id, "left"), "attention_mask": masked(sources, "left")}

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        if "keep" in batch:  # without a mask, transformers takes the pairs of a row from their positions
            inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
            return network(**inputs, use_cache=False, logits_to_keep=batch["keep"]).logits
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        accepted = accepted_by(network)
        if "position_ids" not in accepted:  # positions by attention bias, as in BLOOM
            del inputs["position_ids"]
        targets = batch["labels"].shape[1]
        if "logits_to_keep" in accepted:
            return network(**inputs, use_cache=False, logits_to_keep=targets).logits
        return network(**inputs, use_cache=False).logits[:, -targets:]

    def excess(self, config: PreTrainedConfig, sources: Lengths, targets: Lengths) -> int:
        room = positions(config)
        # the last target token is never read
        return 0 if room is None else int((sources + targets).max()) - 1 - room


def accepted_by(network: nn.Module) -> Collection[str]:
    """Names of what the network takes, below what several processes, torch.compile or adapters put around it."""
    while isinstance(inner := getattr(network, "module", getattr(network, "_orig_mod", None)), nn.Module):
        network = inner
    below: Any = getattr(network, "get_base_model", None)  # of peft, which takes seconds to import
    network = below() if below else network
    return inspect.signature(type(network).forward).parameters.keys()


def _looking_back(config: PreTrainedConfig) -> PreTrainedConfig:
    """An encoder asked to write (`model.family: causal`) would see the tokens that it has to predict."""
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        config.is_decoder = True
    return config


FAMILY = Causal()
