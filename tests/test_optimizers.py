"""Optimizers by name: which weights each updates and how, with which rates, and that a resumed one goes on alike."""

import io
import math
import sys
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from stages.lib.core.process import UserError
from stages.lib.params.fit import Adapters, Freeze
from stages.lib.training.muon import Muon, orthogonal
from stages.lib.training.optimizers import decayed_weights, make_optimizer, optimizer_bytes
from stages.lib.training.trainable import make_trainable
from tests import tiny

OPTIMIZERS = ("adamw", "adamw_8bit", "adafactor", "muon")
RATE = 0.01


def model(name: str = "gpt2", labels: tuple[str, ...] = (), **sizes: Any) -> PreTrainedModel:
    architecture, family = tiny.ARCHITECTURES[name]
    return tiny.model(tiny.tokenizer(family), architecture=architecture | sizes, labels=labels)


def named(network: PreTrainedModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def update(network: PreTrainedModel, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """With gradients drawn by the number of the step, and the learning rate falling."""
    for step in steps:
        torch.manual_seed(step)
        for weight in network.parameters():
            gradient = torch.randn_like(weight)
            weight.grad = gradient if weight.requires_grad else None
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] / (step + 1)
        optimizer.step()
        optimizer.zero_grad()


def updated(steps: int = 3, **settings: Any) -> dict[str, Tensor]:
    network = model()
    update(network, make_optimizer(network, tiny.settings(learning_rate=RATE, **settings)), range(steps))
    return named(network)


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def test_adamw_is_that_of_torch() -> None:
    network = model()
    decayed = set(decayed_weights(network))
    groups = [
        {"params": [weight for weight in network.parameters() if (weight in decayed) is decays], "weight_decay": decay}
        for decays, decay in ((True, 0.1), (False, 0.0))
    ]
    plain = torch.optim.AdamW([group | {"initial_lr": RATE} for group in groups], lr=RATE, fused=True)
    update(network, plain, range(3))
    torch.testing.assert_close(updated(optimizer="adamw", weight_decay=0.1), named(network), rtol=0, atol=0)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_weights_decay_as_in_transformers(name: str) -> None:
    network = model(name)
    names = Trainer.get_decay_parameter_names(cast(Any, None), network)
    expected = [name for name, weight in network.named_parameters() if name in names and weight.requires_grad]
    decayed = set(decayed_weights(network))
    assert [name for name, weight in network.named_parameters() if weight in decayed] == expected


def test_frozen_weights_are_not_updated() -> None:
    network = make_trainable(model(), tiny.settings(freeze=Freeze(embeddings=True)))
    before = named(network)
    optimizer = make_optimizer(network, tiny.settings(weight_decay=0.1))
    update(network, optimizer, range(2))
    same = {name for name, weight in named(network).items() if torch.equal(weight, before[name])}
    assert same == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert set(decayed_weights(network)).isdisjoint(network.get_input_embeddings().parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_optimizer_goes_on_as_the_unbroken_one(optimizer: str) -> None:
    settings = tiny.settings(optimizer=optimizer, layer_decay=0.8, weight_decay=0.1)
    unbroken, broken = model(), model()
    update(unbroken, make_optimizer(unbroken, settings), range(6))
    first, file = make_optimizer(broken, settings), io.BytesIO()
    update(broken, first, range(3))
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make_optimizer(broken, settings)
    second.load_state_dict(torch.load(file, weights_only=True))
    update(broken, second, range(3, 6))
    torch.testing.assert_close(named(broken), named(unbroken), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_bytes_of_the_state_are_known_before(optimizer: str) -> None:
    network = make_trainable(model(n_embd=64), tiny.settings(freeze=Freeze(first_layers=1)))
    settings = tiny.settings(optimizer=optimizer)
    made = make_optimizer(network, settings)
    update(network, made, range(1))
    held = sum(tensor.nbytes for tensor in _state(made.state_dict()) if tensor.ndim)
    assert optimizer_bytes(network, settings) == held


def _state(found: Any) -> Iterator[Tensor]:
    """The tensors at any depth, except bitsandbytes' table of what 8 bits mean, which all weights share."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict | list):
        items = found.items() if isinstance(found, dict) else enumerate(found)
        yield from (tensor for name, item in items if not str(name).startswith("qmap") for tensor in _state(item))


def test_adamw_in_8_bits_stays_near_adamw_and_is_adamw_for_embeddings() -> None:
    before, exact, rough = named(model()), updated(optimizer="adamw"), updated(optimizer="adamw_8bit")
    assert torch.equal(rough["transformer.wte.weight"], exact["transformer.wte.weight"])
    name = "transformer.h.0.mlp.c_fc.weight"
    assert 0 < rms(rough[name] - exact[name]) < 0.1 * rms(exact[name] - before[name])


def test_adafactor_has_our_learning_rate_whatever_the_size_of_weights() -> None:
    def step(scale: float) -> Tensor:
        network = model()
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(scale)
        before = named(network)["transformer.h.0.mlp.c_fc.weight"]
        settings = tiny.settings(optimizer="adafactor", learning_rate=RATE, weight_decay=0.0)
        update(network, make_optimizer(network, settings), range(1))
        return named(network)["transformer.h.0.mlp.c_fc.weight"] - before

    assert rms(step(1.0)) == pytest.approx(RATE, rel=0.2)
    torch.testing.assert_close(step(8.0), step(1.0), rtol=1e-3, atol=1e-5)


def test_muon_updates_the_matrices_of_layers_and_adamw_the_rest() -> None:
    before, plain, found = named(model()), updated(optimizer="adamw"), updated(optimizer="muon")
    other = {name for name, weight in found.items() if not torch.equal(weight, plain[name])}
    assert other == {name for name, weight in before.items() if ".h." in name and weight.ndim == 2}


def test_muons_updates_are_as_large_as_those_of_adamw_at_a_fifth_of_the_rate() -> None:
    before, after = named(model()), updated(1, optimizer="muon", weight_decay=0.0)
    for name in ("transformer.h.0.mlp.c_fc.weight", "transformer.h.1.mlp.c_proj.weight"):
        assert rms(after[name] - before[name]) == pytest.approx(0.2 * RATE, rel=0.2)


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)])
def test_muon_is_that_of_torch_in_more_digits(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    begun, gradients = torch.randn(shape), torch.randn(4, *shape)

    def trained(kind: type[torch.optim.Optimizer], **options: Any) -> Tensor:
        weight = torch.nn.Parameter(begun.clone())
        optimizer = kind([{"params": [weight], "lr": 0.1, "weight_decay": 0.1}], **options)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        return weight.detach() - begun

    own, reference = trained(Muon, dtype=torch.float32), trained(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    assert rms(own - reference) < 0.02 * rms(reference)


def test_orthogonal_matrices_have_like_singular_values() -> None:
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonal(torch.randn(20, 50) * 1e-4))
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert torch.equal(orthogonal(torch.zeros(2, 3)), torch.zeros(2, 3))


def levels(network: PreTrainedModel, decay: float = 0.5) -> dict[str, int]:
    """Name of each trained weight -> how many times its learning rate was lowered."""
    settings = tiny.settings(learning_rate=RATE, layer_decay=decay)
    rates = {
        weight: group["initial_lr"]
        for group in make_optimizer(network, settings).param_groups
        for weight in group["params"]
    }
    return {
        name: round(math.log(rates[weight] / RATE, decay))
        for name, weight in network.named_parameters()
        if weight.requires_grad
    }


def test_rates_fall_from_the_head_to_the_embeddings() -> None:
    found = levels(model(n_layer=3))
    assert found["transformer.ln_f.weight"] == 0
    assert [found[f"transformer.h.{layer}.ln_1.bias"] for layer in (2, 1, 0)] == [1, 2, 3]
    assert found["transformer.wte.weight"] == found["transformer.wpe.weight"] == 4


def test_each_stack_has_rates_of_its_own() -> None:
    found = levels(model("t5", num_layers=2, num_decoder_layers=3))
    assert [found[f"encoder.block.{layer}.layer.0.SelfAttention.q.weight"] for layer in (1, 0)] == [1, 2]
    assert [found[f"decoder.block.{layer}.layer.0.SelfAttention.q.weight"] for layer in (2, 1, 0)] == [1, 2, 3]
    assert found["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] == 2
    assert found["shared.weight"] == 4
    assert found["decoder.final_layer_norm.weight"] == 0


def test_a_new_head_has_the_full_rate() -> None:
    found = levels(model("bert", labels=("good", "bad")))
    assert found["classifier.weight"] == found["bert.pooler.dense.weight"] == 0
    assert found["bert.embeddings.LayerNorm.weight"] == found["bert.embeddings.word_embeddings.weight"] == 3


def test_adapters_have_the_rates_of_their_layers() -> None:
    network = make_trainable(model(), tiny.settings(adapters=Adapters(rank=2)))
    found = levels(network)
    assert {level for name, level in found.items() if ".h.1." in name} == {1}
    assert {level for name, level in found.items() if ".h.0." in name} == {2}


@pytest.mark.parametrize(("optimizer", "calls"), [("adamw", 2), ("adafactor", 2), ("adamw_8bit", 3), ("muon", 3)])
def test_weights_of_equal_rate_and_decay_are_updated_together(optimizer: str, calls: int) -> None:
    groups = make_optimizer(model(), tiny.settings(optimizer=optimizer, weight_decay=0.1)).param_groups
    assert len(groups) == calls
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


def test_layers_that_cannot_be_told_are_reported() -> None:
    albert = {"model_type": "albert", "embedding_size": 16, "hidden_size": 32, "num_attention_heads": 2}
    network = tiny.model(tiny.tokenizer("encoder"), architecture=albert | {"intermediate_size": 32}, labels=("a", "b"))
    with pytest.raises(UserError, match=r"^params.yaml: fit -> layer_decay: the layers of this Albert.* write 1.0$"):
        make_optimizer(network, tiny.settings(layer_decay=0.9))


def test_muon_without_a_matrix_is_reported() -> None:
    network = make_trainable(model(), tiny.settings(freeze=Freeze(names=["*.h.*"])))
    with pytest.raises(UserError, match=r"^params.yaml: fit -> optimizer: muon is not for .* write adamw$"):
        make_optimizer(network, tiny.settings(optimizer="muon"))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r'adamw_8bit needs bitsandbytes; pip install -e "\.\[qlora\]"$'):
        make_optimizer(model(), tiny.settings(optimizer="adamw_8bit"))
