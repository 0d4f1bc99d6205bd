"""Occlusion: how much less likely each target token is where a part of the source is left out (Zeiler and Fergus 2014,
for images; Li, Monroe and Jurafsky 2016, for words)."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import IGNORED, on_device
from stages.lib.models.layouts import Layout, allowed_groups
from stages.lib.models.losses import batches_that_fit
from stages.lib.records.tokenized_examples import TokenizedExample

_BATCH_TOKENS = 2048


def occlusion(
    network: PreTrainedModel, example: TokenizedExample, parts: Sequence[Collection[int]], layout: Layout
) -> tuple[Tensor, Tensor]:
    """The log-probability of each of T target tokens, (T), and how much of it each of P parts of the source gives,
    (T, P), in nats: what it loses without the part.

    Args:
        parts: places of source tokens, which are left out together.
        layout: in which the network computes a batch right (`choose_layout`).
    """
    whole, *others = log_probabilities(
        network, [example, *(_without(network, example, part) for part in parts)], layout
    )
    return whole, torch.stack([whole - own for own in others], 1) if others else whole.new_zeros(len(whole), 0)


def log_probabilities(network: PreTrainedModel, examples: Sequence[TokenizedExample], layout: Layout) -> list[Tensor]:
    """Of each target token of each example, in float64."""
    sources, targets = (
        np.array([len(ids) for ids in column])
        for column in zip(*((own.source_ids, own.target_ids) for own in examples), strict=True)
    )
    found: dict[int, Tensor] = {}
    for batch in batches_that_fit(network, sources, targets, _BATCH_TOKENS):
        for group in allowed_groups(layout, [examples[place] for place in batch]):
            places = [batch[place] for place in group]
            found.update(zip(places, _of_batch(network, [examples[place] for place in places]), strict=True))
    return [found[place] for place in range(len(examples))]


@torch.no_grad()
def _of_batch(network: PreTrainedModel, examples: Sequence[TokenizedExample]) -> list[Tensor]:
    network.eval()
    interface = interface_of(network)
    batch = on_device(interface.training_batch(examples, int(network.config.pad_token_id)), network)
    labels = batch["labels"]
    logits = interface.target_logits(network, batch)
    chosen = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0].double() - logits.double().logsumexp(-1)
    return [own[is_label].cpu() for own, is_label in zip(chosen, labels != IGNORED, strict=True)]


def _without(network: PreTrainedModel, example: TokenizedExample, part: Collection[int]) -> TokenizedExample:
    """A source that would be empty is the token that a text begins with, as tokenize has it."""
    kept = [token for place, token in enumerate(example.source_ids) if place not in part]
    start, end = network.config.bos_token_id, network.config.eos_token_id
    return example._replace(source_ids=kept or [int(end if start is None else start)])
