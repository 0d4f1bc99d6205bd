"""Reads JSON: a document with many rows, or one row a line. Numbers stay as they are written."""

import json
import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

from stages.lib.core.process import UserError
from stages.lib.core.templates import RejectedRow
from stages.lib.ingest.json_lists import Element, NoList, list_elements
from stages.lib.ingest.rows import Row, Source, encoding_problem, one_line
from stages.lib.params.prepare import Reading

MAX_DEPTH = 100
_PIECE = 1 << 20  # characters of a line that are read at once


class Number(str):
    """A number as it is written: 1.10, 1e5, or an integer of any length."""

    __slots__ = ()


def with_numbers(value: Any) -> Any:
    """The value with an int or a float for every Number, as other readers of JSON give it: for what is written as JSON
    again, such as calls of tools. A number outside of Python's range stays as it is."""
    if isinstance(value, dict):
        return {key: with_numbers(own) for key, own in value.items()}
    if isinstance(value, list):
        return [with_numbers(own) for own in value]
    if not isinstance(value, Number):
        return value
    try:
        number = json.loads(value)
    except ValueError:  # more digits than Python converts
        return value
    return number if isinstance(number, int) or math.isfinite(number) else value


def read_jsonl(source: Source) -> Iterator[Row]:
    """One row a line.

    Raises:
        UserError: it is a list over several lines.
    """
    is_first = True
    _check_names(source)
    for number, line in source.lines():
        if line.isspace():
            source.skipped["blank"] += 1
            continue
        if is_first and line.startswith("[") and line.rstrip().endswith(("[", ",")):
            raise UserError(
                f"{source.name}: a JSON list, not one object per line; name the file .json, or set "
                f"prepare.reading.format: json"
            )
        is_first = False
        yield _parsed(number, line.removesuffix("\n"), source.reading)


def _check_names(source: Source) -> None:
    """`reading.columns` names the values of rows that are lists. Other columns may come from the objects around."""
    if source.reading.columns is not None:
        replace(source, columns=()).check_columns(source.reading.columns)


def _parsed(number: int, line: str, reading: Reading) -> Row:
    try:
        value = _DECODER.decode(line.strip(" \t\r\n"))
    except (ValueError, RecursionError) as error:
        return Row(number, {"raw": line}, encoding_problem([line]) or RejectedRow("no_json", str(error)))
    return _row(Element(line, value, number, number, {}), 1, reading)


def read_json(source: Source) -> Iterator[Row]:
    """The rows of a document, at `reading.records`. Lines that hold no part of a row are counted as brackets.

    Raises:
        UserError: the document is no valid JSON, or has no rows there.
    """
    rows = 0
    _check_names(source)
    with source.text(newline="\n") as file:
        lines = _Lines(file, source.reading, source.skipped)
        try:
            for element in list_elements(lines, source.reading.records, _DECODER, lines.read_so_far + 1):
                source.skipped["brackets"] += lines.account(element.first - 1)
                yield _row(element, lines.account(element.last), source.reading)
                rows += 1
        except NoList as error:
            place = f" after row {rows}" if rows else ""
            advice = f"; {error.advice}" if error.advice else ""
            raise UserError(f"{source.name}: not a JSON list{place}: {one_line(error)}{advice}") from None
        source.skipped["brackets"] += lines.account(lines.read_so_far)


class _Lines:
    """The text of a file below its preamble, and an account of its lines. Only the line end of a comment is left: the
    lines below it keep their numbers."""

    def __init__(self, file: IO[str], reading: Reading, skipped: Counter[str]) -> None:
        self._file, self._comment, self._skipped = file, reading.comment, skipped
        self._ends, self._is_open, self._in_comment = 0, False, False
        self._comments: deque[int] = deque()  # the numbers of their lines, until these are accounted for
        while self._ends < reading.skip_lines and self._counted(file.readline(_PIECE)):
            pass
        self._accounted = self.read_so_far
        skipped["preamble"] += self._accounted

    @property
    def read_so_far(self) -> int:
        return self._ends + self._is_open

    def read(self, size: int) -> str:
        return self._counted(self._file.read(size)) if self._comment is None else "".join(self._pieces(size))

    def _pieces(self, size: int) -> Iterator[str]:
        """Of at least so many characters. A line may come in several pieces: the whole file may be one."""
        while size > 0:
            is_start = not self._is_open
            piece = self._counted(self._file.readline(_PIECE))
            if not piece:
                return
            if is_start:
                self._in_comment = piece.startswith(str(self._comment))
                self._comments.extend([self.read_so_far] * self._in_comment)
            size -= len(piece)
            yield piece if not self._in_comment else "\n" if piece.endswith("\n") else " "

    def _counted(self, text: str) -> str:
        if text:
            self._ends += text.count("\n")
            self._is_open = not text.endswith("\n")
        return text

    def account(self, until: int) -> int:
        """How many lines there are from those accounted for up to this one. Comments are counted apart."""
        count = max(until - self._accounted, 0)
        self._accounted += count
        while self._comments and self._comments[0] <= self._accounted:
            self._comments.popleft()
            self._skipped["comment"] += 1
            count -= 1
        return count


def _row(element: Element, lines: int, reading: Reading) -> Row:
    around = element.around
    try:
        if problem := encoding_problem([element.text, *(own for own in around.values() if isinstance(own, str))]):
            raise problem
        values = _values(element, reading)
        return Row(element.first, around | values if around else values, lines=lines)
    except RejectedRow as found:
        return Row(element.first, {"raw": element.text}, found, lines)


def _values(element: Element, reading: Reading) -> dict[str, Any]:
    """Raises RejectedRow if the row is neither object nor list, or can't be handled."""
    text, value = element.text, element.value
    if element.problem:
        raise RejectedRow("no_records", element.problem)
    if text.count("[") + text.count("{") > MAX_DEPTH and is_deep(value):
        raise RejectedRow("no_json", f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        raise RejectedRow("no_object", "a row must be a JSON object, or a list")
    names = reading.columns or [str(place) for place in range(len(value))]
    if len(value) != len(names):
        raise RejectedRow("wrong_number_of_fields", f"{len(value)} values, but {len(names)} in prepare.reading.columns")
    return dict(zip(names, value, strict=True))


def is_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than MAX_DEPTH levels deep. Such a value can be neither sent to another
    process nor written. Tuples come from lists that Python has written."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, dict | list | tuple)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("the same key twice in one object")
    return values


_DECODER = json.JSONDecoder(parse_constant=float, parse_float=Number, parse_int=Number, object_pairs_hook=_unique)
