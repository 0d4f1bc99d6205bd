"""Untrained networks whose texts differ with the source and with the position."""

from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def widely_drawn(network: N) -> N:
    """The same network with new weights. Those of a usual initialization are so small that, whatever the source, the
    network repeats one token."""
    generator = torch.Generator().manual_seed(1)
    embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for weights in network.parameters():
            if weights.dim() > 1 and weights.requires_grad:  # not positions that are computed (Marian)
                weights.normal_(0, 0.02 if id(weights) in embeddings else 0.5, generator=generator)
    return network


def moved(network: N) -> N:
    """The same network after a random change of the weights that are trained, as if it had learned something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.requires_grad:
                weights.add_(torch.randn(weights.shape, generator=generator), alpha=0.1)
    return network
