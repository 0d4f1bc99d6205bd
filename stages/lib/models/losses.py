"""Cross entropy over target tokens only, in nats: of a batch for training, of each example for evaluation."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import IGNORED, Batch, ModelInterface, on_device
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample


def summed_loss(interface: ModelInterface, network: nn.Module, batch: Batch, label_smoothing: float) -> Tensor:
    """Summed over the target tokens of a batch, for training (label smoothing: Szegedy et al. 2016)."""
    logits = interface.target_logits(network, batch).flatten(0, 1).float()
    labels = batch["labels"].flatten()
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)


@torch.no_grad()
def losses_of(network: PreTrainedModel, examples: Sequence[TokenizedExample]) -> tuple[Tensor, Tensor]:
    """Summed loss and number of target tokens of each example of one batch, without label smoothing: two tensors of
    (B)."""
    network.eval()
    interface = interface_of(network)
    batch = on_device(interface.training_batch(examples, int(network.config.pad_token_id)), network)
    logits, labels = interface.target_logits(network, batch).float(), batch["labels"]
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")  # (B, T)
    return losses.double().sum(1), labels.ne(IGNORED).sum(1)


def example_losses(
    network: PreTrainedModel,
    dataset: TokenizedDataset,
    batch_size: int,
    max_tokens: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[int, float, int]]:
    """Index, summed loss and number of target tokens of each example, the longest first.

    A batch has `batch_size` examples, or fewer if they would have more than `max_tokens` together. Process `rank` of
    `world_size` gets its share of the examples, in as many batches as the others.
    """
    lengths = dataset.lengths()
    order = sorted(range(len(dataset)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        size = batch_size if max_tokens is None else min(batch_size, max(1, max_tokens // longest))
        together = order[start : start + size * world_size]
        own = together[rank::world_size]
        start += len(together)
        losses, tokens = losses_of(network, [dataset[index] for index in own or together[:1]])
        if own:
            yield from zip(own, losses.tolist(), tokens.tolist(), strict=True)
