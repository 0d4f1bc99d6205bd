"""Templates over the fields of a row, `{question}\\n{context.text}`, and the fields themselves by dotted path."""

import math
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from string import Formatter
from typing import Any


class Unusable(Exception):
    """A row can't be used. `reason` is one of a few fixed words, which accounts count; `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Template:
    """Literal text with fields in braces; `{{` and `}}` stand for braces themselves.

    Raises:
        ValueError: unbalanced braces, or a field with a format or conversion, which templates do not have.
    """

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, str | None]] = []
        for literal, field, layout, conversion in Formatter().parse(text):
            if field == "" or layout or conversion:
                raise ValueError(f"`{text}`: between braces stands the name of a column and nothing else")
            self._parts.append((literal, field))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        return tuple(field for _, field in self._parts if field is not None)

    def render(self, values: Mapping[str, Any]) -> str:
        """Raises Unusable where a field is missing or holds no text."""
        return "".join(
            literal if field is None else literal + as_text(field, value_at(field, values))
            for literal, field in self._parts
        )

    def render_all(self, values: Mapping[str, Any]) -> list[str]:
        """One text, or, where the template is a single field that holds a list, one for each of its elements."""
        if len(self._parts) == 1 and self._parts[0][0] == "":
            field = self.fields[0]
            value = value_at(field, values)
            if isinstance(value, list):
                return [as_text(f"{field}.{number}", element) for number, element in enumerate(value)]
        return [self.render(values)]


def value_at(path: str, values: Mapping[str, Any]) -> Any:
    """What stands at a dotted path: keys of objects, and positions in lists from 0.

    Raises:
        Unusable: nothing stands there.
    """
    if path in values:  # columns of a table may have dots in their names
        return values[path]
    found: Any = values
    for part in path.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise Unusable("missing_field", f"no {path}")
    return found


def as_text(field: str, value: Any) -> str:
    """Raises Unusable for what is neither text, nor a finite number, nor a date."""
    if isinstance(value, str):
        return value
    if value is None:
        raise Unusable("missing_field", f"{field} is null")
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if isinstance(value, date):  # a datetime too, as parquet and the hub hold them
        return value.isoformat()
    raise Unusable("no_text", f"{field} holds {_kind(value)}, not text")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", float: "a number that is not finite"}
    return names.get(type(value), f"a {type(value).__name__}")
