"""Faster kernels: the same results and the same saved model, or one line where there are none."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from stages.lib.core.process import UserError
from stages.lib.models.attention import SDPA_VARLEN
from stages.lib.training.kernels import (
    check_compiler,
    fast_dropout_generator,
    fuse_norms,
    use_attention,
    use_kernels,
)
from tests import tiny
from tests.random_weights import widely_drawn


def test_fused_gelu_computes_and_saves_the_same() -> None:
    network = tiny.model(tiny.tokenizer()).eval()
    ids = torch.arange(12)[None]
    before, saved, config = network(input_ids=ids).logits, set(network.state_dict()), network.config.to_dict()
    assert "NewGELU" in repr(network)
    use_kernels(network, tiny.settings())
    assert network.config._attn_implementation == SDPA_VARLEN
    assert "NewGELU" not in repr(network)
    assert torch.allclose(network(input_ids=ids).logits, before, atol=1e-5)
    assert (set(network.state_dict()), network.config.to_dict()) == (saved, config)


def test_the_fast_generator_keeps_the_share_repeats_with_the_seed_and_is_gone_afterwards() -> None:
    def kept(share: float, size: tuple[int, ...] = (501, 401)) -> torch.Tensor:
        torch.manual_seed(1)
        return torch.empty(size).bernoulli_(share)

    usual = kept(0.9)
    with fast_dropout_generator():
        fast = kept(0.9)
        assert torch.equal(kept(0.9), fast)
        assert set(fast.unique().tolist()) == {0.0, 1.0}
        for share in (0.0, 0.003, 0.5, 0.9, 1.0):
            spread = (share * (1 - share) / fast.numel()) ** 0.5
            assert kept(share).mean().item() == pytest.approx(share, abs=4 * spread + 2**-16)
        # four neighbours share one number of the generator, and are still independent
        draws = kept(0.5, (1000, 4))
        assert (torch.corrcoef(draws.T) - torch.eye(4)).abs().max() < 0.15
        assert kept(0.5, (0,)).shape == (0,)
        dropped = torch.nn.functional.dropout(torch.ones(1000, 100), 0.1)
        assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert not torch.equal(fast, usual)
    assert torch.equal(kept(0.9), usual)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_fused_norms_compute_learn_and_save_the_same(name: str) -> None:
    architecture, family = tiny.ARCHITECTURES[name]
    network = widely_drawn(tiny.model(tiny.tokenizer(family), architecture=architecture)).eval()
    ids = torch.arange(12)[None]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if network.config.is_encoder_decoder else {})
    use_attention(network, tiny.settings())

    def gradients() -> dict[str, torch.Tensor]:
        network.zero_grad()
        network(**inputs).logits.square().sum().backward()
        return {key: weights.grad.clone() for key, weights in network.named_parameters() if weights.grad is not None}

    before, saved, config = gradients(), set(network.state_dict()), network.config.to_dict()
    use_kernels(network, tiny.settings())
    assert any(isinstance(module, torch.nn.RMSNorm) for module in network.modules())
    assert not any(hasattr(module, "variance_epsilon") for module in network.modules())
    after = gradients()
    assert all(torch.allclose(after[key], own, atol=1e-5 * float(own.abs().max())) for key, own in before.items())
    assert (set(network.state_dict()), network.config.to_dict()) == (saved, config)


class GatedNorm(LlamaRMSNorm):
    def forward(self, states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(states if gate is None else states * gate)


class ShiftedNorm(LlamaRMSNorm):
    """As Gemma's: the weight is a difference from 1."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return super().forward(states) * (1 + self.weight) / self.weight


def test_norms_that_compute_something_else_are_left_alone() -> None:
    norms = torch.nn.ModuleList([GatedNorm(8), ShiftedNorm(8), torch.nn.LayerNorm(8)])
    fuse_norms(norms)
    assert [type(norm) for norm in norms] == [GatedNorm, ShiftedNorm, torch.nn.LayerNorm]


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart", "bert"])
def test_every_implementation_of_attention_computes_the_same(name: str) -> None:
    architecture, family = tiny.ARCHITECTURES[name]
    network = tiny.model(tiny.tokenizer(family), architecture=architecture).eval()
    ids = torch.arange(12)[None]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if network.config.is_encoder_decoder else {})
    logits = {}
    for attention in ("sdpa", "eager"):
        use_attention(network, tiny.settings(attention=attention))
        chosen = SDPA_VARLEN if attention == "sdpa" and name in ("gpt2", "llama", "t5") else attention
        assert {part.config._attn_implementation for part in network.modules() if hasattr(part, "config")} == {chosen}
        logits[attention] = network(**inputs).logits
    assert torch.allclose(logits["sdpa"], logits["eager"], atol=1e-5)


def test_attention_that_a_model_lacks_is_one_line() -> None:
    network = tiny.model(tiny.tokenizer(), architecture=tiny.ARCHITECTURES["bloom"][0])
    with pytest.raises(UserError, match="fit -> attention: BloomForCausalLM does not support sdpa; write null"):
        use_attention(network, tiny.settings(attention="sdpa"))
    use_attention(network, tiny.settings(attention="eager"))


def test_without_a_gpu_its_kernels_are_refused() -> None:
    network = tiny.model(tiny.tokenizer())
    with pytest.raises(UserError, match="fit -> attention: flash_attention_2 needs a GPU and `precision: bfloat16`"):
        use_attention(network, tiny.settings(attention="flash_attention_2"))
    with pytest.raises(UserError, match="fit -> liger: only on a GPU"):
        use_kernels(network, tiny.settings(liger=True))


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.lib.training.kernels.which", lambda name: None)
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=r"fit -> compile: no compiler here \(.+\); install one, or write false"):
        check_compiler()
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, "my own compiler")
    check_compiler()


def test_a_missing_liger_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("stages.lib.training.kernels.find_spec", lambda name: None)
    with pytest.raises(UserError, match="fit -> liger: not installed; `pip install liger-kernel`"):
        use_kernels(tiny.model(tiny.tokenizer()), tiny.settings(liger=True))
