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
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from stages.lib.checkpoint.architecture import max_positions
from stages.lib.checkpoint.config import scratch_config
from stages.lib.checkpoint.tokenizers import load_checkpoint_tokenizer
from stages.lib.core.process import UserError
from stages.lib.models.families.interface import IGNORED
from stages.lib.models.families.seq2seq import decoder_inputs
from stages.lib.models.loading import base_model, load_base, saved_model
from stages.lib.params.model import Architecture, Model
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


@pytest.mark.parametrize(("specials", "is_new"), [({"eos_token": "<end>"}, False), ({}, True)])
def test_a_table_of_embeddings_is_new_where_a_text_can_have_the_new_tokens(
    specials: dict[str, str], is_new: bool, checkpoint: Path
) -> None:
    """Beside adapters, new weights are trained in full: for a pad token alone, a whole table would be."""
    own = Tokenizer(models.BPE({"a": 0, "b": 1, "<end>": 2}, []))
    PreTrainedTokenizerFast(tokenizer_object=own, **specials).save_pretrained(checkpoint)
    model = model_in(checkpoint)
    tokens = load_checkpoint_tokenizer(model)
    assert load_base(model, tokens, [], None, seed=1).new == (
        {"transformer.wte.weight", "lm_head.weight"} if is_new else set()
    )


def test_a_saved_model_loads_with_its_embeddings_and_token_ids(checkpoint: Path, tmp_path: Path) -> None:
    tokens, network = load(checkpoint)
    network.save_pretrained(tmp_path / "saved")
    loaded: Any = saved_model(tmp_path / "saved", trust_remote_code=False)
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


def test_the_code_of_a_trusted_checkpoint_runs_also_for_the_saved_model(with_code: Path, tmp_path: Path) -> None:
    model = model_in(with_code, trust_remote_code=str(with_code))
    tokens = load_checkpoint_tokenizer(model)
    network = base_model(model, tokens, [], None, seed=1)
    assert network.ran
    network.save_pretrained(tmp_path / "saved")
    assert saved_model(tmp_path / "saved", trust_remote_code=True).ran


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


TINY_MPT = {"model_type": "mpt", "d_model": 32, "n_heads": 2, "n_layers": 1, "max_seq_len": 64}
TINY_FSMT = {"model_type": "fsmt", "d_model": 32, "max_position_embeddings": 64, "encoder_ffn_dim": 64}
TINY_FSMT |= {"decoder_ffn_dim": 64, "encoder_layers": 1, "decoder_layers": 1}
TINY_FSMT |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def test_a_model_whose_class_has_no_fraction_as_dropout_is_trained_with_one_and_opened_again(tmp_path: Path) -> None:
    """MPT's configuration has an integer."""
    network: Any = tiny.model(tiny.tokenizer(), architecture=TINY_MPT, dropout=0.3)
    assert network.transformer.blocks[0].attn.attn_dropout_p == 0.3
    network.save_pretrained(tmp_path)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is type(network)


@pytest.mark.parametrize(("dropout", "layerdrop"), [(0.0, 0.0), (0.1, 0.5), (None, 0.5)])
def test_layerdrop_goes_where_dropout_is_0(dropout: float | None, layerdrop: float) -> None:
    bart = tiny.ARCHITECTURES["bart"][0] | {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5}
    config = tiny.model(tiny.tokenizer("seq2seq"), architecture=bart, dropout=dropout).config
    assert (config.encoder_layerdrop, config.decoder_layerdrop) == (layerdrop, layerdrop)


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "deberta-v2", "relative_attention": True, "position_buckets": 8},
        {"model_type": "modernbert", "global_attn_every_n_layers": 2},
        {"model_type": "mixtral", "head_dim": 8},
    ],
    ids=lambda settings: str(settings["model_type"]),
)
def test_settings_without_a_default_in_the_configuration_are_accepted(settings: dict[str, Any]) -> None:
    config = scratch_config(_architecture(settings), "own", {})
    assert all(getattr(config, name) == value for name, value in settings.items() if name != "model_type")
    with pytest.raises(UserError, match="head_dmi: no setting of"):
        scratch_config(_architecture(settings | {"head_dmi": 8}), "own", {})


def _architecture(settings: dict[str, Any]) -> Architecture:
    return Architecture.model_validate({"vocabulary_size": 300, "pre_tokenizer": "words"} | settings)


def test_layers_that_differ_in_a_setting_are_accepted() -> None:
    scratch_config(_architecture({"model_type": "gemma4_text", "num_attention_heads": 4}), "own", {})


def test_a_model_that_needs_a_start_token_starts_after_the_end_token() -> None:
    decoder = {"model_type": "modernbert-decoder", "hidden_size": 32, "num_hidden_layers": 1}
    decoder |= {"num_attention_heads": 2, "intermediate_size": 64}
    config = tiny.model(tiny.tokenizer(), architecture=decoder).config
    assert config.bos_token_id == config.eos_token_id == 1


