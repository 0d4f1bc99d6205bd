"""Examples -> token ids; the only place where text becomes ids.

Reads:  data/prepare/{train,validation,test}/ and labels.json; the tokenizer of a checkpoint, if there is one.
Writes: data/tokenize/{train,validation,test}/ (shards of tokenized examples), validation_answers/ (validation with each
        answer of a conversation apart, as predictions need it), tokenizer/, label_ids.json (each label as the ids of a
        target), no_input.json (the prompt without a source, which shows what a model knows without it) and
        report/: stats.json, settings.json, rejected.jsonl (what is not used, and why) and preview.md (some examples,
        token by token). The same for each of `model.alternatives`: alternatives/NAME/ (what training reads),
        alternatives_test/NAME/ (what predictions read) and report/alternatives/NAME/.
Random: nothing. A new vocabulary is learned from the train split only; a frozen one is in `model.folder`.
"""

import os
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from stages.lib.checkpoint.without_torch import import_transformers_without_torch

if __name__ in ("__main__", "__mp_main__"):  # the latter in a worker
    import_transformers_without_torch()

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import check_fits, model_family
from stages.lib.checkpoint.chat_template import PLAIN_TEMPLATE, ChatFormat
from stages.lib.checkpoint.tokenizers import load_checkpoint_tokenizer, load_frozen_tokenizer, train_tokenizer
from stages.lib.core.files import jsonl_writer, write_json
from stages.lib.core.markdown import table, write_page
from stages.lib.core.params import read_section
from stages.lib.core.process import UserError, gc_disabled, launch
from stages.lib.core.templates import RejectedRow
from stages.lib.core.worker_pool import in_batches, ordered_map, prefetched
from stages.lib.encoding.encoded import Encoded
from stages.lib.encoding.encoder import Encoder
from stages.lib.encoding.packing import packed
from stages.lib.params.machine import Machine
from stages.lib.params.model import (
    OWN,
    Family,
    Model,
    mistakes_of,
    prediction_folder,
    report_folder,
    training_folder,
)
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.chats import render
from stages.lib.records.examples import SPLITS, Example, Split, count_examples, read_examples, read_labels
from stages.lib.records.tokenized_examples import (
    Label,
    TokenizedExample,
    write_label_ids,
    write_tokenized_examples,
)

SOURCE = Path("data/prepare")
TARGET = Path("data/tokenize")

_BATCH_EXAMPLES = 4096
_BATCH_CHARACTERS = 1 << 20
_CHAT_CHARACTERS = 1 << 15  # of twenty short conversations: a template is written several times for each answer
_SECONDS_ALONE = 10.0  # each split starts workers of its own, and each worker imports transformers
# of a larger corpus, evenly spaced examples of this total size give an equally good vocabulary
_VOCABULARY_CHARACTERS = 32_000_000

Write = Callable[[Mapping[str, Any]], None]
T = TypeVar("T")


@dataclass
class Stats:
    """Of one split. `source_lengths` and `target_lengths` count the texts of each length in tokens, before any was
    truncated, split or rejected."""

    examples: int
    tokenized: int = 0
    unknown_tokens: int = 0
    tried: int = 0  # tokenized examples, kept and rejected
    source_lengths: Counter[int] = field(default_factory=Counter)
    target_lengths: Counter[int] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    first_detail: dict[str, str] = field(default_factory=dict)  # reason -> what is wrong with the first
    sources_truncated: int = 0
    targets_split: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by the chat template: reasoning, tools, thoughts
    special_as_text: int = 0  # examples whose texts hold special tokens, which are plain text there
    source_lengths_kept: "array[int]" = field(default_factory=lambda: array("i"))  # of tokenized examples
    target_lengths_kept: "array[int]" = field(default_factory=lambda: array("i"))
    shown: list[TokenizedExample] = field(default_factory=list)


def main() -> None:
    sections = read_section(Tokenize), read_section(Model)
    run(*sections, workers=read_section(Machine).data_workers, source=SOURCE, target=TARGET)


