"""Draws that come out the same in every version of Python: of Random's methods only random() promises that."""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import TypeVar

Option = TypeVar("Option")


def draw(rng: Random, chances: Sequence[float]) -> int:
    """A position, as often as the chance at it says."""
    return bisect(list(accumulate(chances[:-1])), rng.random())


def pick(rng: Random, options: Sequence[Option]) -> Option:
    return options[int(rng.random() * len(options))]


def shuffled(rng: Random, options: Sequence[Option]) -> list[Option]:
    return sorted(options, key=lambda _: rng.random())


def capital(text: str) -> str:
    return text[0].upper() + text[1:]
