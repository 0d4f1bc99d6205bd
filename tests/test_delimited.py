"""Csv and tsv as people have them: stray quotes, texts of several lines, odd line ends, other delimiters."""

import csv
import io
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from stages.lib.core.process import UserError
from stages.lib.ingest.delimited import read_csv, read_tsv
from stages.lib.ingest.rows import Row, Source
from stages.lib.params.prepare import Reading

READERS = {"csv": read_csv, "tsv": read_tsv}
Values = list[tuple[str, ...]]


def read(content: str | bytes, ending: str = "csv", needed: tuple[str, ...] = (), **reading: Any) -> list[Row]:
    return read_all(content, ending, needed, **reading)[0]


def read_all(
    content: str | bytes, ending: str = "csv", needed: tuple[str, ...] = (), **reading: Any
) -> tuple[list[Row], Counter[str]]:
    """The rows, and what was skipped. Fails if a line is in two rows, or in none and not skipped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.{ending}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        source = Source(path, Reading(**reading), needed)
        rows = list(READERS[ending](source))
    assert all(row.lines > 0 for row in rows)
    assert all(one.line + one.lines <= other.line for one, other in pairwise(rows))
    return rows, source.skipped


def kept(rows: list[Row]) -> Values:
    return [tuple(row.values.values()) for row in rows if row.problem is None]


def rejected(rows: list[Row]) -> list[tuple[int, str, str]]:
    return [(row.line, row.problem.reason, row.values["raw"]) for row in rows if row.problem is not None]


def written(rows: Sequence[tuple[str, ...]], header: tuple[str, ...], **layout: Any) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, **{"lineterminator": "\n", **layout}).writerows([header, *rows])
    return file.getvalue()


def table(lines: list[str], header: str = "q,a") -> str:
    return "\n".join([header, *lines]) + "\n"


PLAIN = [f"question {number},answer {number}" for number in range(2000)]
PLAIN_ROWS = [(f"question {number}", f"answer {number}") for number in range(2000)]


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (100, 'question 100,"answer 100'),
        (100, '"question 100,answer 100'),
        (0, 'question 0,"answer 0'),
        (1999, 'question 1999,"answer 1999'),
        (1000, 'question 1000,"an ""answer"", or two'),
        (1000, 'question 1000,"answer" 1000'),
        (1000, '"question 1000,"answer 1000'),
        (1000, 'question 1000,"answer 1000\r'),
    ],
)
def test_a_stray_quote_costs_its_own_row_only(number: int, line: str) -> None:
    rows = read(table([*PLAIN[:number], line, *PLAIN[number + 1 :]]))
    assert rejected(rows) == [(number + 2, "bad_quoting", line.rstrip("\r"))]
    assert kept(rows) == PLAIN_ROWS[:number] + PLAIN_ROWS[number + 1 :]


@pytest.mark.parametrize("distance", [1, 3, 30, 800])
@pytest.mark.parametrize("quoted", ['"question, 900",answer 900', 'question 900,"answer ""900"""', '"question 900",""'])
def test_a_stray_quote_above_a_quoted_row(quoted: str, distance: int) -> None:
    lines = list(PLAIN)
    lines[900 - distance] = lines[900 - distance].replace(",", ',"')
    lines[900] = quoted
    rows = read(table(lines))
    assert [line for line, *_ in rejected(rows)] == [902 - distance]
    assert len(kept(rows)) == 1999
    assert kept(rows)[899] == tuple(next(csv.reader([quoted])))


def test_quotes_in_unquoted_fields_are_text() -> None:
    assert kept(read('q,a\nb "x",5" B\nTV 32",5\'11"\n')) == [('b "x"', '5" B'), ('TV 32"', "5'11\"")]


def numbered(number: int) -> tuple[str, ...]:
    return str(number), f"Some text of row {number}"


def labelled(number: int) -> tuple[str, ...]:
    return f"a sentence that somebody wrote: number {number} of many", str(number % 2)


def triples(number: int) -> tuple[str, ...]:
    return f"en-{number}", "What is it?" if number % 3 else "who?", f"It's {number} things"


