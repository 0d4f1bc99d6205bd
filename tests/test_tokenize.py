"""The tokenize stage: ids that read back as the text, from a vocabulary that has seen the train split alone."""

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
from stages.lib.chats import Turn
from stages.lib.encoding import Encoded, Encoder, Ids
from stages.lib.examples import SPLITS, Example, Split, write_examples, write_labels
from stages.lib.files import read_json, read_jsonl
from stages.lib.pairs import Pair, Pairs
from stages.lib.params.model import Model
from stages.lib.params.tokenize import Tokenize
from stages.lib.process import UserError
from stages.lib.vocabulary import open_vocabulary
from tests.build import PROJECT, contents, section

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
        self.tokenizer: PreTrainedTokenizerBase = open_vocabulary(folder / "tokenizer")
        self.pairs: dict[Split, list[Pair]] = {split: list(Pairs(folder / split)) for split in SPLITS}
        self.account = read_json(folder / "account.json")
        self.set_aside = list(read_jsonl(folder / "set_aside.jsonl"))
        self.preview = (folder / "preview.md").read_text("utf-8")

    def sources(self, split: Split) -> list[str]:
        return [str(self.tokenizer.decode(pair.source_ids)) for pair in self.pairs[split]]


def tokenize(folder: Path, splits: Splits = PLACES, checkpoint: Path | None = None, **overrides: Any) -> Tokenized:
    """Runs the stage with a new vocabulary, or with the tokenizer of a checkpoint."""
    for split, own in splits.items():
        write_examples(folder / "in" / split, own)
    usual: dict[str, Any] = {
        "prompt": "{source}\n",
        "vocabulary_size": 400,
        "max_source_tokens": 100,
        "max_target_tokens": 100,
        "max_set_aside_fraction": 0.0,
        "max_cut_fraction": 0.0,
    }
    write_labels(folder / "in/labels.json", [])
    model = section(Model, name="folder", folder=str(checkpoint)) if checkpoint else section(Model)
    stage.run(section(Tokenize, **(usual | overrides)), model, None, source=folder / "in", target=folder / "out")
    return Tokenized(folder / "out")


def save_checkpoint(folder: Path, frame: str | None = None) -> Path:
    """A tokenizer with neither end nor pad token; with a frame, it has both ends and puts them around every text."""
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
def test_a_target_reads_back_exactly_and_ends_with_its_only_end_token(tmp_path: Path, text: str) -> None:
    tokenized = tokenize(tmp_path, one_target(text))
    (pair,) = tokenized.pairs["test"]
    *ids, end = pair.target_ids
    assert end == tokenized.tokenizer.eos_token_id
    assert not {tokenized.tokenizer.eos_token_id, tokenized.tokenizer.pad_token_id} & set(ids)
    assert tokenized.tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_source_reads_back_exactly(tmp_path: Path, text: str) -> None:
    splits = {**PLACES, "test": [Example("only", text, ["a target"])]}
    tokenized = tokenize(tmp_path, splits)
    (pair,) = tokenized.pairs["test"]
    assert tokenized.tokenizer.decode(pair.source_ids, skip_special_tokens=True) == text + "\n"


def test_every_reference_is_a_pair_of_its_example(tmp_path: Path) -> None:
    many = Example("many", "a source", ["one", "two", "three"])
    tokenized = tokenize(tmp_path, {**PLACES, "test": [*examples("zeppelin", 2), many]})
    assert [pair.id for pair in tokenized.pairs["test"]] == ["zeppelin0", "zeppelin1", "many", "many", "many"]
    assert tokenized.account["test"]["pairs"] == 5


def test_only_words_of_train_are_single_tokens(tmp_path: Path) -> None:
    tokenizer = tokenize(tmp_path, {**PLACES, "test": examples("zeppelin", 50)}).tokenizer
    lengths = {word: len(tokenizer.tokenize(f" {word}")) for word in ("lighthouse", "harbour", "zeppelin")}
    assert lengths["lighthouse"] == 1
    assert min(lengths["harbour"], lengths["zeppelin"]) > 1


