"""Files as people have them: compressed, in archives, sheets, folders; and a wrong name in the params told at once."""

import bz2
import gzip
import io
import json
import lzma
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.lib.core.process import UserError
from stages.lib.core.templates import as_text
from stages.lib.ingest.compressed import open_text
from stages.lib.ingest.readers import origins, read_rows
from stages.lib.ingest.rows import Row
from stages.lib.params.prepare import Prepare
from tests.build import section

TABLE = [{"facts": f"f{number}", "text": f"t{number}"} for number in range(3)]
JSONL = "".join(json.dumps(row) + "\n" for row in TABLE).encode()
CSV = b"facts,text\nf0,t0\nf1,t1\nf2,t2\n"


def params(train: str | dict[str, str], **overrides: Any) -> Prepare:
    usual = section(Prepare).model_dump()
    return Prepare.model_validate(usual | {"train": train, "validation": None, "test": None} | overrides)


def read(folder: Path, train: str | dict[str, str], **overrides: Any) -> list[Row]:
    prepare = params(train, **overrides)
    return [row for origin in origins(prepare, folder) for row in read_rows(origin, prepare, Counter())]


def names(folder: Path, train: str | dict[str, str], **overrides: Any) -> list[str]:
    return [origin.name for origin in origins(params(train, **overrides), folder)]


def values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    assert [row.problem for row in rows if row.problem] == []
    return [row.values for row in rows]


def parquet(rows: Sequence[Mapping[str, Any]] = TABLE) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), sink)
    return sink.getvalue()