@pytest.mark.parametrize("row", [numbered, labelled, triples])
@pytest.mark.parametrize("distance", [2, 5, 20, 150])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_two_stray_quotes_swallow_no_rows(row: Any, distance: int, delimiter: str) -> None:
    """The first opens a field, the second closes one."""
    rows = [row(number) for number in range(300)]
    for column in range(len(rows[0])):
        lines = [list(fields) for fields in rows]
        lines[100][column] = '"' + lines[100][column]
        lines[100 + distance][column] += '"'
        content = table([delimiter.join(fields) for fields in lines], delimiter.join("abc"[: len(rows[0])]))
        found = read(content, delimiter=delimiter)
        assert rejected(found) == [(102, "bad_quoting", delimiter.join(lines[100]))]
        assert kept(found) == [tuple(fields) for fields in lines[:100] + lines[101:]]


@pytest.mark.parametrize("line", ['"row 300', '"row 300 "of" many', '"row" 300'])
def test_a_stray_quote_in_a_file_of_one_column(line: str) -> None:
    lines = [f"row {number}" for number in range(600)]
    rows = read(table([*lines[:300], line, *lines[301:]], "text"))
    assert rejected(rows) == [(302, "bad_quoting", line)]
    assert kept(rows) == [(own,) for own in lines[:300] + lines[301:]]


@pytest.mark.parametrize("column", [0, 1])
def test_a_wrong_number_of_fields_from_stray_quotes_costs_one_row(column: int) -> None:
    """Both quotes are in other columns, so that the record between them has too few fields, or too many."""
    lines = [",".join(numbered(number)) for number in range(50)]
    lines[20] = lines[20].replace(",", ',"') if column else '"' + lines[20]
    lines[25] = lines[25].replace(",", '",') if column else lines[25] + '"'
    rows = read(table(lines))
    assert [line for line, *_ in rejected(rows)] == [22]
    assert len(kept(rows)) == 49


POEM = "Roses are red, my love,\nViolets, blue.\nSugar is sweet, they say,\nAnd, so, are you."
MULTI_LINE = {
    "poem": POEM,
    "dialogue": "Anna: Hi, Ben\nBen: Hello, you\nAnna: Lunch, then?\nBen: Sure, at one",
    "letter": "Dear Ben,\n\nthanks, that helps.\n\nYours,\nAnna",
    "code": "def f(a, b):\n    return a, b\n\nprint(f(1, 2))\nx, y = f(3, 4)",
    "escaped quotes": 'He said "no", twice.\nShe said "yes", once.\n"Well", said I, "so be it"',
    "a table of its own": "1,2\n3,4\n5,6\n7,8",
    "only line ends": "\n\n\n",
    "begins with a line end": "\nb, c\nd, e",
    "begins with a delimiter": ",b\nc, d\n,e",
    "ends with a line end": "a, b\nc, d\n",
}


@pytest.mark.parametrize("text", MULTI_LINE.values(), ids=MULTI_LINE)
@pytest.mark.parametrize("layout", [{}, {"lineterminator": "\r\n"}, {"quoting": csv.QUOTE_ALL}, {"delimiter": ";"}])
def test_texts_of_several_lines_are_kept(text: str, layout: dict[str, Any]) -> None:
    """Between rows of one line, as a source, as a target, and many times."""
    single = [(f"question {number}", f"Answer {number}") for number in range(40)]
    rows = single[:20] + [("question", text)] * 3 + [(text, "Answer")] + [(text, text)] + single[20:]
    found = read(written(rows, ("q", "a"), **layout), delimiter=layout.get("delimiter"))
    assert rejected(found) == []
    assert kept(found) == rows
    assert found[20].lines == 1 + text.count("\n")


@pytest.mark.parametrize("lines", [200, 201, 1000])
def test_max_record_lines_is_the_number_of_lines_that_a_record_may_have(lines: int) -> None:
    text = "\n".join(f"line {number}, of many" for number in range(lines))
    content = written([*PLAIN_ROWS[:20], ("long", text), *PLAIN_ROWS[20:40]], ("q", "a"))
    rows = read(content, max_record_ratio=10**6)
    assert kept(rows) == PLAIN_ROWS[:20] + ([("long", text)] if lines == 200 else []) + PLAIN_ROWS[20:40]
    assert all(row.lines <= 200 for row in rows)
    raised = read(content, max_record_lines=lines, max_record_ratio=10**6)
    assert kept(raised) == [*PLAIN_ROWS[:20], ("long", text), *PLAIN_ROWS[20:40]]


