"""Rows of words drawn by Zipf's law, as many as wanted: real text of two million rows is nothing to ship."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def rows(count: int) -> Iterator[tuple[str, str]]:
    """(source, target) of about 60 and 100 characters; the number in front makes every source another one."""
    draw = random.Random(1)
    words = ["".join(draw.choices(_LETTERS, k=draw.randint(2, 9))) for _ in range(20_000)]
    pool = draw.choices(words, [1 / (rank + 10) for rank in range(len(words))], k=1 << 20)
    for number in range(count):
        start, length = draw.randrange(len(pool) - 40), draw.randint(8, 24)
        yield f"{number} {' '.join(pool[start : start + 8])}", f"{' '.join(pool[start + 8 : start + 8 + length])}."


def write_csv(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("facts", "text"))
        table.writerows(rows(count))
