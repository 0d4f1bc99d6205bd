"""The causal family (GPT-2, Llama, Qwen ...): how its batches look and where its targets are predicted."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from stages.lib.pairs import Pair

AUTO_CLASS = AutoModelForCausalLM
IGNORED = -100  # the label that torch's cross entropy skips

Batch = dict[str, Tensor]


def training_batch(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """Pairs aligned at the border of source and target: sources padded on the left, targets on the right.

    So the positions that predict a target are the last T of every row, and only they need logits. With S and T the
    longest source and target of B pairs: input_ids, attention_mask and position_ids are (B, S + T - 1), as the last
    target token predicts nothing; labels are (B, T).
    """
    longest_source = max(len(pair.source_ids) for pair in pairs)
    longest_target = max(len(pair.target_ids) for pair in pairs)
    inputs, mask, labels = [], [], []
    for pair in pairs:
        left, right = longest_source - len(pair.source_ids), longest_target - len(pair.target_ids)
        tokens = pair.source_ids + pair.target_ids[:-1]
        inputs.append([pad_id] * left + tokens + [pad_id] * right)
        mask.append([0] * left + [1] * len(tokens) + [0] * right)
        labels.append(pair.target_ids + [IGNORED] * right)
    attention = torch.tensor(mask)
    # pads take no position: the first real token of every row stands at 0
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    return {
        "input_ids": torch.tensor(inputs),
        "attention_mask": attention,
        "position_ids": positions,
        "labels": torch.tensor(labels),
    }


def prompt_batch(sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Sources padded on the left, so that generation goes on right behind each: tensors of (B, S)."""
    longest = max(map(len, sources))
    inputs = [[pad_id] * (longest - len(source)) + list(source) for source in sources]
    mask = [[0] * (longest - len(source)) + [1] * len(source) for source in sources]
    return {"input_ids": torch.tensor(inputs), "attention_mask": torch.tensor(mask)}


def target_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, T, vocabulary) for the labels of a training batch."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    inner = getattr(model, "module", model)  # below the wrapper of a multi-process run
    accepted = inspect.signature(type(inner).forward).parameters
    if "position_ids" not in accepted:  # positions by attention bias, as in BLOOM
        del inputs["position_ids"]
    targets = batch["labels"].shape[1]
    if "logits_to_keep" in accepted:
        return model(**inputs, use_cache=False, logits_to_keep=targets).logits
    return model(**inputs, use_cache=False).logits[:, -targets:]
