"""Causal models (GPT-2, GPT-Neo, Llama, Qwen ...): one stack reads the source and continues with the target."""

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from stages.lib.checkpoint.architecture import ModelClass, is_encoder
from stages.lib.models.attention import SDPA_VARLEN, segments
from stages.lib.models.families.interface import (
    IGNORED,
    Batch,
    OneClass,
    attention_mask,
    on_device,
    padded,
    target_labels,
    unwrap,
)
from stages.lib.records.tokenized_examples import TokenizedExample


class Causal(OneClass):
    name: ModelClass = "causal"
    auto_class = AutoModelForCausalLM

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        return super().from_scratch(_as_decoder(config))

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        return super().from_pretrained(place, _as_decoder(config), tokens, **options)

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
            # pads have no position: the first token of every row is at 0
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
            "labels": padded([target_labels(example) for example in examples], IGNORED, "right"),
        }

    def packed_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """Examples end to end in one row, without pads. Attention stays within an example.

        input_ids and position_ids are (1, N); positions start again with each example. labels (1, T) are the tokens
        that have loss, and target_positions (T) are the positions that predict them. lengths (B) are those of the
        examples. segment_sizes ([B]) are the numbers of examples that share a segment of attention.
        """
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
            "segment_sizes": np.array([len(examples)]),
        }
        return {name: torch.from_numpy(values) for name, values in row.items()}

    def supports_packing(self, network: PreTrainedModel, examples: Sequence[TokenizedExample]) -> bool:
        """Whether the network computes these examples packed as it computes each alone.

        Some models can't: they encode positions as a bias of attention, or carry a state from token to token. A
        gradient shows it: the logits of the last example must not depend on the examples before it.
        """
        if _attention_of(network) in ("eager", "sdpa") or "position_ids" not in accepted_arguments(network):
            return False
        network.eval()
        padded_rows, packed = (
            on_device(make(examples, int(network.config.pad_token_id)), network)
            for make in (self.training_batch, self.packed_batch)
        )
        embedded = list[Tensor]()
        try:
            with _captured_embeddings(network, embedded):
                together = self.target_logits(network, packed)[0]
        except TypeError:  # it does not accept an argument, such as `segments`
            return False
        if len(embedded) != 1:  # ids also enter the network in another way
            return False
        begin = int(packed["lengths"][:-1].sum())
        last = together[packed["target_positions"] >= begin].logsumexp(-1).sum()
        (influence,) = torch.autograd.grad(last, embedded)
        with torch.no_grad():
            alone = self.target_logits(network, padded_rows)[padded_rows["labels"] != IGNORED]
        tolerance = float(alone.abs().max()) * torch.finfo(alone.dtype).eps ** 0.5
        return not influence[:, :begin].any() and torch.allclose(together, alone, rtol=0.0, atol=tolerance)

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        """Padded on the left, so that generation continues right after each source."""
        return {"input_ids": padded(sources, pad_id, "left"), "attention_mask": attention_mask(sources, "left")}

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        if is_packed(batch):
            inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "position_ids")}
            if _attention_of(network) == SDPA_VARLEN:  # other attention finds the examples by their positions
                device = batch["input_ids"].device
                inputs["segments"] = list(segments(batch["lengths"], batch["segment_sizes"], device))
            return network(**inputs, use_cache=False, logits_to_keep=batch["target_positions"]).logits
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        accepted = accepted_arguments(network)
        if "position_ids" not in accepted:  # positions are a bias of attention, as in BLOOM
            del inputs["position_ids"]
        targets = batch["labels"].shape[1]
        if "logits_to_keep" in accepted:
            return network(**inputs, use_cache=False, logits_to_keep=targets).logits
        return network(**inputs, use_cache=False).logits[:, -targets:]


def is_packed(batch: Batch) -> bool:
    return "target_positions" in batch


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Packed batches end to end, each with its own segment of attention."""
    begins = [0, *accumulate(batch["input_ids"].shape[1] for batch in batches)]
    positions = [batch["target_positions"] + begin for batch, begin in zip(batches, begins, strict=False)]
    together = {name: torch.cat([batch[name] for batch in batches], -1) for name in batches[0]}
    return together | {"target_positions": torch.cat(positions)}


@contextmanager
def _captured_embeddings(network: PreTrainedModel, embedded: list[Tensor]) -> Iterator[None]:
    """Adds to `embedded` the embeddings of the ids, (B, S, width), as leaves that can have gradients."""

    def capture(module: nn.Module, ids: Any, embeddings: Tensor) -> Tensor:
        embedded.append(embeddings.detach().requires_grad_())
        return embedded[-1]

    hook = network.get_input_embeddings().register_forward_hook(capture)
    try:
        yield
    finally:
        hook.remove()


def accepted_arguments(network: nn.Module) -> Collection[str]:
    """Names of the arguments of the network's `forward`."""
    return inspect.signature(type(unwrap(network)).forward).parameters.keys()


def _attention_of(network: nn.Module) -> str:
    return str(unwrap(network).config._attn_implementation)


def _as_decoder(config: PreTrainedConfig) -> PreTrainedConfig:
    """Used as a causal model (`model.family: causal`), an encoder must not see the tokens that it predicts."""
    if is_encoder(config):
        config.is_decoder = True
    return config


INTERFACE = Causal()
