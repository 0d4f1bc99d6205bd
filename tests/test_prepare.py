"""The prepare stage: every row is accounted for, and a source's split and name never depend on other rows."""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.lib.examples import SPLITS, Example, Split, read_examples
from stages.lib.files import read_json, read_jsonl
from stages.lib.params.prepare import Prepare
from stages.lib.process import UserError
from stages.prepare import run
from tests.build import contents, section

Row = tuple[str, str]

HELD_OUT = {"held_validation.csv": "facts,text\nv,V\n", "held_test.csv": "facts,text\nt,T\n"}
HELD_OUT_ROWS = 2


@dataclass
class Prepared:
    splits: dict[Split, list[Example]]
    set_aside: list[dict[str, Any]]
    account: dict[str, Any]

    def places(self) -> dict[str, tuple[Split, str]]:
        """Source -> its split and id."""
        return {example.source: (split, example.id) for split, own in self.splits.items() for example in own}


def prepare(folder: Path, files: Mapping[str, str | bytes], **overrides: Any) -> Prepared:
    """Runs the stage on these files, the first of which is train; the splits are shares of it."""
    raw, target = folder / "raw", folder / "out"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (raw / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    usual: dict[str, Any] = {
        "folder": str(raw),
        "train": next(iter(files)),
        "validation": None,
        "test": None,
        "source_column": "facts",
        "target_column": "text",
        "group_references": True,
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "max_set_aside_fraction": 0.99,
        "seed": 1,
    }
    run(section(Prepare, **{**usual, **overrides}), target)
    return Prepared(
        {split: list(read_examples(target / f"{split}.jsonl")) for split in SPLITS},
        list(read_jsonl(target / "set_aside.jsonl")),
        read_json(target / "account.json"),
    )


def prepare_train(folder: Path, name: str, content: str | bytes, **overrides: Any) -> Prepared:
    """With validation and test files of one row each, so that all of this file is train."""
    held_out = {"validation": "held_validation.csv", "test": "held_test.csv"}
    return prepare(folder, {name: content, **HELD_OUT}, **{**held_out, **overrides})


def as_csv(rows: Sequence[Row]) -> str:
    return "facts,text\n" + "".join(f"{source},{target}\n" for source, target in rows)


def numbered(first: int, last: int) -> list[Row]:
    """Three rows to each of these sources, not side by side."""
    return [(f"source {number}", f"text {number} {copy}") for copy in range(3) for number in range(first, last)]


GOOD = '{"facts": "a", "text": "A"}\n'
LONG = "x" * 200_000


@pytest.mark.parametrize(
    ("name", "content", "kept", "set_aside"),
    [
        pytest.param("t.csv", "facts,text\na,A\nb,B\n", [("a", "A"), ("b", "B")], [], id="csv"),
        pytest.param("t.CSV", "facts,text\na,A\n", [("a", "A")], [], id="csv-suffix-in-capitals"),
        pytest.param("t.tsv", 'text\tfacts\nA, "A"\ta\n', [("a", 'A, "A"')], [], id="tsv"),
        pytest.param("t.jsonl", GOOD, [("a", "A")], [], id="jsonl"),
        pytest.param("t.csv", "\ufefffacts,text\na,A\n", [("a", "A")], [], id="csv-byte-order-mark"),
        pytest.param("t.jsonl", "\ufeff" + GOOD, [("a", "A")], [], id="jsonl-byte-order-mark"),
        pytest.param("t.csv", b"facts,text\r\na,A\r\nb,B\r\n", [("a", "A"), ("b", "B")], [], id="csv-crlf"),
        pytest.param("t.csv", "facts,text\n  a , A\t\n", [("a", "A")], [], id="spaces-around"),
        pytest.param("t.csv", 'facts,text\na,"A ""A"", A"\n', [("a", 'A "A", A')], [], id="csv-quotes"),
        pytest.param(
            "t.csv",
            'facts,text\n"a\nb","A\n\nB"\nc\n',
            [("a\nb", "A\n\nB")],
            [(6, "1 fields where the header has 2", {"fields": ["c"]})],
            id="line-after-quoted-newlines",
        ),
        pytest.param(
            "t.csv",
            "facts,text\n\na,A\n\nb,B,c\n",
            [("a", "A")],
            [(5, "3 fields where the header has 2", {"fields": ["b", "B", "c"]})],
            id="line-after-blank-lines",
        ),
        pytest.param(
            "t.csv",
            "n,facts,text\n1,,A\n2,a,A\n3,b, \n",
            [("a", "A")],
            [
                (2, "facts is empty", {"n": "1", "facts": "", "text": "A"}),
                (4, "text is empty", {"n": "3", "facts": "b", "text": " "}),
            ],
            id="csv-empty-text",
        ),
        pytest.param("t.csv", f"facts,text\na,{LONG}\n", [("a", LONG)], [], id="csv-field-over-128-kib"),
        pytest.param(
            "t.jsonl",
            GOOD + '\n{"facts": 7, "text": "B"}\n{"facts": "c", "text": null}\n{"facts": "d", "text": ""}\n',
            [("a", "A")],
            [
                (3, "facts is no text", {"facts": 7, "text": "B"}),
                (4, "text is no text", {"facts": "c", "text": None}),
                (5, "text is empty", {"facts": "d", "text": ""}),
            ],
            id="jsonl-no-text",
        ),
        pytest.param(
            "t.jsonl",
            '{"facts": "b"}\n' + GOOD + '["c"]\n',
            [("a", "A")],
            [(1, "no key text", {"facts": "b"}), (3, "not a JSON object", {"value": ["c"]})],
            id="jsonl-missing-key",
        ),
        pytest.param(
            "t.jsonl",
            GOOD + '{"facts": "b"',
            [("a", "A")],
            [(2, "not JSON", {"text": '{"facts": "b"'})],
            id="jsonl-broken",
        ),
        pytest.param(
            "t.jsonl",
            GOOD + '{"facts": NaN, "text": "B"}\n',
            [("a", "A")],
            [(2, "not JSON", {"text": '{"facts": NaN, "text": "B"}'})],
            id="jsonl-nan",
        ),
        pytest.param(
            "t.jsonl",
            GOOD + '{"facts": "\\ud83d", "text": "B"}\n{"facts": "\\ud83d\\ude00", "text": "C"}\n',
            [("a", "A"), ("\N{GRINNING FACE}", "C")],
            [(2, "facts holds half of a surrogate pair", {"facts": "\ud83d", "text": "B"})],
            id="jsonl-lone-surrogate",
        ),
        pytest.param(
            "t.jsonl",
            GOOD + "[" * 100_000 + "\n",
            [("a", "A")],
            [(2, "not JSON", {"text": "[" * 100_000})],
            id="jsonl-too-deep",
        ),
    ],
)
def test_every_row_is_accounted_for(
    tmp_path: Path, name: str, content: str | bytes, kept: list[Row], set_aside: list[tuple[int, str, Any]]
) -> None:
    prepared = prepare_train(tmp_path, name, content)
    assert [(own.source, target) for own in prepared.splits["train"] for target in own.targets] == kept
    assert len(prepared.set_aside) == len(set_aside)
    for entry, (line, reason, row) in zip(prepared.set_aside, set_aside, strict=True):
        assert (entry["file"], entry["line"], entry["row"]) == (name, line, row)
        assert entry["reason"].startswith(reason)
    assert prepared.account["rows_set_aside"] == len(set_aside)
    assert prepared.account["rows_kept"] == len(kept) + HELD_OUT_ROWS
    assert prepared.account["rows_read"] == len(kept) + len(set_aside) + HELD_OUT_ROWS


def test_a_number_too_large_for_a_float_is_set_aside(tmp_path: Path) -> None:
    """JSON allows 1e999; Python reads it as infinity, which is no JSON again."""
    prepared = prepare_train(tmp_path, "t.jsonl", GOOD + '{"facts": 1e999, "text": "B"}\n')
    assert [entry["line"] for entry in prepared.set_aside] == [2]


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_quote_that_never_closes_does_not_swallow_the_rows_below(tmp_path: Path, name: str, separator: str) -> None:
    lines = ["facts,text", "a,A", 'b,"B', "c,C", "d,D"]
    content = "\n".join(line.replace(",", separator) for line in lines) + "\n"
    try:
        kept = prepare_train(tmp_path, name, content).splits["train"]
    except UserError:
        return  # to refuse the file is as good
    assert ("c", ["C"]) in [(own.source, own.targets) for own in kept]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        pytest.param("t.csv", "facts;text\na;A\n", "no column facts, text; there are facts;text", id="columns"),
        pytest.param("t.csv", "facts,txt\na,A\n", "no column text; there are facts, txt", id="column"),
        pytest.param("t.csv", "", "empty file", id="empty-csv"),
        pytest.param("t.tsv", "", "empty file", id="empty-tsv"),
        pytest.param("t.xlsx", "", "kind of file unknown; there are .csv, .tsv, .jsonl", id="suffix"),
        pytest.param("t.csv", "facts,text\na,é\n".encode("latin-1"), "not UTF-8", id="latin-1"),
        pytest.param("t.csv", "facts,text\na,A\n".encode("utf-16"), "not UTF-8", id="utf-16"),
        pytest.param("t.jsonl", b'{"facts": "\xff"}\n', "not UTF-8", id="jsonl-not-utf-8"),
    ],
)
def test_an_unusable_file_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, content: str | bytes, line: str
) -> None:
    with pytest.raises(UserError) as stopped:
        prepare_train(tmp_path, name, content)
    assert stopped.value.lines[0].startswith(f"{tmp_path / 'raw' / name}: {line}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raw/nowhere\.csv: no such file"):
        prepare(tmp_path, {"t.csv": as_csv(numbered(0, 9))}, train="nowhere.csv")


