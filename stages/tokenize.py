"""Examples -> token ids; the only place where text becomes ids.

Reads:  data/prepare/{train,validation,test}/ and labels.json; a pretrained model's tokenizer, if there is one.
Writes: data/tokenize/{train,validation,test}/ (shards of pairs of source and target), tokenizer/, set_aside.jsonl (what
        is not used, and why), labels.json (each label as the ids of a target), account.json and preview.md (some
        pairs, token by token).
Random: nothing; a new vocabulary is learned from the train split alone.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from stages.lib.batches import in_batches, one_ahead
from stages.lib.chat_format import PLAIN_TEMPLATE, ChatFormat
from stages.lib.chats import render
from stages.lib.encoding import Encoded, Encoder
from stages.lib.examples import SPLITS, Example, Split, count_examples, read_examples, read_labels
from stages.lib.files import jsonl_writer, write_json
from stages.lib.markdown import table, write_page
from stages.lib.models import check_fits, model_kind
from stages.lib.packing import packed
from stages.lib.pairs import Label, Pair, Pairs, write_labels, write_pairs
from stages.lib.params import read_section
from stages.lib.params.machine import Machine
from stages.lib.params.model import Kind, Model
from stages.lib.params.tokenize import Tokenize
from stages.lib.process import UserError, launch, uncollected
from stages.lib.templates import Unusable
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
    tried: int = 0  # pairs kept and set aside
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
    kind, labels = model_kind(model), read_labels(source / "labels.json")
    _check_use(params, kind, source / "train")
    tokenizer = _vocabulary(params, model, kind, source / "train")
    accounts = {split: Account(count_examples(source / split)) for split in SPLITS}
    start = time.monotonic()
    with jsonl_writer(target / "set_aside.jsonl") as write:
        for split, account in accounts.items():
            encoder = Encoder(tokenizer, params, kind, labels, answers_apart=split == "test")
            pairs = _pairs(_encoded(encoder, source / split, account.examples), split, account, write)
            if params.pack and split == "train":
                pairs = packed(pairs, params.max_target_tokens, params.overlap_tokens)
            write_pairs(target / split, _counted(pairs, account, params.shown_examples))
    seconds = time.monotonic() - start
    tokenizer.save_pretrained(target / "tokenizer")
    write_labels(target / "labels.json", _labels(encoder, labels))
    write_json(target / "account.json", {split: _summary(account) for split, account in accounts.items()})
    _check(accounts, params, target)
    for split in SPLITS:
        check_fits(model, tokenizer, labels, Pairs(target / split))
    write_page(target / "preview.md", "Data, as tokenized", _preview(accounts, tokenizer))
    counts = ", ".join(f"{account.pairs:,} {split}" for split, account in accounts.items())
    aside = sum(account.set_aside.total() for account in accounts.values())
    speed = sum(account.kept_tokens.total() for account in accounts.values()) / seconds
    print(
        f"tokenize: vocabulary of {len(tokenizer):,} tokens; pairs: {counts}; {aside:,} set aside; "
        f"{speed:,.0f} tokens a second"
    )


def _check_use(params: Tokenize, kind: Kind, train: Path) -> None:
    """Raises UserError where this kind of model can't be used like that."""
    for example in islice(read_examples(train), 1):
        is_free_text = not (example.source or example.turns)
        if params.as_chat and (kind != "causal" or is_free_text):
            raise UserError("tokenize -> as_chat: only causal models chat, and free text is no chat; write false")
        if is_free_text and kind != "causal":
            raise UserError(f"tokenize: free text (a scenario without source) needs a causal model; this one is {kind}")
        if params.pack and not is_free_text:
            raise UserError("tokenize: only free text can be packed (pack: true); examples with a source can't")


def _vocabulary(params: Tokenize, model: Model, kind: Kind, train: Path) -> PreTrainedTokenizerBase:
    if model.name != "scratch":
        tokenizer = load_vocabulary(model, params.languages.source, params.languages.target)
    else:
        texts = _texts(train, params)
        tokenizer = train_vocabulary(texts, params.vocabulary_size, kind, params.vocabulary_splits)
    is_chat = params.as_chat or any(example.turns for example in islice(read_examples(train), 1))
    if is_chat and kind == "causal":
        tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE
        try:
            ChatFormat(tokenizer).end_id()
        except Unusable as problem:
            raise UserError(
                f"tokenize: the model's chat template can't be learned from: {problem.detail}; take it out of the "
                f"checkpoint's tokenizer (chat_template), and a plain one is used"
            ) from None
    return tokenizer


def _texts(train: Path, params: Tokenize) -> Iterator[str]:
    characters = sum(example.characters() for example in read_examples(train))
    every = characters // _VOCABULARY_CHARACTERS + 1
    for number, example in enumerate(tqdm(read_examples(train), desc="tokenize vocabulary", unit=" examples")):
        if number % every == 0:
            if example.turns:
                yield render(example.turns)  # with the roles: a template names them at every turn
            else:
                yield params.prompt.replace("{source}", example.source)
                yield from example.targets


