"""What every family of models must say about itself, and what most of them share."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from stages.lib.pairs import Pair

IGNORED = -100  # the label that torch's cross entropy skips

Batch = dict[str, Tensor]
Lengths = np.ndarray[Any, np.dtype[np.int64]]
Side = Literal["left", "right"]


class Family(Protocol):
    """One way to make a text, or a label, out of a source. B is the pairs of a batch, S and T the longest source and
    target among them, in tokens."""

    name: str
    needs: str  # what a model must be, to be one of this family
    auto_class: Any  # of transformers: opens what this family has saved

    def builds(self, config: PreTrainedConfig) -> bool:
        """Whether transformers has what this family needs for such a model."""

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Random weights. Raises ValueError, TypeError or RuntimeError where the settings make no model."""

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        """What `place` holds, and random weights for what it lacks, embeddings of at least `tokens` among them.
        Raises OSError, ValueError or RuntimeError."""

    def training_batch(self, pairs: Sequence[Pair], pad_id: int) -> Batch:
        """Tensors of whole rows; `labels` (B, T) is IGNORED where no loss is taken."""

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        """What generation starts from: tensors of (B, S)."""

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, T, vocabulary), each where the label of the same place is predicted."""

    def excess(self, config: PreTrainedConfig, sources: Lengths, targets: Lengths) -> int:
        """By how many tokens the longest of these pairs exceeds what the model has positions for; 0 or less fits."""


class OneClass:
    """A family that one class of transformers serves."""

    auto_class: Any

    def from_scratch(self, config: PreTrainedConfig) -> PreTrainedModel:
        network: PreTrainedModel = self.auto_class.from_config(config)
        return network

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        return with_embeddings(self.auto_class.from_pretrained(place, config=config, **options), tokens)


class ReadsAhead(OneClass):
    """A family whose sources are read as a whole, by an encoder."""

    def prompt_batch(self, sources: Sequence[Sequence[int]], pad_id: int) -> Batch:
        return {"input_ids": padded(sources, pad_id, "right"), "attention_mask": masked(sources, "right")}


def has_class(config: PreTrainedConfig, names: Collection[str], auto_class: Any) -> bool:
    """Whether transformers has a class of this kind for such a model, or the checkpoint brings code with one."""
    return config.model_type in names or auto_class.__name__ in (getattr(config, "auto_map", None) or {})


def padded(rows: Sequence[Sequence[int]], filling: int, side: Side) -> Tensor:
    """Rows of a length: (B, longest)."""
    longest = max(map(len, rows))
    blanks = ([filling] * (longest - len(row)) for row in rows)
    whole = [[*blank, *row] if side == "left" else [*row, *blank] for row, blank in zip(rows, blanks, strict=True)]
    return torch.from_numpy(np.array(whole, np.int64))  # in half the time of torch.tensor


def masked(rows: Sequence[Sequence[int]], side: Side) -> Tensor:
    """1 at a token, 0 at a pad: (B, longest)."""
    return padded([[1] * len(row) for row in rows], 0, side)


_LAYOUT = {"lengths", "together"}  # of pairs end to end; read by Python, which would have to wait for a GPU


def on_device(batch: Batch, network: PreTrainedModel) -> Batch:
    """Where the network is, but for what only says how pairs lie in it."""
    return {name: part if name in _LAYOUT else part.to(network.device) for name, part in batch.items()}


def learned_labels(pair: Pair) -> list[int]:
    labels = list(pair.target_ids)
    for place in pair.only_read:
        labels[place] = IGNORED
    return labels


def with_embeddings(network: PreTrainedModel, tokens: int) -> PreTrainedModel:
    """The same network, with an embedding for each of so many tokens."""
    embeddings: Any = network.get_input_embeddings()
    if tokens > embeddings.num_embeddings:
        network.resize_token_embeddings(tokens)
    return network


# these count positions from behind the id of the pad token
_POSITIONS_AFTER_PAD = {
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def positions(config: PreTrainedConfig, side: Literal["encoder", "decoder"] | None = None) -> int | None:
    """The longest sequence that a model, or one side of it, has positions for, in tokens; None if there is no limit."""
    config = getattr(config, str(side), config)  # the two halves of a bert2bert
    longest = getattr(config, f"max_{side}_position_embeddings", getattr(config, "max_position_embeddings", None))
    if longest is not None and config.model_type in _POSITIONS_AFTER_PAD:
        return int(longest) - int(config.pad_token_id or 0) - 1
    return longest
