"""JSON as people have it: numbers as written, rows at any place, comments, and every line accounted for."""

import codecs
import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.lib.core.process import UserError
from stages.lib.core.templates import RejectedRow, Template
from stages.lib.ingest.json_files import read_json, read_jsonl, with_numbers
from stages.lib.ingest.rows import Row, Source
from stages.lib.params.prepare import Reading

READERS = {"json": read_json, "jsonl": read_jsonl}


def read(folder: Path, name: str, content: str | bytes, **reading: Any) -> list[Row]:
    """The rows of a file, after a check that they and what was skipped are all its lines."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    skipped: Counter[str] = Counter()
    source = Source(path, Reading.model_validate(reading), [], skipped=skipped)
    rows = list(READERS[name.rpartition(".")[2]](source))
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    assert sum(row.lines for row in rows) + skipped.total() == text.count(b"\n") + (text[-1:] not in (b"", b"\n"))
    return rows


def values(rows: list[Row]) -> list[dict[str, Any]]:
    assert [row.problem for row in rows if row.problem] == []
    return [row.values for row in rows]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    (line,) = error.value.lines
    return line


# ---- numbers

AS_WRITTEN = ["1.10", "1e5", "-0", "0.0", "1E400", "1.0e-7", "9" * 5000, "-12345678901234567890.0"]


@pytest.mark.parametrize("number", AS_WRITTEN)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_number_stays_as_it_is_written(tmp_path: Path, ending: str, number: str) -> None:
    row = f'{{"a": {number}, "b": [{{"c": {number}}}]}}'
    (found,) = values(read(tmp_path, f"t.{ending}", row if ending == "jsonl" else f"[{row}]"))
    assert found == {"a": number, "b": [{"c": number}]}


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(("name", "form"), [("t.jsonl", "{}\n{}\n"), ("t.json", "[{}, {}]")])
def test_what_is_no_number_is_no_text_and_costs_no_row_where_nothing_reads_it(
    tmp_path: Path, constant: str, name: str, form: str
) -> None:
    content = form.format(f'{{"a": {constant}, "b": 1}}', f'{{"a": 1, "b": [{constant}]}}')
    first, second = values(read(tmp_path, name, content))
    assert (Template("{b}").render(first), Template("{a}").render(second)) == ("1", "1")
    for field, row in [("a", first), ("b", second)]:
        with pytest.raises(RejectedRow, match="not finite"):
            Template(f"{{{field}}}").render(row)


@pytest.mark.parametrize("cut", ['[{"a": 1}, {"a": ', '[{"a": 1},]', '[{"a": 1} {"a": 2}]'])
def test_a_broken_list_is_told_without_advice_for_other_forms(tmp_path: Path, cut: str) -> None:
    with pytest.raises(UserError, match="after row 1: line 1") as stop:
        read(tmp_path, "t.json", cut)
    assert "prepare.reading.records" not in str(stop.value)


def test_numbers_can_be_had_again_for_json_that_is_written_anew(tmp_path: Path) -> None:
    row = {"call": {"n": 3, "x": -0.25, "big": 2**70, "text": "3", "list": [1, None, True]}}
    (found,) = values(read(tmp_path, "t.jsonl", json.dumps(row)))
    assert found != row
    assert json.dumps(with_numbers(found)) == json.dumps(row)


@pytest.mark.parametrize("number", ["1E400", "9" * 5000])
def test_a_number_that_python_has_not_stays_a_text(tmp_path: Path, number: str) -> None:
    (found,) = values(read(tmp_path, "t.jsonl", f'{{"a": {number}}}'))
    assert with_numbers(found) == {"a": number}


# ---- where the rows are

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "paragraphs": [
                {"qas": [{"id": "q1", "question": "a?"}, {"id": "q2", "title": "own"}], "context": "C1"},
                {"context": "C2", "qas": []},
            ],
            "title": "T1",
            "tags": ["x"],
        },
        {"title": "T2", "paragraphs": [{"context": "C3", "qas": [{"id": "q3"}]}]},
    ],
    "after": "never seen",
}
SQUAD_ROWS = [
    {"version": "1.1", "title": "T1", "context": "C1", "id": "q1", "question": "a?"},
    {"version": "1.1", "title": "own", "context": "C1", "id": "q2"},
    {"version": "1.1", "title": "T2", "context": "C3", "id": "q3"},
]
ROWS: list[dict[str, Any]] = [{"a": "x"}, {"a": "y", "b": ["z"]}]
BY_ID = {"n1": {"a": "x"}, "n2": {"a": "y", "key": "own"}}
WITH_KEYS = [{"key": "n1", "a": "x"}, {"key": "own", "a": "y"}]

SHAPES = [
    pytest.param(ROWS, None, ROWS, id="list"),
    pytest.param(ROWS, "*", ROWS, id="list-by-star"),
    pytest.param({"data": ROWS, "more": {"b": [["c"]]}}, "data", ROWS, id="list-under-a-key"),
    pytest.param({"v": {"data": [["q"]]}, "d": {"e": {"data": ROWS}}}, "d.e.data", ROWS, id="list-under-three-keys"),
    pytest.param({"data": ROWS}, "data.*", ROWS, id="key-and-star"),
    pytest.param(BY_ID, "*", WITH_KEYS, id="object-by-id"),
    pytest.param({"rows": BY_ID}, "rows", WITH_KEYS, id="object-by-id-under-a-key"),
    pytest.param(
        {"a": {"rows": BY_ID}}, "*.rows", [{"key": "n1", "a": "x"}, {"key": "own", "a": "y"}], id="keys-twice"
    ),
    pytest.param(
        {"en": ROWS, "de": ROWS}, "*.*", [{"key": k, **row} for k in ("en", "de") for row in ROWS], id="lists"
    ),
    pytest.param([[{"a": "x"}], [], [{"a": "y"}]], "*.*", [{"a": "x"}, {"a": "y"}], id="lists-in-a-list"),
    pytest.param({"lang": "en", "data": ROWS}, "data", [{"lang": "en", **row} for row in ROWS], id="field-before"),
    pytest.param(SQUAD, "data.*.paragraphs.*.qas", SQUAD_ROWS, id="squad"),
    pytest.param({"data": []}, "data", [], id="empty-list"),
    pytest.param({}, "*", [], id="empty-object"),
]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize(("document", "records", "expected"), SHAPES)
def test_rows_are_found_where_records_says(
    tmp_path: Path, document: Any, records: str | None, expected: list[dict[str, Any]], indent: int | None
) -> None:
    text = json.dumps(document, indent=indent)
    assert values(read(tmp_path, "t.json", text + "\n", records=records)) == expected


@pytest.mark.parametrize(
    ("document", "records", "count"),
    [
        ([{"qas": ROWS}, {"title": "no questions"}, {"qas": ROWS}], "*.qas", 4),
        ([{"qas": ROWS}, {"qas": None}, {"qas": ROWS}], "*.qas", 4),
        ([{"qas": ROWS}, "no object", {"qas": ROWS}], "*.qas", 4),
        ({"a": [ROWS], "b": ["no list"], "c": [ROWS]}, "*.*.*", 4),
    ],
)
def test_an_element_without_rows_is_rejected_and_its_neighbours_stay(
    tmp_path: Path, document: Any, records: str, count: int
) -> None:
    rows = read(tmp_path, "t.json", json.dumps(document, indent=1), records=records)
    (bad,) = [row for row in rows if row.problem]
    assert bad.problem is not None
    assert bad.problem.reason == "no_records"
    assert bad.values["raw"] in json.dumps(document, indent=1)
    assert len(rows) == count + 1


@pytest.mark.parametrize(
    ("content", "records", "message"),
    [
        (
            '{"meta": {}, "rows": []}',
            None,
            "an object with meta, rows; for a list in an object, set prepare.reading.records",
        ),
        ('{"a": "x"}\n{"a": "y"}\n', None, "an object with a; .* for one object per line, name the file .jsonl"),
        ('{"rows": [], "more": 1}', "data", "no key `data` at the top; there are more, rows"),
        ('{"data": {"rows": []}}', "data.items", "no key `items` at `data`; there are rows"),
        ('{"data": "text"}', "data", "no list at `data`"),
        ("[1, 2]", "data", r"the top is a list; for the `data` of its elements, write \*\.data"),
        ('{"data": [{}]}', "data.paragraphs.qas", r"`data` is a list; .*, write data\.\*\.paragraphs$"),
        ('{"a": {"b": []}}', "a.b.c", r"`b` is a list; .*, write a\.b\.\*\.c$"),
        ('{"data": 3}', "data.rows", "no object at `data` that could hold `rows`"),
        (
            "# made by x\n\n[{}]\n",
            None,
            "t.json: not a JSON list: line 1 begins with `#`.* set prepare.reading.comment",
        ),
        ('\n// x\n{"data": []}\n', "data", "line 2 begins with `/`.* or prepare.reading.skip_lines$"),
        ("<html>", "*", "line 1 begins with `<`, as no JSON does"),
        ('"text"', None, "t.json: not a JSON list: no list at the top$"),
        ('{"data": [], "data": []}', "data", "`data` twice in one object"),
        ('{"data": [{"a": 1}], "more": [', "data", "after row 1: line 1: it ends too early"),
        ('{"data": [{"a": 1}]} more', "data", "more text after the end"),
        ('{"data": [{"a": 1} {"a": 2}]}', "data", "after row 1: line 1: expected `,` or `}`|]`"),
        ("", None, "line 1: it ends too early"),
        ('{3: "x"}', "*", "a key must be a text"),
    ],
)
def test_a_document_without_such_rows_is_named_in_one_line(
    tmp_path: Path, content: str, records: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, "t.json", content, records=records)
    assert one_line(error).startswith(f"{tmp_path / 't.json'}: ")


@pytest.mark.parametrize(("records", "advised"), [("*.b", "*.*.b"), ("*.b.c", "*.*.b.c"), ("*.*.a.c", "*.*.a.*.c")])
def test_the_path_into_an_inner_list_is_told(tmp_path: Path, records: str, advised: str) -> None:
    document = json.dumps([[{"a": [{"c": [{"x": 1}]}], "b": {"c": [{"x": 1}]}}]])
    (bad,) = read(tmp_path, "t.json", document, records=records)
    assert bad.problem is not None
    step = records.rpartition(".")[2] if records.startswith("*.*") else "b"
    assert bad.problem.detail.endswith(f"; for its elements, write *.{step} there")
    assert [row.problem for row in read(tmp_path, "t.json", document, records=advised)] == [None]


@pytest.mark.parametrize("content", ['[\n{"a": 1},\n{"a": 2}\n]\n', "[\n]\n", '\n[\n  {\n"a": 1}]\n'])
def test_a_list_in_a_file_of_lines_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"name the file \.json") as error:
        read(tmp_path, "t.jsonl", content)
    assert one_line(error).startswith(f"{tmp_path / 't.jsonl'}: ")


# ---- rows that are lists


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_rows_that_are_lists_have_the_names_of_their_columns(tmp_path: Path, ending: str) -> None:
    rows = ['["inform(x=1)", "one", "base"]', '["too", "short"]', '["inform(y=2)", "two", "base", "more"]']
    content = "\n".join(rows) if ending == "jsonl" else "[{}]".format(",\n".join(rows))
    found = read(tmp_path, f"t.{ending}", content, columns=["act", "text", "base"])
    assert found[0].values == {"act": "inform(x=1)", "text": "one", "base": "base"}
    assert [row.problem and row.problem.reason for row in found] == [None] + ["wrong_number_of_fields"] * 2
    assert [row.values["raw"] for row in found[1:]] == rows[1:]
    assert values(read(tmp_path, f"t.{ending}", content))[1] == {"0": "too", "1": "short"}


def test_a_row_that_is_a_list_has_the_fields_around_it_too(tmp_path: Path) -> None:
    content = '{"n1": ["a", "b"], "n2": ["c", "d"]}'
    found = read(tmp_path, "t.json", content, records="*", columns=["act", "text"])
    assert values(found) == [{"key": "n1", "act": "a", "text": "b"}, {"key": "n2", "act": "c", "text": "d"}]


def test_a_column_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column a is twice"):
        read(tmp_path, "t.jsonl", '["x", "y"]', columns=["a", "a"])


@pytest.mark.parametrize("row", ["3", '"text"', "null", "true"])
def test_other_rows_are_rejected(tmp_path: Path, row: str) -> None:
    for rows in (read(tmp_path, "t.jsonl", f"{{}}\n{row}\n"), read(tmp_path, "t.json", f"[{{}},\n{row}]\n")):
        assert [row.problem and row.problem.reason for row in rows] == [None, "no_object"]
        assert (rows[1].line, rows[1].values) == (2, {"raw": row})


# ---- comments and lines


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_comments_and_a_preamble_are_no_rows(tmp_path: Path, ending: str) -> None:
    """RNNLG's files begin with lines of #."""
    rows = ['["a", "b"]', '["#c", "d"]']
    body = "\n".join(["# made by hand", *rows] if ending == "jsonl" else ["[", rows[0] + ",", "# mid", rows[1], "]"])
    content = f"Title\n\n# [1]\n#\n{body}\n# end\n"
    found = read(tmp_path, f"t.{ending}", content, comment="#", skip_lines=2)
    assert values(found) == [{"0": "a", "1": "b"}, {"0": "#c", "1": "d"}]
    assert [content.split("\n")[row.line - 1].strip(",") for row in found] == rows


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_what_was_skipped_is_counted_by_name(tmp_path: Path, ending: str) -> None:
    content = 'T\n# a\n\n{"a": 1}\n// b\n' if ending == "jsonl" else 'T\n// a\n[\n{"a":\n// b\n1}\n\n]\n'
    skipped: Counter[str] = Counter()
    path = tmp_path / f"t.{ending}"
    path.write_text(content.replace("# a", "// a"))
    (row,) = READERS[ending](Source(path, Reading(comment="//", skip_lines=1), [], skipped=skipped))
    assert (row.values, row.line, row.lines) == ({"a": "1"}, 4, 1 if ending == "jsonl" else 2)
    own = {"blank": 1} if ending == "jsonl" else {"brackets": 3}
    assert +skipped == {"preamble": 1, "comment": 2, **own}