def run(params: Tokenize, model: Model, workers: int | None, source: Path, target: Path) -> None:
    if workers is not None:
        os.environ["RAYON_NUM_THREADS"] = str(workers)  # of the tokenizers library
    candidates = model.candidates()
    families = _for_each(candidates, lambda _, candidate: _family(params, candidate, source / "validation"))
    for folder in ("alternatives", "alternatives_test", "report/alternatives"):
        shutil.rmtree(target / folder, ignore_errors=True)
    _for_each(
        candidates, lambda name, candidate: _tokenize(params, candidate, workers, families[name], name, source, target)
    )
    for folder in ("alternatives", "alternatives_test"):  # outs, and DVC warns of empty ones
        write_json(target / folder / "names.json", {"names": [name for name in candidates if name != OWN]})


def _for_each(candidates: Mapping[str, Model], do: Callable[[str, Model], T]) -> dict[str, T]:
    """Raises UserError with what is wrong with any of them."""
    results, lines = dict[str, T](), list[str]()
    for name, candidate in candidates.items():
        try:
            results[name] = do(name, candidate)
        except UserError as error:
            lines += mistakes_of(name, error.lines)
    if lines:
        raise UserError(lines)
    return results


def _family(params: Tokenize, model: Model, own: Path) -> Family:
    """Raises UserError where a model of its family can't be used in this way."""
    family = model_family(model)
    _check_use(params, family, own)
    return family


def _tokenize(
    params: Tokenize, model: Model, workers: int | None, family: Family, name: str, source: Path, target: Path
) -> None:
    """For the candidate of this name."""
    title = "tokenize" if name == OWN else f"tokenize {name}"
    training, prediction = training_folder(target, name), prediction_folder(target, name)
    report = report_folder(target, name)
    labels = read_labels(source / "labels.json")
    tokenizer = _tokenizer(params, model, family, source / "train", title)
    by_split = {split: Stats(count_examples(source / split)) for split in SPLITS}
    start = time.monotonic()
    with jsonl_writer(report / "rejected.jsonl") as write:
        for split, stats in by_split.items():
            encoder = Encoder(tokenizer, params, family, labels, answers_apart=split == "test")
            encoded = _encoded(encoder, source / split, workers, stats.examples, title)
            if params.packing and split == "train":
                batches = _accepted(_of_free_text(encoded), split, stats, write)
                batches = packed(batches, params.max_target_tokens, params.overlap_tokens)
            else:
                batches = _accepted(encoded, split, stats, write)
            folder = (prediction if split == "test" else training) / split
            write_tokenized_examples(folder, _counted(batches, stats, params.shown_examples))
    answers = Encoder(tokenizer, params, family, labels, answers_apart=True)
    whole = training / "validation"
    _write_answers(answers, source / "validation", workers, whole, prediction / "validation_answers")
    seconds = time.monotonic() - start
    for folder in dict.fromkeys((training, prediction)):
        tokenizer.save_pretrained(folder / "tokenizer")
        write_label_ids(folder / "label_ids.json", _label_ids(encoder, labels))
    write_json(prediction / "no_input.json", {"source_ids": _without_input(encoder, source / "validation")})
    write_json(report / "settings.json", params.model_dump(mode="json"))
    write_json(report / "stats.json", {split: _summary(stats) for split, stats in by_split.items()})
    _check(by_split, params, report)
    for stats in by_split.values():
        lengths = (np.asarray(kept) for kept in (stats.source_lengths_kept, stats.target_lengths_kept))
        check_fits(model, tokenizer, labels, *lengths)
    write_page(report / "preview.md", "Data, as tokenized", _preview(by_split, tokenizer))
    for line in (_conclusion(by_split, len(tokenizer), seconds), *_remarks(by_split.values())):
        print(f"{title}: {line}")


