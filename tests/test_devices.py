"""The precision for a machine, and a network that no single device holds."""

from pathlib import Path

import pytest
import torch

from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Prompt, decode
from stages.lib.models import devices
from stages.lib.models.losses import losses_of
from stages.lib.params.predict import Predict
from tests import tiny
from tests.build import section
from tests.random_weights import widely_drawn


@pytest.mark.parametrize(
    ("precision", "is_native", "expected"),
    [("float32", True, False), ("auto", True, True), ("auto", False, False), ("bfloat16", True, True)],
)
def test_auto_chooses_bfloat16_where_it_is_native(
    precision: str, is_native: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: is_native)
    assert devices.uses_bfloat16(precision) is expected


def test_emulated_bfloat16_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: False)
    with pytest.raises(UserError, match=r"fit -> precision: bfloat16 would be emulated here.+ set float32, or auto"):
        devices.uses_bfloat16("bfloat16")


@pytest.mark.parametrize("flags", [["avx512_bf16"], ["amx_bf16"], ["arm_bf16"]])
def test_native_bfloat16_is_read_from_the_flags_of_the_processor(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx2": True, flags[0]: has})
        assert devices._has_bfloat16() is has


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_a_network_that_is_spread_over_devices_predicts_as_a_whole_one(
    name: str, strategy: str, tmp_path: Path
) -> None:
    """Here over the memory of the machine and its disk, in place of GPUs."""
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    network = widely_drawn(tiny.model(tokens, architecture=architecture))
    examples = [tiny.example(tokens, fact) for fact in tiny.FACTS]
    prompts = [Prompt(example.source_ids, example.id) for example in examples]
    params = section(Predict, strategy=strategy)
    losses = losses_of(network, examples)[0]
    texts = [text.text for text in decode(network, tokens, prompts, params, None, None)]
    devices.spread(network, {"cpu": devices.weight_bytes(network) * 2 // 3, "disk": 1 << 30}, tmp_path)
    assert any(weights.is_meta for weights in network.parameters())
    torch.testing.assert_close(losses_of(network, examples)[0], losses)
    assert [text.text for text in decode(network, tokens, prompts, params, None, None)] == texts


def test_a_network_that_one_gpu_does_not_hold_is_spread_over_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And never shared with other processes."""
    network = tiny.model(tiny.tokenizer())
    size = devices.weight_bytes(network)
    monkeypatch.setattr(devices, "own_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (size, 2 * size))
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: {0: 1000, 1: 2000, "cpu": 10})
    places = list[dict[int | str, int]]()
    monkeypatch.setattr(devices, "spread", lambda network, memory: places.append(memory))
    devices.place_network(network, "predict")
    assert places == [{0: 900, 1: 1800, "cpu": size}]
    assert "do not fit into the memory of one GPU; they are spread over all GPUs" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"machine -> predict_processes: the weights .+; write 1"):
        devices.place_network(network, "predict")
