"""Base models: of a checkpoint or of random weights, with an embedding for every token; errors in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from stages.lib.checkpoint.tokenizers import load_checkpoint_tokenizer
from stages.lib.core.process import UserError
from stages.lib.models.loading import base_model, trained_model
from stages.lib.params.model import Model
from tests import tiny
from tests.build import scratch_model, section


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A pretrained model whose tokenizer has an end but no pad token, like GPT-2's."""
    own = Tokenizer(models.BPE({"a": 0, "b": 1, "<end>": 2}, []))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<end>").save_pretrained(tmp_path / "checkpoint")
    model = scratch_model(tiny.ARCHITECTURE)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    tokens.pad_token = "<end>"
    base_model(model, tokens, [], dropout=None, seed=7).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def model_in(folder: Path, **overrides: Any) -> Model:
    return section(Model, folder=str(folder), architecture="checkpoint", scratch=None, **overrides)


def load(folder: Path, dropout: float | None = None) -> tuple[PreTrainedTokenizerBase, Any]:
    model = model_in(folder)
    tokens = load_checkpoint_tokenizer(model)
    return tokens, base_model(model, tokens, [], dropout, seed=1)


def test_a_new_pad_token_gets_an_embedding_and_the_others_are_kept(checkpoint: Path) -> None:
    before: Any = AutoModelForCausalLM.from_pretrained(checkpoint).get_input_embeddings().weight
    tokens, network = load(checkpoint)
    after = network.get_input_embeddings().weight
    assert (len(tokens), len(before), len(after)) == (4, 3, 4)
    assert torch.equal(before, after[:3])
    assert network.config.pad_token_id == tokens.pad_token_id != tokens.eos_token_id == network.config.eos_token_id


def test_a_saved_model_loads_with_its_embeddings_and_token_ids(checkpoint: Path, tmp_path: Path) -> None:
    tokens, network = load(checkpoint)
    network.save_pretrained(tmp_path / "saved")
    loaded: Any = trained_model(tmp_path / "saved", trust_remote_code=False)
    assert loaded.get_input_embeddings().weight.shape[0] == len(tokens)
    assert loaded.generation_config.pad_token_id == tokens.pad_token_id


def test_weights_come_from_the_checkpoint_and_random_ones_from_the_seed(checkpoint: Path) -> None:
    tokens, pretrained = load(checkpoint)
    scratch = scratch_model(tiny.ARCHITECTURE)
    first, same, other = (base_model(scratch, tokens, [], None, seed).state_dict() for seed in (1, 1, 2))
    name = "transformer.h.0.attn.c_attn.weight"
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], pretrained.state_dict()[name])


def test_the_dropout_setting_changes_every_dropout_of_the_model(checkpoint: Path) -> None:
    _, network = load(checkpoint, dropout=0.37)
    assert {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)} == {0.37}


@pytest.mark.parametrize("name", ["t5", "bart", "bert"])
def test_the_dropout_setting_changes_both_halves_of_an_encoder_decoder(name: str) -> None:
    """Also where an architecture has a dropout of 0, an integer."""
    architecture, family = tiny.ARCHITECTURES[name]
    off = {"hidden_dropout_prob": 0} if name == "bert" else {}
    network = tiny.model(tiny.tokenizer(family), architecture=architecture | off, dropout=0.37)
    for half in ("encoder", "decoder"):
        config = getattr(network.config, half, network.config)
        assert {value for key, value in vars(config).items() if "dropout" in key and value is not None} == {0.37}


def test_a_head_for_other_labels_is_replaced(tmp_path: Path) -> None:
    tokens = tiny.tokenizer("encoder")
    tokens.save_pretrained(tmp_path)
    tiny.model(tokens, architecture=tiny.ARCHITECTURES["bert"][0], labels=["no", "yes"]).save_pretrained(tmp_path)
    model = model_in(tmp_path)
    network = base_model(model, tokens, ["bad", "fair", "good"], None, seed=1)
    assert network.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    assert network(input_ids=torch.tensor([[5, 6]])).logits.shape == (1, 3)