def _write_answers(encoder: Encoder, examples: Path, workers: int | None, whole: Path, target: Path) -> None:
    """The tokenized examples of a split with each answer apart; `whole` has them as training reads them. What is wrong
    with texts has been told of these."""
    if any(example.turns for example in islice(read_examples(examples), 1)):
        encoded = _in_batches(encoder, examples, workers)
        write_tokenized_examples(target, ([own for each in batch for own in each.tokenized] for batch in encoded))
    else:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(whole, target)


def _check_use(params: Tokenize, family: Family, own: Path) -> None:
    """Raises UserError where a model of this family can't be used in this way. `own` has no examples of `mix`."""
    for example in islice(read_examples(own), 1):
        is_free_text = not (example.source or example.turns)
        if params.as_chat and (family != "causal" or is_free_text):
            raise UserError("tokenize -> as_chat: only causal models chat, and free text is no chat; write false")
        if is_free_text and family != "causal":
            raise UserError(
                f"tokenize: free text (a scenario without source) needs a causal model; this one is {family}"
            )
        if example.turns and params.truncation == "right":
            raise UserError(
                "tokenize -> truncation: right would cut the question that a conversation ends with; write left, which "
                "drops its oldest turns"
            )
        if params.packing and not is_free_text:
            raise UserError("tokenize: only free text can be packed (packing: true); examples with a source can't")


def _tokenizer(params: Tokenize, model: Model, family: Family, train: Path, title: str) -> PreTrainedTokenizerBase:
    if model.scratch is None:
        tokenizer = load_checkpoint_tokenizer(model, params.languages.source, params.languages.target)
    elif (size := model.scratch.vocabulary_size) is None:
        tokenizer = load_frozen_tokenizer(Path(model.folder), family)
    else:
        tokenizer = train_tokenizer(_texts(train, params, title), size, family, model.scratch.pre_tokenizer)
    is_chat = params.as_chat or any(example.turns for example in islice(read_examples(train), 1))
    if is_chat and family == "causal":
        tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE
        try:
            ChatFormat(tokenizer).end_id()
        except RejectedRow as problem:
            raise UserError(
                f"tokenize: the model's chat template can't be used for training: {problem.detail}; remove it "
                f"from the checkpoint's tokenizer (chat_template), then a plain one is used"
            ) from None
    return tokenizer


def _texts(train: Path, params: Tokenize, title: str) -> Iterator[str]:
    characters = sum(example.characters() for example in read_examples(train))
    every = characters // _VOCABULARY_CHARACTERS + 1
    for number, example in enumerate(tqdm(read_examples(train), desc=f"{title} vocabulary", unit=" examples")):
        if number % every == 0:
            if example.turns:
                yield render(example.turns)  # with the roles, which a template names at every turn
            else:
                yield params.prompt.replace("{source}", example.source)
                yield from example.targets


def _encoded(
    encoder: Encoder, examples: Path, workers: int | None, count: int, title: str = "tokenize"
) -> Iterator[list[Encoded]]:
    with tqdm(total=count, desc=f"{title} {examples.name}", unit=" examples") as bar, gc_disabled():
        for batch in _in_batches(encoder, examples, workers):
            yield batch
            bar.update(len(batch))


def _in_batches(encoder: Encoder, examples: Path, workers: int | None) -> Iterator[list[Encoded]]:
    is_threaded = encoder.is_threaded(islice(read_examples(examples), 1))
    size = _BATCH_CHARACTERS if is_threaded else _CHAT_CHARACTERS
    batches = in_batches(read_examples(examples), Example.characters, _BATCH_EXAMPLES, size)
    if is_threaded:
        return map(encoder.fitted, prefetched(map(encoder.ids, batches)))
    return ordered_map(encoder.encoded, batches, workers if encoder.can_be_sent else 1, _SECONDS_ALONE)


