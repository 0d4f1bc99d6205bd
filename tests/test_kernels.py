"""One kernel for many: the same function, and the same model when it is saved."""

import torch

from stages.lib.kernels import fuse
from tests import tiny


def test_a_fused_model_computes_the_same_and_saves_the_same() -> None:
    network = tiny.model(tiny.tokenizer()).eval()
    ids = torch.arange(12)[None]
    before, saved, config = network(input_ids=ids).logits, set(network.state_dict()), network.config.to_dict()
    assert "NewGELU" in repr(network)
    fuse(network)
    assert "NewGELU" not in repr(network)
    assert torch.allclose(network(input_ids=ids).logits, before, atol=1e-5)
    assert (set(network.state_dict()), network.config.to_dict()) == (saved, config)
