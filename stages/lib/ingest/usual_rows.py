"""What the last rows of a table look like, so that a line can be told to be a row or a piece of text."""

import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

_KINDS = frozenset({"empty", "blank", "number", "capital", "text"})
_ROWS = 100


@dataclass(frozen=True)
class Column:
    """The kinds that are usual in a column, and its shortest and longest field, in characters."""

    kinds: frozenset[str] = _KINDS
    shortest: int = 0
    longest: int = sys.maxsize

    def has(self, field: str) -> bool:
        """Whether a field is usual here: of a usual kind, at least a quarter as long as the shortest one,
        and at most four times as long as the longest one."""
        return self.shortest <= 4 * len(field) and len(field) <= 4 * self.longest and _kind(field) in self.kinds


def is_row(fields: Sequence[str], columns: Sequence[Column]) -> bool:
    """False if nothing is known of the columns."""
    return len(fields) == len(columns) > 0 and all(map(Column.has, columns, fields))


class UsualRows:
    """Keeps the last 100 rows. After them, it looks at one row in 16 only: rows are read fast."""

    def __init__(self) -> None:
        self._count = 0
        self._characters: deque[int] = deque(maxlen=_ROWS)
        self._fields: deque[list[tuple[str, int]]] = deque(maxlen=_ROWS)  # kind and length of each field
        self._median: float | None = None

    def add(self, fields: Sequence[str], characters: int) -> None:
        self._count += 1
        if self._count <= _ROWS or self._count % 16 == 0:
            self._characters.append(characters)
            self._fields.append([(_kind(field), len(field)) for field in fields])
            self._median = None

    def characters(self) -> float:
        """The median of a row. Without a bound as long as there are less than ten rows."""
        if self._median is None:
            self._median = median(self._characters) if self._count >= 10 else sys.maxsize
        return self._median

    def columns(self) -> list[Column]:
        """Empty as long as there are less than three rows."""
        return [_usual(column) for column in zip(*self._fields, strict=True)] if self._count >= 3 else []


def _usual(column: Sequence[tuple[str, int]]) -> Column:
    """A kind is usual if one field in twenty has it."""
    counts, lengths = Counter(kind for kind, _ in column), [length for _, length in column]
    kinds = frozenset(kind for kind, count in counts.items() if 20 * count >= len(column))
    return Column(kinds, min(lengths), max(lengths))


def _kind(field: str) -> str:
    first = field[:1]
    if not first:
        return "empty"
    if first.isspace():
        return "blank"
    if field.lstrip("+-").replace(".", "", 1).isdecimal():
        return "number"
    return "capital" if first.isupper() else "text"
