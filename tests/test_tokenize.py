"""The tokenize stage: ids that read back as the text, from a vocabulary that has seen the train split alone."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.examples import SPLITS, Example, Split, write_examples
from stages.lib.files import read_json, read_jsonl
from stages.lib.pairs import Pair, Pairs
from stages.lib.params.model import Model
from stages.lib.params.tokenize import Tokenize
from stages.lib.process import UserError
from stages.lib.vocabulary import open_vocabulary
from stages.tokenize import run
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
        self.pairs: dict[Split, list[Pair]] = {split: list(Pairs(folder / f"{split}.parquet")) for split in SPLITS}
        self.account = read_json(folder / "account.json")
        self.set_aside = list(read_jsonl(folder / "set_aside.jsonl"))

    def sources(self, split: Split) -> list[str]:
        return [str(self.tokenizer.decode(pair.source_ids)) for pair in self.pairs[split]]


def tokenize(folder: Path, splits: Splits = PLACES, checkpoint: Path | None = None, **overrides: Any) -> Tokenized:
    """Runs the stage with a new vocabulary, or with the tokenizer of a checkpoint."""
    for split, own in splits.items():
        write_examples(folder / "in" / f"{split}.jsonl", own)
    usual: dict[str, Any] = {
        "prompt": "{source}\n",
        "vocabulary_size": 400,
        "max_source_tokens": 100,
        "max_target_tokens": 100,
        "max_set_aside_fraction": 0.0,
    }
    model = section(
        Model, name="folder" if checkpoint else "scratch", folder=str(checkpoint), architecture={"model_type": "gpt2"}
    )
    run(section(Tokenize, **{**usual, **overrides}), model, source=folder / "in", target=folder / "out")
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
    seen = [name for name in few if name.startswith("tokenizer/") or name == "train.parquet"]
    assert len(seen) >= 3
    assert {name: few[name] for name in seen} == {name: many[name] for name in seen}


def test_the_vocabulary_is_no_larger_than_asked_for(tmp_path: Path) -> None:
    assert len(tokenize(tmp_path, vocabulary_size=280).tokenizer) == 280


@pytest.mark.parametrize("prompt", ["{source}", 'Say {x} {{of}} {"facts": "{source}"} ->', "{source} = {source}:"])
def test_the_text_around_the_source_is_kept_with_its_braces(tmp_path: Path, prompt: str) -> None:
    source = "a {source} of {0} {braces}"
    tokenized = tokenize(tmp_path, {**PLACES, "test": [Example("only", source, ["text"])]}, prompt=prompt)
    assert tokenized.sources("test") == [source.join(prompt.split("{source}"))]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_source_tokens": 30}, "source of {} tokens, more than tokenize.max_source_tokens"),
        ({"max_target_tokens": 30}, "target of {} tokens, more than tokenize.max_target_tokens"),
    ],
)
def test_too_long_pairs_are_set_aside_with_the_reason(tmp_path: Path, limits: dict[str, Any], reason: str) -> None:
    long = Example("long", "x" * 50, ["fine", "y" * 50])
    tokenized = tokenize(tmp_path, {**PLACES, "test": [*PLACES["test"], long]}, max_set_aside_fraction=0.5, **limits)
    # the source's newline and the target's end token count; a long source takes both of its pairs along
    expected = 2 if "max_source_tokens" in limits else 1
    assert tokenized.set_aside == [{"split": "test", "id": "long", "reason": reason.format(51)}] * expected
    assert tokenized.account["test"]["pairs_set_aside"] == expected
    assert tokenized.account["test"]["pairs"] == len(tokenized.pairs["test"]) == 3 + 2 - expected
    assert tokenized.account["train"]["pairs_set_aside"] == 0


def test_a_pair_exactly_as_long_as_allowed_is_kept(tmp_path: Path) -> None:
    exact = Example("exact", "x" * 50, ["y" * 50])
    tokenized = tokenize(tmp_path, {**PLACES, "test": [exact]}, max_source_tokens=51, max_target_tokens=51)
    assert tokenized.account["test"]["source_tokens"]["longest"] == 51
    assert tokenized.account["test"]["target_tokens"]["longest"] == 51


@pytest.mark.parametrize("kept", [0, 3])
def test_too_many_long_pairs_stop_before_anything_is_written(tmp_path: Path, kept: int) -> None:
    long = [Example(f"long{n}", "a source", ["y" * 200]) for n in range(2)]
    with pytest.raises(UserError) as stopped:
        tokenize(tmp_path, {**PLACES, "validation": [*examples("harbour", kept), *long]}, max_set_aside_fraction=0.3)
    (line,) = stopped.value.lines
    assert line.startswith(f"tokenize: 2 of {kept + 2} validation pairs are too long")
    assert line.endswith("the first has a target of 201 tokens, more than tokenize.max_target_tokens")
    assert not (tmp_path / "out").exists()


def test_two_runs_write_the_same_bytes_also_in_another_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tokenize(tmp_path / name)
    code = "import pathlib, sys; from tests.test_tokenize import tokenize; tokenize(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "three"], cwd=PROJECT, check=True, timeout=60)
    one = contents(tmp_path / "one/out")
    outs = {"train.parquet", "validation.parquet", "test.parquet", "tokenizer", "set_aside.jsonl", "account.json"}
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


@pytest.mark.parametrize("frame", ["$A </s>", "<s> $A </s>", "<s> $A"])
def test_no_end_token_stands_between_source_and_target(tmp_path: Path, frame: str) -> None:
    tokenized = tokenize(tmp_path, checkpoint=save_checkpoint(tmp_path / "model", frame))
    start = "<s>" if frame.startswith("<s>") else ""
    assert tokenized.sources("test") == [f"{start}{own.source}\n" for own in PLACES["test"]]
    targets = [tokenized.tokenizer.decode(pair.target_ids) for pair in tokenized.pairs["test"]]
    assert targets == [f"{own.targets[0]}</s>" for own in PLACES["test"]]


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