def _labels(encoder: Encoder, labels: Sequence[str]) -> list[Label]:
    examples = [Example(label, "", [label]) for label in labels]
    return [Label(label, ids) for label, ids in zip(labels, encoder.ids(examples)[2], strict=True)]


def _encoded(encoder: Encoder, examples: Path, count: int) -> Iterator[list[Encoded]]:
    batches = in_batches(read_examples(examples), Example.characters, _BATCH_EXAMPLES, _BATCH_CHARACTERS)
    with tqdm(total=count, desc=f"tokenize {examples.name}", unit=" examples") as bar, uncollected():
        # a tokenizer that is not fast holds Python's lock, and what it is set to, for itself
        encoded = map(encoder.ids, batches)
        for ids in one_ahead(encoded) if encoder.is_fast else encoded:
            yield (batch := encoder.fitted(ids))
            bar.update(len(batch))


def _pairs(batches: Iterable[list[Encoded]], split: Split, account: Account, write: Write) -> Iterator[list[Pair]]:
    """The pairs of each batch; what is set aside is written and the texts are counted as they pass by."""
    for batch in batches:
        for encoded in batch:
            _count(encoded, account)
            for problem in encoded.problems:
                account.first_detail.setdefault(problem.reason, f"{encoded.example.id}, {problem.detail}")
                reason = {"reason": problem.reason, "detail": problem.detail}
                source = encoded.example.source or render(encoded.example.turns)
                write({"split": split, "id": encoded.example.id, **reason, "source": source})
        yield [pair for encoded in batch for pair in encoded.pairs]


def _counted(batches: Iterable[list[Pair]], account: Account, shown: int) -> Iterator[list[Pair]]:
    """The same pairs, counted, and some of them kept to show: about as many pairs as examples are expected."""
    every = max(account.examples // max(shown, 1), 1)
    for batch in batches:
        for pair in batch:
            if len(account.shown) < min(shown, account.pairs // every + 1):
                account.shown.append(pair)
            account.pairs += 1
            account.kept_tokens["source"] += len(pair.source_ids)
            account.kept_tokens["target"] += len(pair.target_ids)
        yield batch


def _count(encoded: Encoded, account: Account) -> None:
    account.tried += encoded.tried
    account.unknown_tokens += encoded.unknown_tokens
    account.source_lengths.update(encoded.source_tokens)
    account.target_lengths.update(encoded.target_tokens)
    account.set_aside.update(problem.reason for problem in encoded.problems)
    account.sources_cut += encoded.sources_cut
    account.targets_split += encoded.targets_split


def _check(accounts: Mapping[Split, Account], params: Tokenize, target: Path) -> None:
    """Raises UserError with all that is wrong with any split."""
    policies = {"long_source": params.long_source, "long_target": params.long_target, "untrainable": params.untrainable}
    lines = []
    for split, account in accounts.items():
        aside, total = account.set_aside.total(), account.tried
        found = f"tokenize: {split}: {{:,}} of {{:,}} {{}}; the first: {{}}"
        for reason, count in account.set_aside.most_common(10):
            detail = account.first_detail[reason]
            if policies.get(reason) == "fail":
                lines.append(found.format(count, total, f"pairs are {reason}, and tokenize.{reason} is fail", detail))
            elif aside > round(params.max_set_aside_fraction * total, 6) or not account.pairs:
                limit = "are set aside, more than tokenize.max_set_aside_fraction allows"
                lines.append(found.format(count, total, f"pairs {limit}, as {reason}", detail))
        sources = account.source_lengths.total()
        if account.sources_cut > round(params.max_cut_fraction * sources, 6):
            lines.append(
                f"tokenize: {split}: {account.sources_cut:,} of {sources:,} sources are cut, more than "
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
        "sources_cut_fraction": _share(account.sources_cut, account.source_lengths.total(), 4),
        "targets_split_fraction": _share(account.targets_split, account.target_lengths.total(), 4),
        "unknown_token_fraction": _share(account.unknown_tokens, read, 6),
        "source_tokens": {"total": account.kept_tokens["source"]} | _percentiles(account.source_lengths),
        "target_tokens": {"total": account.kept_tokens["target"]} | _percentiles(account.target_lengths),
    }


def _share(part: int, total: int, digits: int) -> float:
    return round(part / total, digits) if total else 0.0


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
        rows = [(_tokens(pair.source_ids, tokenizer), _learned(pair, tokenizer)) for pair in account.shown]
        yield table(f"Some of {split}", ("read, without loss", "learned, but for what is in ⟨⟩"), rows)


def _learned(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands in ⟨⟩ is only read: what others say between two answers."""
    read = set(pair.only_read)
    parts = groupby(enumerate(pair.target_ids), key=lambda entry: entry[0] in read)
    texts = ((is_read, _tokens([token for _, token in entries], tokenizer)) for is_read, entries in parts)
    return "·".join(f"⟨{text}⟩" if is_read else text for is_read, text in texts)


def _tokens(ids: Iterable[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return "·".join(str(tokenizer.decode([token])) for token in ids)


if __name__ == "__main__":
    launch(main)