@pytest.mark.parametrize("ratio", [5, 20, 50])
def test_max_record_ratio_is_how_much_longer_than_usual_a_record_of_several_lines_may_be(ratio: int) -> None:
    line = "x" * len(PLAIN[10]) + "\n"
    texts = [line * (ratio - 1), line * (ratio + 1)]
    rows = [*PLAIN_ROWS[10:40], *(("b", text) for text in texts), ("c", "x" * 10_000)]
    found = read(written(rows, ("q", "a")), max_record_ratio=ratio)
    assert kept(found) == [*rows[:31], rows[-1]]
    assert "prepare.reading.max_record_ratio" in str([row.problem.detail for row in found if row.problem])


@pytest.mark.parametrize(
    "lines",
    [
        ['1,"He said "hi" to', 'me, ok"'],
        ['1,"first', 'he said "no, never" then, and', 'the end, at last"'],
        ['"12,"first', "second, line", 'third, line"'],
        ['1,"first, line', "second, line", 'third" and, more'],
    ],
)
def test_no_line_of_a_faulty_record_is_taken_for_a_row(lines: list[str]) -> None:
    good = [",".join(numbered(number)) for number in range(20)]
    rows = read(table([*good[:10], *lines, *good[10:]]))
    assert kept(rows) == [numbered(number) for number in range(20)]
    assert "\n".join(raw for *_, raw in rejected(rows)) == "\n".join(lines)


def test_a_record_of_several_lines_with_a_wrong_number_of_fields_is_rejected_as_a_whole() -> None:
    rows = read(table(["a,b", '"a\nb","B\n\nB",c', '"only\none"', "c,C"]))
    assert kept(rows) == [("a", "b"), ("c", "C")]
    assert [(line, reason) for line, reason, _ in rejected(rows)] == [
        (3, "wrong_number_of_fields"),
        (7, "wrong_number_of_fields"),
    ]
    assert rejected(rows)[0][2] == '"a\nb","B\n\nB",c'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('q,a\nb,"B\rB"\nc,C\n', [("b", "B\rB"), ("c", "C")]),
        ("q,a\r\nb,B\r\nc,C", [("b", "B"), ("c", "C")]),
        ("q,a\r\r\nb,B\r\r\n", [("b", "B")]),
        ('q,a\r\n"b\r\nb",B\r\n', [("b\r\nb", "B")]),
        ("q,a\rb,B\rc,C", [("b", "B"), ("c", "C")]),
        ('q,a\rb,"B\rB"\r', [("b", "B\rB")]),
        ("q,a\nb\u2028b,B\x0c\x85\n", [("b\u2028b", "B\x0c\x85")]),
    ],
)
def test_line_ends(content: str, expected: Values) -> None:
    rows = read(content)
    assert rejected(rows) == []
    assert kept(rows) == expected


@pytest.mark.parametrize("line", ["b,B\rc,C", "b\r,B", '"b\r",B\rB', 'b,"B"\rC'])
@pytest.mark.parametrize("quoted", [None, False])
def test_a_carriage_return_outside_of_quotes_rejects_the_row(line: str, quoted: bool | None) -> None:
    rows = read(f"q,a\na,A\n{line}\nd,D\n", quoted=quoted)
    assert rejected(rows) == [(3, "bad_quoting", line)]
    assert kept(rows) == [("a", "A"), ("d", "D")]


@pytest.mark.parametrize("delimiter", [";", "|", "^", "\x1f", " ", "€"])
def test_any_character_is_a_delimiter(delimiter: str) -> None:
    content = f'q{delimiter}a\n1,5{delimiter}"x{delimiter}y"\n'
    assert kept(read(content, delimiter=delimiter)) == [("1,5", f"x{delimiter}y")]
    assert kept(read(content, "tsv", delimiter=delimiter, quoted=True)) == [("1,5", f"x{delimiter}y")]


