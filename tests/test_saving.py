"""What training writes: the model on disk is the one in memory, and plain peft opens the adapter."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from stages.lib.core.files import read_json
from stages.lib.core.process import UserError
from stages.lib.models.loading import trained_model
from stages.lib.models.losses import losses_of
from stages.lib.params.fit import Adapters
from stages.lib.params.model import Model
from stages.lib.records.tokenized_examples import TokenizedDataset, write_tokenized_examples
from stages.lib.training.saving import checked_part, save
from stages.lib.training.trainable import make_trainable
from tests import tiny
from tests.build import contents, scratch_model, section
from tests.random_weights import moved

TIED_LLAMA = tiny.ARCHITECTURES["llama"][0] | {"tie_word_embeddings": True}
ADAPTED: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"type": "dora", "target_modules": ["wte", "c_attn"]}),
    ("gpt2", {"target_modules": ["wte", "lm_head"], "rank_stabilized": True}),
    ("gpt2", {"modules_to_save": ["lm_head"]}),
    ("tied llama", {"target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["norm"]}),
    ("t5", {"modules_to_save": ["shared"]}),
    ("bart", {"type": "dora", "modules_to_save": ["lm_head"]}),
    ("bert", {"target_modules": ["decoder.cls.predictions.decoder", "query"], "modules_to_save": ["crossattention"]}),
]


def network_of(name: str, tokens: Any) -> PreTrainedModel:
    architecture = TIED_LLAMA if name == "tied llama" else tiny.ARCHITECTURES[name][0]
    return tiny.model(tokens, architecture=architecture, dropout=0.0)


def save_moved(name: str, folder: Path, adapters: Any, base: Model | None = None) -> tuple[PreTrainedModel, Any, Any]:
    """A network before training, the examples, and their losses in memory, after trained weights have been saved."""
    tokens = tiny.tokenizer(tiny.ARCHITECTURES[name.removeprefix("tied ")][1])
    network, data = network_of(name, tokens), tiny.dataset(tokens, folder / "examples")
    before = copy.deepcopy(network)
    moved(make_trainable(network, tiny.settings(adapters=Adapters(**adapters))))
    losses = losses_of(network, list(data))[0]
    save(network, tokens, base or scratch_model(tiny.ARCHITECTURE), data, "float32", folder)
    return before, list(data), losses


@pytest.mark.parametrize(("name", "adapters"), ADAPTED)
def test_model_and_adapter_on_disk_are_those_in_memory(name: str, adapters: dict[str, Any], tmp_path: Path) -> None:
    before, examples, losses = save_moved(name, tmp_path, adapters)
    model = trained_model(tmp_path / "model", trust_remote_code=False)
    torch.testing.assert_close(losses_of(model, examples)[0], losses, rtol=1e-4, atol=1e-4)
    beside: Any = PeftModel.from_pretrained(before, str(tmp_path / "adapter"))
    torch.testing.assert_close(losses_of(beside, examples)[0], losses, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["tied llama", "t5"])
def test_a_model_with_adapters_beside_four_bits_is_saved_with_the_weights_that_it_computed_with(
    name: str, tmp_path: Path
) -> None:
    adapters = {"quantize": True, "modules_to_save": ["lm_head"]}
    before, examples, losses = save_moved(name, tmp_path, adapters)
    model = trained_model(tmp_path / "model", trust_remote_code=False)
    torch.testing.assert_close(losses_of(model, examples)[0], losses, rtol=1e-3, atol=1e-3)
    beside: Any = PeftModel.from_pretrained(before, str(tmp_path / "adapter"))  # of a base in full precision
    torch.testing.assert_close(losses_of(beside, examples)[0], losses, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_without_adapters_their_folder_says_so(name: str, tmp_path: Path) -> None:
    tokens = tiny.tokenizer(tiny.ARCHITECTURES[name][1])
    data = tiny.dataset(tokens, tmp_path / "examples")
    save(network_of(name, tokens), tokens, scratch_model(tiny.ARCHITECTURE), data, "float32", tmp_path)
    assert (tmp_path / "adapter").is_dir()
    assert [file.name for file in (tmp_path / "adapter").iterdir()] == ["no_adapters.txt"]


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ({"name": "org/base", "revision": "abc"}, ("org/base", "abc")),
        ({"name": "folder", "folder": "data/raw/base"}, ("data/raw/base", None)),
        ({"name": "folder", "folder": "/somewhere/here/base"}, ("base", None)),
    ],
)
def test_an_adapter_names_its_base_and_has_the_same_bytes_each_time(
    model: dict[str, Any], place: tuple[str, str | None], tmp_path: Path
) -> None:
    base = section(Model, scratch=None, **model)
    for folder in ("first", "second"):
        save_moved("gpt2", tmp_path / folder, {}, base)
    config = read_json(tmp_path / "first/adapter/adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == place
    assert config["task_type"] == "CAUSAL_LM"
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_a_model_that_is_another_on_disk_fails_the_stage(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    network, data = tiny.model(tokens), tiny.dataset(tokens, tmp_path / "examples")
    network.get_submodule("lm_head").register_forward_hook(lambda _, inputs, logits: 20 * logits)  # no file has that
    with pytest.raises(UserError, match=r"model is not the model that was trained: opened again, it has a loss of"):
        save(network, tokens, scratch_model(tiny.ARCHITECTURE), data, "float32", tmp_path)


@pytest.mark.parametrize("reported", [0.1, float("nan")])
def test_a_loss_that_is_not_the_reported_one_fails_the_stage(reported: float, tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    data = tiny.dataset(tokens, tmp_path / "examples")
    with pytest.raises(UserError, match=r"on validation examples that had (0\.1000|nan)"):
        save(tiny.model(tokens), tokens, scratch_model(tiny.ARCHITECTURE), data, "float32", tmp_path, reported)


@pytest.mark.parametrize(("length", "number", "compared"), [(10, 300, 200), (1 << 10, 20, 16), (1 << 15, 2, 1)])
def test_the_comparison_takes_a_bounded_time(length: int, number: int, compared: int, tmp_path: Path) -> None:
    example = tiny.example(tiny.tokenizer(), tiny.FACTS[0])._replace(source_ids=[5] * (length - 1), target_ids=[5])
    write_tokenized_examples(tmp_path, [[example] * number])
    assert checked_part(TokenizedDataset(tmp_path)) == compared
