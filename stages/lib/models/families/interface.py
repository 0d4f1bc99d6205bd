"""How the stages use a model, whatever its class: how it is made, its batches, and the logits of its targets."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from stages.lib.checkpoint.architecture import ModelClass
from stages.lib.records.tokenized_examples import TokenizedExample

IGNORED = -100  # the label that torch's cross entropy skips

Batch = dict[str, Tensor]
Side = Literal["left", "right"]


class ModelInterface(Protocol):
    """B is the number of examples in a batch; S and T are the longest source and target among them, in tokens."""

    name: ModelClass
    auto_class: Any  # the class of transformers that loads a saved model

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Random weights. Raises ValueError, TypeError or RuntimeError where the settings are not valid."""

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        """The weights of a checkpoint, and random ones where it has none. The model has at least `tokens` embeddings.
        Raises OSError, ValueError or RuntimeError."""

    def training_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """Padded tensors; `labels` (B, T) is IGNORED where there is no loss."""

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        """The inputs of generation: tensors of (B, S)."""

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, T, vocabulary), each at the position of the label that it predicts."""


class OneClass:
    """A model that is one class of transformers."""

    auto_class: Any

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        network: PreTrainedModel = self.auto_class.from_config(config)
        return network

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        return with_embeddings(self.auto_class.from_pretrained(place, config=config, **options), tokens)


class WithEncoder(OneClass):
    """A model with an encoder, which reads the whole source at once."""

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        return {"input_ids": padded(sources, pad_id, "right"), "attention_mask": attention_mask(sources, "right")}


def padded(rows: Sequence[Sequence[int]], filling: int, side: Side) -> Tensor:
    """Rows padded to the longest: (B, longest)."""
    longest = max(map(len, rows))
    blanks = ([filling] * (longest - len(row)) for row in rows)
    whole = [[*blank, *row] if side == "left" else [*row, *blank] for row, blank in zip(rows, blanks, strict=True)]
    return torch.from_numpy(np.array(whole, np.int64))  # in half the time of torch.tensor


def attention_mask(rows: Sequence[Sequence[int]], side: Side) -> Tensor:
    """1 at a token, 0 at a pad: (B, longest)."""
    return padded([[1] * len(row) for row in rows], 0, side)


_LAYOUT = {"lengths", "segment_sizes"}  # of a packed batch: Python code reads them, and would wait for a GPU


def on_device(batch: Batch, network: PreTrainedModel) -> Batch:
    """The batch on the device of the network, except for the tensors that describe its layout."""
    return {name: part if name in _LAYOUT else part.to(network.device) for name, part in batch.items()}


def target_labels(example: TokenizedExample) -> list[int]:
    """The ids of the target, with IGNORED where there is no loss."""
    labels = list(example.target_ids)
    for place in example.masked_positions:
        labels[place] = IGNORED
    return labels


def with_embeddings(network: PreTrainedModel, tokens: int) -> PreTrainedModel:
    """The same network, with embeddings for at least so many tokens."""
    embeddings: Any = network.get_input_embeddings()
    if tokens > embeddings.num_embeddings:
        network.resize_token_embeddings(tokens)
    return network


def unwrap(network: nn.Module) -> PreTrainedModel:
    """The network without the wrappers of data parallelism, torch.compile and adapters."""
    while isinstance(inner := getattr(network, "module", getattr(network, "_orig_mod", None)), nn.Module):
        network = inner
    base_model: Any = getattr(network, "get_base_model", None)  # of peft, which takes seconds to import
    unwrapped: Any = base_model() if base_model else network
    return unwrapped
