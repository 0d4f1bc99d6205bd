"""The causal family (GPT-2, GPT-Neo, Llama, Qwen ...): one stack that reads the source and goes on with the target."""

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from stages.lib.attention import PAIRS_APART, tables
from stages.lib.families.family import (
    IGNORED,
    Batch,
    Lengths,
    OneClass,
    has_class,
    learned_labels,
    masked,
    on_device,
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
        they are predicted. lengths (B) are those of the pairs, and together ([B]) says how many of them share a table
        of attention.
        """
        written = np.array([len(pair.target_ids) for pair in pairs])
        lengths = np.array([len(pair.source_ids) for pair in pairs]) + written - 1
        tokens = chain.from_iterable(pair.source_ids + pair.target_ids[:-1] for pair in pairs)
        labels = np.fromiter(chain.from_iterable(map(learned_labels, pairs)), np.int64)
        # in front of every target token stands what predicts it
        places = np.repeat(lengths.cumsum() - written.cumsum(), written) + np.arange(len(labels))
        is_learned = labels != IGNORED
        row = {
            "input_ids": np.fromiter(tokens, np.int64)[None],
            "position_ids": (np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths))[None],
            "labels": labels[is_learned][None],
            "keep": places[is_learned],
            "lengths": lengths,
            "together": np.array([len(pairs)]),
        }
        return {name: torch.from_numpy(values) for name, values in row.items()}

    def lies_flat(self, network: PreTrainedModel, pairs: Sequence[Pair]) -> bool:
        """Whether `pairs` end to end are computed as each alone, without a mask over all of them: not by models that
        know positions by their attention's bias, or that carry a state from token to token, which shows in a gradient
        of what is predicted for the last pair by tokens of those before it."""
        if _implementation(network) in ("eager", "sdpa") or "position_ids" not in accepted_by(network):
            return False
        network.eval()
        apart, flat = (
            on_device(make(pairs, int(network.config.pad_token_id)), network)
            for make in (self.training_batch, self.flat_batch)
        )
        embedded = list[Tensor]()
        try:
            with _watched_embeddings(network, embedded):
                together = self.target_logits(network, flat)[0]
        except TypeError:  # it takes nothing that it does not know, such as tables
            return False
        if len(embedded) != 1:  # ids reach the network by other ways too
            return False
        begin = int(flat["lengths"][:-1].sum())
        (influence,) = torch.autograd.grad(together[flat["keep"] >= begin].logsumexp(-1).sum(), embedded)
        with torch.no_grad():
            alone = self.target_logits(network, apart)[apart["labels"] != IGNORED]
        tolerance = float(alone.abs().max()) * torch.finfo(alone.dtype).eps ** 0.5
        return not influence[:, :begin].any() and torch.allclose(together, alone, rtol=0.0, atol=tolerance)

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        """Padded on the left, so that generation goes on right behind each."""
        return {"input_ids": padded(sources, pad_id, "left"), "attention_mask": masked(sources, "left")}

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        if "keep" in batch:
            flat: dict[str, Any] = {name: batch[name] for name in ("input_ids", "position_ids")}
            if _implementation(network) == PAIRS_APART:  # else transformers takes the pairs from their positions
                flat["tables"] = list(tables(batch["lengths"], batch["together"], batch["input_ids"].device))
            return network(**flat, use_cache=False, logits_to_keep=batch["keep"]).logits
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


def joined(batches: Sequence[Batch]) -> Batch:
    """Flat batches end to end, each with a table of attention of its own."""
    begins = [0, *accumulate(batch["input_ids"].shape[1] for batch in batches)]
    keep = [batch["keep"] + begin for batch, begin in zip(batches, begins, strict=False)]
    return {name: torch.cat([batch[name] for batch in batches], -1) for name in batches[0]} | {"keep": torch.cat(keep)}


@contextmanager
def _watched_embeddings(network: PreTrainedModel, embedded: list[Tensor]) -> Iterator[None]:
    """Adds to `embedded` what the network makes of its ids, (B, S, width), as leaves that can have gradients."""

    def watch(module: nn.Module, ids: Any, embeddings: Tensor) -> Tensor:
        embedded.append(embeddings.detach().requires_grad_())
        return embedded[-1]

    hook = network.get_input_embeddings().register_forward_hook(watch)
    try:
        yield
    finally:
        hook.remove()


def accepted_by(network: nn.Module) -> Collection[str]:
    """Names of what the network takes."""
    return inspect.signature(type(_bare(network)).forward).parameters.keys()


def _implementation(network: nn.Module) -> str:
    """Of its attention."""
    return str(_bare(network).config._attn_implementation)


def _bare(network: nn.Module) -> PreTrainedModel:
    """Without what several processes, torch.compile or adapters put around it."""
    while isinstance(inner := getattr(network, "module", getattr(network, "_orig_mod", None)), nn.Module):
        network = inner
    below: Any = getattr(network, "get_base_model", None)  # of peft, which takes seconds to import
    return cast(PreTrainedModel, below() if below else network)


def _looking_back(config: PreTrainedConfig) -> PreTrainedConfig:
    """An encoder asked to write (`model.family: causal`) would see the tokens that it has to predict."""
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        config.is_decoder = True
    return config


FAMILY = Causal()
