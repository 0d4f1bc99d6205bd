"""A model of two narrow layers and its data, made in memory: no download, no files of weights, a second of training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.tokenizers import train_tokenizer
from stages.lib.models.loading import base_model
from stages.lib.params.machine import Machine
from stages.lib.params.model import Family
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample, write_tokenized_examples
from tests.build import fit_settings, scratch_model, section

ARCHITECTURE = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64}
_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_BART = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
ARCHITECTURES: dict[str, tuple[dict[str, Any], Family]] = {
    "gpt2": (ARCHITECTURE, "causal"),
    "llama": (
        {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"intermediate_size": 64},
        "causal",
    ),
    "bloom": ({"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 2}, "causal"),
    "t5": (
        {"model_type": "t5", "d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2},
        "seq2seq",
    ),
    "bart": (
        {"model_type": "bart", "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        | _BART
        | {"max_position_embeddings": 64},
        "seq2seq",
    ),
    "m2m_100": (
        {"model_type": "m2m_100", "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        | _BART
        # with the usual 0.02, positions would be much larger than embeddings of this width, and training unreliable
        | {"max_position_embeddings": 64, "init_std": 0.1},
        "seq2seq",
    ),
    "marian": (
        {"model_type": "marian", "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        | _BART
        | {"max_position_embeddings": 64},
        "seq2seq",
    ),
    "bert": ({"model_type": "bert", "max_position_embeddings": 64, **_BERT}, "encoder"),
    "roberta": ({"model_type": "roberta", "max_position_embeddings": 66, **_BERT}, "encoder"),
}
COLOURS, THINGS = ("red", "blue", "green"), ("cup", "hat", "door", "boat")
FACTS = [f"colour: {colour}; thing: {thing}" for colour in COLOURS for thing in THINGS]


def text(source: str) -> str:
    """The target of a source."""
    colour, thing = (fact.partition(": ")[2] for fact in source.split("; "))
    return f"A {thing} that is {colour}." if thing != "boat" else f"Look, a {colour} boat on the quiet river!"


def tokenizer(family: Family = "causal") -> PreTrainedTokenizerBase:
    return train_tokenizer([*FACTS, *map(text, FACTS)], 300, family)


def model(
    tokens: PreTrainedTokenizerBase,
    seed: int = 1,
    architecture: dict[str, Any] | None = None,
    dropout: float | None = 0.1,
    labels: Sequence[str] = (),
) -> PreTrainedModel:
    return base_model(scratch_model(architecture or ARCHITECTURE), tokens, labels, dropout, seed)


def example(tokens: PreTrainedTokenizerBase, source: str) -> TokenizedExample:
    target_ids = [*tokens(text(source), add_special_tokens=False)["input_ids"], tokens.eos_token_id]
    return TokenizedExample(source, tokens(source + "\n")["input_ids"], target_ids, [], len(text(source)))


def dataset(tokens: PreTrainedTokenizerBase, folder: Path) -> TokenizedDataset:
    write_tokenized_examples(folder, [[example(tokens, source) for source in FACTS]])
    return TokenizedDataset(folder)


def settings(**overrides: Any) -> FitSettings:
    quick = {"epochs": 4, "batch_size": 4, "learning_rate": 0.01, "evals_per_run": 4, "warmup_fraction": 0.0}
    return fit_settings(**(quick | overrides))


def machine(**overrides: Any) -> Machine:
    return section(Machine, **overrides)
