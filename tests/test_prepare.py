"""The prepare stage: every row is counted, and no row of validation or test is in train."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages import prepare as stage
from stages.lib.core.files import read_json, read_jsonl
from stages.lib.core.process import UserError
from stages.lib.overlap.minhash import jaccard, shingles
from stages.lib.params.prepare import Prepare
from stages.lib.records.examples import SPLITS, Example, Split, read_examples
from tests.build import contents, section

Row = tuple[str, str]
Files = Mapping[str, str | bytes]

HELD_OUT = {"held_validation.jsonl": '{"facts": "v", "text": "V"}', "held_test.jsonl": '{"facts": "t", "text": "T"}'}
HELD_OUT_ROWS = 2
USUAL: dict[str, Any] = {
    "validation": None,
    "test": None,
    "split": {"validation_fraction": 0.2, "test_fraction": 0.2},
    "limits": {"max_rejected_fraction": 0.99, "max_duplicate_fraction": 0.99, "max_leak_fraction": 0.99},
}


@dataclass
class Prepared:
    folder: Path
    splits: dict[Split, list[Example]]
    rejected: list[dict[str, Any]]
    stats: dict[str, Any]

    def everything(self) -> list[tuple[str, list[str]]]:
        """Sources with their targets. With `split.by: order`, they are in the order of the file."""
        return [(own.source, own.targets) for split in SPLITS for own in self.splits[split]]

    def questions(self, split: Split) -> list[tuple[str, list[str]]]:
        return [(own.source, own.references) for example in self.splits[split] for own in example.questions()]

    def places(self) -> dict[str, tuple[Split, str]]:
        """Source -> its split and id."""
        return {own.source: (split, own.id) for split in SPLITS for own in self.splits[split]}

    def sources(self, split: Split) -> list[str]:
        return [source for source, _ in self.questions(split)]

    def reasons(self) -> list[tuple[str, int, str]]:
        return [(entry["file"], entry["line"], entry["reason"]) for entry in self.rejected]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merges inner sections too, except `train`, which is one value."""
    inner = {
        name: merged(base[name], value)
        if isinstance(value, dict) and isinstance(base.get(name), dict) and name != "train"
        else value
        for name, value in changes.items()
    }
    return {**base, **inner}


def build_params(**overrides: Any) -> Prepare:
    return Prepare.model_validate(merged(merged(params_of_the_tests(), USUAL), overrides))


@cache
def params_of_the_tests() -> dict[str, Any]:
    return section(Prepare).model_dump()


def write_files(raw: Path, files: Files) -> None:
    for name, content in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def prepare(folder: Path, files: Files, processes: int = 1, **overrides: Any) -> Prepared:
    """Runs the stage on these files. The first one is train; the splits are shares of it."""
    raw, target = folder / "raw", folder / "out"
    write_files(raw, files)
    stage.run(build_params(**{"train": next(iter(files), ""), **overrides}), processes, raw, target)
    return Prepared(
        target,
        {split: list(read_examples(target / split)) for split in SPLITS},
        list(read_jsonl(target / "report/rejected.jsonl")),
        read_json(target / "report/stats.json"),
    )


def prepare_train(folder: Path, name: str, content: str | bytes, **overrides: Any) -> Prepared:
    """Validation and test have files of one row each, so that this whole file is train."""
    held_out = {"validation": "held_validation.jsonl", "test": "held_test.jsonl"}
    return prepare(folder, {name: content, **HELD_OUT}, **{**held_out, **overrides})


def prepare_three(
    folder: Path, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row], **overrides: Any
) -> Prepared:
    files = {"train.csv": as_csv(train), "validation.csv": as_csv(validation), "test.csv": as_csv(test)}
    return prepare(folder, files, **{"validation": "validation.csv", "test": "test.csv", **overrides})


def as_csv(rows: Sequence[Row], delimiter: str = ",", end: str = "\n") -> str:
    lines = io.StringIO(newline="")
    csv.writer(lines, delimiter=delimiter, lineterminator=end).writerows([("facts", "text"), *rows])
    return lines.getvalue()


def as_jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), buffer)
    return buffer.getvalue()


def numbered(first: int, last: int) -> list[Row]:
    """Three rows for each of these sources, not next to each other."""
    return [(f"source {number}", f"text {number} {copy}") for copy in range(3) for number in range(first, last)]


def single(first: int, last: int) -> list[Row]:
    return [(f"source {number:04}", f"text {number:04}") for number in range(first, last)]


def sentence(seed: int, words: int = 40) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(words))


def edited(text: str) -> str:
    """Replaces two words."""
    words = text.split()
    words[10], words[25] = "12345", "67890"
    return " ".join(words)


# ---- reading

ROWS = single(0, 10)
RECORDS = [{"facts": source, "text": target} for source, target in ROWS]
CSV = as_csv(ROWS)
ALIGNED = {"t.facts": "".join(f"{s}\n" for s, _ in ROWS), "t.text": "".join(f"{t}\n" for _, t in ROWS)}
COLUMNS = {"facts": "t.facts", "text": "t.text"}


@pytest.mark.parametrize(
    ("files", "overrides"),
    [
        pytest.param({"t.csv": CSV}, {}, id="csv"),
        pytest.param({"t.CSV": CSV}, {}, id="csv-in-capitals"),
        pytest.param({"t.data": CSV}, {"reading": {"format": "csv"}}, id="format-named"),
        pytest.param({"t.csv": CSV.replace("\n", "\r\n")}, {}, id="csv-crlf"),
        pytest.param({"t.csv": "\ufeff" + CSV}, {}, id="csv-byte-order-mark"),
        pytest.param({"t.csv": CSV.encode("utf-16")}, {}, id="csv-utf-16-with-mark"),
        pytest.param({"t.tsv": as_csv(ROWS, delimiter="\t")}, {}, id="tsv"),
        pytest.param(
            {"t.tsv": as_csv(ROWS, delimiter="\t").partition("\n")[2]},
            {"reading": {"columns": ["facts", "text"]}},
            id="tsv-without-header",
        ),
        pytest.param({"t.json": json.dumps(RECORDS)}, {}, id="json"),
        pytest.param(
            {"t.json": json.dumps({"version": 1, "data": {"rows": RECORDS}})},
            {"reading": {"records": "data.rows"}},
            id="json-records",
        ),
        pytest.param({"t.jsonl": as_jsonl(RECORDS)}, {}, id="jsonl"),
        pytest.param({"t.ndjson": as_jsonl(RECORDS)}, {}, id="ndjson"),
        pytest.param({"t.parquet": as_parquet(RECORDS)}, {}, id="parquet"),
        pytest.param(ALIGNED, {"train": COLUMNS}, id="aligned"),
        pytest.param({"t.csv.gz": gzip.compress(CSV.encode())}, {}, id="csv-gz"),
        pytest.param({"t.csv.bz2": bz2.compress(CSV.encode())}, {}, id="csv-bz2"),
        pytest.param({"t.jsonl.xz": lzma.compress(as_jsonl(RECORDS).encode())}, {}, id="jsonl-xz"),
        pytest.param({"t.json.gz": gzip.compress(json.dumps(RECORDS).encode())}, {}, id="json-gz"),
        pytest.param(
            {f"{name}.gz": gzip.compress(text.encode()) for name, text in ALIGNED.items()},
            {"train": {column: f"{name}.gz" for column, name in COLUMNS.items()}},
            id="aligned-gz",
        ),
        pytest.param(
            {
                "all/b/2.jsonl": as_jsonl(RECORDS[6:]),
                "all/a.csv": as_csv(ROWS[:3]),
                "all/b/1.csv.gz": gzip.compress(as_csv(ROWS[3:6]).encode()),
                "all/.hidden": "nothing",
            },
            {"train": "all"},
            id="folder",
        ),
        pytest.param(
            {"part-2.csv": as_csv(ROWS[5:]), "part-1.csv": as_csv(ROWS[:5]), "other.csv": "x\ny\n"},
            {"train": "part-*.csv"},
            id="glob",
        ),
    ],
)
def test_every_format_gives_the_same_examples(tmp_path: Path, files: Files, overrides: dict[str, Any]) -> None:
    prepared = prepare(tmp_path, files, **merged({"split": {"by": "order"}}, overrides))
    assert prepared.everything() == [(source, [target]) for source, target in ROWS]
    assert prepared.stats["examples"] == {"train": 6, "validation": 2, "test": 2}


def read(folder: Path, rows: Sequence[Mapping[str, Any]], **overrides: Any) -> list[tuple[str, list[str]]]:
    return prepare(folder, {"t.jsonl": as_jsonl(rows)}, **merged({"split": {"by": "order"}}, overrides)).everything()


def test_a_template_joins_columns_and_reaches_into_objects_and_lists(tmp_path: Path) -> None:
    rows = [{"q": f"why {n}?", "context": {"parts": ["no", f"since {n}"]}, "text": f"t{n}"} for n in range(9)]
    found = read(tmp_path, rows, source="{q}\nfrom: {context.parts.1}")
    assert found == [(f"why {n}?\nfrom: since {n}", [f"t{n}"]) for n in range(9)]


