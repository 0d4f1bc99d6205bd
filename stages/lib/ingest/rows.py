"""A raw row, and the file that it comes from. A bad row carries its problem; a bad file stops the stage."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from stages.lib.core.process import UserError
from stages.lib.core.templates import RejectedRow
from stages.lib.ingest.compressed import Progress, full_name, open_text
from stages.lib.params.prepare import Reading


@dataclass(frozen=True)
class Row:
    """`line` is the first of the row's `lines` lines of its file, from 1; in files without lines and on the hub, the
    number of the row. `problem` is set if the values can't be used: then `values` is {"raw": the text as it stands in
    the file}, unless the row could be parsed."""

    line: int
    values: dict[str, Any]
    problem: RejectedRow | None = None
    lines: int = 1

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
    """A file and how to read it. A table must have all of `columns`; `advice` says what to do if one of them is
    missing. `member` is the file inside of a zip archive.

    `skipped` counts the lines that belong to no row, by what they are: header, blank, comment, preamble. With the lines
    of all rows they make up the file.
    """

    path: Path
    reading: Reading
    columns: Sequence[str]
    progress: Progress = field(default=lambda count: None)
    member: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    advice: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(full_name(self.path, self.member))

    def text(self, newline: str) -> AbstractContextManager[IO[str]]:
        return open_text(self.path, self.reading.encoding, newline, self.progress, self.member)

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number, line with its end), without the first `reading.skip_lines` lines and without comments. Only \\n ends
        a line."""
        comment = self.reading.comment
        with self.text("\n") as file:
            for number, line in enumerate(file, start=1):
                if number <= self.reading.skip_lines:
                    self.skipped["preamble"] += 1
                elif comment is not None and line.startswith(comment):
                    self.skipped["comment"] += 1
                else:
                    yield number, line

    def check_columns(self, found: Sequence[str]) -> None:
        """Raises UserError if a column is missing, or if two have the same name."""
        if twice := sorted(name for name, count in Counter(found).items() if count > 1):
            raise UserError(f"{self.name}: column {listed(twice)} is twice in the header; rename one")
        if missing := missing_columns(self.columns, found):
            advice = advice_on(missing, self.advice)
            raise UserError(f"{self.name}: no column {listed(missing)}; there are {listed(found)}{advice}")


def missing_columns(needed: Iterable[str], found: Container[str]) -> list[str]:
    """Those needed that are neither a column nor a path into one."""
    return [name for name in needed if name not in found and name.partition(".")[0] not in found]


def advice_on(missing: Iterable[str], advice: Mapping[str, str]) -> str:
    return next((f"; {advice[name]}" for name in missing if name in advice), "")


def listed(names: Iterable[str]) -> str:
    """On one line: the first line of a file may be no header, and contain anything."""
    return one_line(", ".join(name if name == name.strip() else f"'{name}'" for name in names))


def one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]


_ESCAPED = re.compile("[\udc80-\udcff]")  # a byte that could not be decoded, as `surrogateescape` keeps it


def encoding_problem(texts: Iterable[str]) -> RejectedRow | None:
    for text in texts:
        if not text.isascii() and (found := _ESCAPED.search(text)):
            around = text[max(found.start() - 20, 0) : found.end() + 20]
            word = next(word for word in around.split() if _ESCAPED.search(word))
            detail = f"bytes that are invalid in the encoding of prepare.reading.encoding, as in {readable(word)}"
            return RejectedRow("not_decodable", detail + _advised_encoding(text, word))
    return None


def _advised_encoding(text: str, word: str) -> str:
    """None for a text with other characters outside of ASCII: they have been decoded, so the encoding is right."""
    if not _ESCAPED.sub("", text).isascii():
        return ""
    for encoding in ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            _bytes(text).decode(encoding)
            return f"; if this is {_bytes(word).decode(encoding, 'ignore')}, set it to {encoding}"
    return ""


def _bytes(text: str) -> bytes:
    return text.encode("ascii", "surrogateescape")


def readable(text: str) -> str:
    """The text with bytes that could not be decoded as \\xf6: only such text can be written and shown."""
    return text if text.isascii() else _ESCAPED.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
