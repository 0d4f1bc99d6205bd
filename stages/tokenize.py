"""Examples -> token ids; the only place where text becomes ids.

Reads:  data/prepare/{train,validation,test}.jsonl; a pretrained model's tokenizer, if there is one.
Writes: data/tokenize/{train,validation,test}.parquet (one pair of source and target a row), tokenizer/,
        set_aside.jsonl (what was too long) and account.json.
Random: nothing; a new vocabulary is learned from the train split alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from stages.lib.examples import SPLITS, Example, read_examples
from stages.lib.files import write_json, write_jsonl
from stages.lib.pairs import Pair, write_pairs
from stages.lib.params import read_section
from stages.lib.params.model import Model
from stages.lib.params.tokenize import Tokenize
from stages.lib.process import UserError, launch
from stages.lib.vocabulary import load_vocabulary, train_vocabulary

SOURCE = Path("data/prepare")
TARGET = Path("data/tokenize")


@dataclass
class Account:
    """What became of the pairs of one split."""

    pairs: list[Pair] = field(default_factory=list)
    set_aside: list[dict[str, Any]] = field(default_factory=list)


def main() -> None:
    run(read_section(Tokenize), read_section(Model), source=SOURCE, target=TARGET)


def run(params: Tokenize, model: Model, source: Path, target: Path) -> None:
    tokenizer = _vocabulary(params, model, source / "train.jsonl")
    accounts = {split: _tokenized(tokenizer, params, source / f"{split}.jsonl") for split in SPLITS}
    for split, account in accounts.items():
        _check(split, account, params)
    for split, account in accounts.items():
        write_pairs(target / f"{split}.parquet", account.pairs)
    tokenizer.save_pretrained(target / "tokenizer")
    set_aside = [{"split": split} | row for split, account in accounts.items() for row in account.set_aside]
    write_jsonl(target / "set_aside.jsonl", set_aside)
    write_json(target / "account.json", {split: _summary(account) for split, account in accounts.items()})
    counts = ", ".join(f"{len(account.pairs):,} {split}" for split, account in accounts.items())
    print(f"tokenize: vocabulary of {len(tokenizer):,} tokens; pairs: {counts}; {len(set_aside):,} too long")


def _vocabulary(params: Tokenize, model: Model, train: Path) -> PreTrainedTokenizerBase:
    if model.name != "scratch":
        return load_vocabulary(model)
    return train_vocabulary(_texts(train, params), params.vocabulary_size)


def _texts(examples: Path, params: Tokenize) -> Iterator[str]:
    for example in read_examples(examples):
        yield _prompt(example, params)
        yield from example.targets


def _prompt(example: Example, params: Tokenize) -> str:
    # not str.format: the text around may hold braces of its own
    return params.prompt.replace("{source}", example.source)


def _tokenized(tokenizer: PreTrainedTokenizerBase, params: Tokenize, examples: Path) -> Account:
    account = Account()
    for pair in _pairs(tokenizer, params, examples):
        if problem := _too_long(pair, params):
            account.set_aside.append({"id": pair.id, "reason": problem})
        else:
            account.pairs.append(pair)
    return account


def _pairs(tokenizer: PreTrainedTokenizerBase, params: Tokenize, examples: Path) -> Iterator[Pair]:
    for example in tqdm(read_examples(examples), desc=f"tokenize {examples.stem}", unit=" examples"):
        source_ids = _source_ids(tokenizer, _prompt(example, params))
        for target in example.targets:
            target_ids = _ids(tokenizer, target, add_special_tokens=False)
            yield Pair(example.id, source_ids, [*target_ids, tokenizer.eos_token_id], len(target.encode()))


def _source_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """With the tokenizer's own start tokens, but without an end token: the target follows."""
    ids = _ids(tokenizer, prompt, add_special_tokens=True)
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool) -> list[int]:
    # `<|end|>` in a text stays the characters that it is: data can't end a target or forge a turn
    encoded = tokenizer(text, add_special_tokens=add_special_tokens, split_special_tokens=True)
    return list(encoded["input_ids"])


def _too_long(pair: Pair, params: Tokenize) -> str | None:
    if len(pair.source_ids) > params.max_source_tokens:
        return f"source of {len(pair.source_ids)} tokens, more than tokenize.max_source_tokens"
    if len(pair.target_ids) > params.max_target_tokens:
        return f"target of {len(pair.target_ids)} tokens, more than tokenize.max_target_tokens"
    return None


def _check(split: str, account: Account, params: Tokenize) -> None:
    aside, total = len(account.set_aside), len(account.set_aside) + len(account.pairs)
    if not account.pairs or aside > params.max_set_aside_fraction * total:
        raise UserError(
            f"tokenize: {aside:,} of {total:,} {split} pairs are too long, more than tokenize.max_set_aside_fraction "
            f"allows; the first has a {account.set_aside[0]['reason']}"
        )


def _summary(account: Account) -> dict[str, Any]:
    return {
        "pairs": len(account.pairs),
        "pairs_set_aside": len(account.set_aside),
        "source_tokens": _lengths([len(pair.source_ids) for pair in account.pairs]),
        "target_tokens": _lengths([len(pair.target_ids) for pair in account.pairs]),
    }


def _lengths(lengths: list[int]) -> dict[str, float]:
    return {
        "total": sum(lengths),
        "median": float(np.percentile(lengths, 50)),
        "p95": float(np.percentile(lengths, 95)),
        "longest": max(lengths),
    }


if __name__ == "__main__":
    launch(main)
