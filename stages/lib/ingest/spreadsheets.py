"""Reads the rows of a sheet of an Excel workbook (.xlsx)."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, time
from typing import Any

from stages.lib.core.process import UserError
from stages.lib.core.templates import RejectedRow
from stages.lib.ingest.compressed import open_seekable
from stages.lib.ingest.rows import Row, Source, listed, one_line
from stages.lib.params.prepare import Reading

_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")  # a character that XML can't hold, such as a carriage return
_NO_PART_OF_TIME = re.compile(r'"[^"]*"|\[[^]]*\]|\\.')  # in the number format of a cell


def read_xlsx(source: Source) -> Iterator[Row]:
    """The first sheet, or the one that `reading.records` names. Line n is row n of the sheet. The first row names the
    columns, unless `reading.columns` does.

    The texts that cells share are held in memory. A sheet has at most 1,048,576 rows.

    Raises:
        UserError: the file is broken, the sheet or a column is missing, or the sheet is empty.
    """
    header = source.reading.columns
    if header is not None:
        source.check_columns(header)
    for number, values in enumerate(_sheet_rows(source), start=1):
        if passed := _passed_over(number, values, source.reading):
            source.skipped[passed] += 1
        elif header is None:
            header = _names(values)
            source.check_columns(header)
            source.skipped["header"] += 1
        else:
            yield _row(number, values, header)
    if header is None:
        raise UserError(f"{source.name}: empty sheet; prepare.reading.records can name another one")


def _sheet_rows(source: Source) -> Iterator[list[Any]]:
    # takes a third of a second to import
    import openpyxl

    with open_seekable(source.path, source.progress, source.member) as path, path.open("rb") as file:
        try:
            workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheet = _sheet(workbook, source)
            sheet.reset_dimensions()  # some programs write wrong ones
            yield from ([_value(cell) for cell in row] for row in sheet.iter_rows())
        except UserError:
            raise
        except Exception as error:  # openpyxl passes on those of zip files, of XML and of its own classes
            raise UserError(f"{source.name}: not a readable xlsx file: {one_line(error)}") from None


def _sheet(workbook: Any, source: Source) -> Any:
    named = {sheet.title: sheet for sheet in workbook.worksheets}
    name = source.reading.records or next(iter(named), "")
    if name not in named:
        raise UserError(f"{source.name}: no sheet `{name}`; prepare.reading.records can be {listed(named)}")
    return named[name]


def _value(cell: Any) -> Any:
    """As the sheet shows it, where its format is a usual one. An error such as #N/A is no value."""
    value = cell.value
    if isinstance(value, str):
        return None if cell.data_type == "e" else _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)
    if isinstance(value, datetime) and value.time() == time() and not _shows_time(cell.number_format):
        return value.date()
    return value


def _shows_time(number_format: str) -> bool:
    return "h" in _NO_PART_OF_TIME.sub("", number_format).lower()


def _passed_over(number: int, values: Sequence[Any], reading: Reading) -> str | None:
    if number <= reading.skip_lines:
        return "preamble"
    if all(value is None for value in values):
        return "blank"
    is_comment = reading.comment is not None and str(values[0]).startswith(reading.comment)
    return "comment" if is_comment else None


def _names(values: Sequence[Any]) -> list[str]:
    """A column without a name is named by its place. Columns behind the last name are none."""
    names = [str(place) if value is None else str(value) for place, value in enumerate(values)]
    last = max(place for place, value in enumerate(values) if value is not None)
    return names[: last + 1]


def _row(number: int, values: list[Any], header: Sequence[str]) -> Row:
    outside = [value for value in values[len(header) :] if value is not None]
    if outside or _names(values) == header:
        raw = {"raw": "\t".join("" if value is None else str(value) for value in values)}
        detail = f"a value to the right of the {len(header)} columns of the header"
        repeated = RejectedRow("repeated_header", "the same as the header")
        return Row(number, raw, RejectedRow("wrong_number_of_fields", detail) if outside else repeated)
    return Row(number, dict(zip(header, values + [None] * (len(header) - len(values)), strict=False)))
