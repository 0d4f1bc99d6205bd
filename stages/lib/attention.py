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
    places: Tensor  # of each token among the B * L; int64

    def filled(self, states: Tensor) -> Tensor:
        """(1, heads, N, size) of all tokens -> (B, heads, L, size) of its own."""
        own = states[0].transpose(0, 1)[self.tokens]
        size, longest = self.shape
        if len(own) < size * longest:
            own = own.new_zeros(size * longest, *own.shape[1:]).index_copy(0, self.places, own)
        return own.unflatten(0, self.shape).transpose(1, 2)

    def read(self, states: Tensor) -> Tensor:
        """(B, L, heads, size) -> (n, heads, size) of its n tokens."""
        rows = states.flatten(0, 1)
        return rows if len(rows) == len(self.places) else rows.index_select(0, self.places)


def tables(lengths: Tensor, together: Tensor) -> Iterator[Table]:
    """Of pairs of so many tokens (B), the first `together[0]` of which come into the first table, and so on."""
    begins = [0, *accumulate(lengths.tolist())]
    for first, end in pairwise([0, *accumulate(together.tolist())]):
        own = lengths[first:end]
        longest = int(own.max())
        is_token = torch.arange(longest, device=own.device) < own[:, None]  # (B, L)
        yield Table(slice(begins[first], begins[end]), (end - first, longest), is_token.flatten().nonzero().flatten())


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
