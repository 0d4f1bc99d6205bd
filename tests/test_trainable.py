"""What learns: frozen weights stay as they are, and adapters become part of an ordinary model."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from stages.lib.decoding import decode
from stages.lib.families import family_of
from stages.lib.fitting import fit
from stages.lib.losses import losses_of
from stages.lib.models import parameter_count
from stages.lib.noise import noisy_embeddings
from stages.lib.params.fit import Adapters, Freeze
from stages.lib.params.predict import Predict
from stages.lib.process import UserError
from stages.lib.trainable import learned_count, merged, student
from tests import tiny
from tests.build import section

LABELS = ["bad", "good"]


def trained(name: str, folder: Path, **overrides: Any) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Tokenizer, network after a short fit, and its weights before."""
    architecture, kind = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(kind)
    network = tiny.model(tokens, architecture=architecture, dropout=0.0)
    before = {key: weights.clone() for key, weights in network.state_dict().items()}
    settings = tiny.settings(**overrides)
    data = tiny.pairs(tokens, folder / "pairs")
    learner = student(network, settings)
    fit(learner, data, data, settings, tiny.machine(), folder / "fit", title="test")
    return tokens, learner, before


def changed(network: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, weights in network.state_dict().items() if not torch.equal(weights, before[name])}


@pytest.mark.parametrize(
    ("name", "freeze", "frozen"),
    [
        ("gpt2", {"embeddings": True}, ("transformer.wte.", "transformer.wpe.", "lm_head.")),
        ("gpt2", {"first_layers": 1}, ("transformer.h.0.",)),
        ("llama", {"first_layers": 1}, ("model.layers.0.",)),
        ("t5", {"first_layers": 1}, ("encoder.block.0.", "decoder.block.0.")),
        ("bert", {"first_layers": 1}, ("encoder.encoder.layer.0.", "decoder.bert.encoder.layer.0.")),
        ("gpt2", {"names": ["*.mlp.*", "*.ln_?.*"]}, ("mlp", "ln_1", "ln_2")),
    ],
)
def test_what_is_frozen_keeps_every_bit_and_the_rest_learns(
    name: str, freeze: dict[str, Any], frozen: tuple[str, ...], tmp_path: Path
) -> None:
    _, network, before = trained(name, tmp_path, freeze=Freeze(**freeze))
    is_frozen = {key for key in before if any(part in key for part in frozen)}
    learned = {key for key, weights in network.named_parameters() if weights.requires_grad}
    moved = changed(network, before)
    assert is_frozen
    assert not is_frozen & moved
    assert {key for key in learned - moved if "pooler" not in key} == set()  # which no decoder asks


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bert"])
def test_adapters_learn_and_the_merged_model_says_the_same(name: str, kind: Any, tmp_path: Path) -> None:
    tokens, learner, before = trained(name, tmp_path, adapters=Adapters(kind=kind, rank=4), epochs=10)
    assert learned_count(learner) < 0.5 * sum(weights.numel() for weights in before.values())
    sources = [tokens(source + "\n")["input_ids"] for source in tiny.FACTS]
    params = section(Predict, max_new_tokens=12)
    learner.eval()
    batch = family_of(learner).training_batch([tiny.pair(tokens, tiny.FACTS[0])], tokens.pad_token_id)
    with torch.no_grad():
        beside = family_of(learner).target_logits(learner, batch)
    texts = decode(learner.get_base_model(), tokens, sources, params, 4, title="test")
    network = merged(learner)
    assert set(network.state_dict()) == set(before)
    assert changed(network, before)
    with torch.no_grad():
        torch.testing.assert_close(family_of(network).target_logits(network, batch), beside, rtol=1e-4, atol=1e-5)
    assert decode(network, tokens, sources, params, 4, title="test") == texts


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_adapters_beside_four_bits_become_an_ordinary_model_that_says_the_same(
    name: str, kind: Any, tmp_path: Path
) -> None:
    tokens, learner, before = trained(name, tmp_path, adapters=Adapters(kind=kind, rank=4, quantize=True), epochs=3)
    held = sum(weights.nbytes for weights in learner.parameters() if not weights.requires_grad)
    assert held < 0.8 * sum(weights.nbytes for weights in before.values())
    learner.eval()
    batch = family_of(learner).training_batch([tiny.pair(tokens, tiny.FACTS[0])], tokens.pad_token_id)
    with torch.no_grad():
        beside = family_of(learner).target_logits(learner, batch)
    network = merged(learner)
    assert {weights.dtype for weights in network.parameters()} == {torch.float32}
    assert set(network.state_dict()) == set(before)
    with torch.no_grad():
        torch.testing.assert_close(family_of(network).target_logits(network, batch), beside, rtol=1e-4, atol=1e-5)


def test_a_count_of_parameters_knows_that_two_share_a_byte() -> None:
    network = tiny.model(tiny.tokenizer(), architecture=tiny.ARCHITECTURES["llama"][0])
    every = parameter_count(network)
    learner = student(network, tiny.settings(adapters=Adapters(quantize=True)))
    assert parameter_count(learner) == every + learned_count(learner)