def test_too_many_unusable_rows_stop_with_the_worst_causes_first(tmp_path: Path) -> None:
    content = "facts,text\na,A\n,B\nc,\nd,\n"
    with pytest.raises(UserError) as stopped:
        prepare_train(tmp_path, "t.csv", content, max_set_aside_fraction=0.49)
    first, *causes = stopped.value.lines
    assert first.startswith("prepare: 3 of 6 rows are unusable")
    assert first.endswith("the first is t.csv line 3")
    assert causes == ["  2 rows: text is empty", "  1 rows: facts is empty"]
    assert not (tmp_path / "out").exists()


def test_exactly_the_allowed_share_of_unusable_rows_goes_on(tmp_path: Path) -> None:
    prepared = prepare_train(tmp_path, "t.csv", "facts,text\na,A\n,B\nc,\nd,\n", max_set_aside_fraction=0.5)
    assert prepared.account["rows_set_aside"] == 3


@pytest.mark.parametrize(
    ("files", "overrides", "empty"),
    [
        pytest.param({"t.jsonl": ""}, {}, "train, validation, test", id="empty-jsonl"),
        pytest.param({"t.csv": "facts,text\n"}, {}, "train, validation, test", id="header-only"),
        pytest.param({"t.csv": as_csv(numbered(0, 50))}, {"test_fraction": 0.0}, "test", id="no-share"),
        pytest.param(
            {"t.csv": as_csv(numbered(0, 50)), "v.csv": "facts,text\n"},
            {"validation": "v.csv"},
            "validation",
            id="file",
        ),
    ],
)
def test_an_empty_split_stops(tmp_path: Path, files: dict[str, str], overrides: dict[str, Any], empty: str) -> None:
    with pytest.raises(UserError, match=f"no examples for {empty} among"):
        prepare(tmp_path, files, **overrides)


