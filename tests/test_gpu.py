"""What only a GPU can show: `pytest -m gpu` there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save
from transformers import PreTrainedModel

from stages.lib.generation.decoding import Prompt, decode
from stages.lib.models.adapters import merge_adapters
from stages.lib.models.devices import configure_gpu, spread, weight_bytes
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import on_device
from stages.lib.params.fit import Adapters
from stages.lib.params.predict import Predict
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample, write_tokenized_examples
from stages.lib.training.estimate import estimate
from stages.lib.training.fit import fit
from stages.lib.training.progress import Progress
from stages.lib.training.state import Curve
from stages.lib.training.trainable import make_trainable
from tests import tiny
from tests.build import section

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="`pytest -m gpu`, where there is one"),
]

LARGER = tiny.ARCHITECTURE | {"n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 1024}


def trained(folder: Path, name: str = "gpt2", **settings: Any) -> tuple[PreTrainedModel, Curve]:
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    data = tiny.dataset(tokens, folder / "data")
    own = tiny.settings(**({"dropout": 0.0} | settings))
    network = make_trainable(tiny.model(tokens, architecture=architecture, dropout=own.dropout), own)
    return network, fit(network, data, data, own, tiny.machine(), folder / "fit", "test")


def losses(curve: Curve) -> list[float]:
    return [loss for _, loss in curve.training]


@pytest.fixture(autouse=True, scope="session")
def _configured() -> None:
    """As the stages do once, at their start."""
    configure_gpu()


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "t5", "bart", "bert"])
def test_training_gives_the_losses_of_a_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_float32 = losses(trained(tmp_path / "float32", name, epochs=2)[1])
    in_bfloat16 = losses(trained(tmp_path / "bfloat16", name, epochs=2, precision="auto")[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected = losses(trained(tmp_path / "cpu", name, epochs=2)[1])
    assert in_float32 == pytest.approx(expected, rel=0.01)
    assert in_bfloat16 == pytest.approx(expected, rel=0.05)
    assert in_bfloat16 != in_float32


@pytest.mark.parametrize(
    ("name", "options"), [("gpt2", {"compile": True}), ("llama", {"compile": True}), ("llama", {"liger": True})]
)
def test_other_kernels_learn_the_same(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    if "liger" in options:
        pytest.importorskip("liger_kernel")
    usual, other = (trained(tmp_path / str(at), name, **own)[1] for at, own in enumerate(({}, options)))
    assert losses(other) == pytest.approx(losses(usual), rel=0.01)


class Killed(Exception):
    pass


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(
    name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killing(Progress):
        advanced = 0

        def advance(self, tokens: int) -> None:
            self.advanced += 1
            if self.advanced == 7:
                raise Killed

    common: dict[str, Any] = {"name": name, "precision": precision, "dropout": 0.1}
    with monkeypatch.context() as patch:
        patch.setattr("stages.lib.training.loop.Progress", Killing)
        with pytest.raises(Killed):
            trained(tmp_path / "broken", **common)
    networks = [trained(tmp_path / place, **common)[0] for place in ("broken", "unbroken")]
    one, other = (save({k: v.cpu().clone() for k, v in network.state_dict().items()}) for network in networks)
    assert one == other


def long_examples(folder: Path) -> TokenizedDataset:
    write_tokenized_examples(
        folder, [[TokenizedExample(str(at), [5 + at % 50] * (290 + 3 * at), [7] * 20, [], 20) for at in range(64)]]
    )
    return TokenizedDataset(folder)


def larger(folder: Path, **settings: Any) -> Curve:
    """A training run whose whole batch takes gigabytes."""
    data = long_examples(folder / "data")
    usual = {"batch_size": 64, "epochs": 3, "evals_per_run": 1, "dropout": 0.0, "learning_rate": 1e-3}
    own = tiny.settings(**(usual | settings))
    network = tiny.model(tiny.tokenizer(), architecture=LARGER, dropout=own.dropout)
    return fit(network, data, data, own, tiny.machine(), folder / "fit", "test")


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_training_repeats_to_the_bit(precision: str, tmp_path: Path) -> None:
    once, again = (larger(tmp_path / name, precision=precision, dropout=0.1) for name in ("once", "again"))
    assert once == again


def test_when_memory_ends_micro_batches_are_halved_and_the_batch_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = larger(tmp_path / "whole")
    needed = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * needed / torch.cuda.get_device_properties(0).total_memory)
    try:
        halved = larger(tmp_path / "halved")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "memory has ended; micro-batches now have at most" in capsys.readouterr().out
    assert losses(halved) == pytest.approx(losses(whole), rel=1e-3)


def test_the_estimate_of_memory_holds(tmp_path: Path) -> None:
    data = long_examples(tmp_path / "data")
    settings = tiny.settings(batch_size=64, epochs=1, evals_per_run=1)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    network = tiny.model(tiny.tokenizer(), architecture=LARGER)
    _, expected = estimate(network, data, data, settings, tiny.machine())
    torch.cuda.reset_peak_memory_stats()
    fit(network, data, data, settings, tiny.machine(), tmp_path / "fit", "test")
    assert torch.cuda.max_memory_allocated() == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_adapters_beside_four_bits_become_a_model_that_computes_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    trainable, curve = trained(tmp_path, name, precision="auto", adapters=Adapters(rank=4, quantize=True), epochs=20)
    assert curve.validation[-1][1] < curve.validation[0][1]
    beside = target_logits(trainable, name, tiny.FACTS)
    network = merge_adapters(trainable)  # on the CPU
    torch.testing.assert_close(target_logits(network, name, tiny.FACTS), beside, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
def test_it_generates_what_a_cpu_finds_most_likely(name: str, tmp_path: Path) -> None:
    """Within rounding: two tokens can be equally likely."""
    network: Any = trained(tmp_path, name, epochs=12)[0]
    texts = generated(network, name)
    network.cpu()
    for fact, target_ids in zip(tiny.FACTS, texts, strict=True):
        logits = target_logits(network, name, [fact], target_ids)[0]
        logits[:, network.generation_config.suppress_tokens or []] = float("-inf")
        chosen = logits.gather(1, torch.tensor(target_ids)[:, None])[:, 0]
        assert (logits.amax(1) - chosen).max() < 0.01


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_a_network_that_is_spread_over_gpu_and_memory_generates_the_same(name: str, tmp_path: Path) -> None:
    network: Any = trained(tmp_path, name, epochs=12)[0].cpu()
    expected, size = generated(network, name), weight_bytes(network)
    spread(network, {0: size * 2 // 3, "cpu": size})
    assert network.device.type == "cuda"
    assert generated(network, name) == expected


def generated(network: Any, name: str) -> list[list[int]]:
    """The token ids generated for each fact, with the end token."""
    tokens = tiny.tokenizer(tiny.ARCHITECTURES[name][1])
    spelled: Any = SimpleNamespace(pad_token_id=tokens.pad_token_id, decode=lambda ids, **_: " ".join(map(str, ids)))
    prompts = [Prompt(tiny.example(tokens, fact).source_ids, fact) for fact in tiny.FACTS]
    decoded = decode(network, spelled, prompts, section(Predict, strategy="greedy", max_new_tokens=16), 200, None)
    end = {"end": [tokens.eos_token_id], "length": list[int]()}
    return [[*map(int, each.text.split()), *end[each.finish_reason]] for each in decoded]


def target_logits(network: Any, name: str, facts: list[str], target_ids: list[int] | None = None) -> torch.Tensor:
    """(facts, T, vocabulary), on the CPU: for the targets of the facts, or for these ids in place of them."""
    tokens = tiny.tokenizer(tiny.ARCHITECTURES[name][1])
    examples = [tiny.example(tokens, fact) for fact in facts]
    if target_ids is not None:
        examples = [example._replace(target_ids=target_ids) for example in examples]
    interface = interface_of(network.eval())
    with torch.no_grad():
        batch = on_device(interface.training_batch(examples, tokens.pad_token_id), network)
        return interface.target_logits(network, batch).float().cpu()
