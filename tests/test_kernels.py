"""Other kernels: the same function, and the same model when it is saved; or one line where there are none."""

import pytest
import torch

from stages.lib.kernels import check_compiler, check_liger, fuse, use_attention
from stages.lib.process import UserError
from tests import tiny

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")


def test_a_fused_model_computes_the_same_and_saves_the_same() -> None:
    network = tiny.model(tiny.tokenizer()).eval()
    ids = torch.arange(12)[None]
    before, saved, config = network(input_ids=ids).logits, set(network.state_dict()), network.config.to_dict()
    assert "NewGELU" in repr(network)
    fuse(network)
    assert "NewGELU" not in repr(network)
    assert torch.allclose(network(input_ids=ids).logits, before, atol=1e-5)
    assert (set(network.state_dict()), network.config.to_dict()) == (saved, config)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart", "bert"])
def test_attention_is_computed_as_asked_and_comes_out_the_same(name: str) -> None:
    architecture, kind = tiny.ARCHITECTURES[name]
    network = tiny.model(tiny.tokenizer(kind), architecture=architecture).eval()
    ids = torch.arange(12)[None]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if network.config.is_encoder_decoder else {})
    logits = {}
    for attention in ("sdpa", "eager"):
        use_attention(network, tiny.settings(attention=attention))
        assert {part.config._attn_implementation for part in network.modules() if hasattr(part, "config")} == {
            attention
        }
        logits[attention] = network(**inputs).logits
    assert torch.allclose(logits["sdpa"], logits["eager"], atol=1e-5)


def test_attention_that_a_model_has_no_choice_of_is_one_line() -> None:
    network = tiny.model(tiny.tokenizer(), architecture=tiny.ARCHITECTURES["bloom"][0])
    with pytest.raises(UserError, match="fit -> attention: sdpa is nothing that BloomForCausalLM can change to"):
        use_attention(network, tiny.settings(attention="sdpa"))
    use_attention(network, tiny.settings(attention="eager"))


@NO_GPU
def test_what_needs_a_gpu_says_so() -> None:
    network = tiny.model(tiny.tokenizer())
    with pytest.raises(UserError, match="fit -> attention: flash_attention_2 needs a GPU and `precision: bfloat16`"):
        use_attention(network, tiny.settings(attention="flash_attention_2"))
    with pytest.raises(UserError, match="fit -> liger: only on a GPU"):
        check_liger(network)


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.lib.kernels.which", lambda name: None)
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=r"fit -> compile: no compiler here \(.+\); install one, or write false"):
        check_compiler()
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, "one of my own")
    check_compiler()


def test_liger_says_what_is_missing_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("stages.lib.kernels.find_spec", lambda name: None)
    with pytest.raises(UserError, match="fit -> liger: not installed; `pip install liger-kernel`"):
        check_liger(tiny.model(tiny.tokenizer()))