@pytest.mark.parametrize("split", ["validation", "test"])
def test_rows_of_another_split_change_nothing_that_training_sees(tmp_path: Path, split: Split) -> None:
    tokenize(tmp_path / "few")
    tokenize(tmp_path / "many", {**PLACES, split: examples("airship", 200)})
    few, many = contents(tmp_path / "few/out"), contents(tmp_path / "many/out")
    seen = [name for name in few if name.startswith(("tokenizer/", "train/"))]
    seen += ["validation/00000.parquet"] if split == "test" else []
    assert len(seen) >= 3
    assert {name: few[name] for name in seen} == {name: many[name] for name in seen}


def test_the_vocabulary_is_no_larger_than_asked_for(tmp_path: Path) -> None:
    assert len(tokenize(tmp_path, vocabulary_size=280).tokenizer) == 280


@pytest.mark.parametrize("prompt", ["{source}", 'Say {x} {{of}} {"facts": "{source}"} ->', "{source} = {source}:"])
def test_the_text_around_the_source_is_kept_with_its_braces(tmp_path: Path, prompt: str) -> None:
    source = "a {source} of {0} {braces}"
    tokenized = tokenize(tmp_path, {**PLACES, "test": [Example("only", source, ["text"])]}, prompt=prompt)
    assert tokenized.sources("test") == [source.join(prompt.split("{source}"))]


@pytest.mark.parametrize(("limit", "aside"), [("source", 2), ("target", 1)])
def test_too_long_pairs_are_set_aside_with_the_reason(tmp_path: Path, limit: str, aside: int) -> None:
    long = Example("long", "x" * 50, ["fine", "y" * 50])
    limits: dict[str, Any] = {f"max_{limit}_tokens": 30}
    tokenized = tokenize(tmp_path, {**PLACES, "test": [*PLACES["test"], long]}, max_set_aside_fraction=0.5, **limits)
    # the source's newline and the target's end token count; a long source takes both of its pairs along
    detail = f"{limit} of 51 tokens, more than tokenize.max_{limit}_tokens"
    record = {"split": "test", "id": "long", "reason": f"long_{limit}", "detail": detail, "source": long.source}
    assert tokenized.set_aside == [record] * aside
    assert tokenized.account["test"]["set_aside"] == {f"long_{limit}": aside}
    assert tokenized.account["test"]["pairs_set_aside"] == aside
    assert tokenized.account["test"]["pairs"] == len(tokenized.pairs["test"]) == 3 + 2 - aside
    assert tokenized.account["train"]["pairs_set_aside"] == 0


def test_a_pair_exactly_as_long_as_allowed_is_kept(tmp_path: Path) -> None:
    exact = Example("exact", "x" * 50, ["y" * 50])
    tokenized = tokenize(tmp_path, {**PLACES, "test": [exact]}, max_source_tokens=51, max_target_tokens=51)
    assert tokenized.account["test"]["source_tokens"]["longest"] == 51
    assert tokenized.account["test"]["target_tokens"]["longest"] == 51


def failure(folder: Path, splits: Splits, **overrides: Any) -> list[str]:
    with pytest.raises(UserError) as stopped:
        tokenize(folder, splits, **overrides)
    return stopped.value.lines


@pytest.mark.parametrize("kept", [0, 3])
def test_too_many_long_pairs_stop_with_the_limit_the_split_and_the_first(tmp_path: Path, kept: int) -> None:
    long = [Example(f"long{n}", "a source", ["y" * 200]) for n in range(2)]
    (line,) = failure(
        tmp_path, {**PLACES, "validation": [*examples("harbour", kept), *long]}, max_set_aside_fraction=0.3
    )
    assert line.startswith(f"tokenize: validation: 2 of {kept + 2} pairs are set aside")
    assert "tokenize.max_set_aside_fraction" in line
    assert line.endswith("the first: long0, target of 201 tokens, more than tokenize.max_target_tokens")
    # what was set aside, and how long all is, says which limit would do
    assert len(list(read_jsonl(tmp_path / "out/set_aside.jsonl"))) == 2
    assert read_json(tmp_path / "out/account.json")["validation"]["target_tokens"]["longest"] == 201


def test_a_share_set_aside_exactly_as_large_as_allowed_passes(tmp_path: Path) -> None:
    long = Example("long", "a source", ["y" * 200])
    splits = {**PLACES, "validation": [*examples("harbour", 3), long]}
    assert tokenize(tmp_path, splits, max_set_aside_fraction=0.25).account["validation"]["pairs_set_aside"] == 1


