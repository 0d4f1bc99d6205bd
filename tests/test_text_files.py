"""Files of plain text: what a row is, which lines it has, and what is skipped."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.lib.core.process import UserError
from stages.lib.ingest.rows import Row, Source
from stages.lib.ingest.text_files import read_aligned, read_dialog, read_text
from stages.lib.params.prepare import Reading

READERS = {"text": read_text, "dialog": read_dialog}
KINDS = ["line", "paragraph", "file"]


def read(folder: Path, content: str | bytes, kind: str = "line", **reading: Any) -> tuple[list[Row], Counter[str]]:
    """`kind` is a `text_row`, or dialog."""
    path = folder / "t.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    params = reading if kind == "dialog" else {"text_row": kind, **reading}
    source = Source(path, Reading(**params), ["text"])
    return list(READERS["dialog" if kind == "dialog" else "text"](source)), source.skipped


def places(rows: list[Row]) -> list[tuple[int, int]]:
    return [(row.line, row.lines) for row in rows]


CONTENT = "one\r\n\ntwo\rb\nthree\u2028c \n \n\nfour"


@pytest.mark.parametrize(
    ("kind", "texts", "where", "skipped"),
    [
        ("line", ["one", "two\rb", "three\u2028c ", "four"], [(1, 1), (3, 1), (4, 1), (7, 1)], {"blank": 3}),
        ("paragraph", ["one", "two\rb\nthree\u2028c ", "four"], [(1, 1), (3, 2), (7, 1)], {"blank": 3}),
        ("file", [CONTENT], [(1, 7)], {}),
    ],
)
def test_rows_of_text(
    tmp_path: Path, kind: str, texts: list[str], where: list[tuple[int, int]], skipped: dict[str, int]
) -> None:
    rows, found = read(tmp_path, CONTENT, kind)
    assert [row.values["text"] for row in rows] == texts
    assert places(rows) == where
    assert found == skipped


@pytest.mark.parametrize(
    ("kind", "texts", "where"),
    [
        ("line", ["a", "b", " # c"], [(3, 1), (5, 1), (7, 1)]),
        ("paragraph", ["a\nb", " # c"], [(3, 2), (7, 1)]),
        ("file", ["a\nb\n\n # c\n"], [(3, 4)]),
    ],
)
def test_preamble_and_comments_are_no_text(
    tmp_path: Path, kind: str, texts: list[str], where: list[tuple[int, int]]
) -> None:
    rows, skipped = read(tmp_path, "title\n#\na\n# x\nb\n\n # c\n#", kind, skip_lines=2, comment="#")
    assert [row.values["text"] for row in rows] == texts
    assert places(rows) == where
    assert (skipped["preamble"], skipped["comment"]) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_cannot_be_decoded_reject_their_row(tmp_path: Path, kind: str) -> None:
    rows, _ = read(tmp_path, b"a\n\n\xe9\nb\n\nc\n", kind)
    assert [row.line for row in rows if row.problem] == [1 if kind == "file" else 3]
    assert {row.problem.reason for row in rows if row.problem} == {"not_decodable"}


@pytest.mark.parametrize(
    ("content", "encoding", "expected"),
    [
        (b"by M\xf6ller, 1999", "utf-8", r"as in M\xf6ller,; if this is Möller,, set it to cp1252"),
        (b"x" * 50 + b"\x80" + b"y" * 50, "utf-8", "if this is " + "x" * 20 + "€" + "y" * 20 + ", set it to cp1252"),
        ("Möller".encode(), "ascii", r"as in M\xc3\xb6ller; if this is Möller, set it to utf-8"),
    ],
)
def test_the_encoding_that_decodes_a_row_is_advised(
    tmp_path: Path, content: bytes, encoding: str, expected: str
) -> None:
    (row,), _ = read(tmp_path, content, "line", encoding=encoding)
    assert row.problem is not None
    assert row.problem.detail.endswith(expected)


@pytest.mark.parametrize("content", ["é ".encode() + b"M\xf6ller", b"\x81", "北京".encode()[:-1]])
def test_no_encoding_is_advised_that_can_not_be_right(tmp_path: Path, content: bytes) -> None:
    (row,), _ = read(tmp_path, content, "line")
    assert row.problem is not None
    assert "set it to" not in row.problem.detail


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_dialogs_are_the_lines_between_blank_lines(tmp_path: Path) -> None:
    content = "made by x\n\n1 hi\thello\r\n# c\n2 food cheap\n3 bye\tgood, bye\n\n \n1 a\tb"
    rows, skipped = read(tmp_path, content, "dialog", comment="#", skip_lines=1)
    assert [row.values["messages"] for row in rows] == [
        [user("hi"), bot("hello"), {"role": "tool", "content": "food cheap"}, user("bye"), bot("good, bye")],
        [user("a"), bot("b")],
    ]
    assert places(rows) == [(3, 3), (9, 1)]
    assert skipped == {"preamble": 1, "comment": 1, "blank": 3}


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        ("1 a\tb\nhello\tB\n3 c\td", "bad_messages", "line 4"),
        ("1 a\tb\n2", "bad_messages", "line 4"),
        (b"1 a\tb\n2 \xff\tB", "not_decodable", "prepare.reading.encoding"),
    ],
)
def test_a_bad_dialog_is_rejected_as_it_stands_in_the_file(
    tmp_path: Path, bad: str | bytes, reason: str, detail: str
) -> None:
    raw = bad if isinstance(bad, bytes) else bad.encode()
    rows, _ = read(tmp_path, b"1 x\ty\n\n" + raw + b"\n\n1 x\ty\n", "dialog")
    assert [row.problem is None for row in rows] == [True, False, True]
    problem = rows[1].problem
    assert problem is not None
    assert (problem.reason, detail in problem.detail) == (reason, True)
    assert rows[1].values == {"raw": raw.decode("utf-8", "surrogateescape")}
    assert places(rows)[1] == (3, raw.count(b"\n") + 1)


pieces = st.lists(st.sampled_from([b"a", b"1 ", b"\t", b"\n", b"\n\n", b"\r", b"#", b" ", b"\xff", b"\xe2\x80\xa8"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces.map(b"".join), st.sampled_from([*KINDS, "dialog"]), st.integers(0, 3))
def test_every_line_is_in_one_row_or_skipped(tmp_path: Path, content: bytes, kind: str, skip_lines: int) -> None:
    rows, skipped = read(tmp_path, content, kind, comment="#", skip_lines=skip_lines)
    lines = content.count(b"\n") + (content[-1:] not in (b"", b"\n"))
    assert sum(row.lines for row in rows) + skipped.total() == lines


def aligned(folder: Path, **contents: bytes) -> list[Row]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return list(read_aligned({name: Source(folder / name, Reading(), list(contents)) for name in contents}))


def test_line_n_of_every_file_is_row_n(tmp_path: Path) -> None:
    rows = aligned(tmp_path, en=b"a\rb\n\n\xff\nc", de=b"\xef\xbb\xbfA\r\nB\nX\nC\xe2\x80\xa8\n")
    assert [(row.line, row.lines) for row in rows] == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert [row.values for row in rows if row.problem is None] == [
        {"en": "a\rb", "de": "A"},
        {"en": "", "de": "B"},
        {"en": "c", "de": "C\u2028"},
    ]
    assert [row.problem.reason for row in rows if row.problem] == ["not_decodable"]


@pytest.mark.parametrize(("en", "de"), [(b"a\nb\n", b"A\n"), (b"", b"A"), (b"a\n\n", b"A\r")])
def test_files_of_different_lengths_stop_the_stage(tmp_path: Path, en: bytes, de: bytes) -> None:
    with pytest.raises(UserError, match="aligned files must have the same number of lines") as caught:
        aligned(tmp_path, en=en, de=de)
    assert f"{tmp_path / 'de'} 1" in str(caught.value)