def test_a_model_with_weights_for_each_language_takes_its_only_one_or_asks() -> None:
    xmod = {"model_type": "xmod", "max_position_embeddings": 66, "hidden_size": 32, "num_hidden_layers": 1}
    xmod |= {"num_attention_heads": 2, "intermediate_size": 64}
    network = tiny.model(tiny.tokenizer("encoder"), architecture=xmod, labels=["no", "yes"])
    assert network(input_ids=torch.tensor([[5, 6]])).logits.shape == (1, 2)
    with pytest.raises(UserError, match="xmod: its setting default_language must be one of de_DE, en_XX"):
        tiny.model(tiny.tokenizer("encoder"), architecture=xmod | {"languages": ["de_DE", "en_XX"]}, labels=["a", "b"])


def test_a_model_with_two_vocabularies_leaves_its_labels_as_they_are() -> None:
    tokens = tiny.tokenizer("seq2seq")
    network: Any = tiny.model(tokens, architecture=TINY_FSMT)
    assert network.config.tgt_vocab_size == network.config.src_vocab_size == len(tokens)
    labels = torch.tensor([[5, 6, 1, IGNORED]])
    assert decoder_inputs(network, labels).tolist() == [[1, 5, 6, 1]]
    assert labels.tolist() == [[5, 6, 1, IGNORED]]


def test_a_decoder_without_attention_to_a_source_is_refused_in_one_line() -> None:
    xlm = {"model_type": "xlm", "emb_dim": 32, "n_layers": 1, "n_heads": 2}
    with pytest.raises(UserError, match="xlm can't be used as bert2bert: its decoder has no attention to a source"):
        tiny.model(tiny.tokenizer("encoder"), architecture=xlm)


def test_a_model_without_a_limit_of_length_has_none() -> None:
    assert max_positions(AutoConfig.for_model("xlnet")) is None


def test_what_an_old_task_has_left_in_a_checkpoint_is_not_saved(tmp_path: Path) -> None:
    tokens, architecture = tiny.tokenizer("encoder"), tiny.ARCHITECTURES["bert"][0]
    old = tiny.model(tokens, architecture=architecture, labels=["no", "yes"])
    old.config.problem_type = "multi_label_classification"
    old.config.use_cache = False
    old.save_pretrained(tmp_path)
    config = base_model(model_in(tmp_path), tokens, ["bad", "fair", "good"], None, seed=1).config
    assert (config.problem_type, config.use_cache) == ("single_label_classification", True)


@pytest.mark.parametrize(("name", "limit"), [("t5", 1024), ("bart", 64), ("bert", 64)])
def test_plain_transformers_writes_texts_of_a_saved_model_to_their_end(name: str, limit: int, tmp_path: Path) -> None:
    """Its own default ends them after 20 tokens."""
    architecture, family = tiny.ARCHITECTURES[name]
    tiny.model(tiny.tokenizer(family), architecture=architecture).save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).max_length == limit


TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "vocab_size": 300, "pad_token_id": 0, "eos_token_id": 1}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
WITH_IMAGES: dict[str, dict[str, Any]] = {
    "llava": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model"} | VISION,
    },
    "smolvlm": {"text_config": {"model_type": "llama", **TEXT}, "vision_config": VISION},
    "qwen2_5_vl": {
        "text_config": TEXT | {"rope_parameters": ROPE},
        "vision_config": {
            "hidden_size": 32,
            "depth": 1,
            "num_heads": 2,
            "intermediate_size": 64,
            "out_hidden_size": 32,
        },
    },
    "gemma3": {"text_config": TEXT | {"head_dim": 8}, "vision_config": VISION, "mm_tokens_per_image": 4},
}


@pytest.mark.parametrize("model_type", WITH_IMAGES)
def test_the_language_part_of_a_checkpoint_that_reads_images_is_a_model_of_its_own(
    model_type: str, tmp_path: Path
) -> None:
    whole = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **WITH_IMAGES[model_type])).eval()
    whole.save_pretrained(tmp_path / "whole")
    network = base_model(model_in(tmp_path / "whole"), tiny.tokenizer(), [], None, seed=1)
    assert not any("vision" in name for name, _ in network.named_parameters())
    network.save_pretrained(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(plain(input_ids=ids).logits, whole(input_ids=ids).logits, atol=1e-6)


def test_a_language_part_that_is_no_model_of_its_own_is_refused_in_one_line(tmp_path: Path) -> None:
    AutoConfig.for_model("mllama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="mllama_text_model can't be used as causal") as error:
        base_model(model_in(tmp_path), tiny.tokenizer(), [], None, seed=1)
    assert len(error.value.lines) == 1


def test_random_weights_of_a_model_that_reads_images_are_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match="gemma3 does not only read text; write gemma3_text"):
        tiny.model(tiny.tokenizer(), architecture={"model_type": "gemma3"})