def test_a_preamble_may_be_longer_than_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, "t.jsonl", "a\nb", skip_lines=5) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"a": 1}, {"a": 2}]\n', [(1, 1), (1, 0)]),
        ('[\n{"a": 1},\n{"a": 2}\n]', [(2, 1), (3, 1)]),
        ('[{"a": 1}, {"a":\n2},\n\n{"a": 3}, {"a": 4}]', [(1, 1), (1, 1), (4, 1), (4, 0)]),
        ('\n\n[{"a":\n1\n}\n,{"a": 2}]\n\n', [(3, 3), (6, 1)]),
    ],
)
def test_a_line_belongs_to_the_first_row_in_it(tmp_path: Path, content: str, expected: list[tuple[int, int]]) -> None:
    assert [(row.line, row.lines) for row in read(tmp_path, "t.json", content)] == expected


def test_rows_of_a_nested_document_have_their_own_lines(tmp_path: Path) -> None:
    content = json.dumps(SQUAD, indent=1)
    found = read(tmp_path, "t.json", content, records="data.*.paragraphs.*.qas")
    lines = content.split("\n")
    for row in found:
        assert (
            json.loads("\n".join(lines[row.line - 1 : row.line - 1 + row.lines]).strip(" ,"))["id"] == row.values["id"]
        )


