"""Reads each file format as rows, in bounded memory. A bad row carries its problem; a bad file stops the stage."""

import csv
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core.process import UserError
from stages.lib.core.templates import RejectedRow
from stages.lib.ingest.compressed import open_text
from stages.lib.ingest.json_lists import NoList, list_elements
from stages.lib.params.prepare import Reading

Progress = Callable[[int], object]  # gets the number of bytes of the file that were read since the last call


@dataclass(frozen=True)
class Row:
    """`line` is the line where the row ends, from 1; in parquet files and on the hub, the number of the row. `problem`
    is set if the values can't be used."""

    line: int
    values: dict[str, Any]
    problem: RejectedRow | None = None

    def characters(self) -> int:
        return _characters(self.values)


def _characters(value: Any) -> int:
    """The length of all texts in a value, at any depth."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 8


@dataclass(frozen=True)
class Source:
    """A file and how to read it. A table must have all of `columns`."""

    path: Path
    reading: Reading
    columns: Sequence[str]
    progress: Progress = field(default=lambda count: None)

    def text(self, newline: str) -> AbstractContextManager[IO[str]]:
        return open_text(self.path, self.reading.encoding, newline, self.progress)

    def check_columns(self, found: Sequence[str]) -> None:
        """Raises UserError if a column is missing, or if two have the same name."""
        if twice := sorted(name for name, count in Counter(found).items() if count > 1):
            raise UserError(f"{self.path}: column {_listed(twice)} is twice in the header; rename one")
        missing = [name for name in self.columns if name not in found and name.partition(".")[0] not in found]
        if missing:
            raise UserError(f"{self.path}: no column {_listed(missing)}; there are {_listed(found)}")


def _listed(names: Sequence[str]) -> str:
    """On one line: the first line may be no header, and contain anything."""
    return _one_line(", ".join(names))


def _read_csv(source: Source) -> Iterator[Row]:
    return _read_delimited(source, delimiter=",", strict=True)


def _read_tsv(source: Source) -> Iterator[Row]:
    # text/tab-separated-values has no quoting: a quotation mark is a character like any other
    return _read_delimited(source, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_delimited(source: Source, **dialect: Any) -> Iterator[Row]:
    # by default, Python allows only 128 KiB per field: a long document would stop the stage
    csv.field_size_limit(sys.maxsize)
    with source.text(newline="") as lines:
        records = _records(csv.reader(lines, **dialect), source.path)
        header = source.reading.columns
        if header is None:
            first = next(records, None)
            if first is None:
                raise UserError(f"{source.path}: empty file")
            if first.problem is not None:
                raise UserError(f"{source.path}: the header on line {first.line} can't be read: {first.problem.detail}")
            header = first.values["fields"]
        source.check_columns(header)
        for record in records:
            fields = record.values["fields"]
            if record.problem is not None:
                yield record
            elif len(fields) != len(header):
                detail = f"{len(fields)} fields where the header has {len(header)}"
                yield Row(record.line, record.values, RejectedRow("wrong_number_of_fields", detail))
            else:
                yield Row(record.line, dict(zip(header, fields, strict=True)))


def _records(records: Any, path: Path) -> Iterator[Row]:
    """The records of a csv.reader, also the bad ones. Blank lines are skipped.

    Raises:
        UserError: a quote is never closed, so that one field contains all the rows below it.
    """
    while True:
        start = records.line_num + 1
        try:
            fields = next(records, None)
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise UserError(f"{path}: the quote opened on line {start} is never closed") from None
            yield Row(records.line_num, {"fields": []}, RejectedRow("bad_quoting", str(error)))
            continue
        if fields is None:
            return
        if fields:
            yield Row(records.line_num, {"fields": fields}, _encoding_problem(fields))


def _read_jsonl(source: Source) -> Iterator[Row]:
    with source.text(newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _undecoded_row(number, line) or _parsed(number, line)


def _undecoded_row(number: int, line: str) -> Row | None:
    problem = _encoding_problem([line])
    return Row(number, {"text": line.rstrip("\r\n")}, problem) if problem else None


def _parsed(number: int, line: str) -> Row:
    try:
        return _checked(number, _DECODER.decode(line.strip(" \t\r\n")))
    except (ValueError, RecursionError) as error:
        return Row(number, {"text": line.rstrip("\r\n")}, RejectedRow("no_json", str(error)))


def _checked(number: int, values: Any) -> Row:
    if _is_deep(values):  # deeper values can be neither sent to another process nor written
        return Row(number, {}, RejectedRow("no_json", f"nested more than {_MAX_DEPTH} levels deep"))
    if not isinstance(values, dict):
        return Row(number, {"value": values}, RejectedRow("no_object", "a row must be a JSON object"))
    return Row(number, values)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("the same key twice in one object")
    return values


_MAX_DEPTH = 100
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)


def _read_json(source: Source) -> Iterator[Row]:
    path, records, rows = source.path, source.reading.records, 0
    with source.text(newline="") as file:
        try:
            for number, text, values in list_elements(file, records, _DECODER):
                yield _undecoded_row(number, text) or _checked(number, values)
                rows += 1
        except NoList as error:
            raise UserError(
                f"{path}: not a JSON list after row {rows}: {_one_line(error)}; for a list in an object, set "
                f"prepare.reading.records to its key; for one object per line, name the file .jsonl"
            ) from None


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]


def _read_parquet(source: Source) -> Iterator[Row]:
    try:
        with pq.ParquetFile(source.path) as file:
            source.check_columns(file.schema_arrow.names)
            read, size = 0, source.path.stat().st_size
            for batch in file.iter_batches(batch_size=256):
                yield from (Row(number, values) for number, values in enumerate(batch.to_pylist(), start=read + 1))
                read += batch.num_rows
                source.progress(size * batch.num_rows // file.metadata.num_rows)
    # OverflowError: a time outside of Python's range
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise UserError(f"{source.path}: not a readable parquet file: {_one_line(error)}") from None


def _read_text(source: Source) -> Iterator[Row]:
    with source.text(newline="" if source.reading.text_row == "file" else "\n") as lines:
        if source.reading.text_row == "file":
            content = lines.read()
            yield Row(content.count("\n") + 1, {"text": content}, _encoding_problem([content]))
            return
        for number, text in (_paragraphs if source.reading.text_row == "paragraph" else _lines)(lines):
            yield Row(number, {"text": text}, _encoding_problem([text]))


def _lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def _paragraphs(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(line of its end, text) of each paragraph. Blank lines separate paragraphs."""
    paragraph: list[str] = []
    number = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            paragraph.append(line.rstrip("\r\n"))
        elif paragraph:
            yield number - 1, "\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield number, "\n".join(paragraph)


