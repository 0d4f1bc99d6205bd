"""How the stages use a model, whatever its class: how it is made, its batches, and the logits of its targets."""

import inspect
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import ModelClass
from stages.lib.records.tokenized_examples import TokenizedExample

IGNORED = -100  # the label that torch's cross entropy skips

Batch = dict[str, Tensor]
Side = Literal["left", "right"]


class Loaded(NamedTuple):
    """A network, and the names of the weights that its checkpoint does not have: they are random."""

    network: PreTrainedModel
    new: set[str]


class ModelInterface(Protocol):
    """B is the number of examples in a batch; S and T are the longest source and target among them, in tokens."""

    name: ModelClass
    auto_class: Any  # the class of transformers that loads a saved model

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Random weights. Raises ValueError, TypeError or RuntimeError where the settings are not valid."""

    def from_pretrained(
        self, place: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, **options: Any
    ) -> Loaded:
        """The weights of a checkpoint, and random ones where it has none. The model has an embedding for every token.
        Raises OSError, ValueError or RuntimeError."""

    def training_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """Padded tensors; `labels` (B, T) is IGNORED where there is no loss."""

    def may_pack(self, network: PreTrainedModel) -> bool:
        """Whether the network, with its present attention, may compute packed batches right; numbers have to show it
        (`layouts.choose_layout`)."""

    def packed_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """Examples end to end in one row, without pads; attention stays within an example. Only where `may_pack`.

        input_ids are (1, N), labels (1, T). lengths and label_counts (B) are the numbers of input_ids and of labels of
        each example. segment_sizes are the numbers of examples whose attention is computed together.
        """

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        """The sources that a model continues: tensors of (B, S)."""

    def generation_inputs(self, network: PreTrainedModel, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        """The arguments of the network's `generate`, on its device."""

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, T, vocabulary), or (1, T, vocabulary) if packed, each of the label that it predicts."""


class OneClass:
    """A model that is one class of transformers."""

    auto_class: Any

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        network: PreTrainedModel = self.auto_class.from_config(config)
        return network

    def from_pretrained(
        self, place: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, **options: Any
    ) -> Loaded:
        return with_new_tokens(load(self.auto_class, place, config, **options), tokenizer)

    def may_pack(self, network: PreTrainedModel) -> bool:
        return False

    def packed_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        raise NotImplementedError

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        raise NotImplementedError

    def generation_inputs(self, network: PreTrainedModel, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        return on_device(self.prompt_batch(sources, pad_id), network)


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


def is_packed(batch: Batch) -> bool:
    return "lengths" in batch


# of a packed batch: Python code reads them, and would wait for a GPU
_LAYOUT = {"lengths", "label_counts", "segment_sizes"}


def on_device(batch: Batch, network: PreTrainedModel) -> Batch:
    """The batch on the device of the network, except for the tensors that describe its layout."""
    return {name: part if name in _LAYOUT else part.to(network.device) for name, part in batch.items()}


def target_labels(example: TokenizedExample) -> list[int]:
    """The ids of the target, with IGNORED where there is no loss."""
    labels = list(example.target_ids)
    for place in example.masked_positions:
        labels[place] = IGNORED
    return labels


def load(auto_class: Any, place: str, config: PreTrainedConfig, **options: Any) -> Loaded:
    """The weights of a checkpoint. Raises OSError, ValueError or RuntimeError."""
    network, report = auto_class.from_pretrained(place, config=config, output_loading_info=True, **options)
    return Loaded(network, {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})


def with_new_tokens(loaded: Loaded, tokenizer: PreTrainedTokenizerBase) -> Loaded:
    """With embeddings for all tokens. Those of new tokens are random, so their tables count as new; but not where the
    only new token is the pad, which no text has."""
    network: Any = loaded.network
    before, tokens = len(network.get_input_embeddings().weight), len(tokenizer)
    with_embeddings(network, tokens)
    if tokens <= before or before == tokens - 1 == tokenizer.pad_token_id:
        return loaded
    tables = (network.get_input_embeddings(), network.get_output_embeddings())
    grown = {name for name, module in network.named_modules() if any(module is table for table in tables)}
    return Loaded(network, loaded.new | {f"{name}.weight" for name in grown})


def with_embeddings(network: PreTrainedModel, tokens: int) -> PreTrainedModel:
    """The same network, with embeddings for at least so many tokens."""
    embeddings: Any = network.get_input_embeddings()
    if tokens > len(embeddings.weight):
        network.resize_token_embeddings(tokens)
    return network


def unwrap(network: nn.Module) -> PreTrainedModel:
    """The network without the wrappers of data parallelism and torch.compile."""
    while isinstance(inner := getattr(network, "module", getattr(network, "_orig_mod", None)), nn.Module):
        network = inner
    return cast(PreTrainedModel, network)


def accepted_arguments(network: nn.Module) -> Collection[str]:
    """Names of the arguments of the network's `forward`."""
    return inspect.signature(type(unwrap(network)).forward).parameters.keys()


def packs_by_positions(network: nn.Module) -> bool:
    """Whether attention finds the examples of a packed row, by segments or by positions that begin again."""
    return attention_of(network) not in ("eager", "sdpa") and "position_ids" in accepted_arguments(network)


def attention_of(network: nn.Module) -> str:
    """The implementation of attention that the network uses."""
    return str(unwrap(network).config._attn_implementation)
