"""Reads a list in a JSON document element by element. Python's own parser holds the whole document in memory.

The package ijson (3.6, C backend) can't replace it: it reads half a surrogate pair as `?`, an integer of 5000 digits
crashes it, and it reports no lines. `tests/benchmarks/json_lists.py` measures the memory that is saved.
"""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

_READ = 1 << 20  # characters at a time
_NEAR_END = 64  # characters; an error so close to the end may be none once more is read
_BLANKS = re.compile("[ \t\r\n\ufeff]*")


class NoList(ValueError):
    """The list is missing, or the document is no valid JSON."""


def list_elements(file: IO[str], path: str | None, decoder: json.JSONDecoder) -> Iterator[tuple[int, str, Any]]:
    """(line of its end, text, value) of each element of the list at a dotted path of keys, or at the top.

    Memory is that of the largest element, or of the largest value before the list.

    Raises:
        NoList: with the line.
    """
    scanner = _Scanner(file, decoder)
    for key in path.split(".") if path else []:
        scanner.enter(key)
    if scanner.next_character() != "[":
        raise NoList(f"no list {f'under `{path}`' if path else 'at the top'}")
    scanner.skip()
    while scanner.next_character() != "]":
        text, element = scanner.value()
        yield scanner.line, text, element
        scanner.separator("]")
    scanner.skip()
    if not path:
        scanner.expect_end()


class _Scanner:
    def __init__(self, file: IO[str], decoder: json.JSONDecoder) -> None:
        self._file, self._decoder = file, decoder
        self._text, self._place = "", 0
        self.line = 1

    def enter(self, key: str) -> None:
        """Moves to the value of a key of the next object."""
        if self.next_character() != "{":
            raise NoList(f"no object that could hold `{key}`")
        self.skip()
        while self.next_character() != "}":
            _, found = self.value()
            if self.next_character() != ":":
                raise NoList(f"line {self.line}: no value after a key")
            self.skip()
            if found == key:
                return
            self.next_character()
            self.value()
            self.separator("}")
        raise NoList(f"no key `{key}`")

    def next_character(self) -> str:
        """The next character after blanks. It is not skipped."""
        while True:
            blanks = _BLANKS.match(self._text, self._place)
            assert blanks is not None  # none at all match too
            self._advance(blanks.end())
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._read():
                raise NoList(f"line {self.line}: it ends too early")

    def skip(self) -> None:
        self._advance(self._place + 1)

    def value(self) -> tuple[str, Any]:
        """The text and the value of what comes next."""
        while True:
            try:
                value, stop = self._decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _NEAR_END
                if not (is_cut and self._read()):
                    line = self.line + self._text.count("\n", self._place, error.pos)
                    raise NoList(f"line {line}: {error.msg}") from None
                continue
            except (ValueError, RecursionError) as error:  # from a hook of the decoder, or nested too deep
                raise NoList(f"line {self.line}: {error}") from None
            # a number at the end of the text may continue in what is read next
            if stop < len(self._text) or not self._read():
                text = self._text[self._place : stop]
                self._advance(stop)
                return text, value

    def separator(self, end: str) -> None:
        """Skips a comma, but not the end."""
        found = self.next_character()
        if found == ",":
            self.skip()
            if self.next_character() == end:
                raise NoList(f"line {self.line}: a comma before `{end}`")
        elif found != end:
            raise NoList(f"line {self.line}: expected `,` or `{end}`, found `{found}`")

    def expect_end(self) -> None:
        while not self._text[self._place :].strip():
            self._advance(len(self._text))
            if not self._read():
                return
        raise NoList(f"line {self.line}: more text after the end of the list")

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _read(self) -> bool:
        """Doubles what is held: an element of any size is parsed only a few times."""
        more = self._file.read(max(_READ, len(self._text) - self._place))
        self._text, self._place = self._text[self._place :] + more, 0
        return bool(more)
