"""Templates over the fields of a row, such as `{question}\\n{context.text}`. A field is a dotted path."""

import math
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from string import Formatter
from typing import Any


class RejectedRow(Exception):
    """A row can't be used. `reason` is one of a few fixed words, for the stats; `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Template:
    """Literal text with fields in braces. `{{` and `}}` are literal braces.

    Raises:
        ValueError: unbalanced braces, or a field with a format or a conversion, as in `{a:>5}` and `{a!r}`.
    """

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, str | None]] = []
        for literal, field, layout, conversion in Formatter().parse(text):
            if field == "" or layout or conversion:
                raise ValueError(f"`{text}`: braces may contain only the name of a column")
            self._parts.append((literal, field))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        return tuple(field for _, field in self._parts if field is not None)

    def render(self, values: Mapping[str, Any]) -> str:
        """Raises RejectedRow if a field is missing or holds no text."""
        return "".join(
            literal if field is None else literal + as_text(field, value_at(field, values))
            for literal, field in self._parts
        )

    def render_all(self, values: Mapping[str, Any]) -> list[str]:
        """One text. If the template is a single field that holds a list: one text per element."""
        if len(self._parts) == 1 and self._parts[0][0] == "":
            field = self.fields[0]
            value = value_at(field, values)
            if isinstance(value, list):
                return [as_text(f"{field}.{number}", element) for number, element in enumerate(value)]
        return [self.render(values)]


def value_at(path: str, values: Mapping[str, Any]) -> Any:
    """The value at a dotted path. Its parts are keys of objects, and positions in lists, from 0.

    Raises:
        RejectedRow: there is no such value.
    """
    if path in values:  # the name of a column may contain dots
        return values[path]
    found: Any = values
    for part in path.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise RejectedRow("missing_field", f"no {path}")
    return found


def as_text(field: str, value: Any) -> str:
    """Raises RejectedRow for values other than texts, finite numbers and dates."""
    if isinstance(value, str):
        return value
    if value is None:
        raise RejectedRow("missing_field", f"{field} is null")
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if isinstance(value, date):  # also a datetime; parquet and the hub have both
        return value.isoformat()
    raise RejectedRow("no_text", f"{field} holds {_type_name(value)}, not text")


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", float: "a number that is not finite"}
    return names.get(type(value), f"a {type(value).__name__}")