def arrow(rows: Sequence[Mapping[str, Any]] = TABLE) -> bytes:
    sink, table = io.BytesIO(), pa.Table.from_pylist([dict(row) for row in rows])
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def sheet(*rows: Sequence[Any], **more: Sequence[Sequence[Any]]) -> bytes:
    """A workbook with a sheet of these rows, and more sheets by name."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, content in {"first": rows, **more}.items():
        page = book.create_sheet(name)
        for row in content:
            page.append(list(row))
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


XLSX = sheet(("facts", "text"), *(tuple(row.values()) for row in TABLE))


def archive(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return sink.getvalue()


def zst(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def message(folder: Path, train: str | dict[str, str], **overrides: Any) -> str:
    with pytest.raises(UserError) as error:
        read(folder, train, **overrides)
    (line,) = error.value.lines
    assert line.isprintable()
    return line


# ---- one file

ONE_FILE = {
    "t.csv.zst": zst(CSV),
    "t.jsonl.ZST": zst(JSONL),
    "t.json.zst": zst(json.dumps(TABLE).encode()),
    "parts.jsonl.zst": zst(JSONL[:20]) + zst(JSONL[20:]),
    "t.jsonl.gz": gzip.compress(JSONL),
    "t.csv.bz2": bz2.compress(CSV),
    "t.json.xz": lzma.compress(json.dumps(TABLE).encode()),
    "t.arrow": arrow(),
    "t.xlsx": XLSX,
    "T.XLSX": XLSX,
    "csv.zip": archive({"t.csv": CSV}),
    "CSV.ZIP": archive({"T.CSV": CSV}),
    "stored.zip": archive({"t.jsonl": JSONL}, zipfile.ZIP_STORED),
    "lzma.zip": archive({"t.jsonl": JSONL}, zipfile.ZIP_LZMA),
    "parquet.zip": archive({"t.parquet": parquet()}),
    "arrow.zip": archive({"t.arrow": arrow()}),
    "xlsx.zip": archive({"t.xlsx": XLSX}),
    "gz.zip": archive({"t.csv.gz": gzip.compress(CSV)}),
    "zst.zip": archive({"in/a/folder/t.jsonl.zst": zst(JSONL)}),
    "utf-16.zip": archive({"t.csv": CSV.decode().encode("utf-16")}),
    "mac.zip": archive({"t.csv": CSV, "__MACOSX/._t.csv": b"\0", ".DS_Store": b"\0"}),
}


@pytest.mark.parametrize("name", ONE_FILE)
def test_a_file_gives_the_same_rows_however_it_is_packed(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: ONE_FILE[name]})
    assert values(read(tmp_path, name)) == TABLE


@pytest.mark.parametrize("name", ["data", "t.dat", "t.csv"])
def test_the_only_file_of_an_archive_may_have_any_ending(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"t.zip": archive({name: JSONL})})
    assert values(read(tmp_path, "t.zip", reading={"format": "jsonl"})) == TABLE


@pytest.mark.parametrize("cut", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", ["t.jsonl.zst", "t.zip", "t.jsonl.gz", "t.xlsx", "t.arrow"])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, name: str, cut: float) -> None:
    content = JSONL * 500
    whole = {
        "t.jsonl.zst": zst(content),
        "t.zip": archive({"t.jsonl": content}),
        "t.jsonl.gz": gzip.compress(content),
        "t.xlsx": XLSX,
        "t.arrow": arrow(TABLE * 500),
    }[name]
    write(tmp_path, {name: whole[: int(len(whole) * cut) or 3]})
    assert message(tmp_path, name).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("name", ["t.jsonl.zst", "t.zip", "t.xlsx", "t.arrow", "t.parquet"])
@pytest.mark.parametrize("content", [b"", CSV, b"\0" * 100])
def test_a_file_of_another_format_than_its_ending_says_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path, {name: content})
    if name == "t.jsonl.zst" and not content:
        assert read(tmp_path, name) == []
    else:
        assert f"{tmp_path / name}: " in message(tmp_path, name)


@pytest.mark.parametrize("name", ["t.parquet.gz", "t.arrow.zst", "t.xlsx.bz2"])
def test_a_compressed_file_that_is_read_in_any_order_has_to_be_unpacked(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: b"any", "t.zip": archive({name: b"any"})})
    assert f"{name}: a file of this format must be read in any order; unpack the" in message(tmp_path, name)
    assert f"t.zip/{name}: a file of this format" in message(tmp_path, "t.zip")


# ---- archives

MANY = archive({"b/2.csv": CSV, "b/1.jsonl": JSONL, "a.csv.gz": gzip.compress(CSV), "b/.hidden": b"x"})


def test_each_file_of_an_archive_is_an_origin_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, {"all/t.zip": MANY, "all/z.csv": CSV})
    inner = ["all/t.zip/a.csv.gz", "all/t.zip/b/1.jsonl", "all/t.zip/b/2.csv"]
    assert names(tmp_path, "all/t.zip") == names(tmp_path, "all/*.zip") == inner
    assert names(tmp_path, "all") == [*inner, "all/z.csv"]
    assert values(read(tmp_path, "all")) == TABLE * 4


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("a.csv.gz", ["a.csv.gz"]),
        ("b", ["b/1.jsonl", "b/2.csv"]),
        ("b/", ["b/1.jsonl", "b/2.csv"]),
        ("b/*.csv", ["b/2.csv"]),
        ("*/*", ["b/1.jsonl", "b/2.csv"]),
        ("*", ["a.csv.gz"]),
    ],
)
def test_a_part_of_an_archive_can_be_named(tmp_path: Path, inside: str, expected: list[str]) -> None:
    write(tmp_path, {"t.zip": MANY})
    assert names(tmp_path, f"t.zip/{inside}") == [f"t.zip/{name}" for name in expected]


def test_the_splits_may_be_files_of_one_archive(tmp_path: Path) -> None:
    write(tmp_path, {"t.zip": archive({"train.csv": CSV, "test.csv": CSV})})
    found = origins(params("t.zip/train.csv", test="t.zip/test.csv"), tmp_path)
    assert [(origin.split, origin.name) for origin in found] == [
        ("train", "t.zip/train.csv"),
        ("test", "t.zip/test.csv"),
    ]
    assert "t.zip/test.csv: read for train and for test" in message(tmp_path, "t.zip", test="t.zip/test.csv")


def test_aligned_files_may_be_in_archives(tmp_path: Path) -> None:
    write(tmp_path, {"s.zip": archive({"s.txt": b"f0\nf1\n"}), "t.zip": archive({"x": b"", "t": b"t0\nt1\n"})})
    assert values(read(tmp_path, {"facts": "s.zip", "text": "t.zip/t"})) == TABLE[:2]
    assert "t.zip: 2 files fit" in message(tmp_path, {"facts": "s.zip", "text": "t.zip"})


BAD_ARCHIVES = [
    ({}, "t.zip", "t.zip: no file there"),
    ({"a.csv": CSV}, "t.zip/b.csv", "t.zip/b.csv: no file there"),
    ({f"{name}.csv": CSV for name in "abcd"}, "t.zip/*.tsv", "; the archive holds a.csv, b.csv, c.csv"),
    ({"a.csv": CSV, "README": b"x"}, "t.zip", "t.zip/README: unknown ending (.csv, .tsv"),
    ({"a.csv": CSV, "inner.zip": archive({"b.csv": CSV})}, "t.zip", "t.zip/inner.zip: unknown ending"),
    ({"a.csv": b"facts\nx\n"}, "t.zip", "t.zip/a.csv: no column text; there are facts"),
    ({"a.parquet": b"no"}, "t.zip", "t.zip/a.parquet: not a readable parquet file"),
    ({"a.xlsx": b"no"}, "t.zip", "t.zip/a.xlsx: not a readable xlsx file"),
    ({"a.csv.gz": b"no"}, "t.zip", "t.zip/a.csv.gz: not a valid .gz file"),
]


@pytest.mark.parametrize(("files", "train", "expected"), BAD_ARCHIVES)
def test_what_is_wrong_in_an_archive_is_named(
    tmp_path: Path, files: Mapping[str, bytes], train: str, expected: str
) -> None:
    write(tmp_path, {"t.zip": archive(files)})
    assert expected in message(tmp_path, train)


BESIDE_ROWS = [
    ({"README": b"x", "a.csv": CSV, "b.csv": CSV}, "*.csv"),
    ({"LICENSE": b"x", "parts/a.csv.gz": gzip.compress(CSV), "parts/b.csv.gz": gzip.compress(CSV)}, "parts/*.csv.gz"),
    ({"x/README": b"x", "x/a/1.CSV": CSV, "x/b/2.CSV": CSV}, "x/*/*.CSV"),
]


@pytest.mark.parametrize(("files", "in_archive"), BESIDE_ROWS)
@pytest.mark.parametrize("place", ["t.zip", "s/t.zip", "t"])
def test_the_advised_glob_leaves_out_what_is_beside_the_rows(
    tmp_path: Path, files: Mapping[str, bytes], in_archive: str, place: str
) -> None:
    is_archive = place.endswith(".zip")
    write(tmp_path, {place: archive(files)} if is_archive else {f"{place}/{name}": files[name] for name in files})
    glob = f"{place}/{in_archive if is_archive else in_archive.replace('/*/', '/**/')}"
    assert message(tmp_path, place).endswith(f", or leave it out by a glob, such as train: '{glob}'")
    assert len(read(tmp_path, glob)) == 6


def test_an_archive_beside_an_unknown_file_stays_in_the_glob(tmp_path: Path) -> None:
    write(tmp_path, {"d/a.zip": archive({"a.csv": CSV}), "d/NOTES": b"x"})
    assert "such as train: 'd/*.zip'" in message(tmp_path, "d")
    assert values(read(tmp_path, "d/*.zip")) == TABLE


NO_ANSWERS = [
    ("t.jsonl", b'{"facts": "f"}\n'),
    ("t.csv", b"facts,other\nf,o\n"),
    ("t.parquet", parquet([{"facts": "f", "text1": "t"}])),
]


@pytest.mark.parametrize(("name", "content"), NO_ANSWERS)
def test_a_test_file_without_answers_tells_how_to_say_so(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path, {"a.csv": CSV, name: content})
    assert message(tmp_path, "a.csv", test=name).endswith(
        "; prepare.target can name other columns for test: target: {train: ..., test: ...}, "
        "or {train: ..., test: null} if it has no answers"
    )
    assert "null" not in message(tmp_path, "a.csv", validation=name)
    assert message(tmp_path, "a.csv", validation=name).endswith("target: {train: ..., validation: ...}")
    assert "target:" not in message(tmp_path, name)
    target = {"train": "{text}", "test": None}
    assert len(read(tmp_path, "a.csv", test=name, target=target)) == 4


def test_a_missing_source_has_no_advice_on_targets(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": CSV, "t.csv": b"text,other\nt,o\n"})
    assert message(tmp_path, "a.csv", test="t.csv").endswith("no column facts; there are text, other")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"facts,text\nM\xf6ller,\xe9\n"),
        ("t.jsonl", b'{"facts": "M\xf6ller", "text": "\xe9"}\n'),
        ("t.csv", b'facts,text\n"M\xf6ller,\xe9\n'),
    ],
)
def test_bytes_of_a_bad_row_are_shown_as_numbers(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path, {name: content})
    (row,) = read(tmp_path, name)
    assert row.problem is not None
    assert "M\\xf6ller" in row.values["raw"]
    assert r"\xe9" in row.values["raw"]
    row.values["raw"].encode()


def test_an_archive_with_a_password_is_named(tmp_path: Path) -> None:
    content = bytearray(archive({"a.csv": CSV}))
    content[6] |= 1  # the flag of encryption, before the file and in the directory
    content[content.index(b"PK\1\2") + 8] |= 1
    write(tmp_path, {"t.zip": bytes(content)})
    assert "t.zip/a.csv: needs a password; unpack the archive" in message(tmp_path, "t.zip")


def test_a_damaged_file_in_an_archive_is_named(tmp_path: Path) -> None:
    content = archive({"a.csv": CSV}, zipfile.ZIP_STORED).replace(b"f1,t1", b"f1,tX", 1)
    write(tmp_path, {"t.zip": content})
    assert "t.zip/a.csv: can't be unpacked: Bad CRC-32" in message(tmp_path, "t.zip")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as opened:
        opened.writestr("a.csv", CSV)
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("a.csv", CSV)
    assert "t.zip: two files in it have the same name" in message(tmp_path, "t.zip")


def test_an_archive_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    for name in ("a.csv", "longer.csv"):
        write(tmp_path, {"t.zip": archive({name: CSV})})
        assert names(tmp_path, "t.zip") == [f"t.zip/{name}"]


@pytest.mark.parametrize("name", ["t.zip/t.txt", "t.txt.zst"])
def test_a_packed_file_of_any_size_takes_little_memory(tmp_path: Path, name: str) -> None:
    line = b"a line of a text\n"
    content = line * 3_000_000  # 51 MB
    write(tmp_path, {"t.zip": archive({"t.txt": content}), "t.txt.zst": zst(content)})
    del content
    path, _, member = name.partition("/")
    tracemalloc.start()
    with open_text(tmp_path / path, "utf-8", "\n", lambda count: None, member or None) as lines:
        assert sum(1 for _ in lines) == 3_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("name", ["../a.jsonl", "../../data/a.jsonl", "./a.jsonl", "/a.jsonl"])
def test_a_member_outside_of_its_archive_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"d.zip": archive({name: JSONL, "b.jsonl": JSONL})})
    assert values(read(tmp_path, "d.zip")) == TABLE * 2


@pytest.mark.parametrize("name", ["/a.jsonl", "../a.jsonl", "a/b.jsonl"])
def test_a_broken_member_is_named_with_its_archive(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"d.zip": archive({name: JSONL.decode().encode("utf-16-le")})})
    with pytest.raises(UserError, match=r"/d\.zip/.*every other byte is zero"):
        read(tmp_path, "d.zip")


def test_only_the_rows_of_a_data_set_that_datasets_saved_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"d/data-00000-of-00001.arrow": arrow(), "d/cache-0a.arrow": arrow(), "d/state.json": b"{}"})
    write(tmp_path, {"d/dataset_info.json": b"{}"})
    assert names(tmp_path, "d") == ["d/data-00000-of-00001.arrow"]
    write(tmp_path, {"other/state.json": b"[]", "other/cache-0a.arrow": arrow(), "all/dataset_dict.json": b"{}"})
    assert names(tmp_path, "other") == ["other/cache-0a.arrow", "other/state.json"]
    with pytest.raises(UserError, match="such as all/train"):
        names(tmp_path, "all")


# ---- sheets


def read_sheet(folder: Path, content: bytes, **reading: Any) -> list[Row]:
    write(folder, {"t.xlsx": content})
    return read(folder, "t.xlsx", reading=reading)


def test_values_are_as_the_sheet_shows_them(tmp_path: Path) -> None:
    shown = {
        "whole": (5, "5"),
        "fraction": (0.1, "0.1"),
        "sum": (1 / 3, "0.3333333333333333"),
        "truth": (True, "true"),
        "day": (date(2024, 1, 6), "2024-01-06"),
        "moment": (datetime(2024, 1, 6, 12, 30), "2024-01-06T12:30:00"),
        "midnight": (datetime(2024, 1, 6), "2024-01-06T00:00:00"),
        "time": (time(7, 5), "07:05:00"),
        "span": (timedelta(hours=30, minutes=5), "30:05:00"),
        "digits": ("007", "007"),
        "lines": ("a\nb", "a\nb"),
        "return": ("a_x000D_\nb", "a\r\nb"),
    }
    cells = [value for value, _ in shown.values()]
    (found,) = values(read_sheet(tmp_path, sheet(["facts", "text", *shown], ["f", "t", *cells])))
    assert {name: as_text(name, found[name]) for name in shown} == {name: text for name, (_, text) in shown.items()}


def test_empty_cells_are_null_and_empty_rows_are_none(tmp_path: Path) -> None:
    content = sheet(["facts", "text", None], ["f0"], [], [None, None, None], ["f1", "t1", None], ["", "t2"])
    found = read_sheet(tmp_path, content)
    assert values(found) == [
        {"facts": "f0", "text": None},
        {"facts": "f1", "text": "t1"},
        {"facts": None, "text": "t2"},
    ]
    assert [row.line for row in found] == [2, 5, 6]


def test_the_rows_of_a_sheet_add_up(tmp_path: Path) -> None:
    rows = [["T"], ["# a"], ["facts", "text"], [], ["f0", "t0"], ["# b"], ["facts", "text"], ["f", "t", "more"]]
    write(tmp_path, {"t.xlsx": sheet(*rows)})
    prepare = params("t.xlsx", reading={"skip_lines": 1, "comment": "#"})
    skipped: Counter[str] = Counter()
    found = list(read_rows(origins(prepare, tmp_path)[0], prepare, skipped))
    assert skipped == {"preamble": 1, "comment": 2, "header": 1, "blank": 1}
    assert [row.problem and row.problem.reason for row in found] == [None, "repeated_header", "wrong_number_of_fields"]
    assert [row.values.get("raw") for row in found] == [None, "facts\ttext", "f\tt\tmore"]
    assert sum(row.lines for row in found) + skipped.total() == len(rows)


def test_errors_of_a_sheet_are_no_values(tmp_path: Path) -> None:
    content = sheet(["facts", "text"], ["f", "#N/A"], ["f", "#DIV/0!"])
    assert [row["text"] for row in values(read_sheet(tmp_path, content))] == [None, None]


def test_a_sheet_can_be_named_and_a_column_too(tmp_path: Path) -> None:
    content = sheet(["other"], data=[["f0", "t0"], ["f1", "t1"]])
    assert values(read_sheet(tmp_path, content, records="data", columns=["facts", "text"])) == TABLE[:2]
    assert "t.xlsx: no column facts, text; there are other" in message(tmp_path, "t.xlsx")
    assert "no sheet `dta`; prepare.reading.records can be first, data" in message(
        tmp_path, "t.xlsx", reading={"records": "dta"}
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "t.xlsx: empty sheet"),
        ([[]], "t.xlsx: empty sheet"),
        ([["facts", "text", "text"]], "t.xlsx: column text is twice"),
        ([["facts", None]], "t.xlsx: no column text; there are facts"),
        ([[None, "facts", None, "text"], ["x", "f", "y", "t"]], ""),
    ],
)
def test_a_header_is_checked(tmp_path: Path, rows: Sequence[Sequence[Any]], expected: str) -> None:
    write(tmp_path, {"t.xlsx": sheet(*rows)})
    if expected:
        assert expected in message(tmp_path, "t.xlsx")
    else:
        assert values(read(tmp_path, "t.xlsx")) == [{"0": "x", "facts": "f", "2": "y", "text": "t"}]


# ---- names in the params


def lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("source", "rows", "expected"),
    [
        ("{a}", [{"text": "t", " a": "x", "b\t": "y"}], "no field a in its only row; there are text, ' a', 'b '"),
        ("{question}", TABLE, "no field question in its first 3 rows; there are facts, text"),
        ("{question}", TABLE[:1], "no field question in its only row; there are facts, text"),
        ("{a.b}", TABLE * 50, "no field a.b in its first 100 rows; there are facts, text"),
        ("{a.*.b} {c}", TABLE, "no field a.*.b, c in its first 3 rows"),
        ("{question}", [*TABLE * 40, {"question": "q", "text": "t"}], "no field question in its first 100 rows"),
    ],
)
def test_a_wrong_name_is_told_before_all_rows_are_read(
    tmp_path: Path, source: str, rows: Sequence[Mapping[str, Any]], expected: str
) -> None:
    write(tmp_path, {"t.jsonl": lines(rows), "t.json": json.dumps(rows).encode()})
    for name in ("t.jsonl", "t.json"):
        assert f"{tmp_path / name}: {expected}" in message(tmp_path, name, source=source)


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("{a}", {"text": "t", "a": None}),
        ("{a.b}", {"text": "t", "a": {}}),
        ("{a.b}", {"text": "t", "a.b": "x"}),
        ("{a?}", {"text": "t"}),
        ("{a}", {"text": "t", "b": 1}),
    ],
)
def test_a_field_that_some_of_the_first_rows_have_is_no_mistake(
    tmp_path: Path, source: str, first: dict[str, Any]
) -> None:
    rows: list[dict[str, Any]] = [first] * 99 + [{"a": "x", "text": "t"}]
    write(tmp_path, {"t.jsonl": lines(rows)})
    assert len(read(tmp_path, "t.jsonl", source=source)) == 100


def test_a_file_without_a_usable_row_has_no_wrong_name(tmp_path: Path) -> None:
    write(tmp_path, {"t.jsonl": b"{broken\n" * 200, "empty.jsonl": b""})
    assert len(read(tmp_path, "t.jsonl")) == 200
    assert read(tmp_path, "empty.jsonl") == []


def test_text_has_one_field(tmp_path: Path) -> None:
    write(tmp_path, {"t.txt": b"a\nb\n"})
    assert "t.txt: no field facts in its first 2 rows; there are text" in message(tmp_path, "t.txt")


@pytest.mark.parametrize("name", ["t.xls", "t.zip.part", "t", "t.pdf"])
def test_an_unknown_ending_is_named_with_the_known_ones(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: b""})
    found = message(tmp_path, name)
    assert found.startswith(f"{tmp_path / name}: unknown ending")
    assert all(ending in found for ending in (".xlsx", ".arrow", ".zst", ".zip", "prepare.reading.format"))


def test_messages_of_their_own_become_conversations(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "1", "parent": None, "role": "user", "text": "hi"},
        {"id": "2", "parent": "1", "role": "assistant", "text": "hello"},
    ]
    write(tmp_path, {"t.jsonl": lines(rows)})
    thread = {"id": "id", "parent": "parent", "role": "role", "text": "text"}
    chat = {"source": None, "target": None, "messages": "messages", "group_references": False}
    (row,) = read(tmp_path, "t.jsonl", reading={"thread": thread}, **chat)
    assert [message["content"] for message in row.values["messages"]] == ["hi", "hello"]
    wrong = {**thread, "parent": "answers"}
    assert "no field answers in its first 2 rows" in message(tmp_path, "t.jsonl", reading={"thread": wrong}, **chat)
