"""Keys and values in memory that has room for the whole text from the start."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)  # and none that are derived from them


class NotPlain(Exception):
    """A network keeps more between tokens than the keys and values of all tokens."""


class Origin(NamedTuple):
    """What a row begins with: a row that has been computed, without so many of its last tokens."""

    row: int
    dropped: int


def beginnings(states: Tensor, origins: Sequence[Origin], dim: int, room: int = 0) -> Tensor:
    """A row for each origin. All end at the same place, so one that drops tokens is moved to the right.

    Args:
        states: one row for each that has been computed, with its tokens in the dimension `dim`.
        room: tokens that the rows have room for; at least those of `states`.
    """
    tokens = states.shape[dim]
    sizes = [len(origins), *states.shape[1:]]
    sizes[dim] = max(room, tokens)
    rows = states.new_empty(sizes)
    for dropped in {origin.dropped for origin in origins}:
        own = [place for place, origin in enumerate(origins) if origin.dropped == dropped]
        targets = torch.tensor(own, device=states.device)
        computed = torch.tensor([origins[place].row for place in own], device=states.device)
        rows.narrow(dim, 0, dropped).index_fill_(0, targets, 0)  # masked, but 0 times just any memory can be no number
        kept = states.narrow(dim, 0, tokens - dropped).index_select(0, computed)
        rows.narrow(dim, dropped, tokens - dropped).index_copy_(0, targets, kept)
    return rows


def roomy_layers(cache: Cache, origins: Sequence[Origin], room: int) -> list["RowLayer"]:
    """Puts layers into the cache that have room for so many tokens, and returns them.

    Args:
        cache: after the prompt.
        origins: of the rows.

    Raises:
        NotPlain: it has layers of another kind, or such that forget tokens before `room`.
    """
    layers = [RowLayer(_plain(layer, room), origins, room) for layer in cache.layers]
    cache.layers[:] = layers
    return layers


def _plain(layer: object, room: int) -> DynamicLayer:
    is_short = isinstance(layer, DynamicSlidingWindowLayer) and layer.sliding_window < room
    if not isinstance(layer, DynamicLayer) or type(layer) not in _PLAIN or is_short:
        raise NotPlain
    return layer


class RowLayer(DynamicLayer):
    """Has the rows of a batch as the first dimension, (rows, heads, tokens, size). `keys` and `values` are views of
    what is in use."""

    def __init__(self, layer: DynamicLayer, origins: Sequence[Origin], room: int) -> None:
        super().__init__()
        if layer.keys is None or layer.values is None:
            raise NotPlain
        self.is_sliding, self.is_initialized = layer.is_sliding, True
        self.dtype, self.device = layer.dtype, layer.device
        self._keys, self._values = (beginnings(states, origins, 2, room) for states in (layer.keys, layer.values))
        self._count, self._tokens = len(self._keys), layer.keys.shape[2]
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, self._tokens = self._tokens, self._tokens + key_states.shape[2]
        self._keys[: self._count, :, start : self._tokens] = key_states
        self._values[: self._count, :, start : self._tokens] = value_states
        return self._show()

    def copy_rows(self, sources: Tensor, targets: Tensor, first: int = 0) -> None:
        """Row `targets[n]` gets the tokens of row `sources[n]`, from the token `first` on."""
        for states in (self._keys, self._values):
            used = states[:, :, first : self._tokens]
            used.index_copy_(0, targets, used.index_select(0, sources))

    def cut(self, count: int) -> None:
        """Drops all rows but the first `count`."""
        self._count = count
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = (states[: self._count, :, : self._tokens] for states in (self._keys, self._values))
        self.keys, self.values = keys, values
        return keys, values