def _of_free_text(batches: Iterable[list[Encoded]]) -> Iterator[list[Encoded]]:
    """The same batches. Raises UserError at an example with a source, as those of `mix` can have."""
    for batch in batches:
        for example in (encoded.example for encoded in batch):
            if example.source or example.turns:
                raise UserError(
                    f"tokenize: only free text can be packed (packing: true), and example {example.id} has a source; "
                    f"write packing: false, or take the data with sources out of mix"
                )
        yield batch


def _accepted(
    batches: Iterable[list[Encoded]], split: Split, stats: Stats, write: Write
) -> Iterator[list[TokenizedExample]]:
    """The tokenized examples of each batch. Texts are counted and rejected ones are written as they pass by."""
    for batch in batches:
        for encoded in batch:
            _count_texts(encoded, stats)
            for problem in encoded.problems:
                stats.first_detail.setdefault(problem.reason, f"{encoded.example.id}, {problem.detail}")
                reason = {"reason": problem.reason, "detail": problem.detail}
                source = encoded.example.source or render(encoded.example.turns)
                write({"split": split, "id": encoded.example.id, **reason, "source": source})
        yield [tokenized for encoded in batch for tokenized in encoded.tokenized]


def _count_texts(encoded: Encoded, stats: Stats) -> None:
    stats.tried += encoded.tried
    stats.unknown_tokens += encoded.unknown_tokens
    stats.source_lengths.update(encoded.source_tokens)
    stats.target_lengths.update(encoded.target_tokens)
    stats.rejected.update(problem.reason for problem in encoded.problems)
    stats.sources_truncated += encoded.sources_truncated
    stats.targets_split += encoded.targets_split
    stats.left_out.update(encoded.left_out)
    stats.special_as_text += encoded.special_as_text


