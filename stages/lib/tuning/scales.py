"""Values of a searched setting as words and as places on an axis."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

_WIDE_RATIO = 5  # of the largest to the smallest: an axis is logarithmic from here on
_BELOW = -0.15  # the place of a word, such as null, on an axis of numbers


def label(value: Any) -> str:
    """As YAML and JSON write it; no two values have the same."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_logarithmic(numbers: Iterable[float]) -> bool:
    """Whether the orders of magnitude matter: a range of a search, or its choices, would be read like that."""
    smallest, largest = min(numbers), max(numbers)
    return smallest > 0 and largest >= _WIDE_RATIO * smallest


def places(values: Sequence[Any]) -> list[float]:
    """Of each value from 0 to 1: numbers by their size, on a logarithmic scale if they are far apart, words in the
    order of the alphabet at equal distances. Words among numbers stand below 0."""
    numbers = [value for value in values if is_number(value)]
    if not numbers:
        words = sorted(set(map(label, values)))
        return [_share(words.index(label(value)), 0, len(words) - 1) for value in values]
    scaled = math.log if is_logarithmic(numbers) else float
    low, high = scaled(min(numbers)), scaled(max(numbers))
    return [_share(scaled(value), low, high) if is_number(value) else _BELOW for value in values]


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5