def test_undecodable_bytes_reject_their_row_only(tmp_path: Path) -> None:
    content = b'[{"t": "\xff", "rows": [{"a": "x"}]},\n{"t": "y", "rows": [{"a": "\xfe"}, {"a": "z"}]}]'
    found = read(tmp_path, "t.json", content, records="*.rows")
    assert [row.problem and row.problem.reason for row in found] == ["not_decodable", "not_decodable", None]
    assert found[2].values == {"t": "y", "a": "z"}


# ---- any input

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.sampled_from(["#", "\n#", "]", '"'])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "key", "#"]), inner, max_size=3)
    ),
    max_leaves=8,
)
hostile = st.text(st.sampled_from('{}[]",:#\n\r \\a1\ufeff\udcff'), max_size=30).map(
    lambda text: text.encode("utf-8", "surrogateescape")
)
readings = st.fixed_dictionaries(
    {
        "comment": st.sampled_from([None, "#", '"', "["]),
        "skip_lines": st.integers(0, 2),
        "records": st.sampled_from([None, "*", "a", "*.a", "a.*.b", "*.*"]),
    }
)


@settings(max_examples=200, derandomize=True)
@given(
    ending=st.sampled_from(["json", "jsonl"]),
    content=st.one_of(st.binary(max_size=20), hostile, st.lists(json_values.map(json.dumps)).map("\n".join)),
    reading=readings,
)
@example(ending="json", content='#\n[{"a": 1},\n#\n{}]\n#', reading={"comment": "#"})
def test_the_lines_of_any_bytes_add_up(
    tmp_path_factory: pytest.TempPathFactory, ending: str, content: str | bytes, reading: dict[str, Any]
) -> None:
    try:
        read(tmp_path_factory.mktemp("any"), f"t.{ending}", content, **reading)
    except UserError as error:
        check_one_line(error)


