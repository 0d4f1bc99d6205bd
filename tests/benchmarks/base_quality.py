"""Held-out bits per byte of the shipped base model, compared with simpler models. Run after `dvc repro` in data/base:

    python -m tests.benchmarks.base_quality

Compared with: unigrams and n-grams of the same tokens (interpolated Kneser-Ney: Chen and Goodman 1999, section 4.1.6,
with one discount for each order), counted on all text of train; gzip and xz of the held-out text, which see no other
text. Examples that need copying are left out.
"""

import gzip
import lzma
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import read_json
from stages.lib.core.process import keep_freed_memory
from stages.lib.models.loading import saved_model
from stages.lib.models.losses import example_losses
from stages.lib.records.examples import read_examples
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample

BASE = Path("data/base")
SHIPPED = Path("data/raw/base")
ORDERS = {"unigrams": 1, "trigrams": 3, "4-grams": 4, "5-grams": 5}
BEFORE = max(ORDERS.values()) - 1  # end tokens in front of a stream, so that the first token has a context

Counts = np.ndarray[Any, np.dtype[np.int64]]
Probabilities = np.ndarray[Any, np.dtype[np.float64]]
NGrams = Callable[[Counts], Probabilities]  # tokens -> probability of each after BEFORE, given those before it
Level = Callable[[Counts, Probabilities], Probabilities]  # n-grams, and their probabilities by the order below


def main() -> None:
    train, test = (TokenizedDataset(BASE / "data/tokenize" / split) for split in ("train", "test"))
    tokenizer = load_tokenizer(SHIPPED)
    size = sum(example.target_bytes for example in test)
    held_out = _stream(test, tokenizer.eos_token_id)
    start = test[0].source_ids  # of free text
    learned = _stream((example for example in train if example.source_ids == start), tokenizer.eos_token_id)
    text = "\n".join(example.targets[0] for example in read_examples(BASE / "data/prepare/test")).encode()
    print(f"held out: {len(test):,} pieces, {size:,} bytes; bits per byte")
    for name, packed in (("gzip -9", gzip.compress(text, 9)), ("xz -9", lzma.compress(text, preset=9))):
        _show(name, 8 * len(packed) / len(text))
    for name, order in ORDERS.items():
        nats = -np.log(kneser_ney(learned, len(tokenizer), order)(held_out)).sum()
        _show(f"{name} of {len(learned):,} tokens", nats / math.log(2) / size)
    _show("the base", read_json(BASE / "metrics/evaluate.json")["bits_per_byte"])
    _show("the base, as shipped", _bits(saved_model(SHIPPED, trust_remote_code=False), test))


def _show(name: str, bits: float) -> None:
    print(f"{name:<34}{bits:7.3f}", flush=True)


def _stream(examples: Iterable[TokenizedExample], end: int) -> Counts:
    """All targets end to end, after end tokens, since a document starts after the end of another."""
    return np.concatenate([[end] * BEFORE, *(example.target_ids for example in examples)]).astype(np.int64)


def _bits(network: PreTrainedModel, test: TokenizedDataset) -> float:
    losses = example_losses(network, test, 16)
    return sum(nats for _, nats, _ in losses) / math.log(2) / sum(example.target_bytes for example in test)


def kneser_ney(tokens: Counts, size: int, order: int) -> NGrams:
    """Tokens of a vocabulary of this `size` -> an interpolated model of n-grams of this order."""
    keys, counts = np.unique(_grams(tokens, size, order), return_counts=True)
    levels: list[Level] = []
    for n in range(order, 0, -1):
        levels.insert(0, _level(keys, counts, size))
        # lower orders count the contexts in which a token was seen
        keys, counts = np.unique(keys % size ** (n - 1), return_counts=True)

    def probabilities(stream: Counts) -> Probabilities:
        result = np.full(len(stream) - BEFORE, 1 / size)
        for n, level in enumerate(levels, start=1):
            result = level(_grams(stream, size, n), result)
        return result

    return probabilities


def _grams(stream: Counts, size: int, order: int) -> Counts:
    """Each token after the first BEFORE, with those before it, as one number."""
    return np.sum([stream[BEFORE - n : len(stream) - n] * size**n for n in range(order)], axis=0)


def _level(keys: Counts, counts: Counts, size: int) -> Level:
    """One order: n-grams and their probabilities by the order below -> their probabilities."""
    ones, twos = (int((counts == n).sum()) for n in (1, 2))
    discount = ones / max(1, ones + 2 * twos)
    contexts, first, kinds = np.unique(keys // size, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, first)

    def interpolated(gram: Counts, lower: Probabilities) -> Probabilities:
        count = _looked_up(keys, counts, gram)
        total, kind = (_looked_up(contexts, values, gram // size) for values in (totals, kinds))
        seen = np.maximum(total, 1)
        return np.where(total > 0, (np.maximum(count - discount, 0) + discount * kind * lower) / seen, lower)

    return interpolated


def _looked_up(keys: Counts, values: Counts, wanted: Counts) -> Counts:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


if __name__ == "__main__":
    keep_freed_memory()
    main()