def test_rows_of_equal_source_are_one_example_in_order_of_first_meeting(tmp_path: Path) -> None:
    rows = [("b", "1"), ("a", "2"), ("b", "3"), (" b ", "1"), ("c", "4")]
    train = prepare_train(tmp_path, "t.csv", as_csv(rows)).splits["train"]
    assert [(own.source, own.targets) for own in train] == [("b", ["1", "3", "1"]), ("a", ["2"]), ("c", ["4"])]


def test_ungrouped_rows_stay_apart_even_when_equal(tmp_path: Path) -> None:
    rows = [("b", "1"), ("a", "2"), ("b", "1"), ("b", "1"), ("b", "3")]
    train = prepare_train(tmp_path, "t.csv", as_csv(rows), group_references=False).splits["train"]
    assert [(own.source, own.targets) for own in train] == [(source, [target]) for source, target in rows]
    assert len({own.id for own in train}) == len(rows)


def test_no_two_examples_share_an_id_even_with_nul_characters(tmp_path: Path) -> None:
    rows = [{"facts": "a\0b", "text": "c"}, {"facts": "a", "text": "b\0c"}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    train = prepare_train(tmp_path, "t.jsonl", content, group_references=False).splits["train"]
    assert len({own.id for own in train}) == len(rows)


def test_given_split_files_are_used_as_they_are(tmp_path: Path) -> None:
    ranges: dict[Split, tuple[int, int]] = {"train": (0, 40), "validation": (40, 50), "test": (50, 60)}
    rows = {split: numbered(*own) for split, own in ranges.items()}
    files = {f"{split}.csv": as_csv(own) for split, own in rows.items()}
    prepared = prepare(tmp_path, files, validation="validation.csv", test="test.csv")
    for split in SPLITS:
        assert [own.source for own in prepared.splits[split]] == list(
            dict.fromkeys(source for source, _ in rows[split])
        )


def test_a_given_test_file_leaves_only_validation_to_be_taken_from_train(tmp_path: Path) -> None:
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
def test_no_source_stands_in_two_splits(tmp_path: Path, group_references: bool) -> None:
    prepared = prepare(tmp_path, {"t.csv": as_csv(numbered(0, 200))}, group_references=group_references)
    sources = [{own.source for own in prepared.splits[split]} for split in SPLITS]
    assert all(sources)
    assert sum(map(len, sources)) == len(set.union(*sources)) == 200


def test_the_shares_are_about_those_asked_for(tmp_path: Path) -> None:
    examples = prepare(tmp_path, {"t.csv": as_csv(numbered(0, 1000))}, validation_fraction=0.3).account["examples"]
    assert examples["validation"] == pytest.approx(300, abs=60)
    assert examples["test"] == pytest.approx(200, abs=60)


def test_another_seed_moves_some_sources_but_renames_none(tmp_path: Path) -> None:
    files = {"t.csv": as_csv(numbered(0, 200))}
    one, two = (prepare(tmp_path, files, seed=seed).places() for seed in (1, 2))
    moved = [source for source in one if one[source][0] != two[source][0]]
    assert 0 < len(moved) < 200
    assert all(one[source][1] == two[source][1] for source in one)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    files = {"t.csv": as_csv([*numbered(0, 100), ("", "nothing")])}
    for name in ("one", "two"):
        prepare(tmp_path / name, files)
    written = contents(tmp_path / "one/out")
    assert set(written) == {"train.jsonl", "validation.jsonl", "test.jsonl", "set_aside.jsonl", "account.json"}
    assert written == contents(tmp_path / "two/out")


texts = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates, NULs and line ends among them
values = st.one_of(texts, st.none(), st.integers(), st.floats(), st.lists(texts, max_size=2))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(values, values), max_size=8), group_references=st.booleans())
@example(rows=[("a\u2028b", "\x85c"), ("\x00", "\ud800")], group_references=True)
def test_any_jsonl_rows_add_up(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, Any]], group_references: bool
) -> None:
    content = GOOD + "".join(json.dumps({"facts": source, "text": target}) + "\n" for source, target in rows)
    folder = tmp_path_factory.mktemp("any")
    adds_up(prepare_train(folder, "t.jsonl", content, group_references=group_references), len(rows) + 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=8), group_references=st.booleans())
