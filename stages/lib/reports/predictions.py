"""The predictions of a report page: which ones it holds, as JSON that no text in it can break out of."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_PREDICTIONS = 2000
_MOST_CHARACTERS = 4000  # of a text
_MOST_BYTES = 4_000_000  # of them all

# `</script>` would end the element, and `<!--` would change how it is read; the other two end lines in old JavaScript
_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def embedded(
    predictions: Sequence[Mapping[str, Any]], headline: Sequence[str], scores: Mapping[str, Mapping[str, Any]]
) -> tuple[str, int]:
    """JSON for a script element, at most 4 MB, and how many predictions it holds.

    `predictions` are the worst first. If they are too many, half of those that it holds are the worst, and half stand
    at even distances among the others.
    """
    present = {name for own in predictions for name in own["scores"]}
    names = [name for name in dict.fromkeys([*headline, *scores]) if name in present]
    most = _MOST_PREDICTIONS
    while True:
        kept = _chosen(predictions, most)
        text = _as_json(kept, names, scores)
        if len(text.encode("utf-8", "backslashreplace")) <= _MOST_BYTES or len(kept) <= 1:
            return text, len(kept)
        most = len(kept) // 2


def shortened(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]} … ({len(text):,} characters)"


def _chosen(predictions: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    if len(predictions) <= most:
        return list(predictions)
    worst, others = predictions[: most // 2], predictions[most // 2 :]
    wanted = most - len(worst)
    return [*worst, *(others[number * len(others) // wanted] for number in range(wanted))]


def _as_json(
    predictions: Sequence[Mapping[str, Any]], names: Sequence[str], scores: Mapping[str, Mapping[str, Any]]
) -> str:
    columns = [
        {"name": name, "better": scores[name]["better"], "decimals": _decimals(name, predictions)} for name in names
    ]
    rows = [
        {
            "id": own["id"],
            "source": shortened(own["source"]),
            "references": list(map(shortened, own["references"])),
            "prediction": shortened(own["prediction"]),
            "faults": own["faults"],
            "flags": own["flags"],
            "scores": [_rounded(own["scores"].get(name)) for name in names],
        }
        for own in predictions
    ]
    return script_json({"scores": columns, "rows": rows})


def script_json(content: object) -> str:
    """JSON for a script element."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _decimals(name: str, predictions: Sequence[Mapping[str, Any]]) -> int:
    largest = max((abs(own["scores"].get(name) or 0) for own in predictions), default=0)
    return 1 if largest >= 10 else 2 if largest > 1 else 3
