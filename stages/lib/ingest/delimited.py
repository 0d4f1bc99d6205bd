"""Reads csv and tsv, with any delimiter. A stray quotation mark costs the row that it is in, not the rows below it.

A fault of the quotes rejects the first line of its record. Reading goes on with the line behind it. Faults are:

- a record that breaks the rules of csv, or a quote that is never closed;
- a record of more lines than `reading.max_record_lines`;
- a record of several lines that is more than `reading.max_record_ratio` times as long as the usual row;
- a record that has swallowed rows between two stray quotes.

The last one follows the rules of csv. It is known by its lines: it has the number of fields of the header, so does its
first line if the quote is left out, and at least three quarters of two or more lines behind it look like rows. A line
looks like a row if, read alone, it has the number of fields of the header, and each field is usual in its column. That
is: as long as one of the last rows, give or take a factor of four, and of a kind that one in twenty of them has. The
kinds are empty, a number, and a text that begins with a blank, with a capital, or with something else. Lines of a text
seldom look like rows: few have the right number of delimiters, and most of those have a blank behind the delimiter.

This can't be told: a record that has swallowed one row only, or stands above the fourth row, or in a file with one
column. A text of several lines that look like rows of its file is taken for rows.

A record of several lines with a wrong number of fields is rejected as a whole, unless the lines behind its first one
look like rows. The lines behind a fault may be the rest of its record: see `_rest_of_a_record`.
"""

import csv
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import IO

from stages.lib.core.process import UserError
from stages.lib.core.templates import RejectedRow
from stages.lib.ingest.rows import Row, Source, encoding_problem, missing_columns
from stages.lib.ingest.usual_rows import Column, UsualRows, is_row

_QUOTE = '"'
_USUAL_DELIMITERS = {",": "','", ";": "';'", "\t": '"\\t"', "|": "'|'"}  # as they are written in YAML
_ADVICE = "correct the quotes; for a file without quoting, set prepare.reading.quoted: false"
_IF_QUOTED = "if fields are quoted, set prepare.reading.quoted to true"
_ON_LINES_ABOVE = "if it is no header, set prepare.reading.skip_lines to the number of lines above the header"
_LINES_SEARCHED = 10  # for the columns, or for another delimiter
_STRAY_RETURN = "a carriage return that is neither quoted nor part of a line end"


def read_csv(source: Source) -> Iterator[Row]:
    """Raises UserError if the header can't be read, or lacks a column."""
    return _read(source, source.reading.delimiter or ",", quoted=source.reading.quoted is not False)


def read_tsv(source: Source) -> Iterator[Row]:
    """As read_csv. By default a quotation mark is a character like any other, as in text/tab-separated-values. But a
    field that can only come from a writer that quotes, as pandas does, rejects its row."""
    return _read(source, source.reading.delimiter or "\t", quoted=source.reading.quoted is True)


def _read(source: Source, delimiter: str, quoted: bool) -> Iterator[Row]:
    # by default, Python allows only 128 KiB per field: a long document would stop the stage
    csv.field_size_limit(sys.maxsize)
    with source.text(_newline(source)) as file:
        yield from _Table(source, _Lines(file), delimiter, quoted).rows()


def _newline(source: Source) -> str:
    """The `newline` of open(). Lines end at \\n, or at \\r if the start of the file has no other line end, as on old
    Macs."""
    with replace(source, progress=lambda count: None).text("\n") as file:
        start = file.read(1 << 16)
    return "" if "\r" in start and "\n" not in start else "\n"