def test_a_judge_sees_the_network_inside_whose_settings_its_generation_heeds(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    data = tiny.pairs(tokens, tmp_path / "pairs")
    settings = tiny.settings(adapters=Adapters(), choose_by="bleu", epochs=1, validations=1)
    learner = student(tiny.model(tokens), settings)
    seen: list[Any] = []

    def judge(network: Any) -> float:
        seen.append((type(network).__name__, any("lora_" in name for name, _ in network.named_parameters())))
        return 1.0

    fit(learner, data, data, settings, tiny.machine(), tmp_path / "fit", "test", judge)
    assert seen == [("GPT2LMHeadModel", True)]


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_head_of_a_classifier_learns_as_a_whole_beside_adapters(name: str, quantize: bool) -> None:
    network = tiny.model(tiny.tokenizer("encoder"), architecture=tiny.ARCHITECTURES[name][0], labels=LABELS)
    learner: Any = student(network, tiny.settings(adapters=Adapters(quantize=quantize)))
    names = [name for name, weights in learner.named_parameters() if weights.requires_grad]
    assert any("classifier" in name and "lora" not in name for name in names)
    assert merged(learner).config.id2label == dict(enumerate(LABELS))


def test_a_killed_fit_of_adapters_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    settings = {"adapters": Adapters(rank=4), "epochs": 4}
    _, whole, _ = trained("gpt2", tmp_path / "whole", **settings)
    tokens, network = tiny.tokenizer(), tiny.model(tiny.tokenizer(), dropout=0.0)
    data = tiny.pairs(tokens, tmp_path / "pairs")
    folder = tmp_path / "fit"
    learner = student(network, tiny.settings(**settings))
    steps = 0

    class Killed(Exception):
        pass

    def kill(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 8:
            raise Killed

    hook = learner.register_forward_hook(kill)
    with pytest.raises(Killed):
        fit(learner, data, data, tiny.settings(**settings), tiny.machine(), folder, title="test")
    hook.remove()
    again = student(tiny.model(tiny.tokenizer(), dropout=0.0), tiny.settings(**settings))
    fit(again, data, data, tiny.settings(**settings), tiny.machine(), folder, title="test")
    ours, theirs = (merged(each).state_dict() for each in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"freeze": Freeze(names=["*.nothing"])}, r"fit -> freeze -> names: `\*.nothing` matches no parameter"),
        ({"freeze": Freeze(first_layers=3)}, "fit -> freeze -> first_layers: the model has 2"),
        ({"freeze": Freeze(names=["*"])}, "fit -> freeze: nothing is left"),
        ({"adapters": Adapters(modules=["nothing"])}, "fit -> adapters: Target modules"),
        ({"adapters": Adapters(quantize=True)}, "fit -> adapters -> quantize: GPT2LMHeadModel has no linear layers"),
    ],
)
def test_what_can_not_be_is_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        student(tiny.model(tiny.tokenizer()), tiny.settings(**settings))


def test_l1_makes_weights_smaller(tmp_path: Path) -> None:
    sizes = []
    for l1 in (0.0, 0.01):
        _, network, _ = trained("gpt2", tmp_path / str(l1), l1=l1, weight_decay=0.0)
        sizes.append(network.transformer.h[0].mlp.c_fc.weight.abs().mean().item())
    assert sizes[1] < 0.8 * sizes[0]


def test_noise_on_embeddings_changes_training_and_is_gone_afterwards(tmp_path: Path) -> None:
    _, network, _ = trained("gpt2", tmp_path / "with", neftune_alpha=5.0)
    _, without, _ = trained("gpt2", tmp_path / "without")
    assert changed(network, without.state_dict())
    network.train()
    ids = torch.tensor([[5, 6, 7]])
    embed = network.get_input_embeddings()
    assert torch.equal(embed(ids), embed(ids))


def looked_up(table: Any, ids: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids, table.weight) * getattr(table, "embed_scale", 1.0)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_noise_reaches_what_every_stack_reads(name: str) -> None:
    architecture, kind = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(kind)
    network, rows = (
        tiny.model(tokens, architecture=architecture, dropout=0.0).train(),
        [tiny.pair(tokens, tiny.FACTS[0])],
    )
    family = family_of(network)
    batch = family.training_batch(rows, tokens.pad_token_id)
    tables = [m for m in network.modules() if isinstance(m, torch.nn.Embedding) and m.num_embeddings == len(tokens)]
    plain, read = family.target_logits(network, batch), list[bool]()
    with noisy_embeddings(network, 5.0):
        for table in tables:  # behind the noise, which hooks have added by then
            table.register_forward_hook(
                lambda table, ids, output: read.append(torch.equal(output, looked_up(table, *ids)))
            )
        assert not torch.equal(family.target_logits(network, batch), plain)
    assert read
    assert not any(read)
    assert torch.equal(family.target_logits(network, batch), plain)
    assert read[-1]


def test_the_highest_layer_learns_first_and_what_is_below_all_of_them_last(tmp_path: Path) -> None:
    """Three steps an epoch, one more layer after each; of two layers."""
    learned = []
    for steps in (2, 5, 8):
        _, network, before = trained("gpt2", tmp_path / str(steps), epochs=steps / 3, freeze=Freeze(thaw_epochs=1.0))
        learned.append({name.split(".")[2] if ".h." in name else name for name in changed(network, before)})
    top = {"transformer.ln_f.weight", "transformer.ln_f.bias", "1"}
    below = {"transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"}
    assert learned == [top, {"0", *top}, {"0", *top, *below}]


def test_adapters_change_nothing_before_they_have_learned(tmp_path: Path) -> None:
    """In a batch whose sources differ in length too: positions count from each one's start."""
    tokens = tiny.tokenizer()
    network, data = tiny.model(tokens, dropout=0.0), tiny.pairs(tokens, tmp_path)
    rows = [pair._replace(source_ids=pair.source_ids[place % 5 :]) for place, pair in enumerate(data)]
    before = losses_of(network, rows)[0]
    adapted = student(network, tiny.settings(adapters=Adapters()))
    assert torch.allclose(losses_of(adapted, rows)[0], before)
