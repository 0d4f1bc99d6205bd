"""Cross entropy over target tokens alone, in nats: of a batch for training, of each pair for measuring."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.lib.families import family_of
from stages.lib.families.causal import joined
from stages.lib.families.family import IGNORED, Batch, Family, on_device
from stages.lib.pairs import Pair, Pairs


def summed_loss(family: Family, network: nn.Module, batch: Batch, label_smoothing: float) -> Tensor:
    """Summed over the target tokens of a batch, for training (label smoothing: Szegedy et al. 2016)."""
    return _cross_entropy(family.target_logits(network, batch), batch["labels"], label_smoothing)


def agreeing_loss(family: Family, network: nn.Module, batch: Batch, label_smoothing: float, weight: float) -> Tensor:
    """The same of two passes under different dropout, and `weight` times how far apart they are: R-Drop (Liang et al.
    2021, equation 4, halved, so that its scale is that of one pass)."""
    twice = _twice(batch)
    logits = family.target_logits(network, twice)
    loss = _cross_entropy(logits, twice["labels"], label_smoothing)
    first, second = logits[twice["labels"] != IGNORED].float().log_softmax(-1).chunk(2)
    apart = F.kl_div(first, second, reduction="sum", log_target=True)
    apart = apart + F.kl_div(second, first, reduction="sum", log_target=True)
    return loss / 2 + weight * apart / 4


def _twice(batch: Batch) -> Batch:
    """All pairs, and all of them again behind: as further rows, or further on in the one row of pairs end to end."""
    if "keep" in batch:
        return joined([batch, batch])
    return {name: torch.cat([rows, rows]) for name, rows in batch.items()}


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    flat = logits.flatten(0, 1).float()
    return F.cross_entropy(
        flat, labels.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
    )


@torch.no_grad()
def losses_of(network: PreTrainedModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Summed loss and learned target tokens of each of B pairs in one batch, without label smoothing: two of (B)."""
    network.eval()
    family = family_of(network)
    batch = on_device(family.training_batch(pairs, int(network.config.pad_token_id)), network)
    logits, labels = family.target_logits(network, batch).float(), batch["labels"]
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")  # (B, T)
    return losses.double().sum(1), labels.ne(IGNORED).sum(1)


def pair_losses(
    network: PreTrainedModel,
    pairs: Pairs,
    batch_size: int,
    max_tokens: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[int, float, int]]:
    """Index, summed loss and target tokens of each pair, the longest first; so many pairs at once, or fewer where they
    have more than `max_tokens` together. Process `rank` of `world` gets its share of them, in as many batches as the
    others."""
    lengths = pairs.lengths()
    order = sorted(range(len(pairs)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        size = batch_size if max_tokens is None else min(batch_size, max(1, max_tokens // longest))
        together = order[start : start + size * world]
        own = together[rank::world]
        start += len(together)
        losses, tokens = losses_of(network, [pairs[index] for index in own or together[:1]])
        if own:
            yield from zip(own, losses.tolist(), tokens.tolist(), strict=True)