def test_a_nested_column_of_parquet_is_found(tmp_path: Path) -> None:
    rows = [{"context": {"facts": f"a{n}"}, "text": f"t{n}"} for n in range(9)]
    prepared = prepare(tmp_path, {"t.parquet": as_parquet(rows)}, source="{context.facts}", split={"by": "order"})
    assert prepared.everything() == [(f"a{n}", [f"t{n}"]) for n in range(9)]


def test_a_list_of_targets_is_several_references(tmp_path: Path) -> None:
    rows = [{"facts": f"a{n}", "text": [f"t{n}", f"u{n}"]} for n in range(9)]
    assert read(tmp_path, rows) == [(f"a{n}", [f"t{n}", f"u{n}"]) for n in range(9)]


def test_numbers_are_texts_too(tmp_path: Path) -> None:
    rows = [{"facts": f"a{n}", "text": n + 0.5} for n in range(9)]
    assert read(tmp_path, rows) == [(f"a{n}", [f"{n}.5"]) for n in range(9)]


@pytest.mark.parametrize(
    ("text_row", "expected"),
    [
        ("line", ["one", "two", "three", "four"]),
        ("paragraph", ["one\ntwo", "three", "four"]),
        ("file", ["one\ntwo\n\n\nthree\n\nfour"]),
    ],
)
def test_text_is_read_by_line_paragraph_or_file(tmp_path: Path, text_row: str, expected: list[str]) -> None:
    files = {"t.txt": "one\ntwo\n\n \nthree\n\nfour\n", "v.txt": "validation", "test.txt": "test"}
    prepared = prepare(
        tmp_path,
        {name: text.replace(" ", "") for name, text in files.items()},
        validation="v.txt",
        test="test.txt",
        reading={"text_row": text_row},
        source=None,
        group_references=False,
    )
    assert [(own.source, own.targets) for own in prepared.splits["train"]] == [("", [text]) for text in expected]


TURNS = [("system", "be brief"), ("user", "hi"), ("assistant", "hello"), ("user", "bye"), ("assistant", "so long")]
HISTORIES = [
    ("system: be brief\nuser: hi", ["hello"]),
    ("system: be brief\nuser: hi\nassistant: hello\nuser: bye", ["so long"]),
]
CHATS: dict[str, Any] = {"source": None, "target": None, "group_references": False}
SHORT_CHAT = [("user", "{}?"), ("assistant", "{}!")]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (("role", "content"), {}),
        (("from", "value"), {"user": "human", "assistant": "gpt"}),
    ],
)
def test_a_chat_is_one_example_with_a_question_for_each_answer(
    tmp_path: Path, keys: tuple[str, str], names: dict[str, str]
) -> None:
    def chat(turns: Sequence[Row], word: str = "") -> dict[str, Any]:
        return {"talk": [dict(zip(keys, (names.get(r, r), text.format(word)), strict=True)) for r, text in turns]}

    files = {"t.jsonl": as_jsonl([chat(TURNS)]), **{f"{w}.jsonl": as_jsonl([chat(SHORT_CHAT, w)]) for w in "vw"}}
    prepared = prepare(tmp_path, files, validation="v.jsonl", test="w.jsonl", messages="talk", **CHATS)
    assert prepared.questions("train") == HISTORIES
    (example,) = prepared.splits["train"]
    assert len({question.id for question in example.questions()}) == len(HISTORIES)
    assert (prepared.stats["rows_kept"], prepared.stats["references"]["train"]) == (3, 2)