@pytest.mark.parametrize(
    ("ending", "content", "quoted", "expected"),
    [
        ("tsv", 'q\ta\n"b\t"B" b\n', None, [('"b', '"B" b')]),
        ("tsv", 'q\ta\n"b\tb"\t"say ""B"""\n', True, [("b\tb", 'say "B"')]),
        ("tsv", 'q\ta\n"b\nb"\tB\n', True, [("b\nb", "B")]),
        ("csv", 'q,a\n"b,"B"\n', False, [('"b', '"B"')]),
        ("csv", 'q,a\n"b,b"\n""c,C\n', False, [('"b', 'b"'), ('""c', "C")]),
    ],
)
def test_quoted_says_whether_a_quotation_mark_is_text(
    ending: str, content: str, quoted: bool | None, expected: Values
) -> None:
    assert kept(read(content, ending, quoted=quoted)) == expected


def test_lines_that_are_no_rows_are_counted() -> None:
    content = 'made by x\n"on 1"\n# c\n\nq,a\n# b,B\nb,B\n\r\n#c\n"d\n# D\n\nd",D\n# last, one'
    rows, skipped = read_all(content, skip_lines=2, comment="#")
    assert kept(rows) == [("b", "B"), ("d\n# D\n\nd", "D")]
    assert [(row.line, row.lines) for row in rows] == [(7, 1), (10, 4)]
    assert skipped == {"preamble": 2, "comment": 4, "blank": 2, "header": 1}


def test_without_params_a_line_that_looks_like_a_comment_is_a_row() -> None:
    assert kept(read("q,a\n# b,B\n")) == [("# b", "B")]


@pytest.mark.parametrize("field", ['"""b"""', '"b ""c"""', '"say ""b"" and ""c"" now"', '"b\'s ""c"" d"', '"""b"" c"'])
def test_a_field_of_a_tsv_that_only_a_writer_that_quotes_can_have_written_is_not_misread(field: str) -> None:
    content = f"q\ta\nx\ty\n{field}\ty\nx\t{field}\n"
    rows = read(content, "tsv")
    assert kept(rows) == [("x", "y")]
    assert [row.problem and "prepare.reading.quoted" in row.problem.detail for row in rows] == [None, True, True]
    assert kept(read(content, "tsv", quoted=False)) == [("x", "y"), (field, "y"), ("x", field)]
    (text,) = next(csv.reader([field]))
    assert kept(read(content, "tsv", quoted=True)) == [("x", "y"), (text, "y"), ("x", text)]


@pytest.mark.parametrize("field", ['"b', 'b"', '"b"', '""', '"b" and "c"', '""b""', '5" or 6""', '"b" ""c"'])
def test_other_quotes_in_a_tsv_are_characters(field: str) -> None:
    assert kept(read(f"q\ta\n{field}\t{field}\n", "tsv")) == [(field, field)]


@pytest.mark.parametrize(
    ("header", "names"),
    [(",text,label", ["0", "text", "label"]), ("a,,", ["a", "1", "2"]), ('id,"",c', ["id", "1", "c"])],
)
def test_columns_without_a_name_have_their_place(header: str, names: list[str]) -> None:
    assert list(read(f"{header}\n1,2,3\n", needed=tuple(names))[0].values) == names


def test_columns_named_in_params_make_the_first_line_a_row() -> None:
    rows, skipped = read_all("b,B\nc,C\n", needed=("q",), columns=["q", "a"])
    assert [row.values for row in rows] == [{"q": "b", "a": "B"}, {"q": "c", "a": "C"}]
    assert not skipped


@pytest.mark.parametrize("header", ["q,a", '"q","a"', ",a", "\ufeffq,a"])
def test_a_repeated_header_is_no_row(header: str) -> None:
    part = f"{header}\nb,B\n"
    rows = read(part + part.removeprefix("\ufeff") + part + "q,A\nq,a,\n")
    assert [(line, reason) for line, reason, _ in rejected(rows)] == [
        (3, "repeated_header"),
        (5, "repeated_header"),
        (8, "wrong_number_of_fields"),
    ]
    assert kept(rows) == [("b", "B"), ("b", "B"), ("b", "B"), ("q", "A")]


