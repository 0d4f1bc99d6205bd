"""The tool that lets a model write the targets of a data set."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from stages.lib.core.files import read_jsonl
from stages.lib.core.process import UserError
from stages.lib.models.families import interface_of
from stages.lib.models.losses import summed_loss
from stages.lib.params.machine import Machine
from stages.lib.params.predict import Predict
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.chats import Turn
from stages.lib.records.examples import Example, write_examples, write_labels
from stages.tools import teach
from tests import tiny
from tests.build import section


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned the texts of the facts by heart."""
    folder, tokens = tmp_path_factory.mktemp("teacher"), tiny.tokenizer()
    network = tiny.model(tokens, dropout=0.0)
    interface = interface_of(network)
    batch = interface.training_batch([tiny.example(tokens, source) for source in tiny.FACTS], tokens.pad_token_id)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        summed_loss(interface, network, batch, 0.0).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def prepared(folder: Path, train: Sequence[Example], labels: Sequence[str] = ()) -> Path:
    rest = [Example("v", tiny.FACTS[0], ["One.", "Another."])]
    for split, examples in (("train", train), ("validation", rest), ("test", rest)):
        write_examples(folder / split, examples)
    write_labels(folder / "labels.json", list(labels))
    return folder


def run(teacher: Path, source: Path, target: Path, max_new_tokens: int = 32) -> None:
    params = section(Tokenize), section(Predict, max_new_tokens=max_new_tokens), section(Machine)
    teach.run(teacher, *params, source=source, target=target)


def test_train_has_the_texts_of_the_model_and_the_other_splits_those_of_people(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "colour: red; " * 100
    examples = [Example(str(n), source, ["Not this."]) for n, source in enumerate([*tiny.FACTS[:5], long])]
    run(teacher, prepared(tmp_path / "prepare", examples), tmp_path / "out")
    written = list(read_jsonl(tmp_path / "out/train.jsonl"))
    assert written == [{"source": source, "target": tiny.text(source)} for source in tiny.FACTS[:5]]
    for split in ("validation", "test"):
        rows = list(read_jsonl(tmp_path / f"out/{split}.jsonl"))
        assert rows == [{"source": tiny.FACTS[0], "target": ["One.", "Another."]}]
    assert "teach: 5 texts; 0 more are empty or never ended; 1 sources are too long" in capsys.readouterr().out


def test_texts_that_never_end_are_left_out(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = tiny.tokenizer()
    sources = tiny.FACTS[:4]
    shortest, *_, longest = sorted(len(tiny.example(tokens, source).target_ids) for source in sources)
    assert shortest < longest
    examples = [Example(str(n), source, ["Not this."]) for n, source in enumerate(sources)]
    run(teacher, prepared(tmp_path / "prepare", examples), tmp_path / "out", longest - 1)
    assert 0 < len(list(read_jsonl(tmp_path / "out/train.jsonl"))) < 4
    with pytest.raises(UserError, match="none of the texts is complete; raise max_new_tokens"):
        run(teacher, tmp_path / "prepare", tmp_path / "none", 1)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("example", "labels", "line"),
    [
        (Example("1", "Good.", ["positive"]), ["positive", "negative"], "targets of this scenario are labels"),
        (Example("1", "", ["Free text."]), [], "free text have no source"),
        (Example("1", "", ["Hi."], [Turn("user", "Hello"), Turn("assistant", "Hi.")]), [], "conversations and"),
        (Example("1", "long " * 500, ["Short."]), [], "no source of train fits"),
    ],
)
def test_what_it_cannot_write_for_is_refused(
    example: Example, labels: list[str], line: str, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line):
        run(teacher, prepared(tmp_path / "prepare", [example], labels), tmp_path / "out")


def test_a_folder_without_a_model_and_a_missing_split_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prepare/train: not there; run `dvc repro prepare` first"):
        run(tmp_path, tmp_path / "prepare", tmp_path / "out")
    prepared(tmp_path / "prepare", [Example("1", "A source.", ["A target."])])
    with pytest.raises(UserError, match=r"no config\.json in"):
        run(tmp_path, tmp_path / "prepare", tmp_path / "out")
