"""Noise on the embeddings of tokens during training (NEFTune: Jain et al. 2024)."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.neftune import neftune_post_forward_hook


@contextmanager
def neftune_noise(network: nn.Module, alpha: float) -> Iterator[None]:
    """Adds noise in every stack of the model. Trainer's own option adds it to one embedding table, which the stacks of
    T5 and BART do not read.

    Args:
        alpha: noise is uniform within ± alpha / sqrt(tokens of a row * width); 0 is no noise.
    """
    tables = _token_tables(network) if alpha else []
    for table in tables:
        vars(table)["neftune_noise_alpha"] = alpha
    hooks = [table.register_forward_hook(neftune_post_forward_hook) for table in tables]
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
