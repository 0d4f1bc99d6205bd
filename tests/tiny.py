"""A model of two narrow layers and its data, made in process: no network, no files of weights, a second of training."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.models import base_model
from stages.lib.pairs import Pair, Pairs, write_pairs
from stages.lib.params.fit import Fit
from stages.lib.params.model import Model
from stages.lib.vocabulary import train_vocabulary
from tests.build import section

ARCHITECTURE = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64}
COLOURS, THINGS = ("red", "blue", "green"), ("cup", "hat", "door", "boat")
FACTS = [f"colour: {colour}; thing: {thing}" for colour in COLOURS for thing in THINGS]


def text(source: str) -> str:
    """What the tiny model has to learn to say."""
    colour, thing = (fact.partition(": ")[2] for fact in source.split("; "))
    return f"A {thing} that is {colour}." if thing != "boat" else f"Look, a {colour} boat on the quiet river!"


def tokenizer() -> PreTrainedTokenizerBase:
    return train_vocabulary([*FACTS, *map(text, FACTS)], 300)


def model(
    tokens: PreTrainedTokenizerBase,
    seed: int = 1,
    architecture: dict[str, Any] | None = None,
    dropout: float | None = 0.1,
) -> PreTrainedModel:
    parameters = section(Model, name="scratch", architecture=architecture or ARCHITECTURE)
    return base_model(parameters, tokens, dropout, seed)


def pair(tokens: PreTrainedTokenizerBase, source: str) -> Pair:
    target_ids = [*tokens(text(source))["input_ids"], tokens.eos_token_id]
    return Pair(source, tokens(source + "\n")["input_ids"], target_ids, len(text(source)))


def pairs(tokens: PreTrainedTokenizerBase, folder: Path) -> Pairs:
    write_pairs(folder, [[pair(tokens, source) for source in FACTS]])
    return Pairs(folder)


def settings(**overrides: Any) -> Fit:
    quick = {"epochs": 4, "batch_size": 4, "learning_rate": 0.01, "validations": 4, "warmup_fraction": 0.0}
    return section(Fit, **(quick | overrides))