@pytest.mark.parametrize("limit", ["source", "target"])
def test_too_long_pairs_of_all_splits_are_told_at_once_where_none_may_be(tmp_path: Path, limit: str) -> None:
    long = [Example("long", "x" * 200, ["y" * 200])]
    splits: Splits = {split: [*own, *long] for split, own in PLACES.items()}
    policies = {"max_source_tokens": 300, "max_target_tokens": 300, f"max_{limit}_tokens": 150, f"long_{limit}": "fail"}
    # a vocabulary of its own would know the long word, which train has
    checkpoint = save_checkpoint(tmp_path / "model")
    lines = failure(tmp_path, splits, checkpoint=checkpoint, max_set_aside_fraction=0.9, **policies)
    assert [line.split(": ")[1] for line in lines] == list(SPLITS)
    assert all(f"tokenize.long_{limit} is fail; the first: long, " in line for line in lines)


def test_too_many_cut_sources_stop_in_every_split(tmp_path: Path) -> None:
    long = [Example(f"long{n}", "x" * 200, ["text"]) for n in range(2)]
    splits = {**PLACES, "validation": long, "test": [*long, *examples("zeppelin", 2)]}
    lines = failure(tmp_path / "some", splits, long_source="cut_end", max_cut_fraction=0.4)
    assert [line.split(": ")[1] for line in lines] == ["validation", "test"]
    assert "2 of 4 sources are cut, more than tokenize.max_cut_fraction" in lines[1]
    kept = tokenize(tmp_path / "all", splits, long_source="cut_end", max_cut_fraction=1.0)
    assert [kept.account[split]["sources_cut_fraction"] for split in SPLITS] == [0.0, 1.0, 0.5]
    assert {len(pair.source_ids) for pair in kept.pairs["validation"]} == {100}


def test_a_prompt_without_long_sources_is_never_cut(tmp_path: Path) -> None:
    tokenized = tokenize(tmp_path, prompt="Q: {source}\nA:", long_source="cut_start")
    assert tokenized.sources("test") == [f"Q: {own.source}\nA:" for own in PLACES["test"]]
    assert tokenized.account["test"]["sources_cut_fraction"] == 0.0


