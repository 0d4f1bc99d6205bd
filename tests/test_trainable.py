"""What is trained: frozen weights keep every bit, and adapters become part of an ordinary model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForMaskedLM

from stages.lib.core.process import UserError
from stages.lib.models.adapters import merge_adapters
from stages.lib.models.families import interface_of
from stages.lib.models.loading import load_base, parameter_count
from stages.lib.models.losses import losses_of
from stages.lib.params.fit import Adapters, Freeze
from stages.lib.params.model import Model
from stages.lib.training.fit import fit
from stages.lib.training.neftune import neftune_noise
from stages.lib.training.trainable import make_trainable, trainable_count
from tests import tiny
from tests.build import section
from tests.random_weights import moved

LABELS = ["bad", "good"]
MIXTURE = (
    {"model_type": "mixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "num_key_value_heads": 2}
    | {"num_local_experts": 4, "num_experts_per_tok": 2}
)


def trained(name: str, folder: Path, **overrides: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A network after a short training run, and its weights before."""
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    network = tiny.model(tokens, architecture=architecture, dropout=0.0)
    before = {key: weights.clone() for key, weights in network.state_dict().items()}
    settings = tiny.settings(**overrides)
    data = tiny.dataset(tokens, folder / "examples")
    trainable = make_trainable(network, settings)
    fit(trainable, data, data, settings, tiny.machine(), folder / "fit", title="test")
    return trainable, before


def target_logits(network: Any, name: str) -> torch.Tensor:
    """Of all facts in one batch."""
    tokens = tiny.tokenizer(tiny.ARCHITECTURES[name][1])
    examples = [tiny.example(tokens, fact) for fact in tiny.FACTS]
    interface = interface_of(network.eval())
    with torch.no_grad():
        return interface.target_logits(network, interface.training_batch(examples, tokens.pad_token_id))


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
def test_frozen_weights_keep_every_bit_and_the_others_learn(
    name: str, freeze: dict[str, Any], frozen: tuple[str, ...], tmp_path: Path
) -> None:
    network, before = trained(name, tmp_path, freeze=Freeze(**freeze))
    is_frozen = {key for key in before if any(part in key for part in frozen)}
    trainable = {key for key, weights in network.named_parameters() if weights.requires_grad}
    learned = changed(network, before)
    assert is_frozen
    assert not is_frozen & learned
    # softmax takes no notice of the bias of keys, which so has no gradient but rounding
    assert {key for key in trainable - learned if not key.endswith("key.bias")} == set()