def check_one_line(error: UserError) -> None:
    (line,) = error.lines
    assert line.splitlines() == [line]
    assert ": " in line


@settings(max_examples=150, derandomize=True)
@given(
    rows=st.lists(json_values, max_size=5),
    breaks=st.lists(st.sampled_from(["", "\n", "\n\n", " \n# a]\n", "\n#\n#{\n"]), min_size=1, max_size=9),
)
def test_the_rows_of_any_list_are_those_of_pythons_parser(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], breaks: list[str]
) -> None:
    content = broken_up(json.dumps(rows, indent=0).split("\n"), breaks)
    found = read(tmp_path_factory.mktemp("any"), "t.json", content, comment="#")
    assert [row.values if row.problem is None else text(row) for row in found] == [shape(row) for row in rows]
    assert [row.line for row in found] == sorted(row.line for row in found)


def broken_up(parts: list[str], breaks: list[str]) -> str:
    """The parts with these between them, over and over."""
    return "".join(part + breaks[place % len(breaks)] for place, part in enumerate(parts))


def text(row: Row) -> Any:
    return json.loads(row.values["raw"])


def shape(value: Any) -> Any:
    """What a row should be, with its numbers as text."""
    if isinstance(value, list):
        return {str(place): as_read(own) for place, own in enumerate(value)}
    return as_read(value) if isinstance(value, dict) else value


