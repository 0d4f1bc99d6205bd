"""Attention over packed examples: each example attends only to its own tokens. Otherwise either linear layers would
compute pads, or attention would need a mask over all examples together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SDPA_VARLEN = "sdpa_varlen"  # for `set_attn_implementation`: sdpa, computed by segments if a forward pass has them


@dataclass(frozen=True)
class Segment:
    """Examples of similar length, whose attention is computed together: B rows of L places, pads on the right, which no
    token sees."""

    tokens: slice  # of the one row
    shape: tuple[int, int]  # B, L
    places: Tensor  # of each of the n tokens among the B * L; int64
    token_at: Tensor  # of each of the B * L places, n at a pad; int64

    def padded(self, states: Tensor) -> Tensor:
        """(1, heads, N, size) of all tokens -> (B, heads, L, size) of this segment."""
        own = states[0].transpose(0, 1)[self.tokens]
        if self._has_pads():
            own = _Reordered.apply(own, self.token_at, self.places)
        return own.unflatten(0, self.shape).transpose(1, 2)

    def unpadded(self, states: Tensor) -> Tensor:
        """(B, L, heads, size) -> (n, heads, size) of its n tokens."""
        rows = states.flatten(0, 1)
        return _Reordered.apply(rows, self.places, self.token_at) if self._has_pads() else rows

    def _has_pads(self) -> bool:
        return len(self.places) < len(self.token_at)


class _Reordered(torch.autograd.Function):
    """Rows in a new order, and gradients in the old one. Both are lookups: torch does not know that no row is used
    twice, and would add up the gradients one by one. The index after the last row means a row of zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return _looked_up(rows, order)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None]:
        return _looked_up(gradients, ctx.back), None, None


def _looked_up(rows: Tensor, order: Tensor) -> Tensor:
    if len(order) > len(rows):  # with pads
        rows = torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])
    return rows.index_select(0, order)


def segments(lengths: Tensor, segment_sizes: Tensor, device: torch.device) -> Iterator[Segment]:
    """The segments of examples of these lengths (B): the first `segment_sizes[0]` examples make the first segment."""
    begins = [0, *accumulate(lengths.tolist())]
    for first, end in pairwise([0, *accumulate(segment_sizes.tolist())]):
        own = lengths[first:end]
        longest = int(own.max())
        is_token = (torch.arange(longest) < own[:, None]).flatten()  # (B * L)
        places = is_token.nonzero().flatten()
        token_at = torch.where(is_token, is_token.cumsum(0) - 1, len(places))
        shape, tokens = (end - first, longest), slice(begins[first], begins[end])
        yield Segment(tokens, shape, places.to(device), token_at.to(device))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Sequence[Segment] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    outputs = []
    for segment in segments:
        own = segment.padded(query), segment.padded(key), segment.padded(value)
        outputs.append(segment.unpadded(sdpa_attention_forward(module, *own, None, **options)[0]))
    return torch.cat(outputs).unsqueeze(0), None


def _mask(attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """None for packed examples, which have no mask: each segment is causal by itself."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **options)


AttentionInterface.register(SDPA_VARLEN, _attention)
AttentionMaskInterface.register(SDPA_VARLEN, _mask)
