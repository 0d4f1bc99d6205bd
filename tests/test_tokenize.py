"""The tokenize stage: ids decode to the text, and the vocabulary depends only on the train split."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages import tokenize as stage
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import read_json, read_jsonl
from stages.lib.core.process import UserError
from stages.lib.encoding.encoded import Encoded
from stages.lib.encoding.encoder import Encoder, Ids
from stages.lib.params.model import Model
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.chats import Turn
from stages.lib.records.examples import SPLITS, Example, Split, write_examples, write_labels
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample
from tests.build import PROJECT, contents, scratch_model, section

Splits = Mapping[Split, Sequence[Example]]


def examples(word: str, count: int = 20) -> list[Example]:
    return [Example(f"{word}{n}", f"the {word} number {n}", [f"this {word} is {n}"]) for n in range(count)]


PLACES: Splits = {
    "train": examples("lighthouse"),
    "validation": examples("harbour", 3),
    "test": examples("zeppelin", 3),
}


class Tokenized:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder / "tokenizer")
        self.examples: dict[Split, list[TokenizedExample]] = {
            split: list(TokenizedDataset(folder / split)) for split in SPLITS
        }
        self.no_input = read_json(folder / "no_input.json")["source_ids"]
        self.stats = read_json(folder / "report/stats.json")
        self.rejected = list(read_jsonl(folder / "report/rejected.jsonl"))
        self.preview = (folder / "report/preview.md").read_text("utf-8")

    def sources(self, split: Split) -> list[str]:
        return [str(self.tokenizer.decode(example.source_ids)) for example in self.examples[split]]


def tokenize(
    folder: Path,
    splits: Splits = PLACES,
    checkpoint: Path | None = None,
    vocabulary_size: int | None = 400,
    frozen: Path = Path(),
    workers: int | None = None,
    **overrides: Any,
) -> Tokenized:
    """Runs the stage with a new vocabulary, with a frozen one, or with the tokenizer of a checkpoint."""
    for split, own in splits.items():
        write_examples(folder / "in" / split, own)
    usual: dict[str, Any] = {
        "prompt": "{source}\n",
        "max_source_tokens": 100,
        "max_target_tokens": 100,
        "max_rejected_fraction": 0.0,
        "max_truncated_fraction": 0.0,
    }
    write_labels(folder / "in/labels.json", [])
    if checkpoint:
        model = section(Model, folder=str(checkpoint), architecture="checkpoint", scratch=None)
    else:
        architecture = {"model_type": "gpt2", "n_positions": 256, "vocabulary_size": vocabulary_size}
        model = scratch_model(architecture, folder=str(frozen))
    stage.run(section(Tokenize, **(usual | overrides)), model, workers, source=folder / "in", target=folder / "out")
    return Tokenized(folder / "out")


def save_checkpoint(folder: Path, frame: str | None = None) -> Path:
    """A tokenizer without end and pad token. With a frame it has start and end tokens, and puts the frame around every
    text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<s>", "</s>"] if frame else []
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the zeppelin is here"] * 9, trainer)
    if frame:
        backend.post_processor = TemplateProcessing(single=frame, special_tokens=[("<s>", 0), ("</s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>"} if frame else {}
    PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return folder


def one_target(text: str) -> Splits:
    return {**PLACES, "test": [Example("only", "a source", [text])]}


TEXTS = [
    pytest.param("Zażółć gęślą jaźń", id="polish"),
    pytest.param("two \N{FOX FACE}\N{FOX FACE} and \N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}", id="emoji"),
    pytest.param("a\tb  c\r\nd\n\ne", id="white-space"),
    pytest.param("it 's , is n't it ? ( no ) .", id="spaces-before-punctuation"),
    pytest.param("\x00 \u2028 \ufeff \u200b", id="controls"),
    pytest.param("\u0646\u0635 \u4e2d\u6587 e\u0301 \u00e9", id="scripts-and-accents-as-written"),
    pytest.param("write <|end|> or <|pad|> here", id="names-of-special-tokens"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_target_decodes_exactly_and_has_one_end_token_at_its_end(tmp_path: Path, text: str) -> None:
    tokenized = tokenize(tmp_path, one_target(text))
    (example,) = tokenized.examples["test"]
    *ids, end = example.target_ids
    assert end == tokenized.tokenizer.eos_token_id
    assert not {tokenized.tokenizer.eos_token_id, tokenized.tokenizer.pad_token_id} & set(ids)
    assert tokenized.tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_source_decodes_exactly(tmp_path: Path, text: str) -> None:
    splits = {**PLACES, "test": [Example("only", text, ["a target"])]}
    tokenized = tokenize(tmp_path, splits)
    (example,) = tokenized.examples["test"]
    assert tokenized.tokenizer.decode(example.source_ids, skip_special_tokens=True) == text + "\n"


def test_the_prompt_without_a_source_is_what_stands_around_it(tmp_path: Path) -> None:
    tokenized = tokenize(tmp_path, prompt="facts: {source}\n")
    assert tokenized.tokenizer.decode(tokenized.no_input) == "facts: \n"


def test_free_text_has_no_prompt_without_a_source(tmp_path: Path) -> None:
    splits: Splits = {split: [Example(split, "", ["a text"])] for split in SPLITS}
    assert tokenize(tmp_path, splits).no_input is None


TALES = [Example(f"tale{n}", "", [f"once there were {n} of them"]) for n in range(20)]
MIXED: Splits = {"train": [*PLACES["train"], *TALES], "validation": TALES[:3], "test": TALES[3:6]}


def test_examples_with_a_source_can_be_mixed_into_free_text(tmp_path: Path) -> None:
    found = tokenize(tmp_path, MIXED)
    assert found.sources("train") == [f"the lighthouse number {n}\n" for n in range(20)] + ["\n"] * 20
    assert found.no_input is None


def test_no_source_is_lost_by_packing(tmp_path: Path) -> None:
    (line,) = failure(tmp_path, MIXED, packing=True, long_target="split")
    assert "packing: true" in line
    assert "lighthouse0 has a source" in line


def test_a_scenario_with_sources_is_not_packed_and_costs_no_vocabulary(tmp_path: Path) -> None:
    assert failure(tmp_path, PLACES, packing=True, long_target="split") == [
        "tokenize: only free text can be packed (packing: true); examples with a source can't"
    ]
    assert not (tmp_path / "out").exists()


def test_every_reference_makes_a_tokenized_example(tmp_path: Path) -> None:
    many = Example("many", "a source", ["one", "two", "three"])
    tokenized = tokenize(tmp_path, {**PLACES, "test": [*examples("zeppelin", 2), many]})
    assert [example.id for example in tokenized.examples["test"]] == ["zeppelin0", "zeppelin1", "many", "many", "many"]
    assert tokenized.stats["test"]["tokenized_examples"] == 5


def test_for_predictions_each_answer_of_validation_is_apart_as_in_test(tmp_path: Path) -> None:
    turns = [Turn("user", "Hello"), Turn("assistant", "Hi."), Turn("user", "How?"), Turn("assistant", "Well.")]
    talks = [Example(f"talk{number}", "", ["Hi.", "Well."], turns) for number in range(3)]
    tokenized = tokenize(tmp_path, {split: talks for split in SPLITS})
    apart = list(TokenizedDataset(tmp_path / "out/validation_answers"))
    assert apart == tokenized.examples["test"] != tokenized.examples["validation"]
    assert [own.id for own in apart[:2]] == ["talk0-1", "talk0-2"]
    tokenize(tmp_path, PLACES)
    assert contents(tmp_path / "out/validation_answers") == contents(tmp_path / "out/validation")


def test_only_frequent_words_of_train_are_single_tokens(tmp_path: Path) -> None:
    tokenizer = tokenize(tmp_path, {**PLACES, "test": examples("zeppelin", 50)}).tokenizer
    lengths = {word: len(tokenizer.tokenize(f" {word}")) for word in ("lighthouse", "harbour", "zeppelin")}
    assert lengths["lighthouse"] == 1
    assert min(lengths["harbour"], lengths["zeppelin"]) > 1


@pytest.mark.parametrize("split", ["validation", "test"])
def test_other_splits_change_nothing_that_training_reads(tmp_path: Path, split: Split) -> None:
    tokenize(tmp_path / "few")
    tokenize(tmp_path / "many", {**PLACES, split: examples("airship", 200)})
    few, many = contents(tmp_path / "few/out"), contents(tmp_path / "many/out")
    read = [name for name in few if name.startswith(("tokenizer/", "train/"))]
    read += ["validation/00000.parquet"] if split == "test" else []
    assert len(read) >= 3
    assert {name: few[name] for name in read} == {name: many[name] for name in read}


def test_the_vocabulary_has_the_size_of_the_parameter(tmp_path: Path) -> None:
    assert len(tokenize(tmp_path, vocabulary_size=280).tokenizer) == 280


def test_a_frozen_vocabulary_gives_old_rows_the_same_ids_when_there_are_new_ones(tmp_path: Path) -> None:
    """So DVC uploads the new ones alone."""
    more = {**PLACES, "train": [*PLACES["train"], *examples("zeppelin", 200)]}
    before = tokenize(tmp_path / "before")
    frozen = tokenize(tmp_path / "frozen", more, vocabulary_size=None, frozen=before.folder / "tokenizer")
    learned = tokenize(tmp_path / "learned", more)
    count = len(before.examples["train"])
    assert frozen.examples["train"][:count] == before.examples["train"]
    assert learned.examples["train"][:count] != before.examples["train"]
    one, same = ((found.folder / "tokenizer/tokenizer.json").read_bytes() for found in (before, frozen))
    assert one == same


def test_a_folder_without_a_vocabulary_to_freeze_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer, which `vocabulary_size: null` takes; copy data/tokenize/tok"):
        tokenize(tmp_path, vocabulary_size=None, frozen=tmp_path / "nothing")


@pytest.mark.parametrize("prompt", ["{source}", 'Say {x} {{of}} {"facts": "{source}"} ->', "{source} = {source}:"])
def test_braces_in_the_prompt_are_kept(tmp_path: Path, prompt: str) -> None:
    source = "a {source} of {0} {braces}"
    tokenized = tokenize(tmp_path, {**PLACES, "test": [Example("only", source, ["text"])]}, prompt=prompt)
    assert tokenized.sources("test") == [source.join(prompt.split("{source}"))]


@pytest.mark.parametrize(("limit", "rejected"), [("source", 2), ("target", 1)])
def test_too_long_texts_are_rejected_with_the_reason(tmp_path: Path, limit: str, rejected: int) -> None:
    long = Example("long", "x" * 50, ["fine", "y" * 50])
    limits: dict[str, Any] = {f"max_{limit}_tokens": 30}
    tokenized = tokenize(tmp_path, {**PLACES, "test": [*PLACES["test"], long]}, max_rejected_fraction=0.5, **limits)
    # the source's newline and the target's end token count; a long source rejects both of its targets
    detail = f"{limit} of 51 tokens, more than tokenize.max_{limit}_tokens"
    record = {"split": "test", "id": "long", "reason": f"long_{limit}", "detail": detail, "source": long.source}
    assert tokenized.rejected == [record] * rejected
    assert tokenized.stats["test"]["rejected"] == {f"long_{limit}": rejected}
    assert tokenized.stats["test"]["examples_rejected"] == rejected
    assert tokenized.stats["test"]["tokenized_examples"] == len(tokenized.examples["test"]) == 3 + 2 - rejected
    assert tokenized.stats["train"]["examples_rejected"] == 0


def test_texts_exactly_as_long_as_allowed_are_kept(tmp_path: Path) -> None:
    exact = Example("exact", "x" * 50, ["y" * 50])
    tokenized = tokenize(tmp_path, {**PLACES, "test": [exact]}, max_source_tokens=51, max_target_tokens=51)
    assert tokenized.stats["test"]["source_tokens"]["longest"] == 51
    assert tokenized.stats["test"]["target_tokens"]["longest"] == 51


def failure(folder: Path, splits: Splits, **overrides: Any) -> list[str]:
    with pytest.raises(UserError) as error:
        tokenize(folder, splits, **overrides)
    return error.value.lines


@pytest.mark.parametrize("kept", [0, 3])
def test_too_many_rejections_stop_the_stage_and_the_first_is_reported(tmp_path: Path, kept: int) -> None:
    long = [Example(f"long{n}", "a source", ["y" * 200]) for n in range(2)]
    (line,) = failure(
        tmp_path, {**PLACES, "validation": [*examples("harbour", kept), *long]}, max_rejected_fraction=0.3
    )
    assert line.startswith(f"tokenize: validation: 2 of {kept + 2} examples are rejected")
    assert "tokenize.max_rejected_fraction" in line
    assert line.endswith("the first: long0, target of 201 tokens, more than tokenize.max_target_tokens")
    # the report shows the rejected ones and all lengths, so that a better limit can be chosen
    assert len(list(read_jsonl(tmp_path / "out/report/rejected.jsonl"))) == 2
    assert read_json(tmp_path / "out/report/stats.json")["validation"]["target_tokens"]["longest"] == 201


def test_a_rejected_share_exactly_as_large_as_allowed_passes(tmp_path: Path) -> None:
    long = Example("long", "a source", ["y" * 200])
    splits = {**PLACES, "validation": [*examples("harbour", 3), long]}
    assert tokenize(tmp_path, splits, max_rejected_fraction=0.25).stats["validation"]["examples_rejected"] == 1


@pytest.mark.parametrize(("limit", "policy"), [("source", "truncation"), ("target", "long_target")])
def test_the_policy_fail_reports_all_splits_at_once(tmp_path: Path, limit: str, policy: str) -> None:
    long = [Example("long", "x" * 200, ["y" * 200])]
    splits: Splits = {split: [*own, *long] for split, own in PLACES.items()}
    policies = {"max_source_tokens": 300, "max_target_tokens": 300, f"max_{limit}_tokens": 150, policy: "fail"}
    # a new vocabulary would contain the long word, which train has
    checkpoint = save_checkpoint(tmp_path / "model")
    lines = failure(tmp_path, splits, checkpoint=checkpoint, max_rejected_fraction=0.9, **policies)
    assert [line.split(": ")[1] for line in lines] == list(SPLITS)
    assert all(f"tokenize.{policy} is fail; the first: long, " in line for line in lines)


def test_too_many_truncated_sources_stop_the_stage(tmp_path: Path) -> None:
    long = [Example(f"long{n}", "x" * 200, ["text"]) for n in range(2)]
    splits = {**PLACES, "validation": long, "test": [*long, *examples("zeppelin", 2)]}
    lines = failure(tmp_path / "some", splits, truncation="right", max_truncated_fraction=0.4)
    assert [line.split(": ")[1] for line in lines] == ["validation", "test"]
    assert "2 of 4 sources are truncated, more than tokenize.max_truncated_fraction" in lines[1]
    kept = tokenize(tmp_path / "all", splits, truncation="right", max_truncated_fraction=1.0)
    assert [kept.stats[split]["sources_truncated_fraction"] for split in SPLITS] == [0.0, 1.0, 0.5]
    assert {len(example.source_ids) for example in kept.examples["validation"]} == {100}


def test_a_prompt_with_short_sources_is_not_truncated(tmp_path: Path) -> None:
    tokenized = tokenize(tmp_path, prompt="Q: {source}\nA:", truncation="left")
    assert tokenized.sources("test") == [f"Q: {own.source}\nA:" for own in PLACES["test"]]
    assert tokenized.stats["test"]["sources_truncated_fraction"] == 0.0


def test_a_prompt_longer_than_the_limit_is_reported(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model")
    lines = failure(tmp_path, PLACES, checkpoint=checkpoint, prompt="~" * 150 + "{source}", truncation="left")
    assert len(lines) == 3
    assert "as long_prompt; the first: lighthouse0, tokenize.prompt alone takes" in lines[0]


def test_long_targets_are_split_into_tokenized_examples(tmp_path: Path) -> None:
    long = Example("long", "a source", ["y" * 150, "short"])
    splits = {**PLACES, "test": [*examples("zeppelin", 1), long]}
    tokenized = tokenize(tmp_path, splits, long_target="split", overlap_tokens=10)
    assert [example.id for example in tokenized.examples["test"]] == ["zeppelin0", "long", "long", "long"]
    assert [example.target_bytes for example in tokenized.examples["test"][1:3]] == [
        150 * 100 // 151,
        150 - 150 * 100 // 151,
    ]
    stats = tokenized.stats["test"]
    assert (stats["tokenized_examples"], stats["examples_rejected"]) == (4, 0)
    assert stats["targets_split_fraction"] == pytest.approx(1 / 3, abs=1e-4)
    assert stats["target_tokens"]["longest"] == 151


def save_stripping(folder: Path) -> Path:
    """A checkpoint whose tokenizer removes `~`."""
    save_checkpoint(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    tokenizer.save_pretrained(folder)
    return folder


def test_a_target_without_tokens_stops_the_stage_and_is_reported(tmp_path: Path) -> None:
    checkpoint = save_stripping(tmp_path / "model")
    (line,) = failure(tmp_path, one_target("~~~"), checkpoint=checkpoint)
    assert line.startswith("tokenize: test: 1 of 1 examples are untrainable, and tokenize.untrainable is fail")
    assert "the first: only, the target has no token" in line


def test_a_target_without_tokens_is_counted_with_the_policy_drop(tmp_path: Path) -> None:
    checkpoint = save_stripping(tmp_path / "model")
    splits = {**PLACES, "test": [Example("only", "a source", ["~~~", "text"])]}
    policies: dict[str, Any] = {"untrainable": "drop", "max_rejected_fraction": 0.5}
    tokenized = tokenize(tmp_path, splits, checkpoint, **policies)
    assert tokenized.stats["test"]["rejected"] == {"untrainable": 1}
    assert len(tokenized.examples["test"]) == 1


def test_every_reference_is_tokenized_or_rejected(tmp_path: Path) -> None:
    words = ["word " * length for length in (1, 30, 90, 200)]
    own = [Example(f"{n}-{m}", words[n], [words[m], words[-m], "x"]) for n in range(4) for m in range(4)]
    tokenized = tokenize(tmp_path, {**PLACES, "train": own}, max_rejected_fraction=0.9, untrainable="drop")
    stats = tokenized.stats["train"]
    assert stats["tokenized_examples"] == len(tokenized.examples["train"])
    assert stats["examples_rejected"] == len(tokenized.rejected) == sum(stats["rejected"].values()) > 0
    assert stats["tokenized_examples"] + stats["examples_rejected"] == 16 * 3
    for side in ("source", "target"):
        assert stats[f"{side}_tokens"]["total"] == sum(
            len(getattr(example, f"{side}_ids")) for example in tokenized.examples["train"]
        )


@given(st.lists(st.integers(1, 30), min_size=1, max_size=200))
@settings(max_examples=50)
def test_percentiles_are_those_of_numpys_inverted_cdf(lengths: list[int]) -> None:
    shares = {"median": 50, "p90": 90, "p95": 95, "p99": 99, "longest": 100}
    expected = {name: np.percentile(lengths, share, method="inverted_cdf") for name, share in shares.items()}
    assert stage._percentiles(Counter(lengths)) == expected


def test_reported_lengths_are_those_before_truncation_and_splits(tmp_path: Path) -> None:
    own = [Example(str(n), "x" * n, ["y" * n]) for n in range(90, 190)]
    policies: dict[str, Any] = {"truncation": "right", "long_target": "split", "max_truncated_fraction": 1.0}
    stats = tokenize(tmp_path, {**PLACES, "test": own}, **policies).stats["test"]
    expected = np.percentile(range(91, 191), [50, 90, 95, 99, 100], method="inverted_cdf").tolist()
    for side in ("source", "target"):
        assert [stats[f"{side}_tokens"][name] for name in ("median", "p90", "p95", "p99", "longest")] == expected


def test_the_share_of_unknown_tokens_is_reported(tmp_path: Path) -> None:
    words = ["[UNK]", "[END]", "[PAD]", "the", "is", "this", "number"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[UNK]", "eos_token": "[END]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "gpt2"}))
    stats = tokenize(tmp_path, checkpoint=tmp_path / "model").stats
    # "the zeppelin number 0" and "this zeppelin is 0" with its end token: four of nine are names and numbers
    assert stats["test"]["unknown_token_fraction"] == pytest.approx(4 / 9, abs=1e-6)
    assert tokenize(tmp_path / "own").stats["test"]["unknown_token_fraction"] == 0.0


def test_the_preview_shows_examples_of_each_split_token_by_token(tmp_path: Path) -> None:
    preview = tokenize(tmp_path, one_target("this lighthouse ends"), shown_examples=2).preview
    _, *parts = preview.split("## ")
    assert [part.partition("\n")[0] for part in parts] == [f"Some of {split}" for split in SPLITS]
    assert all("| source, without loss | target, with loss except in ⟨⟩ |" in part for part in parts)
    assert [len([line for line in part.splitlines() if line.startswith("|")]) - 2 for part in parts] == [2, 2, 1]
    row = parts[2].splitlines()[-1]
    assert "this· lighthouse· " in row
    assert row.endswith("·&lt;\\|end\\|> |")


def test_the_preview_shows_other_examples_where_the_first_is_rejected(tmp_path: Path) -> None:
    long = Example("long", "a source", ["y" * 200])
    splits = {**PLACES, "test": [long, *examples("zeppelin", 9)]}
    preview = tokenize(tmp_path, splits, shown_examples=1, max_rejected_fraction=0.2).preview
    assert "this· " in preview.partition("## Some of test")[2]


def test_the_preview_may_be_without_examples(tmp_path: Path) -> None:
    assert "this· " not in tokenize(tmp_path, shown_examples=0).preview


def test_the_batch_size_of_encoding_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = [Example(f"long{n}", "x" * 200, ["y" * 200, "z"]) for n in range(5)]
    splits = {**PLACES, "train": [*examples("lighthouse"), *long, *examples("tower")]}
    policies: dict[str, Any] = {"truncation": "right", "long_target": "split", "max_truncated_fraction": 0.5}
    usual = tokenize(tmp_path / "usual", splits, **policies)
    for number, count in enumerate((1, 7)):
        monkeypatch.setattr(stage, "_BATCH_EXAMPLES", count)
        other = tokenize(tmp_path / str(number), splits, **policies)
        assert (other.examples, other.stats, other.rejected) == (usual.examples, usual.stats, usual.rejected)
        assert contents(other.folder) == contents(usual.folder)


def test_workers_encode_conversations_as_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def conversation(name: str, number: int) -> Example:
        texts = [f"{name} <|end|> {turn} " * (1 + number * turn) for turn in range(4)]
        turns = [Turn(role, text) for role, text in zip(("user", "assistant") * 2, texts, strict=True)]
        return Example(f"{name}{number}", "", [], turns)

    monkeypatch.setattr(stage, "_BATCH_EXAMPLES", 2)
    monkeypatch.setattr(stage, "_SECONDS_ALONE", 0)
    train = [conversation("train", number) for number in range(6)]
    splits: Splits = {"train": train, "validation": [conversation("a", 1)], "test": [conversation("b", 1)]}
    limits: dict[str, Any] = {"max_target_tokens": 40, "long_target": "drop", "max_rejected_fraction": 0.9}
    one, two = (tokenize(tmp_path / str(count), splits, workers=count, **limits) for count in (1, 2))
    assert contents(one.folder) == contents(two.folder)
    assert one.rejected
    assert one.stats["train"]["examples_with_special_tokens_as_text"] == len(train)


def test_the_vocabulary_of_a_large_corpus_is_learned_from_evenly_spaced_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [Example(str(n), "", [f"{'even' * 5 if n % 2 == 0 else 'uneven' * 5} {n:03}"]) for n in range(100)]
    characters = sum(example.characters() for example in own)
    monkeypatch.setattr(stage, "_VOCABULARY_CHARACTERS", characters // 2 + 1)
    tokenizer = tokenize(tmp_path, {**PLACES, "train": own}).tokenizer
    assert len(tokenizer.tokenize("even" * 5)) == 1
    assert len(tokenizer.tokenize("uneven" * 5)) > 1


def test_a_new_vocabulary_has_the_words_of_the_prompt(tmp_path: Path) -> None:
    tokenizer = tokenize(tmp_path, prompt="Summarize: {source}").tokenizer
    assert tokenizer.tokenize("Summarize:")[0] == "Summarize"


def test_an_interrupted_run_leaves_no_partial_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_BATCH_EXAMPLES", 2)
    fitted = Encoder.fitted

    def breaks(self: Encoder, ids: Ids) -> list[Encoded]:
        if ids[0][0].id == "harbour2":
            raise KeyboardInterrupt
        return fitted(self, ids)

    monkeypatch.setattr(Encoder, "fitted", breaks)
    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path)
    written = {name.partition("/")[0] for name in contents(tmp_path / "out")}
    assert {name for name in written if not name.endswith(".part")} == {"train"}
    monkeypatch.undo()
    assert contents(tokenize(tmp_path).folder) == contents(tokenize(tmp_path / "fresh").folder)


def test_a_smaller_run_leaves_no_shard_of_a_larger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.lib.core.shards.SMALLEST", 1)
    monkeypatch.setattr(stage, "_BATCH_EXAMPLES", 2)
    shards = [
        len(list(tokenize(tmp_path, {**PLACES, "train": examples("tower", count)}).folder.glob("train/*")))
        for count in (20, 4)
    ]
    assert shards == [20, 4]


def test_two_runs_write_the_same_bytes_even_in_another_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tokenize(tmp_path / name)
    code = "import pathlib, sys; from tests.test_tokenize import tokenize; tokenize(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "three"], cwd=PROJECT, check=True, timeout=60)
    one = contents(tmp_path / "one/out")
    reports = {f"report/{name}" for name in ("rejected.jsonl", "settings.json", "stats.json", "preview.md")}
    alternatives = {"alternatives", "alternatives_test"}
    outs = {*SPLITS, "validation_answers", "tokenizer", "label_ids.json", "no_input.json", *alternatives, *reports}
    assert {name if name in reports else name.partition("/")[0] for name in one} == outs
    for again in ("two", "three"):
        assert one == contents(tmp_path / again / "out")


def test_a_pretrained_tokenizer_gets_missing_end_and_pad_tokens(tmp_path: Path) -> None:
    tokenized = tokenize(tmp_path, checkpoint=save_checkpoint(tmp_path / "model"))
    tokenizer = tokenized.tokenizer
    assert tokenizer.eos_token_id is not None
    assert tokenizer.pad_token_id is not None
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert {example.target_ids[-1] for example in tokenized.examples["train"]} == {tokenizer.eos_token_id}
    # the new ids follow the old ones, whose embeddings keep their places
    assert {tokenizer.eos_token_id, tokenizer.pad_token_id} == {len(tokenizer) - 2, len(tokenizer) - 1}


def test_a_pretrained_vocabulary_is_not_trained_again(tmp_path: Path) -> None:
    tokenizer = tokenize(tmp_path, checkpoint=save_checkpoint(tmp_path / "model")).tokenizer
    assert len(tokenizer.tokenize(" zeppelin")) == 1
    assert len(tokenizer.tokenize(" lighthouse")) > 1


def test_a_pretrained_tokenizer_is_used_unchanged(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", "<s> $A </s>")
    original = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    tokenized = tokenize(tmp_path, checkpoint=checkpoint)
    vocabulary = tokenized.tokenizer.get_vocab()
    assert original.get_vocab().items() <= vocabulary.items()
    assert len(vocabulary) == len(original.get_vocab()) + 1  # a token to pad with
    for own, example in zip(PLACES["test"], tokenized.examples["test"], strict=True):
        assert [*example.source_ids, original.eos_token_id] == original(f"{own.source}\n")["input_ids"]
        assert example.target_ids == original(own.targets[0])["input_ids"][1:]


def test_a_slow_pretrained_tokenizer_is_used_too(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "t5"}))
    tokenized = tokenize(tmp_path, one_target("Zażółć </s> this"), checkpoint=tmp_path / "model")
    (example,) = tokenized.examples["test"]
    assert example.target_ids == [*(byte + 3 for byte in "Zażółć </s> this".encode()), 1]


@pytest.mark.parametrize("frame", ["$A </s>", "<s> $A </s>", "<s> $A"])
def test_there_is_no_end_token_between_source_and_target(tmp_path: Path, frame: str) -> None:
    tokenized = tokenize(tmp_path, checkpoint=save_checkpoint(tmp_path / "model", frame))
    start = "<s>" if frame.startswith("<s>") else ""
    assert tokenized.sources("test") == [f"{start}{own.source}\n" for own in PLACES["test"]]
    targets = [tokenized.tokenizer.decode(example.target_ids) for example in tokenized.examples["test"]]
    assert targets == [f"{own.targets[0]}</s>" for own in PLACES["test"]]


def test_an_example_with_more_tokens_than_the_model_has_positions_is_reported(tmp_path: Path) -> None:
    splits = {**PLACES, "test": [Example("long", "word " * 700, ["t"])]}
    with pytest.raises(UserError, match="more than the model has positions for; lower max_source_tokens"):
        tokenize(tmp_path, splits, max_source_tokens=4000)


def test_the_message_of_a_template_that_refuses_conversations_is_reported(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", "<s> $A </s>")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system message, please') }}"
        "{% endif %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    tokenizer.save_pretrained(checkpoint)
    turns = [Turn("system", "be brief"), Turn("user", "hi"), Turn("assistant", "hello")]
    splits: Splits = {split: [Example(split, "", [], turns)] for split in SPLITS}
    with pytest.raises(UserError) as error:
        tokenize(tmp_path, splits, checkpoint=checkpoint)
    assert len(error.value.lines) == len(SPLITS)
    assert all("1 of 1 examples" in line and "no system message, please" in line for line in error.value.lines)


@pytest.mark.parametrize(
    ("source", "checkpoint_type", "line"),
    [("a source", "t5", "only causal models chat"), ("", "gpt2", "free text is no chat")],
)
def test_chats_need_a_causal_model_and_a_source(tmp_path: Path, source: str, checkpoint_type: str, line: str) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", "<s> $A </s>")
    (checkpoint / "config.json").write_text(json.dumps({"model_type": checkpoint_type}))
    splits: Splits = {split: [Example(split, source, ["a target"])] for split in SPLITS}
    with pytest.raises(UserError, match=line):
        tokenize(tmp_path, splits, checkpoint=checkpoint, as_chat=True)


def test_a_folder_without_a_checkpoint_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^model -> folder: no config\.json in .*model: not the folder of a checkpoint$"
    ):
        tokenize(tmp_path, checkpoint=tmp_path / "model")


def test_a_checkpoint_without_a_tokenizer_is_reported(tmp_path: Path) -> None:
    """From config.json alone transformers makes a tokenizer without vocabulary, to which every text is empty."""
    folder = save_checkpoint(tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="no tokenizer in"):
        tokenize(tmp_path, checkpoint=folder)


@pytest.mark.parametrize("pretrained", [False, True])
def test_the_outputs_contain_no_path_of_this_machine(tmp_path: Path, pretrained: bool) -> None:
    written = []
    for name in ("here", "elsewhere"):
        checkpoint = save_checkpoint(tmp_path / name / "model") if pretrained else None
        tokenize(tmp_path / name, checkpoint=checkpoint)
        written.append(contents(tmp_path / name / "out"))
    assert not any(os.fsencode(tmp_path) in content for content in written[0].values())
    assert written[0] == written[1]
