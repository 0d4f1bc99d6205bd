"""Functions of a model that transformers composes of many steps, computed by torch in one."""

from torch import nn
from transformers.activations import GELUTanh, NewGELUActivation


def fuse(network: nn.Module) -> None:
    """GELU by tanh (GPT-2, ALBERT ...: Hendrycks and Gimpel 2016): eight passes over the widest activations of a layer
    become one. The same numbers but for rounding, and no part of what is saved."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, GELUTanh())
