"""What training writes: the model on disk is the one in memory. An adapter is written without its base."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from stages.lib.core.files import read_json
from stages.lib.core.process import UserError
from stages.lib.inference.folder import write_merged
from stages.lib.models.loading import load_base, saved_model, trained_model
from stages.lib.models.losses import losses_of
from stages.lib.params.fit import Adapters, Freeze
from stages.lib.params.model import Family, Model
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample, write_tokenized_examples
from stages.lib.training.saving import checked_part, save
from stages.lib.training.trainable import make_trainable
from tests import tiny
from tests.build import contents, scratch_model, section
from tests.random_weights import moved
from tests.test_trainable import MIXTURE

ARCHITECTURES: dict[str, tuple[dict[str, Any], Family]] = {
    **tiny.ARCHITECTURES,
    "tied llama": (tiny.ARCHITECTURES["llama"][0] | {"tie_word_embeddings": True}, "causal"),
    "mixtral": (MIXTURE, "causal"),
}
ADAPTED: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"type": "dora", "target_modules": ["wte", "c_attn"]}),
    ("gpt2", {"target_modules": ["wte", "lm_head"], "rank_stabilized": True}),
    ("gpt2", {"modules_to_save": ["lm_head"]}),
    ("tied llama", {"target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["norm"]}),
    ("mixtral", {}),
    ("t5", {"modules_to_save": ["shared"]}),
    ("bart", {"type": "dora", "modules_to_save": ["lm_head"]}),
    ("bert", {"target_modules": ["decoder.cls.predictions.decoder", "query"], "modules_to_save": ["crossattention"]}),
]


class Saved(NamedTuple):
    base: Model
    before: PreTrainedModel  # the network before training
    examples: list[TokenizedExample]
    losses: torch.Tensor  # of the examples in memory, after training


def base_of(name: str, folder: Path, dtype: torch.dtype = torch.float32, labels: Sequence[str] = ()) -> Model:
    """A checkpoint of random weights."""
    architecture, family = ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    network: Any = tiny.model(tokens, architecture=architecture, dropout=0.0, labels=labels)
    network.to(dtype).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return section(Model, name="folder", folder=str(folder), family=family, architecture="checkpoint", scratch=None)


def dataset(tokens: Any, labels: Sequence[str], folder: Path) -> TokenizedDataset:
    """The target of a classifier is the number of a label."""
    examples = [tiny.example(tokens, source) for source in tiny.FACTS]
    if labels:
        examples = [own._replace(target_ids=[n % len(labels)]) for n, own in enumerate(examples)]
    write_tokenized_examples(folder, [examples])
    return TokenizedDataset(folder)


def save_moved(base: Model, folder: Path, seed: int = 1, labels: Sequence[str] = (), **settings: Any) -> Saved:
    """As after training."""
    tokens = tiny.tokenizer(base.family or "causal")
    network, new = load_base(base, tokens, labels, dropout=0.0, seed=seed)
    data, before = dataset(tokens, labels, folder / "examples"), copy.deepcopy(network)
    moved(make_trainable(network, tiny.settings(**settings), new))
    losses = losses_of(network, list(data))[0]
    save(network, tokens, base, data, "float32", seed, folder)
    return Saved(base, before, list(data), losses)


def reopened_losses(saved: Saved, folder: Path) -> torch.Tensor:
    losses: torch.Tensor = losses_of(trained_model(saved.base, folder), saved.examples)[0]
    return losses


def bytes_in(folder: Path) -> int:
    return sum(map(len, contents(folder).values()))


@pytest.mark.parametrize(("name", "adapters"), ADAPTED)
def test_model_and_adapter_on_disk_are_those_in_memory(name: str, adapters: dict[str, Any], tmp_path: Path) -> None:
    base = base_of(name, tmp_path / "base")
    saved = save_moved(base, tmp_path, adapters=Adapters(**adapters))
    torch.testing.assert_close(reopened_losses(saved, tmp_path), saved.losses, rtol=1e-4, atol=1e-4)
    beside: Any = PeftModel.from_pretrained(saved.before, str(tmp_path / "adapter"))
    torch.testing.assert_close(losses_of(beside, saved.examples)[0], saved.losses, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["tied llama", "t5"])
def test_an_adapter_beside_four_bits_is_merged_into_the_weights_that_it_was_trained_beside(
    name: str, tmp_path: Path
) -> None:
    adapters = Adapters(quantize=True, modules_to_save=["lm_head"])
    saved = save_moved(base_of(name, tmp_path / "base"), tmp_path, adapters=adapters)
    torch.testing.assert_close(reopened_losses(saved, tmp_path), saved.losses, rtol=1e-3, atol=1e-3)
    beside: Any = PeftModel.from_pretrained(saved.before, str(tmp_path / "adapter"))  # of a base in full precision
    torch.testing.assert_close(losses_of(beside, saved.examples)[0], saved.losses, rtol=0.1, atol=0.1)


def test_random_weights_that_are_frozen_are_the_same_when_an_adapter_is_opened(tmp_path: Path) -> None:
    """They are in no file: not in the base, which lacks them, nor in the adapter."""
    base = base_of("bert", tmp_path / "base", labels=["no", "perhaps", "yes"])
    settings: dict[str, Any] = {"adapters": Adapters(), "freeze": Freeze(names=["classifier.*"])}
    saved = save_moved(base, tmp_path, seed=5, labels=["no", "yes"], **settings)
    torch.testing.assert_close(reopened_losses(saved, tmp_path), saved.losses, rtol=1e-4, atol=1e-4)


def test_adapters_of_random_weights_are_merged_into_a_whole_model(tmp_path: Path) -> None:
    """Their base is in no file."""
    saved = save_moved(scratch_model(tiny.ARCHITECTURE), tmp_path, adapters=Adapters())
    whole = saved_model(tmp_path / "model", trust_remote_code=False)
    torch.testing.assert_close(losses_of(whole, saved.examples)[0], saved.losses, rtol=1e-4, atol=1e-4)


def test_a_second_adapter_leaves_all_large_files_as_they_are(tmp_path: Path) -> None:
    """So DVC uploads the adapter alone. A model of another adapter is another one all the same."""
    base = base_of("gpt2", tmp_path / "base", torch.bfloat16)
    for seed in (1, 2):
        save_moved(base, tmp_path / f"{seed}", seed=seed, adapters=Adapters(rank=1))
    one, other = (contents(tmp_path / f"{seed}/model") for seed in (1, 2))
    assert {name for name in one if one[name] != other[name]} == {"base.json"}
    assert len(one["base.json"]) < 1000
    assert not [name for name in one if name.endswith(".safetensors")]
    assert bytes_in(tmp_path / "1/adapter") < 0.3 * bytes_in(tmp_path / "base")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_exported_as_a_whole_model_in_the_precision_of_its_base(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    saved = save_moved(base_of("gpt2", tmp_path / "base", dtype), tmp_path, adapters=Adapters())
    write_merged(saved.base, tmp_path, tmp_path / "exported")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert whole.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(losses_of(whole.float(), saved.examples)[0], saved.losses, rtol=tolerance, atol=0.0)
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").get_vocab() == tiny.tokenizer().get_vocab()


def test_an_adapter_of_another_base_is_not_opened(tmp_path: Path) -> None:
    save_moved(base_of("gpt2", tmp_path / "base"), tmp_path, adapters=Adapters())
    other = base_of("gpt2", tmp_path / "other")
    with pytest.raises(UserError, match=r"adapter was trained on base, and params.yaml names .*other; run `dvc repro"):
        trained_model(other, tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_without_adapters_their_folder_says_so(name: str, tmp_path: Path) -> None:
    tokens = tiny.tokenizer(tiny.ARCHITECTURES[name][1])
    data = tiny.dataset(tokens, tmp_path / "examples")
    base = scratch_model(tiny.ARCHITECTURES[name][0])
    save(tiny.model(tokens, architecture=tiny.ARCHITECTURES[name][0]), tokens, base, data, "float32", 1, tmp_path)
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
def test_a_base_has_a_name_that_others_understand(model: dict[str, Any], place: tuple[str, str | None]) -> None:
    base = section(Model, scratch=None, **model)
    assert (base.public_name, base.hub_revision) == place


def test_an_adapter_names_its_base_and_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    base = base_of("gpt2", tmp_path / "base")
    for folder in ("first", "second"):
        save_moved(base, tmp_path / folder, adapters=Adapters())
    config = read_json(tmp_path / "first/adapter/adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("base", None)
    assert config["task_type"] == "CAUSAL_LM"
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_a_model_that_is_another_on_disk_fails_the_stage(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    network, data = tiny.model(tokens), tiny.dataset(tokens, tmp_path / "examples")
    network.get_submodule("lm_head").register_forward_hook(lambda _, inputs, logits: 20 * logits)  # no file has that
    with pytest.raises(UserError, match=r"model is not the model that was trained: opened again, it has a loss of"):
        save(network, tokens, scratch_model(tiny.ARCHITECTURE), data, "float32", 1, tmp_path)


@pytest.mark.parametrize("reported", [0.1, float("nan")])
def test_a_loss_that_is_not_the_reported_one_fails_the_stage(reported: float, tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    data = tiny.dataset(tokens, tmp_path / "examples")
    with pytest.raises(UserError, match=r"on validation examples that had (0\.1000|nan)"):
        save(tiny.model(tokens), tokens, scratch_model(tiny.ARCHITECTURE), data, "float32", 1, tmp_path, reported)


@pytest.mark.parametrize(("length", "number", "compared"), [(10, 300, 200), (1 << 10, 20, 16), (1 << 15, 2, 1)])
def test_the_comparison_takes_a_bounded_time(length: int, number: int, compared: int, tmp_path: Path) -> None:
    example = tiny.example(tiny.tokenizer(), tiny.FACTS[0])._replace(source_ids=[5] * (length - 1), target_ids=[5])
    write_tokenized_examples(tmp_path, [[example] * number])
    assert checked_part(TokenizedDataset(tmp_path)) == compared
