"""Noise on the embeddings of tokens during training (NEFTune: Jain et al. 2024)."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def neftune_noise(network: nn.Module, alpha: float) -> Iterator[None]:
    """Adds noise in every stack of the model, since the stacks of T5 and BART do not read one embedding table.

    Args:
        alpha: noise is uniform within ± alpha / sqrt(tokens of a row * width); 0 is no noise.
    """

    def add_noise(table: nn.Module, inputs: Any, embeddings: Tensor) -> Tensor:
        if not table.training:
            return embeddings
        tokens, width = embeddings.shape[-2:]
        limit = alpha / (tokens * width) ** 0.5
        return embeddings + torch.empty_like(embeddings).uniform_(-limit, limit)

    hooks = [table.register_forward_hook(add_noise) for table in _token_tables(network)] if alpha else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _token_tables(network: nn.Module) -> list[nn.Module]:
    found: dict[int, nn.Module] = {}
    for part in network.modules():
        if isinstance(part, PreTrainedModel):
            with suppress(NotImplementedError):  # a part that reads no tokens
                table = part.get_input_embeddings()
                found[id(table)] = table
    return list(found.values())
