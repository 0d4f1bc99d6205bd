"""Rows of words drawn by Zipf's law, as many as wanted: real text of two million rows is nothing to ship."""

import csv
import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def rows(count: int, similar: float = 0.0) -> Iterator[tuple[str, str]]:
    """(source, target) of about 60 and 100 characters. Each row is drawn for itself, but this share of them: each of
    these is an earlier row, no matter how far back, with another word in its target."""
    draw = random.Random(1)
    words = ["".join(draw.choices(_LETTERS, k=draw.randint(2, 9))) for _ in range(20_000)]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(words))))

    def row(number: int) -> tuple[str, str]:
        own = random.Random(number)
        drawn = own.choices(words, cum_weights=weights, k=own.randint(16, 32))
        contact = f" write to {drawn[0]}@example.org or call 650 253 {number % 10_000:04}" if number % 20 == 0 else ""
        return f"{number} {' '.join(drawn[:8])}", f"{' '.join(drawn[8:])}{contact}."

    for number in range(count):
        if number and draw.random() < similar:
            source, target = row(draw.randrange(number))
            yield source, f"{target} {draw.choice(words)}"
        else:
            yield row(number)


def write_csv(path: Path, count: int, similar: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("facts", "text"))
        table.writerows(rows(count, similar))