def stop(content: str | bytes, ending: str = "csv", **reading: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(content, ending, ("q", "a"), **reading)
    assert len(caught.value.lines) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("ending", "content", "advice"),
    [
        ("csv", "q;a\n1,5;2\n", "t.csv: one column only; if ; divides the columns, set prepare.reading.delimiter: ';'"),
        ("csv", "q|a\nb|B, b\n", "if | divides the columns, set prepare.reading.delimiter: '|'"),
        ("csv", "# c\n\nq\ta\nb\tB\n", 'if \\t divides the columns, set prepare.reading.delimiter: "\\t"'),
        ("csv", '"q";"a"\n"b;b";"B\nB"\n', "set prepare.reading.delimiter: ';'"),
        ("tsv", "q,a\nb,B\n", "set prepare.reading.delimiter: ','"),
    ],
)
def test_another_delimiter_is_advised(ending: str, content: str, advice: str) -> None:
    assert advice in stop(content, ending, comment="#")


@pytest.mark.parametrize("content", ["question\nb;B\n", "q;a\nb;B;c\n", "q;a,b\n1;2,3\n"])
def test_no_delimiter_is_advised_where_none_fits(content: str) -> None:
    assert "delimiter" not in stop(content)


def test_no_delimiter_is_advised_where_one_is_set_or_the_column_is_found() -> None:
    assert "delimiter" not in stop("q;a\nb;B\n", delimiter="|")
    assert kept(read("q;a\nb;B\n", needed=("q;a",))) == [("b;B",)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty file"),
        ("\n# only comments\n\r\n", "empty file"),
        ("q,b,b\n", "column b is twice in the header"),
        ("q,,0,1\n", "column 1 is twice in the header"),
        ("\n\nq,b\n", "no column a"),
        ('# c\n"q" x,a\n', "the header on line 2 can't be read: ',' expected after"),
        ('"q,a\nb,B\n', "the header on line 1 can't be read: a quote that is never closed"),
        (b"q,a,\xe9\n", "the header on line 1 can't be read: bytes that are invalid"),
        ("Export of 2024\n\nq,a\nb,B\n", "t.csv: the columns are on line 3; set prepare.reading.skip_lines: 2"),
        ("x,,\n\n# c\nby me\nq,a,b\n", "the columns are on line 5; set prepare.reading.skip_lines: 4"),
        ('Export, "2024"\n"q","a"\n', "the columns are on line 2; set prepare.reading.skip_lines: 1"),
        ("Export\n" * 20, "no column q, a; there are Export; if it is no header, set prepare.reading.skip_lines"),
        ("Export\rof\n" * 2 + "q;a\n", "if it is no header, set prepare.reading.skip_lines"),
        (" q,a ,b\n", "no column q, a; there are ' q', 'a ', b"),
    ],
)
def test_a_header_that_cannot_be_used_stops_the_stage(content: str | bytes, message: str) -> None:
    assert message in stop(content, comment="#")


def test_bytes_that_cannot_be_decoded_reject_their_row() -> None:
    rows = read(b'q,a\nb,B\nc,\xe9\n"d\n\xe9",D\ne,E\n')
    assert [(line, reason) for line, reason, _ in rejected(rows)] == [(3, "not_decodable"), (4, "not_decodable")]
    assert kept(rows) == [("b", "B"), ("e", "E")]


PIECES = [
    b"a",
    b'"',
    b'""',
    b"\n",
    b"\r",
    b"\r\n",
    b",",
    b"\t",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"#",
    "é\u2028".encode(),
    b'a,"b\n',
]


