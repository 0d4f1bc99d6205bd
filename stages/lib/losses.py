"""Cross entropy over target tokens alone, in nats: of a batch for training, of each pair for measuring."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.lib.causal import IGNORED, Batch, target_logits, training_batch
from stages.lib.pairs import Pairs


def summed_loss(model: nn.Module, batch: Batch, label_smoothing: float) -> Tensor:
    """Summed over the target tokens of a batch, for training (label smoothing: Szegedy et al. 2016)."""
    logits = target_logits(model, batch).flatten(0, 1).float()
    labels = batch["labels"].flatten()
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)


@torch.no_grad()
def pair_losses(
    model: nn.Module, pairs: Pairs, indices: Sequence[int], batch_size: int, pad_id: int
) -> Iterator[tuple[int, float, int]]:
    """Index, summed loss and target tokens of each pair in `indices`, the longest first, without label smoothing."""
    model.eval()
    device = next(model.parameters()).device
    lengths = pairs.lengths()
    order = sorted(indices, key=lambda index: (-lengths[index], index))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = {name: part.to(device) for name, part in training_batch([pairs[i] for i in chosen], pad_id).items()}
        logits, labels = target_logits(model, batch).float(), batch["labels"]
        losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")  # (B, T)
        tokens = labels.ne(IGNORED).sum(1)
        yield from zip(chosen, losses.double().sum(1).tolist(), tokens.tolist(), strict=True)