class _Lines:
    """The lines of a file, with their ends. Lines that were taken can be given back. `number` is that of the last line
    taken."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._given_back: deque[str] = deque()
        self.number = 0

    def take(self) -> str:
        """The next line; at the end of the file, an empty text."""
        line = self._given_back.popleft() if self._given_back else next(self._file, "")
        if line:
            self.number += 1
        return line

    def give_back(self, lines: Sequence[str]) -> None:
        self._given_back.extendleft(reversed(lines))
        self.number -= len(lines)


class _TooLong(Exception):
    """A record is longer than the params allow."""


class _SwallowedRows(Exception):
    """A record follows the rules of csv, but holds rows of their own."""


class _Table:
    def __init__(self, source: Source, lines: _Lines, delimiter: str, quoted: bool) -> None:
        self._source, self._reading = source, source.reading
        self._lines, self._delimiter, self._quoted = lines, delimiter, quoted
        self._dialect = csv.reader([], delimiter=delimiter, strict=True).dialect
        self._may_be_quoted = not quoted and self._reading.quoted is None
        self._header: list[str] = []  # as it stands in the file
        self._names: list[str] = []
        self._any_columns: list[Column] = []
        self._usual = UsualRows()

    def rows(self) -> Iterator[Row]:
        for _ in range(self._reading.skip_lines):
            self._source.skipped["preamble"] += bool(self._lines.take())
        self._header = self._read_header()
        self._names = _names(self._header)
        self._any_columns = [Column()] * len(self._names)
        while line := self._first_line():
            if self._quoted and _QUOTE in line:
                if fields := self._alone(line):
                    yield self._row(line, 1, fields)
                else:
                    yield from self._quoted_rows(line)
            elif "\r" in (text := line.rstrip("\r\n")):
                yield self._rejected(line, 1, RejectedRow("bad_quoting", f"{_STRAY_RETURN}; remove or quote it"))
            else:
                yield self._row(line, 1, text.split(self._delimiter))

    def _read_header(self) -> list[str]:
        if self._reading.columns is not None:
            self._source.check_columns(self._reading.columns)
            return self._reading.columns
        line, first = self._first_line(), self._lines.number
        if not line:
            raise UserError(f"{self._source.name}: empty file")
        held, fields, problem = [line], line.rstrip("\r\n").split(self._delimiter), encoding_problem([line])
        if self._quoted and _QUOTE in line:
            held, fields, fault = self._record(line)
            problem = _bad_quoting(fault) if fault else encoding_problem(held)
        if problem:
            if len(fields) < 2:
                self._advise_a_delimiter([*held, *self._lines_below().values()])
            raise UserError(f"{self._source.name}: the header on line {first} can't be read: {problem.detail}")
        self._check_columns(held, fields)
        self._source.skipped["header"] += len(held)
        return fields

    def _check_columns(self, header: list[str], fields: list[str]) -> None:
        """Raises UserError as Source does, or with what to do if the header isn't the line that it seems to be."""
        source, names = self._source, _names(fields)
        if missing := missing_columns(source.columns, names):
            below = self._lines_below()
            self._advise_skipped_lines(below)
            if len(names) == 1:
                self._advise_a_delimiter([*header, *below.values()])
            if len(names) == 1 and missing == list(source.columns):
                source = replace(source, advice=dict.fromkeys(missing, _ON_LINES_ABOVE))
        source.check_columns(names)

    def _lines_below(self) -> dict[int, str]:
        """The next lines, by number."""
        lines = islice(iter(self._first_line, ""), _LINES_SEARCHED)
        return dict((self._lines.number, line) for line in lines)

    def _advise_skipped_lines(self, below: dict[int, str]) -> None:
        """Raises UserError if a line below the first one has all columns."""
        for number, line in below.items():
            fields = self._alone(line) if self._quoted else line.rstrip("\r\n").split(self._delimiter)
            if not missing_columns(self._source.columns, fields):
                raise UserError(
                    f"{self._source.name}: the columns are on line {number}; set prepare.reading.skip_lines: "
                    f"{number - 1}"
                )

    def _advise_a_delimiter(self, lines: list[str]) -> None:
        """Raises UserError if a usual delimiter divides the first lines into equal numbers of fields."""
        if self._reading.delimiter is not None:
            return
        for delimiter, shown in _USUAL_DELIMITERS.items():
            counts = _numbers_of_fields(lines, delimiter)
            if delimiter != self._delimiter and len(counts) == 1 and counts != {1}:
                raise UserError(
                    f"{self._source.name}: one column only; if {shown[1:-1]} divides the columns, set "
                    f"prepare.reading.delimiter: {shown}"
                )

    def _first_line(self) -> str:
        """The first line of the next record, or an empty text."""
        comment, skipped = self._reading.comment, self._source.skipped
        while line := self._lines.take():
            if comment is not None and line.startswith(comment):
                skipped["comment"] += 1
            elif not line.strip("\r\n"):
                skipped["blank"] += 1
            else:
                break
        return line

    def _quoted_rows(self, line: str) -> Iterator[Row]:
        held, fields, fault = self._record(line)
        if fault is None and self._has_swallowed_rows(held, fields):
            fault = _SwallowedRows("two stray quotes with rows between them")
        if fault is None:
            yield self._row("".join(held), len(held), fields)
            return
        self._lines.give_back(held[1:])
        yield self._rejected(line, 1, _bad_quoting(fault))
        if not isinstance(fault, _SwallowedRows):
            yield from self._rest_of_a_record(isinstance(fault, _TooLong))

    def _record(self, line: str) -> tuple[list[str], list[str], Exception | None]:
        """The lines of a record, its fields, and what is wrong with it. `line` is its first one."""
        held: list[str] = []
        try:
            return held, next(csv.reader(self._lines_of_record(line, held), self._dialect)), None
        except (csv.Error, _TooLong) as fault:
            return held, [], fault

    def _lines_of_record(self, line: str, held: list[str]) -> Iterator[str]:
        """The lines that the parser asks for until it has a whole record. They are added to `held`."""
        characters, limit = 0, float(sys.maxsize)
        while line:
            held.append(line)
            characters += len(line)
            yield line
            if len(held) == self._reading.max_record_lines:
                raise _TooLong(f"over {len(held)} lines; if this is meant, raise prepare.reading.max_record_lines")
            if len(held) == 1:
                limit = self._usual.characters() * self._reading.max_record_ratio
            line = self._lines.take()
            if line and characters + len(line) > limit:
                self._lines.give_back([line])
                times = f"over {self._reading.max_record_ratio} times as long as usual rows"
                raise _TooLong(f"{times}; if this is meant, raise prepare.reading.max_record_ratio")

    def _has_swallowed_rows(self, held: list[str], fields: list[str]) -> bool:
        """Whether a record of several lines holds rows of their own; see the top of this file."""
        width, behind = len(self._names), [line for line in held[1:] if line.strip("\r\n")]
        if width == 1 or not self._most_are_rows(behind, self._any_columns):
            return False
        columns = self._usual.columns()
        if len(fields) != width:
            return not columns or self._most_are_rows(behind, columns)
        first_is_whole = len(self._without_open_quote(held[0])) == width
        return first_is_whole and len(behind) >= 2 and self._most_are_rows(behind, columns)

    def _without_open_quote(self, line: str) -> list[str]:
        *before, opened = next(csv.reader([line], delimiter=self._delimiter))
        return before + opened.rstrip("\r\n").split(self._delimiter)

    def _most_are_rows(self, lines: list[str], columns: list[Column]) -> bool:
        return sum(self._is_row(line, columns) for line in lines) >= 0.75 * len(lines)

    def _is_row(self, line: str, columns: list[Column]) -> bool:
        """Whether a line looks like a row. A quote at the end of a field may be the stray one. An escaped quote is only
        found in quoted fields."""
        if line.count(self._delimiter) < len(columns) - 1 or _QUOTE * 2 in line:
            return False
        return is_row([field.removesuffix(_QUOTE) for field in self._alone(line)], columns)

    def _alone(self, line: str) -> list[str]:
        """The fields of a line that is a record by itself; of others, none."""
        try:
            return next(csv.reader((line,), self._dialect))
        except csv.Error:
            return []

    def _rest_of_a_record(self, in_text: bool) -> Iterator[Row]:
        """Rejects the next lines as long as they are the rest of a record that was rejected.

        They are looked at up to the next quote. If this one closes, it belongs to a field above: then most of the lines
        must look like rows, else they are rejected. The same holds within a text, that is, behind a record that was too
        long. Elsewhere, the number of their fields decides.
        """
        while part := self._lines_up_to_quote():
            closes = _QUOTE in _unescaped(part[-1])
            if closes and self._opens_a_field(part[-1]):
                closes = False
                self._lines.give_back([part.pop()])
            usual = self._usual.columns()
            columns = usual if closes else (in_text and usual) or self._any_columns
            if self._most_are_rows([line for line in part if line.strip("\r\n")], columns):
                self._lines.give_back(part)
                return
            problem = RejectedRow("bad_quoting", f"the rest of a record whose quotes are at fault; {_ADVICE}")
            yield self._rejected("".join(part), len(part), problem)
            in_text = not closes

    def _lines_up_to_quote(self) -> list[str]:
        lines: list[str] = []
        while len(lines) < self._reading.max_record_lines and (line := self._lines.take()):
            lines.append(line)
            if _QUOTE in _unescaped(line):
                break
        return lines

    def _opens_a_field(self, line: str) -> bool:
        """Whether the first quote of a line is an opening one. It may also close a text that ends with a line end."""
        before, _, behind = _unescaped(line).partition(_QUOTE)
        return before[-1:] in ("", self._delimiter) and behind[:1] not in ("", "\r", "\n", self._delimiter)

    def _row(self, raw: str, lines: int, fields: list[str]) -> Row:
        if len(fields) != len(self._names):
            detail = f"{len(fields)} fields where the header has {len(self._names)}"
            hint = f"; {_IF_QUOTED}" if self._may_be_quoted and _QUOTE in raw else ""
            return self._rejected(raw, lines, RejectedRow("wrong_number_of_fields", detail + hint))
        if self._may_be_quoted and _QUOTE * 2 in raw and any(map(_is_quoted, fields)):
            detail = f"it looks quoted; {_IF_QUOTED}, else to false"
            return self._rejected(raw, lines, RejectedRow("bad_quoting", detail))
        if not raw.isascii() and (problem := encoding_problem([raw])):
            return self._rejected(raw, lines, problem)
        # a file with a byte order mark can be joined to another one
        if fields[-1] == self._header[-1] and [fields[0].removeprefix("\ufeff"), *fields[1:]] == self._header:
            problem = RejectedRow("repeated_header", "the header again, as in files that were joined")
            return self._rejected(raw, lines, problem)
        self._usual.add(fields, len(raw))
        return Row(self._lines.number - lines + 1, dict(zip(self._names, fields, strict=True)), None, lines)

    def _rejected(self, raw: str, lines: int, problem: RejectedRow) -> Row:
        exact = raw.removesuffix("\n").removesuffix("\r")
        return Row(self._lines.number - lines + 1, {"raw": exact}, problem, lines)


def _bad_quoting(fault: Exception) -> RejectedRow:
    text = str(fault)
    if "unexpected end of data" in text:
        text = "a quote that is never closed"
    elif "new-line character" in text:
        text = _STRAY_RETURN
    return RejectedRow("bad_quoting", f"{text}; {_ADVICE}")


def _numbers_of_fields(lines: list[str], delimiter: str) -> set[int]:
    """None if a stray carriage return keeps the lines from being read."""
    with suppress(csv.Error):
        return {len(fields) for fields in csv.reader(lines, delimiter=delimiter)}
    return set()


def _names(header: list[str]) -> list[str]:
    """A column without a name, such as the index that pandas writes, is named by its place."""
    return [name if name.strip() else str(place) for place, name in enumerate(header)]


def _is_quoted(field: str) -> bool:
    """Whether a field stands in quotes, and has quotes inside that are all escaped."""
    inner = field[1:-1]
    return field[:1] == field[-1:] == _QUOTE and _QUOTE * 2 in inner and _QUOTE not in _unescaped(inner)


def _unescaped(line: str) -> str:
    return line.replace(_QUOTE * 2, "")
