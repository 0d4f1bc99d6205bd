"""A list of objects in one JSON document, read element by element: Python's own parser wants all of it in memory."""

import json
from collections.abc import Iterator
from typing import IO, Any

_READ = 1 << 20  # characters at a time
_NEAR_END = 64  # a fault closer to the end of what was read may be gone when more is read


class NoList(ValueError):
    """What is looked for is not there, or the document is broken."""


def list_elements(file: IO[str], path: str | None, decoder: json.JSONDecoder) -> Iterator[tuple[int, str, Any]]:
    """(line where it ends, its text, element) of the list at a dotted path of keys, or at the top.

    Memory is that of the largest element, or of the largest value before the list.

    Raises:
        NoList: no list there, or no JSON, with the line.
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
        self._text, self._place, self._at_end = "", 0, False
        self.line = 1

    def enter(self, key: str) -> None:
        """Goes on right before the value of this key of the object that comes next."""
        if self.next_character() != "{":
            raise NoList(f"no object that could hold `{key}`")
        self.skip()
        while self.next_character() != "}":
            _, found = self.value()
            if self.next_character() != ":":
                raise NoList(f"line {self.line}: no value behind a key")
            self.skip()
            if found == key:
                return
            self.next_character()
            self.value()
            self.separator("}")
        raise NoList(f"no key `{key}`")

    def next_character(self) -> str:
        """The next that is not blank, which stays to be read."""
        while True:
            rest = self._text[self._place : self._place + 256].lstrip(" \t\r\n\ufeff")
            if rest:
                self._advance(self._place + len(self._text[self._place : self._place + 256]) - len(rest))
                return rest[0]
            self._advance(min(self._place + 256, len(self._text)))
            if self._place == len(self._text) and not self._read():
                raise NoList(f"line {self.line}: it ends too early")

    def expect_end(self) -> None:
        while not self._text[self._place :].strip():
            self._advance(len(self._text))
            if not self._read():
                return
        raise NoList(f"line {self.line}: more behind the end of the list")

    def skip(self) -> None:
        self._advance(self._place + 1)

    def separator(self, end: str) -> None:
        """A comma, which goes; or the end, which stays."""
        found = self.next_character()
        if found == ",":
            self.skip()
            if self.next_character() == end:
                raise NoList(f"line {self.line}: a comma before `{end}`")
        elif found != end:
            raise NoList(f"line {self.line}: expected `,` or `{end}`, found `{found}`")

    def value(self) -> tuple[str, Any]:
        """Its text and what it says."""
        while True:
            try:
                value, stop = self._decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                is_open = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _NEAR_END
                if not (is_open and self._read()):
                    line = self.line + self._text.count("\n", self._place, error.pos)
                    raise NoList(f"line {line}: {error.msg}") from None
                continue
            except (ValueError, RecursionError) as error:  # of the decoder's own rules, or nested too deep
                raise NoList(f"line {self.line}: {error}") from None
            # a number that ends where the text does may go on in the next piece
            if stop < len(self._text) or not self._read():
                text = self._text[self._place : stop]
                self._advance(stop)
                return text, value

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _read(self) -> bool:
        """As much again as is held, so that an element of any size is tried only a few times."""
        more = self._file.read(max(_READ, len(self._text) - self._place))
        self._text, self._place = self._text[self._place :] + more, 0
        return bool(more)