def as_read(value: Any) -> Any:
    if isinstance(value, list):
        return [as_read(own) for own in value]
    if isinstance(value, dict):
        return {key: as_read(own) for key, own in value.items()}
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# ---- memory

PADDING = "x" * 1000


def written_rows(count: int) -> Iterator[str]:
    return (json.dumps({"a": number, "text": PADDING}) for number in range(count))


@pytest.mark.parametrize("records", ["train", "test", "*.*"])
def test_a_document_of_any_size_takes_the_memory_of_an_element(tmp_path: Path, records: str) -> None:
    """Also a document of one line, and a part of it that is not read. 30 MB here."""
    path = tmp_path / "t.json"
    rows = ", ".join(written_rows(15_000))
    path.write_text(f'{{"train": [{rows}], "test": [{rows}]}}')
    source = Source(path, Reading(records=None if records == "*.*" else records), [])
    if records == "*.*":
        path.write_text(f"[{rows}]")
    tracemalloc.start()
    count = sum(row.problem is None for row in READERS["json"](source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 15_000
    assert peak < 12 << 20


@pytest.mark.parametrize("start", ["[", '[{"a": 1},', "[[", "[ \r", '[["x", "y"], '])
def test_a_list_over_several_lines_is_told_to_be_none_of_rows(tmp_path: Path, start: str) -> None:
    with pytest.raises(UserError, match=r"name the file \.json"):
        read(tmp_path, "t.jsonl", f'{start}\n{{"a": 2}}\n]\n')


@pytest.mark.parametrize("start", ['["x", "y"]', "[", '["x",', '{"a": 1},'])
def test_only_the_first_line_tells_whether_a_file_is_a_list(tmp_path: Path, start: str) -> None:
    rows = read(tmp_path, "t.jsonl", f'{{"a": 1}}\n{start}\n{{"a": 2}}\n')
    assert [row.line for row in rows] == [1, 2, 3]
    assert (rows[0].problem, rows[2].problem) == (None, None)
