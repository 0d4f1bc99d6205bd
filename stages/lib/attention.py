"""Attention of pairs that stand end to end in one row, each among its own tokens: without it, linear layers would have
to compute pads, or attention a mask over all pairs at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PAIRS_APART = "pairs_apart"  # for `set_attn_implementation`; as sdpa, but where a forward brings `tables`


@dataclass(frozen=True)
class Table:
    """Pairs alike in length whose attention is computed at once: B rows of L places, pads on the right, which no token
    before them sees."""

    tokens: slice  # of the one row
    shape: tuple[int, int]  # B, L
    places: Tensor  # of each of the n tokens among the B * L; int64
    token_at: Tensor  # of each of the B * L places, n at a pad; int64

    def filled(self, states: Tensor) -> Tensor:
        """(1, heads, N, size) of all tokens -> (B, heads, L, size) of its own."""
        own = states[0].transpose(0, 1)[self.tokens]
        if self._has_pads():
            own = _Moved.apply(own, self.token_at, self.places)
        return own.unflatten(0, self.shape).transpose(1, 2)

    def read(self, states: Tensor) -> Tensor:
        """(B, L, heads, size) -> (n, heads, size) of its n tokens."""
        rows = states.flatten(0, 1)
        return _Moved.apply(rows, self.places, self.token_at) if self._has_pads() else rows

    def _has_pads(self) -> bool:
        return len(self.places) < len(self.token_at)


class _Moved(torch.autograd.Function):
    """Rows by their new order, and gradients by the old one: two lookups, where torch, which does not know that no row
    is taken twice, would add up gradients one after the other. One past the last is a row of zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return _looked_up(rows, order)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None]:
        return _looked_up(gradients, ctx.back), None, None


def _looked_up(rows: Tensor, order: Tensor) -> Tensor:
    if len(order) > len(rows):  # pads are among them
        rows = torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])
    return rows.index_select(0, order)


def tables(lengths: Tensor, together: Tensor, device: torch.device) -> Iterator[Table]:
    """Of pairs of so many tokens (B), the first `together[0]` of which come into the first table, and so on."""
    begins = [0, *accumulate(lengths.tolist())]
    for first, end in pairwise([0, *accumulate(together.tolist())]):
        own = lengths[first:end]
        longest = int(own.max())
        is_token = (torch.arange(longest) < own[:, None]).flatten()  # (B * L)
        places = is_token.nonzero().flatten()
        token_at = torch.where(is_token, is_token.cumsum(0) - 1, len(places))
        shape, tokens = (end - first, longest), slice(begins[first], begins[end])
        yield Table(tokens, shape, places.to(device), token_at.to(device))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    tables: Sequence[Table] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    if tables is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    apart = []
    for table in tables:
        own = table.filled(query), table.filled(key), table.filled(value)
        apart.append(table.read(sdpa_attention_forward(module, *own, None, **options)[0]))
    return torch.cat(apart).unsqueeze(0), None


def _mask(attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """None for pairs end to end, which come without a mask: each table is causal by itself."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **options)


AttentionInterface.register(PAIRS_APART, _attention)
AttentionMaskInterface.register(PAIRS_APART, _mask)
