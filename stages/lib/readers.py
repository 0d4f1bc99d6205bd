"""Raw files as rows, each with the line it came from."""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from stages.lib.process import UserError


@dataclass(frozen=True)
class Row:
    """`line` counts from 1 and is where the row ends; `problem` says why its values can't be used, if they can't."""

    line: int
    values: dict[str, Any]
    problem: str | None = None


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a .csv, .tsv or .jsonl file, streamed.

    Raises:
        UserError: no such file, an unknown kind of file, bytes that are not UTF-8, or (csv, tsv) a column of
            `columns` that the header lacks. A single bad row is no error: it comes with its `problem`.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: kind of file unknown; there are {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; see prepare in params.yaml")
    try:
        yield from reader(path, columns)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); convert it, for example with iconv") from None


def _read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    return _read_delimited(path, columns, delimiter=",", strict=True)


def _read_tsv(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    # text/tab-separated-values knows no quoting: a quotation mark is one
    return _read_delimited(path, columns, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_delimited(path: Path, columns: tuple[str, ...], **dialect: Any) -> Iterator[Row]:
    # Python's default limit of 128 KiB a field would end the stage at the first long document
    csv.field_size_limit(sys.maxsize)
    # utf-8-sig: spreadsheets put a byte order mark before the first column's name
    with path.open(encoding="utf-8-sig", newline="") as lines:
        records = csv.reader(lines, **dialect)
        header = next(_records(records, path), None)
        if header is None:
            raise UserError(f"{path}: empty file")
        if missing := [column for column in columns if column not in header.fields]:
            raise UserError(f"{path}: no column {', '.join(missing)}; there are {', '.join(header.fields)}")
        for record in _records(records, path):
            if record.problem is None and len(record.fields) == len(header.fields):
                yield Row(record.line, dict(zip(header.fields, record.fields, strict=True)))
            else:
                problem = record.problem or f"{len(record.fields)} fields where the header has {len(header.fields)}"
                yield Row(record.line, {"fields": record.fields}, problem)


@dataclass(frozen=True)
class _Record:
    line: int
    fields: list[str]
    problem: str | None = None


def _records(records: Any, path: Path) -> Iterator[_Record]:
    """The records of a csv.reader, bad ones too; blank lines hold none.

    Raises:
        UserError: a quote that is never closed, which would make one field of all the rows below it.
    """
    while True:
        start = records.line_num + 1
        try:
            fields = next(records, None)
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise UserError(f"{path}: the quote opened on line {start} is never closed") from None
            yield _Record(records.line_num, [], str(error))
            continue
        if fields is None:
            return
        if fields:
            yield _Record(records.line_num, fields)


def _read_jsonl(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line, parse_constant=_refuse, parse_float=_finite)
            except (ValueError, RecursionError) as error:
                yield Row(number, {"text": line.rstrip("\n")}, f"not JSON: {error}")
                continue
            if not isinstance(values, dict):
                yield Row(number, {"value": values}, "not a JSON object")
            elif missing := [column for column in columns if column not in values]:
                yield Row(number, values, f"no key {', '.join(missing)}")
            else:
                yield Row(number, values)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


_READERS: dict[str, Callable[[Path, tuple[str, ...]], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
}