def test_a_prompt_longer_than_the_limit_is_named(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model")
    lines = failure(tmp_path, PLACES, checkpoint=checkpoint, prompt="~" * 150 + "{source}", long_source="cut_start")
    assert len(lines) == 3
    assert "as long_prompt; the first: lighthouse0, tokenize.prompt alone takes" in lines[0]


def test_long_targets_are_split_into_pairs_of_their_example(tmp_path: Path) -> None:
    long = Example("long", "a source", ["y" * 150, "short"])
    splits = {**PLACES, "test": [*examples("zeppelin", 1), long]}
    tokenized = tokenize(tmp_path, splits, long_target="split", overlap_tokens=10)
    assert [pair.id for pair in tokenized.pairs["test"]] == ["zeppelin0", "long", "long", "long"]
    assert [pair.target_bytes for pair in tokenized.pairs["test"][1:3]] == [150 * 100 // 151, 150 - 150 * 100 // 151]
    account = tokenized.account["test"]
    assert (account["pairs"], account["pairs_set_aside"]) == (4, 0)
    assert account["targets_split_fraction"] == pytest.approx(1 / 3, abs=1e-4)
    assert account["target_tokens"]["longest"] == 151


def save_stripping(folder: Path) -> Path:
    """A checkpoint to whose tokenizer `~` is nothing at all."""
    save_checkpoint(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    tokenizer.save_pretrained(folder)
    return folder


def test_a_target_that_is_nothing_to_the_tokenizer_stops_with_its_example(tmp_path: Path) -> None:
    checkpoint = save_stripping(tmp_path / "model")
    (line,) = failure(tmp_path, one_target("~~~"), checkpoint=checkpoint)
    assert line.startswith("tokenize: test: 1 of 1 pairs are untrainable, and tokenize.untrainable is fail")
    assert "the first: only, the target has no token" in line


def test_a_target_that_is_nothing_to_the_tokenizer_is_counted_where_it_may_be(tmp_path: Path) -> None:
    checkpoint = save_stripping(tmp_path / "model")
    splits = {**PLACES, "test": [Example("only", "a source", ["~~~", "text"])]}
    policies: dict[str, Any] = {"untrainable": "set_aside", "max_set_aside_fraction": 0.5}
    tokenized = tokenize(tmp_path, splits, checkpoint, **policies)
    assert tokenized.account["test"]["set_aside"] == {"untrainable": 1}
    assert len(tokenized.pairs["test"]) == 1


def test_all_references_read_are_pairs_or_set_aside(tmp_path: Path) -> None:
    words = ["word " * length for length in (1, 30, 90, 200)]
    own = [Example(f"{n}-{m}", words[n], [words[m], words[-m], "x"]) for n in range(4) for m in range(4)]
    tokenized = tokenize(tmp_path, {**PLACES, "train": own}, max_set_aside_fraction=0.9, untrainable="set_aside")
    account = tokenized.account["train"]
    assert account["pairs"] == len(tokenized.pairs["train"])
    assert account["pairs_set_aside"] == len(tokenized.set_aside) == sum(account["set_aside"].values()) > 0
    assert account["pairs"] + account["pairs_set_aside"] == 16 * 3
    for side in ("source", "target"):
        assert account[f"{side}_tokens"]["total"] == sum(
            len(getattr(p, f"{side}_ids")) for p in tokenized.pairs["train"]
        )


@given(st.lists(st.integers(1, 30), min_size=1, max_size=200))
@settings(max_examples=50, deadline=None)
def test_percentiles_are_those_of_the_inverted_distribution(lengths: list[int]) -> None:
    shares = {"median": 50, "p90": 90, "p95": 95, "p99": 99, "longest": 100}
    expected = {name: np.percentile(lengths, share, method="inverted_cdf") for name, share in shares.items()}
    assert stage._percentiles(Counter(lengths)) == expected


def test_lengths_in_the_account_are_those_before_anything_is_cut(tmp_path: Path) -> None:
    own = [Example(str(n), "x" * n, ["y" * n]) for n in range(90, 190)]
    policies: dict[str, Any] = {"long_source": "cut_end", "long_target": "split", "max_cut_fraction": 1.0}
    account = tokenize(tmp_path, {**PLACES, "test": own}, **policies).account["test"]
    expected = np.percentile(range(91, 191), [50, 90, 95, 99, 100], method="inverted_cdf").tolist()
    for side in ("source", "target"):
        assert [account[f"{side}_tokens"][name] for name in ("median", "p90", "p95", "p99", "longest")] == expected


def test_the_share_of_unknown_tokens_shows_a_vocabulary_that_does_not_fit(tmp_path: Path) -> None:
    words = ["[UNK]", "[END]", "[PAD]", "the", "is", "this", "number"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[UNK]", "eos_token": "[END]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "gpt2"}))
    account = tokenize(tmp_path, checkpoint=tmp_path / "model").account
    # "the zeppelin number 0" and "this zeppelin is 0" with its end token: four of nine are names and numbers
    assert account["test"]["unknown_token_fraction"] == pytest.approx(4 / 9, abs=1e-6)
    assert tokenize(tmp_path / "own").account["test"]["unknown_token_fraction"] == 0.0


def test_the_preview_shows_pairs_of_each_split_token_by_token(tmp_path: Path) -> None:
    preview = tokenize(tmp_path, one_target("this lighthouse ends"), shown_examples=2).preview
    _, *parts = preview.split("## ")
    assert [part.partition("\n")[0] for part in parts] == [f"Some of {split}" for split in SPLITS]
    assert all("| read, without loss | learned, but for what is in ⟨⟩ |" in part for part in parts)
    assert [len([line for line in part.splitlines() if line.startswith("|")]) - 2 for part in parts] == [2, 2, 1]
    row = parts[2].splitlines()[-1]
    assert "this· lighthouse· " in row
    assert row.endswith("·&lt;\\|end\\|> |")


def test_the_preview_shows_other_pairs_where_the_first_is_set_aside(tmp_path: Path) -> None:
    long = Example("long", "a source", ["y" * 200])
    splits = {**PLACES, "test": [long, *examples("zeppelin", 9)]}
    preview = tokenize(tmp_path, splits, shown_examples=1, max_set_aside_fraction=0.2).preview
    assert "this· " in preview.partition("## Some of test")[2]


def test_no_example_need_be_shown(tmp_path: Path) -> None:
    assert "this· " not in tokenize(tmp_path, shown_examples=0).preview


def test_nothing_depends_on_how_many_examples_are_encoded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [Example(f"long{n}", "x" * 200, ["y" * 200, "z"]) for n in range(5)]
    splits = {**PLACES, "train": [*examples("lighthouse"), *long, *examples("tower")]}
    policies: dict[str, Any] = {"long_source": "cut_end", "long_target": "split", "max_cut_fraction": 0.5}
    usual = tokenize(tmp_path / "usual", splits, **policies)
    for number, count in enumerate((1, 7)):
        monkeypatch.setattr(stage, "_BATCH_EXAMPLES", count)
        other = tokenize(tmp_path / str(number), splits, **policies)
        assert (other.pairs, other.account, other.set_aside) == (usual.pairs, usual.account, usual.set_aside)
        assert contents(other.folder) == contents(usual.folder)


def test_the_vocabulary_of_a_large_corpus_is_learned_from_evenly_spaced_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [Example(str(n), "", [f"{'even' * 5 if n % 2 == 0 else 'uneven' * 5} {n:03}"]) for n in range(100)]
    characters = sum(example.characters() for example in own)
    monkeypatch.setattr(stage, "_VOCABULARY_CHARACTERS", characters // 2 + 1)
    tokenizer = tokenize(tmp_path, {**PLACES, "train": own}).tokenizer
    assert len(tokenizer.tokenize("even" * 5)) == 1
    assert len(tokenizer.tokenize("uneven" * 5)) > 1


def test_a_new_vocabulary_knows_the_words_of_the_prompt(tmp_path: Path) -> None:
    tokenizer = tokenize(tmp_path, prompt="Summarize: {source}").tokenizer
    assert tokenizer.tokenize("Summarize:")[0] == "Summarize"


def test_an_interrupted_run_leaves_no_half_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_BATCH_EXAMPLES", 2)
    fitted = Encoder.fitted

    def breaks(self: Encoder, ids: Ids) -> list[Encoded]:
        if ids[0][0].id == "harbour2":
            raise KeyboardInterrupt
        return fitted(self, ids)

    monkeypatch.setattr(Encoder, "fitted", breaks)
    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path)
    whole = {path.name for path in (tmp_path / "out").iterdir() if not path.name.endswith(".part")}
    assert whole == {"train"}
    monkeypatch.undo()
    assert contents(tokenize(tmp_path).folder) == contents(tokenize(tmp_path / "fresh").folder)


def test_a_smaller_run_leaves_no_shard_of_a_larger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.lib.shards.SHARD_BYTES", 100)
    monkeypatch.setattr(stage, "_BATCH_EXAMPLES", 2)
    shards = [
        len(list(tokenize(tmp_path, {**PLACES, "train": examples("tower", count)}).folder.glob("train/*")))
        for count in (20, 4)
    ]
    assert shards == [10, 2]


def test_two_runs_write_the_same_bytes_also_in_another_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tokenize(tmp_path / name)
    code = "import pathlib, sys; from tests.test_tokenize import tokenize; tokenize(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "three"], cwd=PROJECT, check=True, timeout=60)
    one = contents(tmp_path / "one/out")
    outs = {*SPLITS, "tokenizer", "labels.json", "set_aside.jsonl", "account.json", "preview.md"}
    assert {name.partition("/")[0] for name in one} == outs
    for again in ("two", "three"):
        assert one == contents(tmp_path / again / "out")


def test_a_pretrained_tokenizer_gets_the_tokens_that_it_lacks(tmp_path: Path) -> None:
    tokenized = tokenize(tmp_path, checkpoint=save_checkpoint(tmp_path / "model"))
    tokenizer = tokenized.tokenizer
    assert tokenizer.eos_token_id is not None
    assert tokenizer.pad_token_id is not None
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert {pair.target_ids[-1] for pair in tokenized.pairs["train"]} == {tokenizer.eos_token_id}
    # the new ids stand behind the old ones, whose embeddings stay where they were
    assert {tokenizer.eos_token_id, tokenizer.pad_token_id} == {len(tokenizer) - 2, len(tokenizer) - 1}


def test_a_pretrained_vocabulary_is_used_and_not_learned_anew(tmp_path: Path) -> None:
    tokenizer = tokenize(tmp_path, checkpoint=save_checkpoint(tmp_path / "model")).tokenizer
    assert len(tokenizer.tokenize(" zeppelin")) == 1
    assert len(tokenizer.tokenize(" lighthouse")) > 1


def test_a_pretrained_tokenizer_is_used_as_it_is(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", "<s> $A </s>")
    original = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    tokenized = tokenize(tmp_path, checkpoint=checkpoint)
    vocabulary = tokenized.tokenizer.get_vocab()
    assert original.get_vocab().items() <= vocabulary.items()
    assert len(vocabulary) == len(original.get_vocab()) + 1  # a token to pad with
    for own, pair in zip(PLACES["test"], tokenized.pairs["test"], strict=True):
        assert [*pair.source_ids, original.eos_token_id] == original(f"{own.source}\n")["input_ids"]
        assert pair.target_ids == original(own.targets[0])["input_ids"][1:]


def test_a_pretrained_tokenizer_that_is_not_fast_is_used_too(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "t5"}))
    tokenized = tokenize(tmp_path, one_target("Zażółć </s> this"), checkpoint=tmp_path / "model")
    (pair,) = tokenized.pairs["test"]
    assert pair.target_ids == [*(byte + 3 for byte in "Zażółć </s> this".encode()), 1]


