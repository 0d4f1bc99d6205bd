"""Reads the rows of a JSON document one by one. Python's own parser holds the whole document in memory.

The package ijson (3.6, C backend) can't replace it: it reads half a surrogate pair as `?`, an integer of 5000 digits
crashes it, and it reports no lines. `tests/benchmarks/json_lists.py` measures the memory that is saved.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import StringIO
from itertools import islice
from typing import Any, NamedTuple, Protocol

_READ = 1 << 20  # characters at a time
_NEAR_END = 64  # characters; an error so close to the end may be none once more is read
_LEVELS_SKIPPED = 2  # of a value that is passed over; what lies deeper is held as a whole
_KEYS_SHOWN = 20
_STARTS_OF_JSON = '[{"-0123456789tfn'
_ADVICE = (
    "for a list in an object, set prepare.reading.records to its key, or to '*' if each value is a row; for one object "
    "per line, name the file .jsonl"
)
_ADVICE_ON_LINES_ABOVE = "for lines above it, set prepare.reading.comment or prepare.reading.skip_lines"
_BLANKS = re.compile("[ \t\r\n\ufeff]*")
_BETWEEN_VALUES = re.compile("[ \t\r\n,:]*")  # in JSON that is known to be valid


class NoList(ValueError):
    """The rows are missing, or the document is no valid JSON. `advice` says what to do."""

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(problem)
        self.advice = advice


class Element(NamedTuple):
    """A row: its text and value, its first and last line, and the fields of the objects that it stands in. `problem`
    is set if there are no rows where they should be: then it is what stands there."""

    text: str
    value: Any
    first: int
    last: int
    around: dict[str, Any]
    problem: str = ""


class Text(Protocol):
    def read(self, size: int, /) -> str: ...


def list_elements(file: Text, path: str | None, decoder: json.JSONDecoder, line: int = 1) -> Iterator[Element]:
    """The elements of the lists, or the values of the objects, at a dotted path of keys and `*`; of the list at the
    top if the path is null. `*` stands for every element or value. `line` is the first line of the document.

    The objects that a row stands in lend it their fields other than lists and objects. The fields of an object above
    the first `*` must stand before the rows. A value of an object has its key in `key`. Of equal names, the inner wins.

    Memory is that of the largest element of the outermost list, or of what is passed over, two levels deep.

    Raises:
        NoList: with the line.
    """
    scanner = _Scanner(file, decoder, line)
    first = scanner.next_character()
    if first not in _STARTS_OF_JSON:
        raise NoList(f"line {scanner.line} begins with `{first}`, as no JSON does", _ADVICE_ON_LINES_ABOVE)
    if first == "{" and path is None:
        raise NoList(f"no list at the top, but an object with {', '.join(scanner.keys_ahead()) or 'no key'}", _ADVICE)
    steps = path.split(".") if path else []
    yield from _elements(scanner, steps if steps[-1:] == ["*"] else [*steps, "*"], {}, [])
    scanner.expect_end()


def _elements(
    scanner: "_Scanner", steps: Sequence[str], around: dict[str, Any], above: Sequence[str]
) -> Iterator[Element]:
    step, *inner = steps
    place = f"`{above[-1]}`" if above else "the top"
    if step == "*":
        if scanner.next_character() not in "[{":
            raise NoList(f"no list at {place}")
        for key in scanner.children():
            yield from _rows_of(scanner, inner, around if key is None else around | {"key": key})
        return
    if scanner.next_character() == "[":
        raise NoList(f"{place} is a list", f"for the `{step}` of its elements, write {'.'.join([*above, '*', step])}")
    if scanner.next_character() != "{":
        raise NoList(f"no object at {place} that could hold `{step}`")
    keys: set[str | None] = set()
    for key in scanner.children():
        if key == step and key in keys:
            raise NoList(f"line {scanner.line}: `{key}` twice in one object")
        if key == step:
            yield from _elements(scanner, inner, around, [*above, step])
        elif scanner.next_character() in "[{":
            scanner.pass_over(_LEVELS_SKIPPED)
        else:
            around = around | {str(key): scanner.value()[1]}
        if key == step or len(keys) < _KEYS_SHOWN:
            keys.add(key)
    if step not in keys:
        raise NoList(f"no key `{step}` at {place}; there are {', '.join(sorted(map(str, keys)))}")


def _rows_of(scanner: "_Scanner", steps: Sequence[str], around: dict[str, Any]) -> Iterator[Element]:
    """The rows in the next element of the outermost list."""
    line, place = scanner.line, 0
    text, value = scanner.value()
    if not steps:
        yield Element(text, value, line, scanner.line, around)
        return
    for start, stop, found, fields, problem in _inner_rows(text, 0, steps, around, scanner.decoder):
        first = line + text.count("\n", place, start)
        line, place = first + text.count("\n", start, stop), stop
        yield Element(text[start:stop], found, first, line, fields, problem)


def _inner_rows(
    text: str, place: int, steps: Sequence[str], around: dict[str, Any], decoder: json.JSONDecoder
) -> Iterator[tuple[int, int, Any, dict[str, Any], str]]:
    """(start, stop, value, fields of the objects around, problem) of each row in the value at a place of valid JSON."""
    value, stop = decoder.raw_decode(text, place)
    if not steps:
        yield place, stop, value, around, ""
        return
    step, *inner = steps
    if step == "*" and isinstance(value, list | dict):
        for key, start in _places(text, place, decoder):
            yield from _inner_rows(text, start, inner, around if key is None else around | {"key": key}, decoder)
    elif isinstance(value, dict) and step in value:
        fields = {key: own for key, own in value.items() if not isinstance(own, list | dict) and key != step}
        start = dict(_places(text, place, decoder))[step]
        yield from _inner_rows(text, start, inner, around | fields, decoder)
    else:
        missing = "no list or object" if step == "*" else f"no `{step}`"
        advice = f"; for its elements, write *.{step} there" if isinstance(value, list) else ""
        yield place, stop, value, around, f"{missing} where prepare.reading.records expects rows{advice}"


def _places(text: str, place: int, decoder: json.JSONDecoder) -> Iterator[tuple[str | None, int]]:
    """(key, start) of each value in the list or object at a place of valid JSON."""
    has_keys = text[place] == "{"
    place = _after_blanks(text, place + 1)
    while text[place] not in "]}":
        key = None
        if has_keys:
            key, stop = decoder.raw_decode(text, place)
            place = _after_blanks(text, stop)
        yield key, place
        place = _after_blanks(text, decoder.raw_decode(text, place)[1])


def _after_blanks(text: str, place: int) -> int:
    blanks = _BETWEEN_VALUES.match(text, place)
    assert blanks is not None  # none at all match too
    return blanks.end()


class _Scanner:
    def __init__(self, file: Text, decoder: json.JSONDecoder, line: int) -> None:
        self._file, self.decoder = file, decoder
        self._text, self._place = "", 0
        self.line = line

    def children(self) -> Iterator[str | None]:
        """Moves to each element of the next list, or to each value of the next object, whose key it yields. The caller
        has to read it before the next one."""
        end = "]" if self.next_character() == "[" else "}"
        self._skip()
        while self.next_character() != end:
            yield self._key() if end == "}" else None
            self._separator(end)
        self._skip()

    def _key(self) -> str:
        if self.next_character() != '"':
            raise NoList(f"line {self.line}: a key must be a text in double quotes")
        _, key = self.value()
        if self.next_character() != ":":
            raise NoList(f"line {self.line}: no value after a key")
        self._skip()
        self.next_character()
        return str(key)

    def _separator(self, end: str) -> None:
        """Skips a comma, but not the end."""
        found = self.next_character()
        if found == ",":
            self._skip()
            if self.next_character() == end:
                raise NoList(f"line {self.line}: a comma before `{end}`")
        elif found != end:
            raise NoList(f"line {self.line}: expected `,` or `{end}`, found `{found}`")

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

    def pass_over(self, levels: int) -> None:
        """Moves behind what comes next. Of lists and objects, so many levels are read one element at a time."""
        if levels and self.next_character() in "[{":
            for _ in self.children():
                self.pass_over(levels - 1)
        else:
            self.value()

    def value(self) -> tuple[str, Any]:
        """The text and the value of what comes next."""
        while True:
            try:
                value, stop = self.decoder.raw_decode(self._text, self._place)
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

    def keys_ahead(self) -> list[str]:
        """The first keys of the next object, as far as it has been read. Nothing is skipped."""
        keys: list[str] = []
        scanner = _Scanner(StringIO(self._text[self._place :]), self.decoder, self.line)
        with suppress(NoList):
            for key in islice(scanner.children(), _KEYS_SHOWN):
                keys.append(str(key))
                scanner.pass_over(_LEVELS_SKIPPED)
        return keys

    def expect_end(self) -> None:
        while not self._text[self._place :].strip():
            self._advance(len(self._text))
            if not self._read():
                return
        raise NoList(f"line {self.line}: more text after the end of the list")

    def _skip(self) -> None:
        self._advance(self._place + 1)

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _read(self) -> bool:
        """Doubles what is held: an element of any size is parsed only a few times."""
        more = self._file.read(max(_READ, len(self._text) - self._place))
        self._text, self._place = self._text[self._place :] + more, 0
        return bool(more)
