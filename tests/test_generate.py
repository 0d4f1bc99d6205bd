"""The tool that lets a model answer: rows of a file, questions of a person, and the model of another revision."""

import json
import math
import shutil
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from stages.lib.core.files import read_jsonl, write_csv, write_text
from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Decoder
from stages.lib.records.chats import Turn
from stages.lib.records.examples import Example
from stages.lib.records.predictions import Prediction
from stages.tools import generate
from stages.tools.export_model import export
from tests.build import PROJECT
from tests.runs import untrained_run
from tests.shell import run as shell
from tests.test_export import asked

Made = tuple[Path, list[Prediction]]
DIALOGUE = {"source": None, "target": None, "messages": "messages"}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, said: str = "") -> None:
    """The command, with these lines through a pipe."""
    monkeypatch.setattr(sys, "argv", ["generate", *arguments])
    monkeypatch.setattr(sys, "stdin", StringIO(said))
    generate.main()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of a causal model, its predictions, and what was exported, in `model`."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        predictions = untrained_run(folder, asked(), "gpt2", tokenize_={"prompt": "{source}\ntext: "}, max_new_tokens=8)
        export(Path("model"))
    return folder, predictions


@pytest.fixture
def folder(tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, with the exported model in `model`: no project is needed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(made[0] / "model")
    return tmp_path


def rows_of(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    return [{"facts": f"  {own.source}\u200b ", "other": 1} for own in predictions]  # which prepare cleans


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    if path.suffix == ".csv":
        write_csv(path, list(rows[0]), [row.values() for row in rows])
    else:
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.txt"])
def test_each_row_is_answered_as_by_predict(
    name: str, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions = [own for own in made[1] if "\n" not in own.source or not name.endswith(".txt")]
    if name.endswith(".txt"):
        write_text(Path(name), "".join(f"{own.source}\n" for own in predictions))
    else:
        write_rows(Path(name), rows_of(predictions))
    run(monkeypatch, "model", "--input", name, "--output", "out.jsonl")
    written = list(read_jsonl(Path("out.jsonl")))
    assert [(own["source"], own["prediction"]) for own in written] == [(p.source, p.prediction) for p in predictions]
    assert [own["finish_reason"] for own in written] == [own.finish_reason for own in predictions]
    wanted = [math.exp((own.confidence or 0.0) * own.prediction_tokens) for own in predictions]
    assert [own["probability"] for own in written] == pytest.approx(wanted, rel=0.01)
    assert {path.name for path in folder.iterdir()} == {"model", name, "out.jsonl"}


def test_a_killed_run_goes_on_and_writes_the_same_bytes(
    folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(Path("rows.jsonl"), rows_of(made[1]))
    parts = Decoder._parts
    monkeypatch.setattr(Decoder, "_parts", lambda self, layout, tokens: parts(self, layout, 60))  # several
    run(monkeypatch, "model", "--input", "rows.jsonl", "--output", "whole.jsonl")
    decode, done = Decoder.decode, list[Any]()

    def killed(self: Decoder, part: Sequence[int]) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part)
        return decode(self, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "decode", killed)
        with pytest.raises(KeyboardInterrupt):
            run(patch, "model", "--input", "rows.jsonl", "--output", "out.jsonl")
    assert not Path("out.jsonl").exists()
    again = list[Any]()

    def noted(self: Decoder, part: Sequence[int]) -> Any:
        again.append(part)
        return decode(self, part)

    monkeypatch.setattr(Decoder, "decode", noted)
    run(monkeypatch, "model", "--input", "rows.jsonl", "--output", "out.jsonl")
    assert again
    assert not [part for part in done if part in again]
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_unusable_rows_are_told_all_at_once_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['{"facts": "one"}', '{"fact": "two"}', '{"facts": null}', "{", json.dumps({"facts": "long " * 300})]
    write_text(Path("rows.jsonl"), "".join(f"{line}\n" for line in lines))
    with pytest.raises(UserError) as error:
        run(monkeypatch, "model", "--input", "rows.jsonl", "--output", "out.jsonl")
    assert [line.split(": ")[1] for line in error.value.lines] == ["line 2", "line 3", "line 4", "line 5"]
    assert "line 2: no facts" in error.value.lines[0]
    assert "more than tokenize.max_source_tokens" in error.value.lines[3]
    write_text(Path("rows.csv"), "fact,text\none,two\n")
    with pytest.raises(UserError, match=r"rows\.csv: no column facts; there are fact, text"):
        run(monkeypatch, "model", "--input", "rows.csv", "--output", "out.jsonl")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["model", "--input", "rows.csv"], "--input and --output go together"),
        (["model", "--rev", "main"], "give one of them"),
        (["nowhere"], "nowhere/settings.json: not there"),
        (["model", "--input", "rows.csv", "--output", "out.jsonl"], "rows.csv: no such file"),
        (["model", "--input", "model", "--output", "taken.jsonl"], "taken.jsonl: is there already"),
        (["model", "--input", "taken.jsonl", "--output", "out.csv"], "name the file out.jsonl"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(Path("taken.jsonl"), "")
    with pytest.raises(UserError, match=line) as error:
        run(monkeypatch, *arguments)
    assert len(error.value.lines) == 1


def test_questions_through_a_pipe_are_answered_line_by_line(
    folder: Path,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    predictions = [own for own in made[1] if "\n" not in own.source]
    run(monkeypatch, "model", said="".join(f"{own.source}\n" for own in predictions))
    out = capsys.readouterr().out
    for own in predictions:
        assert own.prediction in out
        out = out[out.index(own.prediction) + len(own.prediction) :]
    assert "facts" not in out, "a prompt is for people"


def test_without_a_folder_the_model_of_the_workspace_answers(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made[0])
    write_rows(tmp_path / "rows.jsonl", rows_of(made[1]))
    run(monkeypatch, "--input", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl"))
    written = [own["prediction"] for own in read_jsonl(tmp_path / "out.jsonl")]
    assert written == [own.prediction for own in made[1]]


def test_a_label_has_a_probability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = [Example(own.id, own.source, [("bad", "good")[int(own.id) % 2]]) for own in asked(4)]
    labels = {"labels": {"0": "bad", "1": "good"}}
    predictions = untrained_run(tmp_path, examples, "bert", prepare=labels, labels=["bad", "good"])
    write_rows(Path("rows.jsonl"), rows_of(predictions))
    run(monkeypatch, "--input", "rows.jsonl", "--output", "out.jsonl")
    written = list(read_jsonl(Path("out.jsonl")))
    assert [own["prediction"] for own in written] == [own.prediction for own in predictions]
    assert all(0.5 <= own["probability"] <= 1 for own in written)
    run(monkeypatch, said=f"{predictions[0].source}\n")
    assert capsys.readouterr().out.splitlines()[-1] == f"{written[0]['prediction']}  {written[0]['probability']:.3f}"


@pytest.mark.parametrize("form", [{"choices": ["cup", "a door"]}, {"json_schema": {"enum": ["cup", "a door"]}}])
def test_texts_have_the_form_of_predict(
    form: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which `generate` of transformers does not know."""
    monkeypatch.chdir(tmp_path)
    predictions = untrained_run(tmp_path, asked(3), "gpt2", max_new_tokens=30, **form)
    export(Path("model"))
    write_rows(Path("rows.jsonl"), rows_of(predictions))
    run(monkeypatch, "model", "--input", "rows.jsonl", "--output", "out.jsonl")
    written = [own["prediction"] for own in read_jsonl(Path("out.jsonl"))]
    assert written == [own.prediction for own in predictions]
    assert set(written) <= ({"cup", "a door"} if "choices" in form else {'"cup"', '"a door"'})
    capsys.readouterr()
    run(monkeypatch, "model", said=f"{predictions[0].source}\n")
    assert capsys.readouterr().out.strip() == predictions[0].prediction


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_a_conversation_goes_on_until_it_begins_anew(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = "Who is there?", "And now, «what»?"
    turns = [Turn("user", first), Turn("assistant", "Nobody.")]
    (own,) = untrained_run(tmp_path, [Example("0", "", ["Nobody."], turns)], architecture, DIALOGUE, max_new_tokens=6)
    messages = [{"role": "user", "content": first}, {"role": "assistant", "content": own.prediction}]
    rows = [{"messages": [*messages, {"role": "user", "content": second}]}, {"messages": [messages[0]]}]
    write_rows(Path("rows.jsonl"), rows)
    run(monkeypatch, "--input", "rows.jsonl", "--output", "out.jsonl")
    expected = [entry["prediction"] for entry in read_jsonl(Path("out.jsonl"))]
    assert expected[0] != expected[1] == own.prediction
    capsys.readouterr()
    run(monkeypatch, said=f"{first}\n{second}\n/new\n{first}\n")
    written = capsys.readouterr().out
    assert "".join(written.split()) == "".join("".join([own.prediction, expected[0], own.prediction]).split())
    write_rows(Path("answered.jsonl"), [{"messages": messages}])
    with pytest.raises(UserError, match="line 1: the last message is the assistant's, so nothing is asked"):
        run(monkeypatch, "--input", "answered.jsonl", "--output", "none.jsonl")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_is_asked_for_each_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Optional ones too. What can't be asked is told, and the session goes on."""
    monkeypatch.chdir(tmp_path)
    template = {"source": "{plain}\nstyle: {author?}"}
    (own,) = untrained_run(tmp_path, [Example("0", "hat\nstyle: Ann", ["A"])], "gpt2", template, max_new_tokens=6)
    monkeypatch.setattr(sys, "argv", ["generate"])
    monkeypatch.setattr(sys, "stdin", Terminal(f"{'long ' * 300}\nAnn\nhat\nAnn\n"))
    capsys.readouterr()
    generate.main()
    told = capsys.readouterr()
    assert told.out.startswith("data_to_text: write plain, then author. Ctrl-D ends.\nplain: author: plain: author: ")
    assert own.prediction in told.out
    assert "more than tokenize.max_source_tokens" in told.err


OUTS = ("prepare/report", "tokenize/report", "tokenize/label_ids.json", "tune_hyperparameters/model.json", "predict")


@pytest.mark.pipeline
def test_the_model_of_a_revision_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace stays as it is. A model that is nowhere is told in a line."""
    monkeypatch.chdir(tmp_path)
    predictions = untrained_run(tmp_path, asked(4), "gpt2", max_new_tokens=6)
    for name in (".dvc/config", ".dvc/.gitignore"):
        write_text(Path(name), (PROJECT / name).read_text())
    outs = [f"data/{name}" for name in (*OUTS, "train/model", "train/adapter", "train/report")]
    for command in ("git init -q -b main", f"dvc add -q {' '.join(outs)}", "git add .", "git commit -q -m one"):
        shell(tmp_path, command)
    shutil.rmtree("data")
    write_text(Path("params.yaml"), "scenario: another\n")
    write_rows(Path("rows.jsonl"), rows_of(predictions))
    run(monkeypatch, "--rev", "main", "--input", "rows.jsonl", "--output", "out.jsonl")
    assert [own["prediction"] for own in read_jsonl(Path("out.jsonl"))] == [own.prediction for own in predictions]
    assert not Path("data").exists()
    shutil.rmtree(".dvc/cache")
    with pytest.raises(UserError, match=r"main: .*: its model is neither in DVC's cache nor in its remote"):
        run(monkeypatch, "--rev", "main", "--input", "rows.jsonl", "--output", "again.jsonl")
    with pytest.raises(UserError, match="nowhere: unknown Git revision 'nowhere'"):
        run(monkeypatch, "--rev", "nowhere")


def test_the_help_is_there_at_once() -> None:
    """Without what takes seconds to import."""
    code = "import sys, stages.tools.generate; print({'torch', 'transformers', 'dvc', 'pandas'} & {*sys.modules})"
    assert shell(PROJECT, f'{sys.executable} -c "{code}"') == "set()\n"
