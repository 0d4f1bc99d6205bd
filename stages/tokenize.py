"""Examples -> token ids; the only place where text becomes ids.

Reads:  data/prepare/{train,validation,test}/; a pretrained model's tokenizer, if there is one.
Writes: data/tokenize/{train,validation,test}/ (shards of pairs of source and target), tokenizer/, set_aside.jsonl (what
        is not used, and why), account.json and preview.md (some pairs, token by token).
Random: nothing; a new vocabulary is learned from the train split alone.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from stages.lib.batches import in_batches, one_ahead
from stages.lib.encoding import Encoded, Encoder
from stages.lib.examples import SPLITS, Example, Split, count_examples, read_examples
from stages.lib.files import jsonl_writer, write_json
from stages.lib.markdown import table, write_page
from stages.lib.pairs import Pair, write_pairs
from stages.lib.params import read_section
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.tokenize import Tokenize
from stages.lib.process import UserError, launch, uncollected
from stages.lib.vocabulary import load_vocabulary, train_vocabulary

SOURCE = Path("data/prepare")
TARGET = Path("data/tokenize")

_BATCH_EXAMPLES = 4096
_BATCH_CHARACTERS = 1 << 20
# a vocabulary is as good from evenly chosen examples of this size as from all of a larger corpus
_VOCABULARY_CHARACTERS = 32_000_000

Write = Callable[[Mapping[str, Any]], None]


@dataclass
class Account:
    """What became of the pairs of one split. `source_lengths` and `target_lengths` count the texts of each length in
    tokens, before any was cut, split or set aside."""

    examples: int
    pairs: int = 0
    kept_tokens: Counter[str] = field(default_factory=Counter)
    unknown_tokens: int = 0
    source_lengths: Counter[int] = field(default_factory=Counter)
    target_lengths: Counter[int] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    first_detail: dict[str, str] = field(default_factory=dict)  # reason -> what was wrong with its first
    sources_cut: int = 0
    targets_split: int = 0
    shown: list[Pair] = field(default_factory=list)


def main() -> None:
    sections = read_section(Tokenize), read_section(Model)
    run(*sections, processes=read_section(Machine).processes, source=SOURCE, target=TARGET)


def run(params: Tokenize, model: Model, processes: int | None, source: Path, target: Path) -> None:
    if processes is not None:
        os.environ["RAYON_NUM_THREADS"] = str(processes)  # of the tokenizers library
    tokenizer = _vocabulary(params, model, source / "train")
    encoder = Encoder(tokenizer, params)
    accounts = {split: Account(count_examples(source / split)) for split in SPLITS}
    start = time.monotonic()
    with jsonl_writer(target / "set_aside.jsonl") as write:
        for split, account in accounts.items():
            encoded = _encoded(encoder, source / split, account.examples)
            write_pairs(target / split, _counted(encoded, split, account, params.shown_examples, write))
    seconds = time.monotonic() - start
    tokenizer.save_pretrained(target / "tokenizer")
    write_json(target / "account.json", {split: _summary(account) for split, account in accounts.items()})
    _check(accounts, params, target)
    write_page(target / "preview.md", "Data, as tokenized", _preview(accounts, tokenizer))
    counts = ", ".join(f"{account.pairs:,} {split}" for split, account in accounts.items())
    aside = sum(account.set_aside.total() for account in accounts.values())
    speed = sum(account.kept_tokens.total() for account in accounts.values()) / seconds
    print(
        f"tokenize: vocabulary of {len(tokenizer):,} tokens; pairs: {counts}; {aside:,} set aside; "
        f"{speed:,.0f} tokens a second"
    )


def _vocabulary(params: Tokenize, model: Model, train: Path) -> PreTrainedTokenizerBase:
    if model.name != "scratch":
        return load_vocabulary(model)
    return train_vocabulary(_texts(train, params), params.vocabulary_size)


def _texts(train: Path, params: Tokenize) -> Iterator[str]:
    characters = sum(example.characters() for example in read_examples(train))
    every = characters // _VOCABULARY_CHARACTERS + 1
    for number, example in enumerate(tqdm(read_examples(train), desc="tokenize vocabulary", unit=" examples")):
        if number % every == 0:
            yield params.prompt.replace("{source}", example.source)
            yield from example.targets


def _encoded(encoder: Encoder, examples: Path, count: int) -> Iterator[list[Encoded]]:
    batches = in_batches(read_examples(examples), Example.characters, _BATCH_EXAMPLES, _BATCH_CHARACTERS)
    with tqdm(total=count, desc=f"tokenize {examples.name}", unit=" examples") as bar, uncollected():
        for ids in one_ahead(map(encoder.ids, batches)):
            yield (batch := encoder.fitted(ids))
            bar.update(len(batch))


def _counted(
    batches: Iterable[list[Encoded]], split: Split, account: Account, shown: int, write: Write
) -> Iterator[list[Pair]]:
    """The pairs of each batch; what is set aside is written and all is counted as it passes by."""
    every = max(account.examples // max(shown, 1), 1)
    number = 0
    for batch in batches:
        for encoded in batch:
            _count(encoded, account)
            if encoded.pairs and len(account.shown) < min(shown, number // every + 1):
                account.shown.append(encoded.pairs[0])
            for problem in encoded.problems:
                account.first_detail.setdefault(problem.reason, f"{encoded.example.id}, {problem.detail}")
                reason = {"reason": problem.reason, "detail": problem.detail}
                write({"split": split, "id": encoded.example.id, **reason, "source": encoded.example.source})
            number += 1
        yield [pair for encoded in batch for pair in encoded.pairs]


def _count(encoded: Encoded, account: Account) -> None:
    account.pairs += len(encoded.pairs)
    account.kept_tokens["source"] += sum(len(pair.source_ids) for pair in encoded.pairs)
    account.kept_tokens["target"] += sum(len(pair.target_ids) for pair in encoded.pairs)
    account.unknown_tokens += encoded.unknown_tokens
    account.source_lengths[encoded.source_tokens] += 1
    account.target_lengths.update(encoded.target_tokens)
    account.set_aside.update(problem.reason for problem in encoded.problems)
    account.sources_cut += encoded.is_cut
    account.targets_split += encoded.split_targets


def _check(accounts: Mapping[Split, Account], params: Tokenize, target: Path) -> None:
    """Raises UserError with all that is wrong with any split."""
    policies = {"long_source": params.long_source, "long_target": params.long_target, "untrainable": params.untrainable}
    lines = []
    for split, account in accounts.items():
        aside, total = account.set_aside.total(), account.target_lengths.total()
        found = f"tokenize: {split}: {{:,}} of {{:,}} {{}}; the first: {{}}"
        for reason, count in account.set_aside.most_common(10):
            detail = account.first_detail[reason]
            if policies.get(reason) == "fail":
                lines.append(found.format(count, total, f"pairs are {reason}, and tokenize.{reason} is fail", detail))
            elif aside > round(params.max_set_aside_fraction * total, 6) or not account.pairs:
                limit = "are set aside, more than tokenize.max_set_aside_fraction allows"
                lines.append(found.format(count, total, f"pairs {limit}, as {reason}", detail))
        if account.sources_cut > round(params.max_cut_fraction * account.examples, 6):
            lines.append(
                f"tokenize: {split}: {account.sources_cut:,} of {account.examples:,} sources are cut, more than "
                f"tokenize.max_cut_fraction allows; see the lengths in {target / 'account.json'}"
            )
    if lines:
        raise UserError(lines)


def _summary(account: Account) -> dict[str, Any]:
    read = sum(
        length * n for lengths in (account.source_lengths, account.target_lengths) for length, n in lengths.items()
    )
    return {
        "pairs": account.pairs,
        "pairs_set_aside": account.set_aside.total(),
        "set_aside": account.set_aside,
        "sources_cut_fraction": round(account.sources_cut / account.examples, 4),
        "targets_split_fraction": round(account.targets_split / account.target_lengths.total(), 4),
        "unknown_token_fraction": round(account.unknown_tokens / read, 6),
        "source_tokens": {"total": account.kept_tokens["source"]} | _percentiles(account.source_lengths),
        "target_tokens": {"total": account.kept_tokens["target"]} | _percentiles(account.target_lengths),
    }


def _percentiles(lengths: Counter[int]) -> dict[str, int]:
    """The shortest length that this share of the texts does not exceed."""
    found: dict[str, int] = {}
    shares = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "longest": 1.0}
    seen = 0
    for length in sorted(lengths):
        seen += lengths[length]
        for name, share in shares.items():
            if seen >= share * lengths.total():
                found.setdefault(name, length)
    return found


def _preview(accounts: Mapping[Split, Account], tokenizer: PreTrainedTokenizerBase) -> Iterator[Iterable[str]]:
    for split, account in accounts.items():
        rows = [(_tokens(pair.source_ids, tokenizer), _tokens(pair.target_ids, tokenizer)) for pair in account.shown]
        yield table(f"Some of {split}", ("read, without loss", "learned: every token carries loss"), rows)


def _tokens(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return "·".join(str(tokenizer.decode([token])) for token in ids)


if __name__ == "__main__":
    launch(main)