@pytest.mark.parametrize("adapter_type", ["lora", "dora"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bert"])
def test_a_model_with_merged_adapters_computes_the_same(name: str, adapter_type: Any, tmp_path: Path) -> None:
    trainable, before = trained(name, tmp_path, adapters=Adapters(type=adapter_type, rank=4))
    assert trainable_count(trainable) < 0.5 * sum(weights.numel() for weights in before.values())
    beside = target_logits(trainable, name)
    network = merge_adapters(trainable)
    assert set(network.state_dict()) == set(before)
    assert changed(network, before)
    torch.testing.assert_close(target_logits(network, name), beside, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adapter_type", ["lora", "dora"])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_adapters_beside_four_bits_become_a_model_that_computes_the_same(
    name: str, adapter_type: Any, tmp_path: Path
) -> None:
    trainable, before = trained(name, tmp_path, adapters=Adapters(type=adapter_type, rank=4, quantize=True), epochs=3)
    held = sum(weights.nbytes for weights in trainable.parameters() if not weights.requires_grad)
    assert held < 0.8 * sum(weights.nbytes for weights in before.values())
    beside = target_logits(trainable, name)
    network = merge_adapters(trainable)
    assert {weights.dtype for weights in network.parameters()} == {torch.float32}
    assert set(network.state_dict()) == set(before)
    torch.testing.assert_close(target_logits(network, name), beside, rtol=1e-4, atol=1e-4)


def test_parameters_in_four_bits_count_in_full() -> None:
    network = tiny.model(tiny.tokenizer(), architecture=tiny.ARCHITECTURES["llama"][0])
    every = parameter_count(network)
    trainable = make_trainable(network, tiny.settings(adapters=Adapters(quantize=True)))
    assert parameter_count(trainable) == every + trainable_count(trainable)


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_head_of_a_classifier_is_trained_in_full_beside_adapters(name: str, quantize: bool) -> None:
    network = tiny.model(tiny.tokenizer("encoder"), architecture=tiny.ARCHITECTURES[name][0], labels=LABELS)
    trainable: Any = make_trainable(network, tiny.settings(adapters=Adapters(quantize=quantize)))
    names = [name for name, weights in trainable.named_parameters() if weights.requires_grad]
    assert any("classifier" in name and "lora" not in name for name in names)
    assert merge_adapters(trainable).config.id2label == dict(enumerate(LABELS))


def test_a_killed_run_of_adapters_resumes_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    settings = {"adapters": Adapters(rank=4), "epochs": 4}
    whole, _ = trained("gpt2", tmp_path / "whole", **settings)
    tokens, network = tiny.tokenizer(), tiny.model(tiny.tokenizer(), dropout=0.0)
    data = tiny.dataset(tokens, tmp_path / "examples")
    folder = tmp_path / "fit"
    trainable = make_trainable(network, tiny.settings(**settings))
    steps = 0

    class Killed(Exception):
        pass

    def kill(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 8:
            raise Killed

    hook = trainable.register_forward_hook(kill)
    with pytest.raises(Killed):
        fit(trainable, data, data, tiny.settings(**settings), tiny.machine(), folder, title="test")
    hook.remove()
    again = make_trainable(tiny.model(tiny.tokenizer(), dropout=0.0), tiny.settings(**settings))
    fit(again, data, data, tiny.settings(**settings), tiny.machine(), folder, title="test")
    ours, theirs = (merge_adapters(each).state_dict() for each in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def names_of_trained(network: torch.nn.Module) -> list[str]:
    return [name for name, weights in network.named_parameters() if weights.requires_grad]


def test_frozen_layers_get_no_adapters() -> None:
    network = tiny.model(tiny.tokenizer())
    make_trainable(network, tiny.settings(adapters=Adapters(), freeze=Freeze(first_layers=1, names=["*.mlp.*"])))
    assert {name.partition(".lora_")[0] for name in names_of_trained(network)} == {
        "transformer.h.1.attn.c_attn",
        "transformer.h.1.attn.c_proj",
    }


@pytest.mark.parametrize("pattern", ["wte", "lm_head", "transformer.wte"])
def test_layers_that_share_a_weight_are_trained_in_full_together(pattern: str) -> None:
    network: Any = tiny.model(tiny.tokenizer())
    before = network.lm_head.weight.clone()
    make_trainable(network, tiny.settings(adapters=Adapters(modules_to_save=[pattern])))
    assert [name for name in names_of_trained(network) if "lora" not in name] == ["transformer.wte.weight"]
    with torch.no_grad():
        network.transformer.wte.weight.add_(1.0)
    merged: Any = merge_adapters(network)
    torch.testing.assert_close(merged.lm_head.weight, before + 1.0)


def test_an_adapter_beside_one_of_two_layers_that_share_a_weight_changes_only_that_layer() -> None:
    network: Any = tiny.model(tiny.tokenizer())
    before = network.lm_head.weight.clone()
    make_trainable(network, tiny.settings(adapters=Adapters(target_modules=["lm_head"])))
    moved(network)
    merged: Any = merge_adapters(network)
    assert torch.equal(merged.transformer.wte.weight, before)
    assert not torch.equal(merged.lm_head.weight, before)
    assert merged.config.tie_word_embeddings is False


@pytest.mark.parametrize("name", ["t5", "bart", "marian"])
@pytest.mark.parametrize("pattern", ["shared", "lm_head"])
def test_an_adapter_is_refused_where_a_model_can_not_be_saved_with_weights_of_their_own(
    name: str, pattern: str
) -> None:
    architecture, family = tiny.ARCHITECTURES[name]
    network = tiny.model(tiny.tokenizer(family), architecture=architecture)
    with pytest.raises(UserError, match=f"`{pattern}` shares its weight with .*; write it into modules_to_save"):
        make_trainable(network, tiny.settings(adapters=Adapters(target_modules=[pattern])))


def test_rank_stabilized_adapters_count_by_the_root_of_their_rank() -> None:
    """Kalajdzievski 2023: alpha / sqrt(rank) in place of alpha / rank."""
    changes = []
    for rank_stabilized in (False, True):
        network = tiny.model(tiny.tokenizer())
        before = network.get_parameter("transformer.h.0.attn.c_attn.weight").clone()
        make_trainable(network, tiny.settings(adapters=Adapters(rank=16, rank_stabilized=rank_stabilized)))
        merged = merge_adapters(moved(network))
        changes.append(merged.get_parameter("transformer.h.0.attn.c_attn.weight") - before)
    torch.testing.assert_close(changes[1], 4 * changes[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target_modules", [None, ["gate_up_proj"]])
def test_experts_learn_by_adapters(target_modules: list[str] | None, tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    network, data = tiny.model(tokens, architecture=MIXTURE, dropout=0.0), tiny.dataset(tokens, tmp_path / "examples")
    before = {key: weights.clone() for key, weights in network.state_dict().items()}
    settings = tiny.settings(adapters=Adapters(target_modules=target_modules), epochs=2)
    fit(make_trainable(network, settings), data, data, settings, tiny.machine(), tmp_path / "fit", title="test")
    learned = changed(merge_adapters(network), before)
    assert {name for name in learned if ".experts." in name} == {
        f"model.layers.{layer}.mlp.experts.{name}"
        for layer in (0, 1)
        for name in (("gate_up_proj", "down_proj") if target_modules is None else ("gate_up_proj",))
    }
    assert any("q_proj" in name for name in learned) == (target_modules is None)


@pytest.mark.parametrize("adapters", [Adapters(type="dora"), Adapters(dropout=0.1)])
def test_what_experts_do_not_allow_is_one_line(adapters: Adapters) -> None:
    network = tiny.model(tiny.tokenizer(), architecture=MIXTURE)
    with pytest.raises(UserError, match=r"allow only `type: lora` and `dropout: 0\.0`"):
        make_trainable(network, tiny.settings(adapters=adapters))
    named = adapters.model_copy(update={"target_modules": ["q_proj"]})
    assert trainable_count(make_trainable(network, tiny.settings(adapters=named)))


def test_layers_of_a_state_model_whose_weights_are_read_by_kernels_get_no_adapters() -> None:
    """A kernel does not call the layer, so it would ignore the adapter, and the merged model would differ."""
    architecture = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 1, "state_size": 8}
    network = tiny.model(tiny.tokenizer(), architecture=architecture, dropout=None)
    make_trainable(network, tiny.settings(adapters=Adapters()))
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in names_of_trained(network)}
    assert adapted == {"in_proj", "x_proj"}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"freeze": Freeze(names=["*.nothing"])}, r"fit -> freeze -> names: `\*.nothing` matches no parameter"),
        ({"freeze": Freeze(first_layers=3)}, "fit -> freeze -> first_layers: the model has 2"),
        ({"freeze": Freeze(names=["*"])}, "fit -> freeze: nothing is left"),
        ({"freeze": Freeze(names=["*.c_*"]), "adapters": Adapters()}, "every linear layer is frozen"),
        ({"adapters": Adapters(target_modules=["nothing"])}, "`nothing` matches nothing; there are c_attn, c_proj"),
        ({"adapters": Adapters(target_modules=["attn"])}, "`attn` is a GPT2Attention, neither linear nor an embedding"),
        (
            {"adapters": Adapters(target_modules=["wte"], modules_to_save=["wte"])},
            "`wte` is frozen .* or trained in full",
        ),
        ({"adapters": Adapters(modules_to_save=["head"])}, "modules_to_save: `head` matches nothing"),
        (
            {"adapters": Adapters(modules_to_save=["wte"]), "freeze": Freeze(embeddings=True)},
            "modules_to_save: `wte` is frozen",
        ),
        ({"adapters": Adapters(quantize=True)}, "fit -> adapters -> quantize: GPT2LMHeadModel has no linear layers"),
    ],
)
def test_an_impossible_choice_is_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        make_trainable(tiny.model(tiny.tokenizer()), tiny.settings(**settings))
    assert len(error.value.lines) == 1


def test_all_impossible_choices_are_reported_at_once() -> None:
    adapters = Adapters(target_modules=["a", "b"], modules_to_save=["c"])
    settings = tiny.settings(adapters=adapters, freeze=Freeze(names=["d"], first_layers=9))
    with pytest.raises(UserError) as error:
        make_trainable(tiny.model(tiny.tokenizer()), settings)
    assert len(error.value.lines) == 5


def test_l1_makes_weights_smaller(tmp_path: Path) -> None:
    """Nothing but L1 counts at this strength, so each update moves every weight towards 0 by the learning rate."""
    network, before = trained("gpt2", tmp_path, l1=1000.0, learning_rate=0.001, schedule="constant", epochs=2)
    name = "transformer.h.0.mlp.c_fc.weight"
    weights, shrunk = before[name].abs(), network.state_dict()[name].abs()
    large = weights > 0.01
    assert large.sum() > 100
    torch.testing.assert_close(shrunk[large], weights[large] - 6 * 0.001, rtol=0.0, atol=2e-4)


def test_neftune_changes_training_and_is_gone_afterwards(tmp_path: Path) -> None:
    network, _ = trained("gpt2", tmp_path / "with", neftune_alpha=5.0)
    without, _ = trained("gpt2", tmp_path / "without")
    assert changed(network, without.state_dict())
    network.train()
    ids = torch.tensor([[5, 6, 7]])
    embed = network.get_input_embeddings()
    assert torch.equal(embed(ids), embed(ids))


def looked_up(table: Any, ids: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids, table.weight) * getattr(table, "embed_scale", 1.0)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_neftune_reaches_every_stack_that_reads_tokens(name: str) -> None:
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    network = tiny.model(tokens, architecture=architecture, dropout=0.0).train()
    interface = interface_of(network)
    batch = interface.training_batch([tiny.example(tokens, tiny.FACTS[0])], tokens.pad_token_id)
    tables = [m for m in network.modules() if isinstance(m, torch.nn.Embedding) and m.num_embeddings == len(tokens)]
    plain, is_plain = interface.target_logits(network, batch), list[bool]()
    with neftune_noise(network, 5.0):
        for table in tables:  # these hooks run after those that add noise
            table.register_forward_hook(
                lambda table, ids, output: is_plain.append(torch.equal(output, looked_up(table, *ids)))
            )
        assert not torch.equal(interface.target_logits(network, batch), plain)
    assert is_plain
    assert not any(is_plain)
    assert torch.equal(interface.target_logits(network, batch), plain)
    assert is_plain[-1]


def test_untrained_adapters_change_nothing(tmp_path: Path) -> None:
    """In a batch whose sources differ in length too: positions count from the start of each."""
    tokens = tiny.tokenizer()
    network, data = tiny.model(tokens, dropout=0.0), tiny.dataset(tokens, tmp_path)
    rows = [each._replace(source_ids=each.source_ids[place % 5 :]) for place, each in enumerate(data)]
    before = losses_of(network, rows)[0]
    adapted = make_trainable(network, tiny.settings(adapters=Adapters()))
    assert torch.allclose(losses_of(adapted, rows)[0], before)


KINDS = ("crossattention", "predictions", "word_embeddings", "pooler", "classifier", "query")


@pytest.mark.parametrize(
    ("labels", "new_kinds"),
    [((), ["crossattention", "predictions", "word_embeddings"]), (LABELS, ["word_embeddings", "pooler", "classifier"])],
)
def test_new_random_weights_are_trained_in_full_beside_adapters(
    labels: Sequence[str], new_kinds: list[str], tmp_path: Path
) -> None:
    """The checkpoint of an encoder has no cross-attention, pooler or classifier, and one token is new."""
    tokens = tiny.tokenizer("encoder")
    config = AutoConfig.for_model(**tiny.ARCHITECTURES["bert"][0], vocab_size=len(tokens) - 1)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    model = section(Model, name="folder", folder=str(tmp_path), scratch=None)
    network, new = load_base(model, tokens, labels, dropout=None, seed=1)
    make_trainable(network, tiny.settings(adapters=Adapters()), new)
    in_full = [name for name in names_of_trained(network) if "lora" not in name]
    kinds = [next(kind for kind in KINDS if f".{kind}." in f".{name}.") for name in in_full]
    assert sorted(set(kinds)) == sorted(new_kinds)
    assert kinds.count("crossattention") == (0 if labels else 2 * 10)
