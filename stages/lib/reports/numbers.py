"""Numbers as a reader wants them: no more digits than the interval supports, thousands apart, nested ones by path."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

_MOST_DECIMALS = 6
_LARGE = 1e9  # perplexities can have hundreds of digits
_PREFIXES = {6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
_MINUS = "\u2212"  # as wide as a plus


def decimals(value: float, low: float | None, high: float | None) -> int:
    """So many that the standard error has two digits; without an interval, that the value has four."""
    width, digits = (abs(value), 4) if low is None or high is None or low == high else ((high - low) / 3.92, 2)
    return min(max(digits - 1 - math.floor(math.log10(width)), 0), _MOST_DECIMALS) if width else 1


def fixed(value: float, places: int) -> str:
    if abs(value) >= _LARGE:
        return f"{value:.3g}"
    text = f"{value:,.{places}f}"
    return text.replace("-", _MINUS) if float(text.replace(",", "")) else text.removeprefix("-")


def signed(value: float, places: int) -> str:
    text = fixed(value, places)
    return text if value <= 0 or text == fixed(0, places) else f"+{text}"


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def plain(value: Any) -> str:
    """A setting or a count in one line, thousands apart. A text with blanks around it, or line ends, is quoted."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    is_line = isinstance(value, str) and value == " ".join(value.splitlines()).strip()
    return str(value) if is_line else json.dumps(value, ensure_ascii=False)


def compact(count: float) -> str:
    """Of three digits from a million on, such as 3.44 M."""
    power = max((p for p in _PREFIXES if abs(count) >= 10**p), default=None)
    return plain(round(count)) if power is None else f"{count / 10**power:.3g} {_PREFIXES[power]}"


def span(low: float | None, high: float | None, places: int) -> str:
    return "unknown" if low is None or high is None else f"{fixed(low, places)} to {fixed(high, places)}"


def finite(value: float | None) -> float | None:
    """None where nothing is known: of a single group of examples there is no interval."""
    return None if value is None or not math.isfinite(value) else value


def in_words(name: str) -> str:
    return name.replace("_", " ").replace(".", ", ")


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every leaf; an empty mapping has none."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