def _counted(batches: Iterable[list[TokenizedExample]], stats: Stats, shown: int) -> Iterator[list[TokenizedExample]]:
    """The same tokenized examples, counted. Some are kept for the preview."""
    every = max(stats.examples // max(shown, 1), 1)  # as if each example made one
    for batch in batches:
        for tokenized in batch:
            if len(stats.shown) < min(shown, stats.tokenized // every + 1):
                stats.shown.append(tokenized)
            stats.tokenized += 1
            stats.source_lengths_kept.append(len(tokenized.source_ids))
            stats.target_lengths_kept.append(len(tokenized.target_ids))
        yield batch


def _label_ids(encoder: Encoder, labels: Sequence[str]) -> list[Label]:
    examples = [Example(label, "", [label]) for label in labels]
    return [Label(label, ids) for label, ids in zip(labels, encoder.ids(examples)[2], strict=True)]


def _without_input(encoder: Encoder, own: Path) -> list[int] | None:
    """None for free text and conversations: they have no source that could be left out."""
    has_source = any(example.source for example in islice(read_examples(own), 1))
    return encoder.prompt_without_source() if has_source else None


def _summary(stats: Stats) -> dict[str, Any]:
    read = sum(length * n for lengths in (stats.source_lengths, stats.target_lengths) for length, n in lengths.items())
    return {
        "tokenized_examples": stats.tokenized,
        "examples_rejected": stats.rejected.total(),
        "rejected": stats.rejected,
        "sources_truncated_fraction": _share(stats.sources_truncated, stats.source_lengths.total(), 4),
        "targets_split_fraction": _share(stats.targets_split, stats.target_lengths.total(), 4),
        "left_out_by_template": stats.left_out,
        "examples_with_special_tokens_as_text": stats.special_as_text,
        "unknown_token_fraction": _share(stats.unknown_tokens, read, 6),
        "source_tokens": {"total": sum(stats.source_lengths_kept)} | _percentiles(stats.source_lengths),
        "target_tokens": {"total": sum(stats.target_lengths_kept)} | _percentiles(stats.target_lengths),
    }


def _share(part: int, total: int, digits: int) -> float:
    return round(part / total, digits) if total else 0.0


def _percentiles(lengths: Counter[int]) -> dict[str, int]:
    """Name of a share -> the shortest length that this share of the texts does not exceed."""
    found: dict[str, int] = {}
    shares = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "longest": 1.0}
    seen = 0
    for length in sorted(lengths):
        seen += lengths[length]
        for name, share in shares.items():
            if seen >= share * lengths.total():
                found.setdefault(name, length)
    return found


def _conclusion(by_split: Mapping[Split, Stats], vocabulary: int, seconds: float) -> str:
    counts = ", ".join(f"{stats.tokenized:,} {split}" for split, stats in by_split.items())
    rejected = sum(stats.rejected.total() for stats in by_split.values())
    tokens = sum(sum(stats.source_lengths_kept) + sum(stats.target_lengths_kept) for stats in by_split.values())
    return (
        f"vocabulary of {vocabulary:,} tokens; tokenized examples: {counts}; {rejected:,} rejected; "
        f"{tokens / seconds:,.0f} tokens a second"
    )


def _remarks(all_stats: Collection[Stats]) -> Iterator[str]:
    """What is right as it is, and perhaps not meant."""
    if special := sum(stats.special_as_text for stats in all_stats):
        yield (
            f"{special:,} examples have special tokens in their texts, where they are plain text; for chats that are "
            f"rendered already, see prepare.conversation.turn"
        )
    for name in sorted({name for stats in all_stats for name in stats.left_out}):
        count = sum(stats.left_out[name] for stats in all_stats)
        unit = "conversations" if name == "tools" else "answers"
        yield f"the chat template leaves out {name} of {count:,} {unit}"


def _check(by_split: Mapping[Split, Stats], params: Tokenize, report: Path) -> None:
    """Raises UserError with all that is wrong with any split."""
    policies = {
        "long_source": ("truncation", params.truncation),
        "long_target": ("long_target", params.long_target),
        "untrainable": ("untrainable", params.untrainable),
    }
    lines = []
    for split, stats in by_split.items():
        rejected, total = stats.rejected.total(), stats.tried
        found = f"tokenize: {split}: {{:,}} of {{:,}} {{}}; the first: {{}}"
        for reason, count in stats.rejected.most_common(10):
            detail, (name, policy) = stats.first_detail[reason], policies.get(reason, ("", ""))
            if policy == "fail":
                lines.append(found.format(count, total, f"examples are {reason}, and tokenize.{name} is fail", detail))
            elif rejected > round(params.max_rejected_fraction * total, 6) or not stats.tokenized:
                limit = "are rejected, more than tokenize.max_rejected_fraction allows"
                lines.append(found.format(count, total, f"examples {limit}, as {reason}", detail))
        sources = stats.source_lengths.total()
        if stats.sources_truncated > round(params.max_truncated_fraction * sources, 6):
            lines.append(
                f"tokenize: {split}: {stats.sources_truncated:,} of {sources:,} sources are truncated, more than "
                f"tokenize.max_truncated_fraction allows; see the lengths in {report / 'stats.json'}"
            )
    if lines:
        raise UserError(lines)


def _preview(by_split: Mapping[Split, Stats], tokenizer: PreTrainedTokenizerBase) -> Iterator[Iterable[str]]:
    for split, stats in by_split.items():
        rows = [(_tokens(shown.source_ids, tokenizer), _target(shown, tokenizer)) for shown in stats.shown]
        yield table(f"Some of {split}", ("source, without loss", "target, with loss except in ⟨⟩"), rows)


def _target(shown: TokenizedExample, tokenizer: PreTrainedTokenizerBase) -> str:
    """Masked tokens are in ⟨⟩."""
    masked = set(shown.masked_positions)
    parts = groupby(enumerate(shown.target_ids), key=lambda entry: entry[0] in masked)
    texts = ((is_masked, _tokens([token for _, token in entries], tokenizer)) for is_masked, entries in parts)
    return "·".join(f"⟨{text}⟩" if is_masked else text for is_masked, text in texts)


def _tokens(ids: Iterable[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return "·".join(str(tokenizer.decode([token])) for token in ids)


if __name__ == "__main__":
    launch(main)