@pytest.mark.parametrize("frame", ["$A </s>", "<s> $A </s>", "<s> $A"])
def test_no_end_token_stands_between_source_and_target(tmp_path: Path, frame: str) -> None:
    tokenized = tokenize(tmp_path, checkpoint=save_checkpoint(tmp_path / "model", frame))
    start = "<s>" if frame.startswith("<s>") else ""
    assert tokenized.sources("test") == [f"{start}{own.source}\n" for own in PLACES["test"]]
    targets = [tokenized.tokenizer.decode(pair.target_ids) for pair in tokenized.pairs["test"]]
    assert targets == [f"{own.targets[0]}</s>" for own in PLACES["test"]]


def test_a_pair_longer_than_the_model_has_positions_for_is_told_before_any_training(tmp_path: Path) -> None:
    splits = {**PLACES, "test": [Example("long", "word " * 700, ["t"])]}
    with pytest.raises(UserError, match="more than the model has positions for; lower max_source_tokens"):
        tokenize(tmp_path, splits, max_source_tokens=4000)


def test_conversations_that_the_template_refuses_are_told_with_its_own_words(tmp_path: Path) -> None:
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
    assert all("1 of 1 pairs" in line and "no system message, please" in line for line in error.value.lines)


@pytest.mark.parametrize(
    ("source", "checkpoint_type", "line"),
    [("a source", "t5", "only causal models chat"), ("", "gpt2", "free text is no chat")],
)
def test_chats_are_for_causal_models_with_something_to_answer(
    tmp_path: Path, source: str, checkpoint_type: str, line: str
) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", "<s> $A </s>")
    (checkpoint / "config.json").write_text(json.dumps({"model_type": checkpoint_type}))
    splits: Splits = {split: [Example(split, source, ["a target"])] for split in SPLITS}
    with pytest.raises(UserError, match=line):
        tokenize(tmp_path, splits, checkpoint=checkpoint, as_chat=True)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^model -> folder: no config\.json in .*model: not the folder of a checkpoint$"
    ):
        tokenize(tmp_path, checkpoint=tmp_path / "model")


def test_a_checkpoint_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    """From a bare config.json transformers builds a tokenizer without vocabulary, to which every text is empty."""
    folder = save_checkpoint(tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="no tokenizer in"):
        tokenize(tmp_path, checkpoint=folder)


@pytest.mark.parametrize("pretrained", [False, True])
def test_no_path_of_this_machine_is_in_the_tokenizer(tmp_path: Path, pretrained: bool) -> None:
    written = []
    for name in ("here", "elsewhere"):
        checkpoint = save_checkpoint(tmp_path / name / "model") if pretrained else None
        tokenize(tmp_path / name, checkpoint=checkpoint)
        written.append(contents(tmp_path / name / "out"))
    assert not any(os.fsencode(tmp_path) in content for content in written[0].values())
    assert written[0] == written[1]