@example(rows=[('"', "\r"), ("\n", '",\n"')], group_references=False)
def test_any_csv_rows_add_up(tmp_path_factory: pytest.TempPathFactory, rows: list[Row], group_references: bool) -> None:
    folder = tmp_path_factory.mktemp("any")
    written = folder / "t.csv"
    with written.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("facts", "text"), ("a", "A"), *rows])
    adds_up(prepare_train(folder, "t.csv", written.read_bytes(), group_references=group_references), len(rows) + 1)


def adds_up(prepared: Prepared, rows: int) -> None:
    kept = sum(len(own.targets) for examples in prepared.splits.values() for own in examples)
    assert prepared.account["rows_read"] == rows + HELD_OUT_ROWS
    assert prepared.account["rows_kept"] == kept
    assert prepared.account["rows_set_aside"] == len(prepared.set_aside)
    assert prepared.account["rows_read"] == kept + len(prepared.set_aside)
    train = prepared.splits["train"]
    assert len({own.id for own in train}) == len(train)
    assert all(text.strip() == text != "" for own in train for text in (own.source, *own.targets))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(name=st.sampled_from(["t.csv", "t.tsv", "t.jsonl"]), content=st.binary(max_size=60), header=st.booleans())
def test_any_bytes_give_an_account_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes, header: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    start = {"t.csv": b"facts,text\na,A\n", "t.tsv": b"facts\ttext\na\tA\n", "t.jsonl": GOOD.encode()}[name]
    try:
        prepared = prepare_train(folder, name, start + content if header else content)
    except UserError:
        return
    account = prepared.account
    assert account["rows_read"] == account["rows_kept"] + account["rows_set_aside"]
