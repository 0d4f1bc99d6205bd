"""A score, and what many metrics share: means and n-grams."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """`signature` says how the value was computed: two values of different signatures can't be compared."""

    value: float
    signature: str


def mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected)


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + n]) for start in range(len(words) - n + 1))