def test_chats_are_split_by_the_turns_before_the_last_answer(tmp_path: Path) -> None:
    """The same answer, such as thanks, may be in many conversations. Equal questions must be in one split."""
    chats = [("same question", f"answer {n}") for n in range(50)]
    chats += [(f"question {n}", "same answer") for n in range(50)]
    rows = [
        {"talk": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in chats
    ]
    prepared = prepare(tmp_path, {"t.jsonl": as_jsonl(rows)}, messages="talk", **CHATS)
    sources = [set(prepared.sources(split)) for split in SPLITS]
    assert all(sources)
    assert sum(map(len, sources)) == len(set.union(*sources)) == 51


def test_dialogs_are_read_with_their_facts(tmp_path: Path) -> None:
    files = {
        "t.txt": "1 hi\thello\n2 shop open 9\n3 when?\tat 9\n\n1 hey\tyes\n",
        "v.txt": "1 v\tV\n",
        "test.txt": "1 t\tT\n",
    }
    overrides: dict[str, Any] = {"reading": {"format": "dialog"}, "messages": "messages", **CHATS}
    prepared = prepare(tmp_path, files, validation="v.txt", test="test.txt", **overrides)
    assert prepared.questions("train") == [
        ("user: hi", ["hello"]),
        ("user: hi\nassistant: hello\ntool: shop open 9\nuser: when?", ["at 9"]),
        ("user: hey", ["yes"]),
    ]


# ---- the hub


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no cache outside of the test. Both libraries read the environment only at their first import."""
    import datasets
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def hub(name: Path | str) -> dict[str, Any]:
    return {"hub": {"name": str(name), "config": None, "revision": "main"}, "train": "train", "test": "test"}


@pytest.mark.usefixtures("offline")
def test_a_data_set_by_name_is_read_by_its_splits(tmp_path: Path) -> None:
    write_files(tmp_path / "places", {"train.csv": as_csv(single(0, 40)), "test.csv": as_csv(single(40, 45))})
    prepared = prepare(tmp_path, {}, **hub(tmp_path / "places"))
    assert prepared.sources("test") == [source for source, _ in single(40, 45)]
    assert sorted(prepared.sources("train") + prepared.sources("validation")) == [s for s, _ in single(0, 40)]


@pytest.mark.usefixtures("offline")
def test_labels_of_a_data_set_are_read_as_their_names(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"facts": Value("string"), "text": ClassLabel(names=["bad", "good"])})
    for split, first in (("train", 0), ("test", 40)):
        values = {"facts": [f"source {n}" for n in range(first, first + 40)], "text": [n % 2 for n in range(40)]}
        (tmp_path / "films").mkdir(exist_ok=True)
        Dataset.from_dict(values, features=features).to_parquet(tmp_path / f"films/{split}.parquet")
    prepared = prepare(tmp_path, {}, **hub(tmp_path / "films"))
    assert [own.targets for own in prepared.splits["test"]] == [["bad"], ["good"]] * 20


@pytest.mark.usefixtures("offline")
def test_an_unknown_data_set_is_reported_in_one_line_and_soon(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="nobody/nothing-of-this-name, split train, can't be loaded") as error:
        prepare(tmp_path, {}, **hub("nobody/nothing-of-this-name"))
    assert len(error.value.lines) == 1
    assert "\n" not in error.value.lines[0]
    assert time.monotonic() - start < 10


# ---- data as people have it


def held_out(row: Mapping[str, Any]) -> dict[str, str]:
    """Files of one row each: `row`, with the name of its split in place of every `?`."""
    return {f"held_{split}.jsonl": as_jsonl([row]).replace("?", split) for split in SPLITS[1:]}


HELD: dict[str, Any] = {split: f"held_{split}.jsonl" for split in SPLITS[1:]}


INSTRUCTIONS: list[dict[str, Any]] = [
    {"instruction": "Add 1 and 2", "input": None, "output": "3"},
    {"instruction": "Name a colour", "output": "red"},
    {"instruction": "Sum up", "input": "1 2", "output": "3"},
    {"instruction": "Greet", "input": "", "output": "hello"},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jsonl", as_jsonl(INSTRUCTIONS)),
        ("t.parquet", as_parquet([{"input": None, **row} for row in INSTRUCTIONS])),
        ("t.csv", "instruction,input,output\nAdd 1 and 2,,3\nName a colour,,red\nSum up,1 2,3\nGreet,,hello\n"),
    ],
)
def test_an_input_that_few_rows_have_is_optional(tmp_path: Path, name: str, content: str | bytes) -> None:
    templates: dict[str, Any] = {"source": "{instruction}\n{input?}", "target": "{output}"}
    files = {name: content, **held_out({"instruction": "?", "output": "?"})}
    prepared = prepare(tmp_path, files, **HELD, **templates)
    assert prepared.sources("train") == ["Add 1 and 2", "Name a colour", "Sum up\n1 2", "Greet"]
    assert prepared.rejected == []


def test_a_null_where_the_input_is_not_optional_names_it(tmp_path: Path) -> None:
    templates: dict[str, Any] = {"source": "{instruction}\n{input}", "target": "{output}"}
    files = {"t.jsonl": as_jsonl(INSTRUCTIONS), **held_out({"instruction": "?", "input": "?", "output": "?"})}
    prepared = prepare(tmp_path, files, **HELD, **templates)
    assert prepared.reasons() == [("t.jsonl", line, "missing_field") for line in (1, 2)]
    assert all("input" in entry["detail"] for entry in prepared.rejected)


QUOTED = [
    (source, f'It is "{source}", they said.\nSo it is.' if n % 9 == 0 else f"It is {source}.")
    for n, (source, _) in enumerate(single(0, 60))
]


@pytest.mark.parametrize(
    ("name", "faulty", "reading"),
    [
        pytest.param("t.csv", 'b,"It is b.', {}, id="never-closed"),
        pytest.param("t.csv", '"b" x,It is b.', {}, id="text-behind-a-quote"),
        pytest.param("t.csv", '"b,It is b.', {}, id="in-the-first-column"),
        pytest.param("t.tsv", 'b\t"It is b.', {"quoted": True}, id="tsv"),
        pytest.param("t.csv", 'b;"It is b.', {"delimiter": ";"}, id="semicolons"),
    ],
)
def test_a_stray_quote_costs_its_own_line(tmp_path: Path, name: str, faulty: str, reading: dict[str, Any]) -> None:
    delimiter = reading.get("delimiter", "\t" if name == "t.tsv" else ",")
    before, after = as_csv(QUOTED[:30], delimiter), as_csv(QUOTED[30:], delimiter).partition("\n")[2]
    prepared = prepare_train(tmp_path, name, f"{before}{faulty}\n{after}", reading=reading)
    line = before.count("\n") + 1
    assert prepared.reasons() == [(name, line, "bad_quoting")]
    assert prepared.rejected[0]["row"] == {"raw": faulty}
    assert [(own.source, *own.targets) for own in prepared.splits["train"]] == QUOTED
    kept = before.count("\n") + after.count("\n") - 1 + HELD_OUT_ROWS
    assert prepared.stats["lines"] == {"read": kept + 2, "kept": kept, "rejected": 1, "header": 1}


def test_two_stray_quotes_do_not_swallow_the_rows_between_them(tmp_path: Path) -> None:
    """By the rules of csv, they are the ends of one field."""
    rows = [f"{source},It is {source}." for source, _ in single(0, 60)]
    faulty = ['b,"It is b.', 'c,It is c."']
    content = "\n".join(["facts,text", *rows[:20], faulty[0], *rows[20:40], faulty[1], *rows[40:]]) + "\n"
    prepared = prepare_train(tmp_path, "t.csv", content)
    assert [(entry["line"], entry["row"]) for entry in prepared.rejected] == [(22, {"raw": faulty[0]})]
    assert [f"{own.source},{own.targets[0]}" for own in prepared.splits["train"]] == [*rows[:40], faulty[1], *rows[40:]]


@pytest.mark.parametrize(
    ("reading", "is_kept"),
    [({}, False), ({"max_record_ratio": 10_000}, True), ({"max_record_ratio": 10_000, "max_record_lines": 20}, False)],
)
def test_a_record_far_longer_than_others_is_a_fault(tmp_path: Path, reading: dict[str, Any], is_kept: bool) -> None:
    poem = "".join(f"Line {n} of it, and so on, and on, and on, until it ends.\n" for n in range(150))
    content = as_csv([*single(0, 60), ("b", poem), *single(60, 90)])
    prepared = prepare_train(tmp_path, "t.csv", content, reading=reading)
    kept = [(own.source, own.targets[0]) for own in prepared.splits["train"]]
    assert kept == [*single(0, 60), *([("b", poem.strip())] if is_kept else []), *single(60, 90)]
    assert bool(prepared.rejected) is not is_kept
    assert prepared.stats["lines"]["read"] == content.count("\n") + HELD_OUT_ROWS


def talks(messages: Sequence[Mapping[str, Any]], **others: Any) -> dict[str, str]:
    """A conversation in train, and one of another topic in each other split."""
    other = [{"role": "user", "content": "? asks"}, {"role": "assistant", "content": "? answers"}]
    return {"t.jsonl": as_jsonl([{"messages": messages, **others}]), **held_out({"messages": other})}


def said(*turns: Row) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, text in turns]


TALKS: dict[str, Any] = {"messages": "messages", **CHATS, **HELD}


@pytest.mark.parametrize(
    ("turns", "questions", "note"),
    [
        pytest.param(
            [("user", "a"), ("user", "b"), ("assistant", "c")],
            [("user: a\nb", ["c"])],
            "merged_messages",
            id="two-questions",
        ),
        pytest.param(
            [("user", "a"), ("assistant", "b"), ("assistant", "c")],
            [("user: a", ["b\nc"])],
            "merged_messages",
            id="two-answers",
        ),
        pytest.param(
            [("assistant", "hello"), ("user", "a"), ("assistant", "b")],
            [("assistant: hello\nuser: a", ["b"])],
            "greetings",
            id="greeting",
        ),
        pytest.param(
            [("system", "s"), ("assistant", "hello"), ("user", "a"), ("assistant", "b")],
            [("system: s\nassistant: hello\nuser: a", ["b"])],
            "greetings",
            id="greeting-behind-a-system-prompt",
        ),
        pytest.param(
            [("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")],
            [("user: a\nassistant: \nuser: b", ["c"])],
            "empty_answers",
            id="empty-answer",
        ),
    ],
)
def test_turns_that_do_not_alternate_are_read(
    tmp_path: Path, turns: list[Row], questions: list[tuple[str, list[str]]], note: str
) -> None:
    prepared = prepare(tmp_path, talks(said(*turns)), **TALKS)
    assert prepared.questions("train") == questions
    assert prepared.stats["notes"] == {note: 1}


ASKED = [("user", "my password?"), ("assistant", "use the link"), ("user", "thanks"), ("assistant", "welcome")]
MORE = [("user", "and my name?"), ("assistant", "in the settings")]


@pytest.mark.parametrize(
    ("train", "test", "learned", "rejected"),
    [
        pytest.param(ASKED[:2], ASKED, [], ["in_test"], id="train-begins-test"),
        pytest.param([*ASKED, *MORE], ASKED, ["in the settings"], [], id="test-begins-train"),
        pytest.param([*ASKED[:2], *MORE], ASKED, ["in the settings"], [], id="both-begin-alike"),
        pytest.param([("system", "be kind"), *ASKED[:2]], ASKED, ["use the link"], [], id="other-history"),
    ],
)
def test_train_learns_no_answer_that_test_asks_for(
    tmp_path: Path, train: list[Row], test: list[Row], learned: list[str], rejected: list[str]
) -> None:
    alone = said(("user", "alone"), ("assistant", "alone"))  # train must not be empty
    files = talks([]) | {
        "t.jsonl": as_jsonl([{"messages": alone}, {"messages": said(*train)}]),
        "held_test.jsonl": as_jsonl([{"messages": said(*test)}]),
    }
    prepared = prepare(tmp_path, files, **TALKS)
    assert [answer for _, (answer,) in prepared.questions("train")] == ["alone", *learned]
    assert [entry["reason"] for entry in prepared.rejected] == rejected
    assert [answer for _, (answer,) in prepared.questions("test")] == [t for role, t in test if role == "assistant"]


def test_of_a_growing_conversation_train_keeps_the_longest(tmp_path: Path) -> None:
    growing = [{"messages": said(*ASKED[: 2 * n])} for n in (1, 2)]
    prepared = prepare(tmp_path, talks([]) | {"t.jsonl": as_jsonl(growing)}, **TALKS)
    assert prepared.reasons() == [("t.jsonl", 1, "prefix")]
    assert [answer for _, (answer,) in prepared.questions("train")] == ["use the link", "welcome"]


def as_table(ending: str, **columns: pa.Array) -> bytes:
    buffer = io.BytesIO()
    table = pa.table(columns)
    if ending == "parquet":
        pq.write_table(table, buffer)
    else:
        with pa.ipc.new_file(buffer, table.schema) as file:
            file.write_table(table)
    return buffer.getvalue()


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("values", "texts"),
    [
        pytest.param(pa.array([0.1, 1.1, 16_777_216.0], pa.float32()), ["0.1", "1.1", "16777216.0"], id="32-bits"),
        pytest.param(pa.array([0.1, 1.1, 2048.0], pa.float16()), ["0.1", "1.1", "2048.0"], id="16-bits"),
        pytest.param(pa.array([0.1, 1e-9], pa.float64()), ["0.1", "1e-09"], id="64-bits"),
        pytest.param(pa.array([[0.1, 0.7], [1.1]], pa.list_(pa.float32())), ["0.1\n0.7", "1.1"], id="in-lists"),
    ],
)
def test_numbers_of_a_table_are_as_short_as_they_were_written(
    tmp_path: Path, ending: str, values: pa.Array, texts: list[str]
) -> None:
    content = as_table(ending, facts=values, text=pa.array([f"t{n}" for n in range(len(values))]))
    assert prepare_train(tmp_path, f"t.{ending}", content).sources("train") == texts


@pytest.mark.parametrize("number", ["1.10", "1e5", "-0", "0.30000000000000004", "123456789012345678901234567890.5"])
def test_numbers_of_json_stay_as_they_are_written(tmp_path: Path, number: str) -> None:
    prepared = prepare_train(tmp_path, "t.jsonl", f'{{"facts": {number}, "text": [{number}, "t"]}}\n')
    assert prepared.questions("train") == [(number, [number, "t"])]


@pytest.mark.parametrize(
    ("row", "target"),
    [
        pytest.param(
            {"s1": "r1", "s2": "r2", "s3": "r3"}, {"train": "{text}", "test": ["{s1}", "{s2}", "{s3}"]}, id="columns"
        ),
        pytest.param(
            {"s1": "r1", "s2": None, "s3": ["r2", "", "r3"]},
            {"train": "{text}", "test": ["{s1}", "{s2?}", "{s3}"]},
            id="gaps",
        ),
        pytest.param({"refs": ["r1", "r2", "r3"]}, {"train": "{text}", "test": "{refs}"}, id="list"),
        pytest.param(
            {"refs": [{"text": "r1"}, {"text": "r2"}, {"text": "r3"}]},
            {"train": "{text}", "test": "{refs.*.text}"},
            id="list-of-objects",
        ),
    ],
)
def test_test_has_references_in_other_columns_than_train(
    tmp_path: Path, row: dict[str, Any], target: dict[str, Any]
) -> None:
    files = {
        "t.jsonl": as_jsonl(RECORDS),
        **HELD_OUT,
        "held_test.jsonl": as_jsonl([{"facts": "s", **row}]),
    }
    prepared = prepare(tmp_path, files, **HELD, target=target)
    assert prepared.questions("test") == [("s", ["r1", "r2", "r3"])]
    assert prepared.stats["examples"] == {"train": 10, "validation": 1, "test": 1}


def test_references_of_test_in_files_of_their_own(tmp_path: Path) -> None:
    references = {f"ref{n}": f"ref{n}.txt" for n in range(4)}
    files = {**ALIGNED, **HELD_OUT, "test.src": "s0\ns1\n", **{f: f"{n} a\n{n} b\n" for n, f in references.items()}}
    prepared = prepare(
        tmp_path,
        files,
        train=COLUMNS,
        validation="held_validation.jsonl",
        test={"facts": "test.src", **references},
        target={"train": "{text}", "test": [f"{{{name}}}" for name in references]},
    )
    assert prepared.questions("test") == [
        ("s0", [f"{n} a" for n in references]),
        ("s1", [f"{n} b" for n in references]),
    ]


def test_a_test_split_without_answers_is_kept(tmp_path: Path) -> None:
    files = {"t.jsonl": as_jsonl(RECORDS), **HELD_OUT, "held_test.jsonl": '{"facts": "s"}\n{"facts": "u"}\n'}
    prepared = prepare(tmp_path, files, **HELD, target={"train": "{text}", "test": None})
    assert prepared.questions("test") == [("s", []), ("u", [])]
    assert prepared.stats["references"]["test"] == 0


@pytest.mark.parametrize(
    ("name", "delimiter"), [("t.csv", ";"), ("t.csv", "|"), ("t.csv", "\t"), ("t.tsv", ","), ("t.csv", "§")]
)
def test_any_delimiter_is_read(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [(f"{n},5", f"a; b | c {n}") for n in range(9)]
    prepared = prepare_train(tmp_path, name, as_csv(rows, delimiter), reading={"delimiter": delimiter, "quoted": True})
    assert [(own.source, *own.targets) for own in prepared.splits["train"]] == rows


@pytest.mark.parametrize(("delimiter", "advised"), [(";", "';'"), ("|", "'|'"), ("\t", r'"\t"')])
def test_a_delimiter_that_nobody_named_is_advised(tmp_path: Path, delimiter: str, advised: str) -> None:
    with pytest.raises(UserError) as error:
        prepare_train(tmp_path, "t.csv", as_csv(ROWS, delimiter))
    assert f"prepare.reading.delimiter: {advised}" in str(error.value)


@pytest.mark.parametrize(
    ("triples", "overrides", "source"),
    [
        pytest.param(["a | b | c", "d | e | f"], {}, "a | b | c\nd | e | f", id="texts"),
        pytest.param([["a", "b", "c"], ["d", "e", "f"]], {}, "a | b | c\nd | e | f", id="lists"),
        pytest.param(
            [["a", "b", 1], ["d", "e", True]], {"list_separators": [" && ", " "]}, "a b 1 && d e true", id="separators"
        ),
        pytest.param(
            [{"s": "a", "o": "c"}, {"s": "d", "o": "f"}],
            {"source": "{facts.*.s} -> {facts.*.o}"},
            "a\nd -> c\nf",
            id="objects",
        ),
    ],
)
def test_a_list_is_a_source(tmp_path: Path, triples: Any, overrides: dict[str, Any], source: str) -> None:
    files = {
        "t.jsonl": as_jsonl([{"facts": triples, "text": ["one", "two"]}]),
        **held_out({"facts": [{"s": "?", "o": "?"}], "text": "?"}),
    }
    if "source" not in overrides:
        files |= HELD_OUT
    prepared = prepare(tmp_path, files, **HELD, **overrides)
    assert prepared.questions("train") == [(source, ["one", "two"])]


THOUGHT = "<think>\nwhy {}\n</think>\n\nr{}"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda n: {"content": THOUGHT.format(n, n)}, id="in-the-text"),
        pytest.param(lambda n: {"content": f"r{n}", "reasoning_content": f"why {n}"}, id="reasoning-content"),
        pytest.param(lambda n: {"content": f"r{n}", "reasoning": f"why {n}"}, id="reasoning"),
        pytest.param(lambda n: {"content": f"r{n}", "thinking": f"why {n}"}, id="thinking"),
    ],
)
def test_thoughts_are_part_of_every_answer(tmp_path: Path, answer: Any) -> None:
    messages = [
        message
        for n in (1, 2)
        for message in ({"role": "user", "content": f"q{n}"}, {"role": "assistant", **answer(n)})
    ]
    prepared = prepare(tmp_path, talks(messages), **TALKS)
    first, second = THOUGHT.format(1, 1), THOUGHT.format(2, 2)
    assert prepared.questions("train") == [
        ("user: q1", [first]),
        (f"user: q1\nassistant: {first}\nuser: q2", [second]),
    ]
    assert prepared.stats["notes"] == {}


CALL = {"name": "weather", "arguments": {"place": "x", "days": 2}}


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(
            {
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {**CALL, "arguments": '{"place": "x", "days": 2}'}}
                ]
            },
            id="arguments-as-text",
        ),
        pytest.param({"tool_calls": [{"type": "function", "function": CALL}]}, id="arguments-as-object"),
        pytest.param({"tool_calls": [CALL]}, id="without-function"),
        pytest.param({"function_call": {**CALL, "arguments": '{"place": "x", "days": 2}'}}, id="function-call"),
    ],
)
@pytest.mark.parametrize("content", ["Let me look.", "", None])
def test_calls_of_tools_are_part_of_an_answer(tmp_path: Path, call: dict[str, Any], content: str | None) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": content, **call},
        {"role": "tool", "content": "sun", "tool_call_id": "1"},
        {"role": "assistant", "content": "sunny"},
    ]
    overrides = TALKS | {"conversation": {"tools": "tools?"}}
    prepared = prepare(tmp_path, talks(messages, tools=tools), **overrides)
    (first, (called,)), (second, answer) = prepared.questions("train")
    assert (first, answer) == ("user: weather?", ["sunny"])
    text, _, written = called.rpartition("<tool_call>\n")
    assert text.strip() == (content or "")
    assert json.loads(written.removesuffix("\n</tool_call>")) == CALL
    assert called in second
    (example,) = prepared.splits["train"]
    (calls,) = json.loads(example.turns[1].fields)["tool_calls"]
    assert calls.get("function", calls)["name"] == "weather"
    assert json.loads(example.tools) == tools
    assert prepared.stats["notes"] == {}


@pytest.mark.parametrize("weight", [0, 0.0, False])
def test_an_answer_of_weight_0_is_not_learned(tmp_path: Path, weight: Any) -> None:
    messages = said(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    messages[1]["weight"] = weight
    prepared = prepare(tmp_path, talks(messages), **TALKS)
    assert prepared.questions("train") == [("user: a\nassistant: b\nuser: c", ["d"])]
    assert prepared.stats["notes"] == {"answers_without_weight": 1}


def test_fields_that_nothing_reads_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = said(("user", "a"), ("assistant", "b"))
    messages[1]["mood"] = "calm"
    prepared = prepare(tmp_path, talks(messages, topic="sea", empty=None), **TALKS)
    assert prepared.stats["unread_fields"] == {"topic": 1}
    assert prepared.stats["notes"] == {"unread_message_fields.mood": 1}
    assert capsys.readouterr().out.strip().endswith("; fields that nothing reads: topic")


@pytest.mark.parametrize(
    ("text", "turn"),
    [
        ("#Person1#: hi\n#Person2#: hello\n#Person1#: bye\n#Person2#: so long", "#(?P<role>Person[12])#:"),
        ("Person1: hi\nPerson2: hello\nPerson1: bye\nPerson2: so long\n", r"(?m)^(?P<role>Person[12]): (?P<text>.*)$"),
        (
            "<Person1>hi</s><Person2>hello</s><Person1>bye</s><Person2>so long</s>",
            "<(?P<role>Person.)>(?P<text>.*?)</s>",
        ),
    ],
)
def test_turns_in_one_text_are_read(tmp_path: Path, text: str, turn: str) -> None:
    roles = {"Person1": "user", "Person2": "assistant"}
    files = talks([]) | {"t.jsonl": as_jsonl([{"messages": text}])}
    for split in SPLITS[1:]:
        other = text.replace("hi", f"{split} asks").replace("hello", f"{split} answers")
        files |= {f"held_{split}.jsonl": as_jsonl([{"messages": other}])}
    prepared = prepare(tmp_path, files, **TALKS, conversation={"roles": roles, "turn": turn})
    assert prepared.questions("train") == [
        ("user: hi", ["hello"]),
        ("user: hi\nassistant: hello\nuser: bye", ["so long"]),
    ]


def test_messages_in_rows_of_their_own_are_conversations(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "parent_id": None, "role": "prompter", "text": "a"},
        {"id": 2, "parent_id": 1, "role": "assistant", "text": "b"},
        {"id": 3, "parent_id": 1, "role": "assistant", "text": "c"},
        {"id": 4, "parent_id": 3, "role": "prompter", "text": "d"},
        {"id": 5, "parent_id": 4, "role": "assistant", "text": "e"},
    ]
    others = [{**row, "text": f"{row['text']} ?"} for row in rows[:2]]
    files = {
        "t.jsonl": as_jsonl(rows),
        **{f"held_{split}.jsonl": as_jsonl(others).replace("?", split) for split in SPLITS[1:]},
    }
    thread = {"id": "id", "parent": "parent_id", "role": "role", "text": "text"}
    prepared = prepare(tmp_path, files, **TALKS, reading={"thread": thread})
    assert sorted(prepared.questions("train")) == [
        ("user: a", ["b"]),
        ("user: a", ["c"]),
        ("user: a\nassistant: c\nuser: d", ["e"]),
    ]
    assert prepared.stats["lines"] == {"read": 9, "kept": 9, "rejected": 0}


# ---- every row is counted

GOOD = '{"facts": "a", "text": "A"}\n'
LONG = "x" * 200_000


@pytest.mark.parametrize(
    ("name", "content", "kept", "rejected"),
    [
        pytest.param("t.csv", "facts,text\n  a , A\t\n", [("a", "A")], [], id="spaces-around"),
        pytest.param("t.csv", 'facts,text\na,"A ""A"", A"\n', [("a", 'A "A", A')], [], id="csv-quotes"),
        pytest.param("t.tsv", 'text\tfacts\nA, "A"\ta\n', [("a", 'A, "A"')], [], id="tsv-quotes-are-text"),
        pytest.param("t.csv", f"facts,text\na,{LONG}\n", [("a", LONG)], [], id="csv-field-over-128-kib"),
        pytest.param(
            "t.csv",
            'facts,text\n"a\nb","A\n\nB"\nc\n',
            [("a\nb", "A\n\nB")],
            [(6, "wrong_number_of_fields", {"raw": "c"})],
            id="line-after-quoted-newlines",
        ),
        pytest.param(
            "t.csv",
            "facts,text\n\na,A\n\nb,B,c\n",
            [("a", "A")],
            [(5, "wrong_number_of_fields", {"raw": "b,B,c"})],
            id="line-after-blank-lines",
        ),
        pytest.param(
            "t.csv",
            "n,facts,text\n1,,A\n2,a,A\n3,b, \n",
            [("a", "A")],
            [
                (2, "empty_source", {"n": "1", "facts": "", "text": "A"}),
                (4, "empty_target", {"n": "3", "facts": "b", "text": " "}),
            ],
            id="csv-empty-text",
        ),
        pytest.param(
            "t.jsonl",
            GOOD + '\n{"facts": {"n": "b"}, "text": "B"}\n{"facts": "c", "text": null}\n{"facts": "d", "text": []}\n',
            [("a", "A")],
            [
                (3, "no_text", {"facts": {"n": "b"}, "text": "B"}),
                (4, "missing_field", {"facts": "c", "text": None}),
                (5, "empty_target", {"facts": "d", "text": []}),
            ],
            id="jsonl-no-text",
        ),
        pytest.param(
            "t.jsonl",
            '{"facts": "b"}\n' + GOOD + '["c"]\n{"facts": "d"\n{"facts": NaN, "text": "E"}\n',
            [("a", "A")],
            [
                (1, "missing_field", {"facts": "b"}),
                (3, "missing_field", {"0": "c"}),
                (4, "no_json", {"raw": '{"facts": "d"'}),
                (5, "no_text", {"facts": "NaN", "text": "E"}),
            ],
            id="jsonl-other-rows",
        ),
        pytest.param(
            "t.jsonl",
            GOOD + '{"facts": "\\ud83d", "text": "B"}\n{"facts": "\\ud83d\\ude00", "text": "C"}\n',
            [("a", "A"), ("\N{GRINNING FACE}", "C")],
            [(2, "lone_surrogate", {"facts": "\ud83d", "text": "B"})],
            id="jsonl-lone-surrogate",
        ),
        pytest.param(
            "t.json",
            json.dumps([{"facts": "a", "text": "A"}, {"facts": "b"}], indent=0),
            [("a", "A")],
            [(6, "missing_field", {"facts": "b"})],
            id="json",
        ),
        pytest.param(
            "t.parquet",
            as_parquet([{"facts": "a", "text": "A"}, {"facts": "b", "text": None}]),
            [("a", "A")],
            [(2, "missing_field", {"facts": "b", "text": None})],
            id="parquet-counts-rows",
        ),
    ],
)
def test_every_row_is_kept_or_rejected_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, kept: list[Row], rejected: list[tuple[int, str, Any]]
) -> None:
    prepared = prepare_train(tmp_path, name, content)
    assert [(own.source, target) for own in prepared.splits["train"] for target in own.targets] == kept
    assert prepared.reasons() == [(name, line, reason) for line, reason, _ in rejected]
    assert [entry["row"] for entry in prepared.rejected] == [row for _, _, row in rejected]
    assert prepared.stats["rejected"] == Counter(reason for _, reason, _ in rejected)
    assert prepared.stats["rows_rejected"] == len(rejected)
    assert prepared.stats["rows_kept"] == len(kept) + HELD_OUT_ROWS
    assert prepared.stats["rows_read"] == len(kept) + len(rejected) + HELD_OUT_ROWS
    assert prepared.stats["rows_read_for"] == {"train": len(kept) + len(rejected), "validation": 1, "test": 1}


def test_a_row_with_nan_is_rejected_like_any_other(tmp_path: Path) -> None:
    """pandas writes missing numbers as NaN, which JSON does not have."""
    rows: list[dict[str, Any]] = [
        {"facts": "a", "text": "A", "score": 1.0},
        {"facts": "b", "text": None, "score": float("nan")},
    ]
    prepared = prepare_train(tmp_path, "t.parquet", as_parquet(rows))
    assert prepared.reasons() == [("t.parquet", 2, "missing_field")]


def test_a_text_outside_the_lengths_is_rejected(tmp_path: Path) -> None:
    rows = [("a b", "A"), ("a", "A B C"), ("a b c", "A B C"), ("a b c d", "A"), ("a b", "A B C D")]
    lengths = {"source_words": {"min": 2, "max": 3}, "target_characters": {"max": 5}}
    prepared = prepare_three(tmp_path, rows, [("v v", "V")], [("t t", "T")], lengths=lengths)
    assert prepared.sources("train") == ["a b", "a b c"]
    reasons = {3: "too_short", 5: "too_long", 6: "too_long"}
    assert prepared.reasons() == [("train.csv", line, reason) for line, reason in reasons.items()]


def test_changed_texts_and_masks_are_counted(tmp_path: Path) -> None:
    rows = [("a &amp; b", "to me@example.org or you@example.org"), ("c ", "d")]
    prepared = prepare_train(tmp_path, "t.csv", as_csv(rows), mask={"emails": True})
    assert prepared.splits["train"][0].source == "a & b"
    assert prepared.splits["train"][0].targets == ["to <email> or <email>"]
    assert prepared.stats["masked"] == {"emails": 2}
    expected = {"html_entities": 1, "whitespace": 1, "encoding": 0, "unicode": 0, "control_characters": 0}
    assert prepared.stats["texts_changed"] == expected


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raw/nowhere\.csv: no such file"):
        prepare(tmp_path, {"t.csv": CSV}, train="nowhere.csv")


@pytest.mark.parametrize("name", ["empty", "*.csv"])
def test_an_empty_folder_or_glob_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "raw/empty").mkdir(parents=True)
    with pytest.raises(UserError, match="no file there; see prepare -> train"):
        prepare(tmp_path, {"other.txt": ""}, train=name)


def test_a_file_in_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t\.csv: read for train and for test"):
        prepare(tmp_path, {"t.csv": CSV}, test="t.csv")


def test_a_missing_column_is_named_before_a_row_is_lost(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column text; there are facts, txt"):
        prepare(tmp_path, {"t.csv": "facts,txt\na,A\n"})


@pytest.mark.parametrize(
    ("files", "overrides", "empty"),
    [
        pytest.param({"t.jsonl": ""}, {}, "train, validation, test", id="empty-jsonl"),
        pytest.param({"t.csv": "facts,text\n"}, {}, "train, validation, test", id="header-only"),
        pytest.param({"t.csv": as_csv(single(0, 50))}, {"split": {"test_fraction": 0.0}}, "test", id="no-share"),
        pytest.param(
            {"t.csv": as_csv(single(0, 50)), "v.csv": "facts,text\n"}, {"validation": "v.csv"}, "validation", id="file"
        ),
    ],
)
def test_an_empty_split_stops_the_stage(tmp_path: Path, files: Files, overrides: dict[str, Any], empty: str) -> None:
    with pytest.raises(UserError, match=f"no examples for {empty} among"):
        prepare(tmp_path, files, **overrides)


# ---- examples and their ids


def test_rows_of_equal_source_are_one_example_in_order_of_the_first_rows(tmp_path: Path) -> None:
    rows = [("b", "1"), ("a", "2"), ("b", "3"), (" b ", "4"), ("c", "5")]
    train = prepare_train(tmp_path, "t.csv", as_csv(rows)).splits["train"]
    assert [(own.source, own.targets) for own in train] == [("b", ["1", "3", "4"]), ("a", ["2"]), ("c", ["5"])]


def test_ungrouped_rows_stay_separate_and_exact_copies_get_different_ids(tmp_path: Path) -> None:
    rows = [("b", "1"), ("a", "2"), ("b", "1"), ("b", "1"), ("b", "3")]
    prepared = prepare_three(tmp_path, single(0, 5), single(5, 6), rows, group_references=False)
    test = prepared.splits["test"]
    assert [(own.source, own.targets) for own in test] == [(source, [target]) for source, target in rows]
    assert len({own.id for own in test}) == len(rows)


def test_no_two_examples_share_an_id_even_with_nul_characters(tmp_path: Path) -> None:
    rows = [{"facts": "a\0b", "text": "c"}, {"facts": "a", "text": "b\0c"}]
    overrides = {"group_references": False, "clean": {"control_characters": False}}
    train = prepare_train(tmp_path, "t.jsonl", as_jsonl(rows), **overrides).splits["train"]
    assert len({own.id for own in train}) == len(rows)


# ---- splits


def test_given_split_files_are_used_unchanged(tmp_path: Path) -> None:
    ranges = ((0, 40), (40, 50), (50, 60))
    prepared = prepare_three(tmp_path, *(numbered(*own) for own in ranges))
    for split, (first, last) in zip(SPLITS, ranges, strict=True):
        assert prepared.sources(split) == [f"source {number}" for number in range(first, last)]
        assert all(len(own.targets) == 3 for own in prepared.splits[split])


def test_with_a_test_file_only_validation_is_taken_from_train(tmp_path: Path) -> None:
    files = {"t.csv": as_csv(numbered(0, 300)), "test.csv": as_csv(numbered(300, 303))}
    splits = prepare(tmp_path, files, test="test.csv").splits
    assert len(splits["test"]) == 3
    assert 40 <= len(splits["validation"]) <= 80


@pytest.mark.parametrize("group_references", [True, False])
def test_added_rows_never_move_or_rename_old_ones(tmp_path: Path, group_references: bool) -> None:
    old = numbered(0, 200)
    more = [*old, *numbered(200, 300), *(("source 7", f"another {copy}") for copy in range(5))]
    random.Random(1).shuffle(more)

    def placed(name: str, rows: list[Row]) -> dict[Row, tuple[Split, str]]:
        splits = prepare(tmp_path / name, {"t.csv": as_csv(rows)}, group_references=group_references).splits
        entries = [(split, own) for split in SPLITS for own in splits[split]]
        return {(own.source, target): (split, own.id) for split, own in entries for target in own.targets}

    before, after = placed("before", old), placed("after", more)
    assert {row: after[row] for row in before} == before


@pytest.mark.parametrize("group_references", [True, False])
def test_sources_that_differ_only_in_case_are_in_one_split(tmp_path: Path, group_references: bool) -> None:
    rows = [row for source, target in single(0, 200) for row in ((source, target), (source.upper(), f"{target} again"))]
    prepared = prepare(tmp_path, {"t.csv": as_csv(rows)}, group_references=group_references)
    sources = [{own.source.lower() for own in prepared.splits[split]} for split in SPLITS]
    assert all(sources)
    assert sum(map(len, sources)) == len(set.union(*sources)) == 200


def test_the_shares_are_close_to_the_fractions(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, {"t.csv": as_csv(single(0, 1000))}, split={"validation_fraction": 0.3})
    assert prepared.stats["examples"]["validation"] == pytest.approx(300, abs=60)
    assert prepared.stats["examples"]["test"] == pytest.approx(200, abs=60)


def test_another_seed_moves_some_sources_but_renames_none(tmp_path: Path) -> None:
    files = {"t.csv": as_csv(single(0, 200))}
    one, two = (prepare(tmp_path, files, seed=seed).places() for seed in (1, 2))
    moved = [source for source in one if one[source][0] != two[source][0]]
    assert 0 < len(moved) < 200
    assert all(one[source][1] == two[source][1] for source in one)


@pytest.mark.parametrize("group_references", [True, False])
def test_a_group_is_in_one_split(tmp_path: Path, group_references: bool) -> None:
    # the same sources are in every group, and each group must keep its own rows
    rows = [{"facts": f"source {n}", "text": f"{group} {n}", "user": group} for group in range(60) for n in range(4)]
    files = {"t.jsonl": as_jsonl(rows)}
    prepared = prepare(tmp_path, files, group_references=group_references, split={"by": "group", "field": "user"})
    groups = [{target.split()[0] for own in prepared.splits[split] for target in own.targets} for split in SPLITS]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == 60
    assert sum(prepared.stats["examples"].values()) == len(rows)


def groups_by_user(folder: Path, **split: Any) -> dict[str, set[str]]:
    """Of 30 users with 3 examples each."""
    rows = [{"facts": f"{user} {n}", "text": f"{user} {n}", "user": f"{user}"} for user in range(30) for n in range(3)]
    prepared = prepare(folder, {"t.jsonl": as_jsonl(rows)}, split=split)
    groups: dict[str, set[str]] = {}
    for own in (own for split in SPLITS for own in prepared.splits[split]):
        groups.setdefault(own.source.split()[0], set()).add(own.group)
    return groups


def test_examples_of_one_group_say_so(tmp_path: Path) -> None:
    by_user = groups_by_user(tmp_path, by="group", field="user")
    assert {len(groups) for groups in by_user.values()} == {1}
    assert len(set.union(*by_user.values())) == len(by_user)


def test_without_a_group_each_example_is_alone_but_for_those_of_equal_source(tmp_path: Path) -> None:
    assert {len(groups) for groups in groups_by_user(tmp_path, by="hash").values()} == {3}
    test = [("one", "A"), ("One", "B"), ("two", "A")]
    one, again, two = (
        own.group
        for own in prepare_three(tmp_path, single(0, 5), single(5, 6), test, group_references=False).splits["test"]
    )
    assert one == again != two


def test_the_answers_of_a_conversation_are_one_group(tmp_path: Path) -> None:
    talks = [[{"role": role, "content": f"{text} {n}"} for role, text in TURNS] for n in range(30)]
    prepared = prepare(tmp_path, {"t.jsonl": as_jsonl([{"talk": talk} for talk in talks])}, messages="talk", **CHATS)
    by_talk = [{own.group for own in talk.questions()} for split in SPLITS for talk in prepared.splits[split]]
    assert {len(groups) for groups in by_talk} == {1}
    assert len(set.union(*by_talk)) == len(talks)


def test_metadata_travels_with_its_example_as_text(tmp_path: Path) -> None:
    """Of several rows in one example, that of the first. It is cleaned, masked and not long."""
    rows: list[dict[str, Any]] = [
        {"facts": "a", "text": "A", "topic": " sea ", "by": {"age": 7}, "new": True},
        {"facts": "b", "text": "B", "topic": None, "by": {"age": 8.5}, "new": False},
        {"facts": "a", "text": "a second reference", "topic": "hills", "by": {"age": 9}, "new": False},
        {"facts": "c", "text": "C", "topic": "word " * 100, "by": {"age": "ann@example.org"}, "new": "2024"},
    ]
    names, mask = ["topic", "by.age", "new"], {"emails": True}
    held_out = {name: as_jsonl([rows[0] | {"facts": name}]) for name in ("v.jsonl", "w.jsonl")}
    files = {"t.jsonl": as_jsonl(rows), **held_out}
    prepared = prepare(tmp_path, files, metadata=names, mask=mask, validation="v.jsonl", test="w.jsonl")
    assert [list(own.metadata.items()) for own in prepared.splits["train"]] == [
        list(zip(names, values, strict=True))
        for values in (("sea", "7", "true"), ("", "8.5", "false"), (("word " * 40), "<email>", "2024"))
    ]


def test_a_column_of_metadata_that_is_missing_is_named_before_a_row_is_lost(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column topc; there are facts, text"):
        prepare(tmp_path, {"t.csv": as_csv(single(0, 50))}, metadata=["topc"])


def test_every_stratum_has_its_share_in_each_split(tmp_path: Path) -> None:
    sizes = {"rare": 10, "usual": 73, "common": 300}
    rows = [{"facts": f"{label} {n}", "text": label} for label, size in sizes.items() for n in range(size)]
    prepared = prepare(tmp_path, {"t.jsonl": as_jsonl(rows)}, split={"by": "stratum", "field": "text"})
    for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        found = Counter(own.targets[0] for own in prepared.splits[split])
        assert all(abs(found[label] - share * size) <= 1 for label, size in sizes.items())


def test_a_stratum_with_half_a_surrogate_pair_does_not_stop_the_stage(tmp_path: Path) -> None:
    rows = [{"facts": f"a{n}", "text": "A", "topic": "\ud83d" if n == 30 else "x"} for n in range(50)]
    prepared = prepare(tmp_path, {"t.jsonl": as_jsonl(rows)}, split={"by": "stratum", "field": "topic"})
    assert prepared.stats["rows_read"] == 50


def test_the_last_rows_of_the_file_are_test(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, {"t.csv": as_csv(single(0, 100))}, split={"by": "order"})
    sources = [source for source, _ in single(0, 100)]
    found = [prepared.sources(split) for split in SPLITS]
    assert found == [sources[:60], sources[60:80], sources[80:]]


DATES = ["1969-07-20", "2024-01-01T01:00:00Z", "2023-12-31T23:30:00-02:00", "2024-03-01", "2024-03-02T00:00:00"]


@pytest.mark.parametrize(
    ("times", "in_order"),
    [
        pytest.param([DATES[n] for n in (4, 2, 0, 3, 1)], DATES, id="dates"),
        pytest.param([10, 9.5, 100, -1, 1e3], [-1, 9.5, 10, 100, 1e3], id="numbers"),
        pytest.param(["10", "9", "100", "-1", "1e3"], ["-1", "9", "10", "100", "1e3"], id="numbers-as-text"),
    ],
)
def test_the_latest_rows_are_test(tmp_path: Path, times: list[Any], in_order: list[Any]) -> None:
    rows = [{"facts": f"source {n}", "text": "text", "when": moment} for n, moment in enumerate(times)]
    prepared = prepare(tmp_path, {"t.jsonl": as_jsonl(rows)}, split={"by": "order", "field": "when"})
    expected = [f"source {times.index(moment)}" for moment in in_order]
    found = [sorted(prepared.sources(split)) for split in SPLITS]
    assert found == [sorted(expected[:3]), expected[3:4], expected[4:]]


def free_text(folder: Path, files: Files, **overrides: Any) -> Prepared:
    free = {"source": None, "group_references": False, "split": {"by": "order"}}
    return prepare(folder, files, **merged(free, overrides))


def test_a_single_document_is_cut_at_exact_characters(tmp_path: Path) -> None:
    document = sentence(1, 100)[:100] + "é" * 100
    prepared = free_text(tmp_path, {"t.txt": document}, reading={"text_row": "file"})
    texts = {split: [target for own in prepared.splits[split] for target in own.targets] for split in SPLITS}
    assert texts == {"train": [document[:120]], "validation": [document[120:160]], "test": [document[160:]]}
    assert prepared.stats["rows_kept"] == prepared.stats["rows_read"] == 1


def test_a_list_of_texts_is_cut_where_its_characters_end(tmp_path: Path) -> None:
    prepared = free_text(tmp_path, {"t.jsonl": as_jsonl([{"text": ["a" * 60, "b" * 20, "c" * 20]}])})
    found = {split: "".join(target for own in prepared.splits[split] for target in own.targets) for split in SPLITS}
    assert found == {"train": "a" * 60, "validation": "b" * 20, "test": "c" * 20}


def test_a_cut_document_stays_in_validation_when_train_loses_it(tmp_path: Path) -> None:
    first, second = sentence(1, 20), sentence(2, 100)
    files = {"t.txt": f"{first}\n{second}\n", "test.txt": f"{edited(second)}\n"}
    overrides = {"duplicates": {"near": 0.8}, "split": {"validation_fraction": 0.5}}
    prepared = free_text(tmp_path, files, test="test.txt", **overrides)
    texts = {split: [target for own in prepared.splits[split] for target in own.targets] for split in SPLITS}
    assert texts["validation"] == [second[-(len(first + second) // 2) :]]
    assert texts["train"] == [first]


# ---- duplicates and leaks

NEW = ("v", "V"), ("t", "T")


def test_of_exact_duplicates_in_train_the_first_stays(tmp_path: Path) -> None:
    rows = [("a", "A"), ("b", "B"), ("a", "A"), ("a", "other"), ("a", "A")]
    prepared = prepare_three(tmp_path, rows, [NEW[0]], [NEW[1]])
    assert [(own.source, own.targets) for own in prepared.splits["train"]] == [("a", ["A", "other"]), ("b", ["B"])]
    assert prepared.reasons() == [("train.csv", 4, "duplicate"), ("train.csv", 6, "duplicate")]
    assert all("train.csv line 2" in entry["detail"] for entry in prepared.rejected)
    assert prepared.rejected[0]["row"] == {"source": "a", "targets": ["A"]}


def test_duplicates_may_differ_in_case_width_and_blanks(tmp_path: Path) -> None:
    rows = [("a straße", "A b"), ("A  STRASSE", "a\u00a0B"), ("\uff41 strasse", "\uff21 b")]
    prepared = prepare_three(tmp_path, rows, [NEW[0]], [NEW[1]])
    assert prepared.sources("train") == ["a straße"]
    assert prepared.stats["rejected"] == {"duplicate": 2}


def test_duplicates_in_train_can_be_kept(tmp_path: Path) -> None:
    overrides = {"duplicates": {"in_train": "keep"}, "group_references": False}
    prepared = prepare_three(tmp_path, [("a", "A")] * 3, [NEW[0]], [NEW[1]], **overrides)
    assert prepared.sources("train") == ["a"] * 3
    assert prepared.rejected == []


@pytest.mark.parametrize(("compare", "kept"), [("pair", 3), ("source", 2), ("target", 2)])
def test_duplicates_are_compared_by_pair_source_or_target(tmp_path: Path, compare: str, kept: int) -> None:
    rows = [("a", "A"), ("a", "B"), ("b", "B")]
    prepared = prepare_three(tmp_path, rows, [NEW[0]], [NEW[1]], duplicates={"compare": compare})
    assert sum(len(own.targets) for own in prepared.splits["train"]) == kept


def test_validation_and_test_never_lose_a_row(tmp_path: Path) -> None:
    twice = [("x", "X"), ("x", "X"), (sentence(1), "Y"), (edited(sentence(1)), "Y")]
    prepared = prepare_three(
        tmp_path, [*single(0, 5), *twice], twice, twice, duplicates={"near": 0.8}, group_references=False
    )
    assert prepared.sources("validation") == prepared.sources("test") == [source for source, _ in twice]
    assert {entry["file"] for entry in prepared.rejected} == {"train.csv"}
    assert prepared.stats["overlaps"]["validation_rows_in_test"] == 4


def test_rows_of_test_and_validation_leave_train_and_the_place_is_named(tmp_path: Path) -> None:
    train = [("A", "a"), ("b", "B"), ("c", "C"), ("a", "another answer")]
    prepared = prepare_three(tmp_path, train, [("b", "B"), ("c", "C")], [("x", "X"), ("a", "A"), ("c", "C")])
    assert prepared.reasons() == [
        ("train.csv", 2, "in_test"),
        ("train.csv", 3, "in_validation"),
        ("train.csv", 4, "in_test"),
    ]
    places = ["test.csv line 3", "validation.csv line 2", "test.csv line 4"]
    assert all(place in entry["detail"] for entry, place in zip(prepared.rejected, places, strict=True))
    assert prepared.sources("train") == ["a"]


def test_near_duplicates_of_test_and_validation_leave_train(tmp_path: Path) -> None:
    texts = [sentence(number) for number in range(30)]
    assert all(0.8 <= jaccard(*parts) <= 0.9 for parts in shingles([(text, edited(text)) for text in texts]))
    train = [(edited(text), "label") for text in texts]
    validation, test = [(text, "label") for text in texts[:10]], [(text, "label") for text in texts[10:20]]
    prepared = prepare_three(tmp_path, train, validation, test, duplicates={"near": 0.8})
    expected = [("train.csv", line, "near_validation" if line < 12 else "near_test") for line in range(2, 22)]
    assert prepared.reasons() == expected
    assert "validation.csv line 2" in prepared.rejected[0]["detail"]
    assert prepared.sources("train") == [edited(text) for text in texts[20:]]


@pytest.mark.parametrize(("in_train", "kept"), [("drop", 20), ("keep", 40)])
def test_of_near_duplicates_in_train_the_first_stays(tmp_path: Path, in_train: str, kept: int) -> None:
    texts = [sentence(number) for number in range(20)]
    train = [(text, "label") for text in texts] + [(edited(text), "label") for text in texts]
    prepared = prepare_three(tmp_path, train, [NEW[0]], [NEW[1]], duplicates={"near": 0.8, "in_train": in_train})
    assert prepared.sources("train") == [source for source, _ in train][:kept]
    assert {reason for *_, reason in prepared.reasons()} <= {"near_duplicate"}


def test_similar_texts_with_different_labels_are_duplicates_only_by_source(tmp_path: Path) -> None:
    text = sentence(1)
    train, held_out = [(edited(text), "good"), ("else", "good")], [[("v", "V")], [(text, "bad")]]
    pair, source = (
        prepare_three(tmp_path / compare, train, *held_out, duplicates={"near": 0.8, "compare": compare})
        for compare in ("pair", "source")
    )
    assert pair.reasons() == []
    assert source.reasons() == [("train.csv", 2, "near_test")]


def test_similar_documents_of_free_text_are_found(tmp_path: Path) -> None:
    files = {"t.txt": f"{edited(sentence(1))}\n{sentence(2)}\n", "v.txt": sentence(3), "test.txt": sentence(1)}
    prepared = free_text(tmp_path, files, validation="v.txt", test="test.txt", duplicates={"near": 0.8})
    assert prepared.reasons() == [("t.txt", 1, "near_test")]


def test_overlaps_are_counted(tmp_path: Path) -> None:
    train = [("a", "A"), ("a", "B"), ("b", "C"), ("c", "D")]
    prepared = prepare_three(tmp_path, train, [("v", "V"), ("w", "W")], [("v", "V"), ("c", "E")])
    assert prepared.stats["overlaps"] == {
        "validation_rows_in_test": 1,
        "sources_with_several_targets": 2,
        "rows_of_such_sources": 4,
        "train_rows_with_source_in_test": 1,
    }


# ---- limits


@pytest.mark.parametrize(
    ("train", "name", "causes"),
    [
        pytest.param(
            [("", "A"), ("b", ""), ("c", "")],
            "max_rejected_fraction",
            ["2 empty_target; the first: train.csv line 3", "1 empty_source; the first: train.csv line 2"],
            id="unusable",
        ),
        pytest.param(
            [("a", "A")] * 4, "max_duplicate_fraction", ["3 duplicate; the first: train.csv line 3"], id="duplicates"
        ),
        pytest.param(
            [("v", "V"), ("t", "T"), ("t", "t")],
            "max_leak_fraction",
            ["1 in_test; the first: train.csv line 3", "1 in_validation; the first: train.csv line 2"],
            id="leaks",
        ),
    ],
)
def test_too_many_lost_rows_stop_the_stage_with_the_main_causes(
    tmp_path: Path, train: list[Row], name: str, causes: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        prepare_three(tmp_path, [*train, *single(0, 5)], [NEW[0]], [NEW[1]], limits={name: 0.1})
    first, *rest = error.value.lines
    assert f"prepare.limits.{name}" in first
    assert str(tmp_path / "out/report/rejected.jsonl") in first
    assert len(rest) == len(causes)
    assert all(any(cause in line for line in rest) for cause in causes)
    lost = list(read_jsonl(tmp_path / "out/report/rejected.jsonl"))
    assert len(lost) == len(train) - (name == "max_duplicate_fraction")
    assert read_json(tmp_path / "out/report/stats.json")["rows_rejected"] == len(lost)


def test_exactly_the_allowed_share_is_accepted(tmp_path: Path) -> None:
    rows = [("a", "A"), ("", "B"), ("c", ""), ("d", "")]
    prepared = prepare_train(tmp_path, "t.csv", as_csv(rows), limits={"max_rejected_fraction": 0.5})
    assert prepared.stats["rows_rejected"] == 3


# ---- the same result every time

MIXED = [
    *single(0, 60),
    *((sentence(number), "label") for number in range(30)),
    *((edited(sentence(number)), "label") for number in range(30)),
    *single(10, 20),
    ("", "nothing"),
]
MIXED_RUN: dict[str, Any] = {"duplicates": {"near": 0.8}, "mask": {"phones": True}}


@pytest.fixture(scope="module")
def usual_bytes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(prepare(tmp_path_factory.mktemp("usual"), {"t.csv": as_csv(MIXED)}, **MIXED_RUN).folder)


@pytest.mark.parametrize(("processes", "batch_rows"), [(1, 4096), (1, 7), (2, 20)])
def test_the_bytes_of_the_result_do_not_depend_on_processes_and_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual_bytes: dict[str, bytes], processes: int, batch_rows: int
) -> None:
    monkeypatch.setattr(stage, "_BATCH_ROWS", batch_rows)
    found = contents(prepare(tmp_path, {"t.csv": as_csv(MIXED)}, processes=processes, **MIXED_RUN).folder)
    shards = {f"{split}/00000.parquet" for split in SPLITS}
    assert set(found) == {
        *shards,
        "labels.json",
        "report/rejected.jsonl",
        "report/stats.json",
        "report/settings.json",
        "report/preview.md",
    }
    assert found == usual_bytes


@pytest.mark.parametrize("place", [200, 600])
def test_new_rows_change_the_shards_around_them_alone(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a file or at its end; so DVC uploads little. In each split are rows of all of it."""
    monkeypatch.setattr("stages.lib.core.shards.SMALLEST", 1 << 10)
    rows, new = single(0, 600), single(1000, 1010)
    first, second = (
        prepare(tmp_path / name, {"t.csv": as_csv(table)}, split={"by": "hash"}).folder
        for name, table in (("first", rows), ("second", [*rows[:place], *new, *rows[place:]]))
    )
    for split, many in (("train", 30), ("validation", 3), ("test", 3)):
        before = set(contents(first / split).values())
        assert len(before) > many
        assert len(set(contents(second / split).values()) - before) <= 4


def test_another_test_file_leaves_the_bytes_of_train_unchanged(tmp_path: Path) -> None:
    one, two = (
        prepare_three(tmp_path / str(number), numbered(0, 50), numbered(50, 55), numbered(60, 65 + number))
        for number in (1, 2)
    )
    assert contents(one.folder / "train") == contents(two.folder / "train")
    assert contents(one.folder / "test") != contents(two.folder / "test")


# ---- temporary files and the preview


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, {"t.csv": as_csv(single(0, 50))})
    assert not (prepared.folder / ".cleaned").exists()


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        pytest.param({"t.csv": as_csv([*single(0, 5), ("", "")])}, {"max_rejected_fraction": 0.1}, id="limit"),
        pytest.param({"t.csv": as_csv(single(0, 5)) + '"never closed\n'}, {}, id="file"),
    ],
)
def test_no_temporary_file_is_left_after_an_error(tmp_path: Path, files: Files, limits: dict[str, float]) -> None:
    with pytest.raises(UserError):
        prepare(tmp_path, files, limits=limits)
    assert not (tmp_path / "out/.cleaned").exists()


