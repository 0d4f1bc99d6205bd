"""Templates over the fields of a row, such as `{question}\\n{context.text}`.

A field is the name of a column, or a dotted path into the value of a column. Its parts are keys of objects, and
positions in lists, from 0. The part `*` takes every element of a list, or every value of an object, and makes a list.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

_KEYS_OF_MESSAGES = ({"role", "content"}, {"from", "value"})  # the second are those of ShareGPT
_PIECE = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<field>[^{}]*)\}|(?P<single>[{}])|(?P<text>[^{}]+)")


class RejectedRow(Exception):
    """A row can't be used. `reason` is one of a few fixed words, for the stats; `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class NullValue(RejectedRow):
    """A field is there, but holds null where a text must be."""


class Field:
    """A field as people write it. An optional one ends with `?`: where it is missing, its value is null."""

    def __init__(self, written: str) -> None:
        self._written = written
        self.name, self.optional = written.removesuffix("?"), written.endswith("?")

    def value(self, values: Mapping[str, Any]) -> Any:
        """A column whose own name ends with `?` comes first. Raises RejectedRow as `value_at` does."""
        if not self.optional or self._written in values:
            return value_at(self._written, values)
        return value_at(self.name, values, optional=True)


class Template:
    """Literal text with fields in braces. `{{` and `}}` are literal braces.

    `separators` are put between the elements of a list, those of a list inside it, and so on; the last one is for all
    that are deeper.

    Raises:
        ValueError: a single brace, or braces without a name.
    """

    def __init__(self, text: str, separators: Sequence[str] = ("\n", " | ")) -> None:
        self._separators = separators
        self._parts = _parse(text)
        fields = [part for part in self._parts if isinstance(part, Field)]
        self.fields = tuple(field.name for field in fields)
        self.required = tuple(field.name for field in fields if not field.optional)

    def render(self, values: Mapping[str, Any]) -> str:
        """Raises RejectedRow if a field is missing or holds no text."""
        return "".join(
            part if isinstance(part, str) else self._text(part, part.value(values), 0) for part in self._parts
        )

    def render_all(self, values: Mapping[str, Any]) -> list[str]:
        """One text. If the template is a single field that holds a list: one text per element, empty for null."""
        if len(self._parts) == 1 and isinstance(field := self._parts[0], Field):
            value = field.value(values)
            if isinstance(value, list):
                return ["" if element is None else self._text(field, element, 1) for element in value]
            return [self._text(field, value, 0)]
        return [self.render(values)]

    def _text(self, field: Field, value: Any, depth: int) -> str:
        """The text of a value that is `depth` lists deep."""
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            if field.optional:
                value = [element for element in value if element is not None]
            separator = self._separators[min(depth, len(self._separators) - 1)]
            return separator.join(self._text(field, element, depth + 1) for element in value)
        if value is None and field.optional:
            return ""
        if value is None and depth:
            raise RejectedRow("missing_field", f"{field.name} has a null in its list; {{{field.name}?}} leaves it out")
        return as_text(_path_of_elements(field.name, depth), value, "*")


def _parse(text: str) -> list[str | Field]:
    parts: list[str | Field] = []
    for piece in _PIECE.finditer(text):
        if piece["single"]:
            raise ValueError(f"`{text}`: a single {piece[0]}; write {piece[0] * 2} for a brace that is text")
        if piece["field"] is None:
            parts.append(piece[0][0] if piece["brace"] else piece[0])
        elif Field(piece["field"]).name:
            parts.append(Field(piece["field"]))
        else:
            raise ValueError(f"`{text}`: write the name of a column into the braces")
    return parts


def _path_of_elements(name: str, depth: int) -> str:
    """The path to the elements of lists, `depth` of them deep. The name may lead into some of the lists already."""
    return name + ".*" * (depth - name.split(".").count("*"))


def value_at(path: str, values: Mapping[str, Any], optional: bool = False) -> Any:
    """The value of a field. An `optional` one that isn't there is null.

    Raises:
        RejectedRow: there is no such value.
    """
    if path in values:  # the name of a column may contain dots
        return values[path]
    return _inside(values, path.split("."), 0, optional)


def _inside(found: Any, parts: list[str], start: int, optional: bool) -> Any:
    for place in range(start, len(parts)):
        part = parts[place]
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        elif part == "*" and isinstance(found, Mapping | list):
            elements = found.values() if isinstance(found, Mapping) else found
            return [_inside(element, parts, place + 1, optional) for element in elements]
        elif optional:
            return None
        else:
            raise RejectedRow("missing_field", f"no {'.'.join(parts)}")
    return found


def as_text(field: str, value: Any, element: str = "0") -> str:
    """Numbers as they are written, `true` or `false`, and dates and times in the form of ISO 8601.

    Raises:
        RejectedRow: the value is null, or of another kind. It says what to write; for a list, `element` is the next
            part of the path.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise NullValue("missing_field", f"{field} is null")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")  # str writes some with an exponent
    if isinstance(value, date | time):  # also a datetime
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, UUID):
        return str(value)
    raise RejectedRow("no_text", f"{field} holds {_kind(field, value, element)}")


def _duration(value: timedelta) -> str:
    """Hours, minutes and seconds, such as 26:00:00.5."""
    seconds = abs(value)
    hours, rest = divmod(seconds, timedelta(hours=1))
    minutes, rest = divmod(rest, timedelta(minutes=1))
    fraction = f".{rest.microseconds:06}".rstrip("0") if rest.microseconds else ""
    return f"{'-' if value < timedelta(0) else ''}{hours}:{minutes:02}:{rest.seconds:02}{fraction}"


def _kind(field: str, value: Any, element: str) -> str:
    """What the value is, and what to write in its place."""
    if isinstance(value, Mapping):
        path = _path_to_text(field, value, element) or f"{field}.NAME"
        is_message = any(keys <= value.keys() for keys in _KEYS_OF_MESSAGES)
        advice = f"; for a conversation, use prepare.messages: {field.rstrip('.*')}" if is_message else ""
        return f"an object, not text; write one of its fields, such as {path}{advice}"
    if isinstance(value, list):
        path = _path_to_text(field, value, element) or f"{field}.{element}"
        return f"a list, not text; write one of its elements, such as {path}"
    if isinstance(value, bytes):
        return "bytes, not text; decode them in the file"
    if isinstance(value, float | Decimal):
        return "a number that is not finite"
    return f"a {type(value).__name__}, not text"


def _path_to_text(path: str, value: Any, element: str) -> str | None:
    """The path of the first text or number in a value, at any depth."""
    if isinstance(value, Mapping):
        inner = [(f"{path}.{key}", own) for key, own in value.items() if "." not in str(key)]
    elif isinstance(value, list):
        inner = [(f"{path}.{element}", own) for own in (value[:1] if element == "0" else value)]
    else:
        return None if isinstance(value, bytes | None) else path
    return next((found for place, own in inner if (found := _path_to_text(place, own, element))), None)