def test_pickled_weights_are_refused_with_a_remedy(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no weights \(\*.safetensors\) in .*save_pretrained"):
        load(checkpoint)


@pytest.mark.parametrize("broken", ["cut off", "empty"])
def test_broken_weights_are_reported_in_one_line(checkpoint: Path, broken: str) -> None:
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[: len(weights) // 2] if broken == "cut off" else b"")
    with pytest.raises(UserError, match="model: can't load") as error:
        load(checkpoint)
    assert len(error.value.lines) == 1


def test_pickled_weights_of_the_hub_are_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is that of transformers for a repository without safetensors."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("someone/model does not appear to have a file named model.safetensors.\nmore lines")

    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: AutoConfig.for_model("gpt2"))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(UserError, match=r"someone/model: .*pickled ones are refused: .*save_pretrained") as error:
        base_model(model_in(Path(), name="someone/model"), tiny.tokenizer(), [], None, seed=1)
    assert len(error.value.lines) == 1


CONFIG_CODE = """
from transformers import GPT2Config
class OwnConfig(GPT2Config):
    model_type = "own"
"""
MODEL_CODE = """
from transformers import GPT2LMHeadModel
from .configuration_own import OwnConfig
class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
    ran = True
"""


@pytest.fixture
def with_code(checkpoint: Path) -> Path:
    """A checkpoint with its own code of the model."""
    config = json.loads((checkpoint / "config.json").read_text())
    classes = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    config |= {"model_type": "own", "architectures": ["OwnModel"], "auto_map": classes}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "configuration_own.py").write_text(CONFIG_CODE)
    (checkpoint / "modeling_own.py").write_text(MODEL_CODE)
    return checkpoint


def test_the_code_of_a_checkpoint_does_not_run_by_default(with_code: Path) -> None:
    with pytest.raises(UserError, match=r"has its own code; .* set model.trust_remote_code to") as error:
        load(with_code)
    assert len(error.value.lines) == 1


def test_the_code_of_a_trusted_checkpoint_runs_also_for_the_trained_model(with_code: Path, tmp_path: Path) -> None:
    model = model_in(with_code, trust_remote_code=str(with_code))
    tokens = load_checkpoint_tokenizer(model)
    network = base_model(model, tokens, [], None, seed=1)
    assert network.ran
    network.save_pretrained(tmp_path / "saved")
    assert trained_model(tmp_path / "saved", trust_remote_code=True).ran


def test_a_folder_without_a_checkpoint_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config.json in .*: not the folder of a checkpoint"):
        load(tmp_path)


def test_a_model_of_another_family_is_refused(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(UserError):
        load(checkpoint)


def test_an_old_name_of_a_setting_is_accepted() -> None:
    llama = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "rope_theta": 50.0,
    }
    network = base_model(scratch_model(llama), tiny.tokenizer(), [], None, seed=1)
    assert network.config.rope_parameters["rope_theta"] == 50.0


@pytest.mark.parametrize(
    ("architecture", "line"),
    [
        ({"model_type": "gpt7"}, "transformers knows no `gpt7`"),
        (tiny.ARCHITECTURE | {"n_layers_": 3}, "n_layers_: no setting of gpt2"),
        (tiny.ARCHITECTURE | {"vocab_size": 5}, "vocab_size: the tokenizer or the labels decide that; leave it out"),
        (tiny.ARCHITECTURE | {"num_labels": 5}, "num_labels: the tokenizer or the labels decide that; leave it out"),
        (tiny.ARCHITECTURE | {"n_head": 5}, "architectures -> own: "),
        (tiny.ARCHITECTURE | {"n_embd": "wide"}, "architectures -> own: "),
    ],
)
def test_an_architecture_that_cannot_be_built_is_reported_in_one_line(
    architecture: dict[str, object], line: str
) -> None:
    with pytest.raises(UserError, match=r"params.yaml: architectures -> own") as error:
        base_model(scratch_model(architecture), tiny.tokenizer(), [], None, seed=1)
    assert line in str(error.value)
    assert len(error.value.lines) == 1