def test_files_of_a_killed_run_do_no_harm(tmp_path: Path) -> None:
    rows = as_csv(single(0, 50))
    clean = prepare(tmp_path / "clean", {"t.csv": rows})
    left = tmp_path / "out/.cleaned"
    left.mkdir(parents=True)
    (left / "kept-000007.parquet").write_bytes(as_parquet([{"row": 1}]))
    (left / "unusable-000000.parquet").write_bytes(b"half a fil")
    again = prepare(tmp_path, {"t.csv": rows})
    assert contents(again.folder) == contents(clean.folder)


def test_the_preview_shows_some_rows_of_each_split_and_of_each_reason(tmp_path: Path) -> None:
    rows = [*single(0, 50), ("", "lost | text"), ("source 0000", "text 0000")]
    prepared = prepare(tmp_path, {"t.csv": as_csv(rows)}, shown_examples=3)
    page = (prepared.folder / "report/preview.md").read_text("utf-8")
    for split in SPLITS:
        part = page.partition(f"## Some of {split}\n")[2].partition("\n## ")[0]
        assert part.count("| source ") - 1 == 3
    assert "## Rejected: empty_source (1 rows)" in page
    assert "lost \\| text" in page
    assert "## Rejected: duplicate (1 rows)" in page
    assert "t.csv line 2" in page