@given(
    st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join),
    st.sampled_from(["csv", "tsv"]),
    st.sampled_from([None, True, False]),
    st.sampled_from(["utf-8", "latin-1", "utf-16"]),
    st.integers(1, 4),
)
@example(b'"a\n"b\nc,d\n"', "csv", None, "utf-8", 1)
@example(b'"\r\n\r"\r', "tsv", True, "utf-16", 2)
def test_every_line_is_in_one_row_or_skipped(
    content: bytes, ending: str, quoted: bool | None, encoding: str, most_lines: int
) -> None:
    content = b"a" + content  # two NULs behind the mark of UTF-16 would make it one of UTF-32
    assume(content.count(0) < len(content) / 4)  # a file of zeros is refused, as it looks like UTF-16
    if encoding == "utf-16":
        content = content.decode("latin-1").encode("utf-16")
    text = content.decode(encoding, "surrogateescape").removeprefix("\ufeff")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # as on old Macs
    params: dict[str, Any] = {"columns": ["q", "a"], "comment": "#", "skip_lines": 1}
    rows, skipped = read_all(content, ending, encoding=encoding, quoted=quoted, max_record_lines=most_lines, **params)
    assert sum(row.lines for row in rows) + skipped.total() == text.count("\n") + (text[-1:] not in ("", "\n"))
    assert all(row.lines <= most_lines for row in rows)
    raw = "".join(row.values["raw"] for row in rows if row.problem)
    assert len(raw) <= len(text)


texts = st.text("ab ,;\"\n\r'\u2028é\0", max_size=12)
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"quoting": csv.QUOTE_ALL},
    {"quoting": csv.QUOTE_ALL, "lineterminator": "\r\n"},
    {"quoting": csv.QUOTE_ALL, "delimiter": ";"},
]


def has_lines_like_rows(rows: Values, delimiter: str) -> bool:
    """Whether a record has two lines or more, behind its first one, that could be rows of the file."""
    behind = (delimiter.join(row).split("\n")[1:] for row in rows)
    return any(sum(delimiter in line for line in lines) >= 2 for lines in behind)


@given(st.lists(st.tuples(texts, texts), max_size=12), st.sampled_from(LAYOUTS[1:]))
def test_what_the_csv_module_writes_is_read_back(rows: Values, layout: dict[str, Any]) -> None:
    delimiter = layout.get("delimiter", ",")
    assume(not has_lines_like_rows(rows, delimiter))
    found = read(written(rows, ("source", "target"), **layout), delimiter=delimiter)
    assert rejected(found) == []
    assert kept(found) == rows


words = st.text("abcd ", min_size=1, max_size=8)
one_line = st.tuples(words, words)
several_lines = st.tuples(words, st.lists(st.text('ab, "', max_size=8), max_size=4).map("\n".join))


@given(st.lists(one_line | several_lines, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_stray_quotes_cost_their_own_rows_only(rows: Values, chance: random.Random) -> None:
    """One to three quotes at the start of fields. Two things are left out: a stray quote in a row of several lines, of
    which some may be taken for rows; and texts that begin with a delimiter, which make their quote a closing one."""
    assume(not has_lines_like_rows(rows, ","))
    rows = [row for row in rows if row[1].strip("\r\n") and row[1][0] not in ',\n"']
    plain = [number for number, row in enumerate(rows) if not set('",\n') & set(row[1])]
    struck = chance.sample(plain, min(len(plain), chance.randint(1, 3)))
    lines = [written([row], ("x",)).removeprefix("x\n") for row in rows]
    for number in struck:
        lines[number] = chance.choice([f'"{lines[number]}', lines[number].replace(",", ',"')])
    assert kept(read("source,target\n" + "".join(lines))) == [row for n, row in enumerate(rows) if n not in struck]


@pytest.mark.parametrize("seed", range(3))
def test_few_texts_of_several_lines_are_lost_when_their_first_line_has_a_stray_quote(seed: int) -> None:
    """Prose with a comma in every second line."""
    chance = random.Random(seed)
    prose = [
        ("\n".join(f"Some words{chance.choice([',', ''])} and more {n}" for n in range(6)), "x") for _ in range(50)
    ]
    rows = [numbered(number) for number in range(50)] + [(text, label) for text, label in prose]
    chance.shuffle(rows)
    lines = [written([row], ("x",)).removeprefix("x\n") for row in rows]
    struck = chance.sample([number for number, row in enumerate(rows) if "\n" in row[0]], 5)
    for number in struck:
        lines[number] = lines[number].replace("Some ", 'Some "', 1)
    assert kept(read("q,a\n" + "".join(lines))) == [row for n, row in enumerate(rows) if n not in struck]