def _read_dialog(source: Source) -> Iterator[Row]:
    """The format of bAbI's dialogues: lines `number user<TAB>bot`; a line without a tab is a fact; a blank line ends a
    dialogue."""
    messages: list[dict[str, str]] = []
    problem: RejectedRow | None = None
    number = 0
    with source.text(newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                problem = problem or _encoding_problem([line]) or _add_messages(messages, line.rstrip("\r\n"), number)
            elif messages or problem:
                yield Row(number - 1, {"messages": messages}, problem)
                messages, problem = [], None
    if messages or problem:
        yield Row(number, {"messages": messages}, problem)


def _add_messages(messages: list[dict[str, str]], line: str, number: int) -> RejectedRow | None:
    turn, space, text = line.partition(" ")
    if not (turn.isdecimal() and space):
        return RejectedRow("bad_messages", f"line {number} does not begin with the number of the turn")
    user, tab, bot = text.partition("\t")
    if not tab:
        messages.append({"role": "tool", "content": user})
    else:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": bot}]
    return None


def read_aligned(sources: dict[str, Source]) -> Iterator[Row]:
    """Line n of every file is row n, with one value per file.

    Raises:
        UserError: the files have different numbers of lines, so that lines do not match.
    """
    with ExitStack() as opened:
        # only \n ends a line: a \r or U+2028 inside a line must not shift the lines below it
        files = [opened.enter_context(source.text(newline="\n")) for source in sources.values()]
        counts = [0] * len(files)
        for number, lines in enumerate(zip_longest(*files), start=1):
            counts = [n + (line is not None) for n, line in zip(counts, lines, strict=True)]
            if None not in lines:
                texts = [line.rstrip("\r\n") for line in lines]
                yield Row(number, dict(zip(sources, texts, strict=True)), _encoding_problem(texts))
    if len(set(counts)) > 1:
        lengths = ", ".join(f"{source.path} {n:,}" for source, n in zip(sources.values(), counts, strict=True))
        raise UserError(f"aligned files must have the same number of lines: {lengths}")


_ESCAPED = re.compile("[\udc80-\udcff]")  # a byte that could not be decoded, as `surrogateescape` keeps it


def _encoding_problem(texts: Iterable[str]) -> RejectedRow | None:
    if any(not text.isascii() and _ESCAPED.search(text) for text in texts):
        return RejectedRow("not_decodable", "bytes that are invalid in the encoding of prepare.reading.encoding")
    return None


READERS: dict[str, Callable[[Source], Iterator[Row]]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "json": _read_json,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "text": _read_text,
    "dialog": _read_dialog,
}
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
}
