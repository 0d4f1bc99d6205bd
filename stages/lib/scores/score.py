"""A score: a number with the signature that says how it was taken; and what many are made of."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    value: float
    signature: str


def mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected)


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + n]) for start in range(len(words) - n + 1))