# ---- any rows

texts = st.text(st.characters(exclude_categories=()), max_size=8)  # with lone surrogates, NULs and line ends
values = st.one_of(texts, st.none(), st.integers(), st.floats(), st.lists(texts, max_size=2))


# many rows a run: a run takes as long with one row as with fifty
@settings(max_examples=10, derandomize=True)
@given(rows=st.lists(st.tuples(values, values), min_size=10, max_size=50), group_references=st.booleans())
@example(rows=[], group_references=True)
@example(rows=[("a\u2028b", "\x85c"), ("\x00", "\ud800")], group_references=True)
def test_any_jsonl_rows_add_up(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, Any]], group_references: bool
) -> None:
    content = GOOD + "".join(json.dumps({"facts": source, "text": target}) + "\n" for source, target in rows)
    folder = tmp_path_factory.mktemp("any")
    adds_up(prepare_train(folder, "t.jsonl", content, group_references=group_references), len(rows) + 1)


encodable = st.text(max_size=8)


@settings(max_examples=10, derandomize=True)
@given(rows=st.lists(st.tuples(encodable, encodable), min_size=10, max_size=50), group_references=st.booleans())
@example(rows=[], group_references=False)
@example(rows=[('"', "\r"), ("\n", '",\n"')], group_references=False)
def test_any_csv_rows_add_up(tmp_path_factory: pytest.TempPathFactory, rows: list[Row], group_references: bool) -> None:
    content = as_csv([("a", "A"), *rows], end="\r\n")  # so that fields with either character are quoted
    prepared = prepare_train(tmp_path_factory.mktemp("any"), "t.csv", content, group_references=group_references)
    adds_up(prepared, len(rows) + 1)


def adds_up(prepared: Prepared, rows: int) -> None:
    stats, train = prepared.stats, prepared.splits["train"]
    assert stats["rows_read"] == rows + HELD_OUT_ROWS
    assert stats["rows_rejected"] == len(prepared.rejected) == sum(stats["rejected"].values())
    assert stats["rows_read"] == stats["rows_kept"] + stats["rows_rejected"]
    assert len({own.id for own in train}) == len(train)
    assert all(text.strip() == text != "" for own in train for text in (own.source, *own.targets))
