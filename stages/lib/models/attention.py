"""Attention over packed examples: each example attends only to its own tokens. Otherwise either linear layers would
compute pads, or attention would need a mask over all examples together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SDPA_VARLEN = "sdpa_varlen"  # for `set_attn_implementation`: sdpa, computed by segments if a forward pass has them


@dataclass(frozen=True)
class Segments:
    """Where the N tokens of a row go for attention. A segment is examples of similar length, computed together: B rows
    of L places, pads on the right. All segments together have P places."""

    shapes: Sequence[tuple[int, int]]  # B, L of each segment
    masks: Sequence[Tensor | None]  # (B, 1, 1, L) of each segment, true at a token; None where it has no pads
    places: Tensor  # (N): of each token, among the P
    token_at: Tensor  # (P): the token at each place; at a pad any, since nothing reads it

    def padded(self, states: Tensor) -> list[Tensor]:
        """(1, heads, N, size) -> (B, heads, L, size) of each segment."""
        rows = states.squeeze(0).transpose(0, 1)
        if self._have_pads():
            rows = _Padded.apply(rows, self.token_at, self.places)
        parts = rows.split([count * longest for count, longest in self.shapes])
        return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, self.shapes, strict=True)]

    def unpadded(self, parts: Sequence[Tensor]) -> Tensor:
        """(B, L, heads, size) of each segment -> (1, N, heads, size)."""
        rows = torch.cat([part.flatten(0, 1) for part in parts])
        if self._have_pads():
            rows = _Unpadded.apply(rows, self.places)
        return rows.unsqueeze(0)

    def _have_pads(self) -> bool:
        return len(self.places) < len(self.token_at)


@dataclass(frozen=True)
class SegmentPairs:
    """Those of an encoder and of its decoder, for the same examples in the same order."""

    source: Segments
    target: Segments


class _Padded(torch.autograd.Function):
    """Tokens to places. No gradient reaches a pad, so that of a token is the one at its place. Torch does not know
    this, and would add up gradients row by row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, token_at: Tensor, places: Tensor) -> Tensor:
        ctx.places = places
        return rows.index_select(0, token_at)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients.index_select(0, ctx.places), None, None


class _Unpadded(torch.autograd.Function):
    """Places to tokens. The gradient of a pad is zero."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.places, ctx.count = places, len(rows)
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:
        blank = gradients.new_zeros(ctx.count, *gradients.shape[1:])
        return blank.index_copy_(0, ctx.places, gradients), None


def segments(lengths: Tensor, segment_sizes: Tensor, device: torch.device) -> Segments:
    """Of examples of these lengths (B): the first `segment_sizes[0]` examples make the first segment."""
    own = lengths.split(segment_sizes.tolist())
    shapes = [(len(part), int(part.max())) for part in own]
    are_tokens = [torch.arange(longest) < part[:, None] for part, (_, longest) in zip(own, shapes, strict=True)]
    is_token = torch.cat([each.flatten() for each in are_tokens])
    return Segments(
        shapes,
        [None if each.all() else each[:, None, None].to(device) for each in are_tokens],
        is_token.nonzero().flatten().to(device),
        (is_token.cumsum(0) - 1).to(device),
    )


def use_segments(network: PreTrainedModel) -> None:
    """Lets the network compute packed examples: `segments`, an argument of its forward pass, says where they are."""
    network.set_attn_implementation(SDPA_VARLEN)
    for module in relative_attention(network):
        module.register_forward_pre_hook(_with_short_bias, with_kwargs=True)


def without_segments(network: PreTrainedModel) -> None:
    """The network as it was before `use_segments`. Some compute otherwise with an attention whose name they do not know
    (DeepSeek V3.2, Doge), which only packed examples are worth trying."""
    if network.config._attn_implementation == SDPA_VARLEN:
        network.set_attn_implementation("sdpa")


def relative_attention(network: nn.Module) -> list[nn.Module]:
    """The modules of attention that add a bias for the distance of two tokens (T5)."""
    return [module for module in network.modules() if hasattr(module, "compute_bias")]


def _with_short_bias(module: Any, inputs: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A bias for the longest example, in place of one for the whole row: it depends on distances only."""
    if options.get("segments") is None or options.get("position_bias", inputs) is not None:
        return inputs, options
    queries, keys = _sides(module, options["segments"])
    if module.has_relative_attention_bias:
        bias = module.compute_bias(*(max(longest for _, longest in side.shapes) for side in (queries, keys)))
    else:
        bias = torch.zeros(1, module.n_heads, 1, 1, device=queries.places.device)
    return inputs, options | {"position_bias": bias}


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Segments | SegmentPairs | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, position_bias=position_bias, **options)
    if attention_mask is not None:  # one that the network has made itself, such as Doge's
        raise ValueError("packed examples can have no other mask than their segments")
    queries, keys = _sides(module, segments)
    # a causal token does not see the pads on its right
    masks = [None] * len(keys.shapes) if _is_causal(module) else keys.masks
    outputs = []
    for part in zip(queries.padded(query), keys.padded(key), keys.padded(value), masks, strict=True):
        bias = None if position_bias is None else position_bias[:, :, : part[0].shape[2], : part[1].shape[2]]
        outputs.append(sdpa_attention_forward(module, *part, position_bias=bias, **options)[0])
    return queries.unpadded(outputs), None


def _sides(module: Any, segments: Segments | SegmentPairs) -> tuple[Segments, Segments]:
    """Of the queries and of the keys."""
    if isinstance(segments, Segments):
        return segments, segments
    if not module.is_decoder:
        return segments.source, segments.source
    return segments.target, segments.target if _is_causal(module) else segments.source


def _is_causal(module: nn.Module) -> bool:
    return bool(getattr(module, "is_causal", True))


def _mask(attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """None for packed examples: attention within segments has masks of its own."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **options)


AttentionInterface.register(SDPA_VARLEN, _attention)
AttentionMaskInterface.register(SDPA_VARLEN, _mask)
