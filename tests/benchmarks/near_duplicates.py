"""Near duplicates planted among 100 thousand rows. Run: `python -m tests.benchmarks.near_duplicates`. Claims: at least
95 % of those with a Jaccard similarity of 0.8 or more are found, with less than 1 % false ones, in 3 minutes on 2
cores."""

import random
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stages import prepare
from stages.lib.core.files import read_jsonl, write_jsonl
from stages.lib.overlap.minhash import jaccard, normalised, shingles
from stages.lib.params.prepare import Prepare
from tests.benchmarks.synthetic import rows
from tests.build import section

ROWS, PLANTED = 100_000, 5_000


def similarity(first: tuple[str, str], second: tuple[str, str]) -> float:
    one, two = shingles([list(map(normalised, parts)) for parts in (first, second)])
    return min(map(jaccard, one, two))


def edited(text: str, words: int, draw: random.Random) -> str:
    """Replaces this many words."""
    parts = text.split()
    for _ in range(words):
        parts[draw.randrange(len(parts))] = "".join(draw.choices("abcdefghij", k=5))
    return " ".join(parts)


def planted(originals: list[tuple[str, str]], draw: random.Random) -> Iterator[tuple[str, str]]:
    for source, target in originals:
        yield edited(source, draw.randint(0, 1), draw), edited(target, draw.randint(0, 2), draw)


def main() -> None:
    draw = random.Random(2)
    texts = list(islice(rows(ROWS), ROWS))
    originals = draw.sample(texts, PLANTED)
    copies = list(planted(originals, draw))
    near = {copy for copy, original in zip(copies, originals, strict=True) if similarity(copy, original) >= 0.8}
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        for name, split in (("train", texts), ("test", copies), ("validation", [("another one", "and its own text")])):
            write_jsonl(folder / f"{name}.jsonl", ({"facts": source, "text": target} for source, target in split))
        params = section(Prepare).model_dump()
        params |= {"group_references": False}
        params |= {split: f"{split}.jsonl" for split in ("train", "validation", "test")}
        params["duplicates"]["near"] = 0.8
        started = time.monotonic()
        prepare.run(Prepare.model_validate(params), None, folder, folder / "prepare")
        minutes = (time.monotonic() - started) / 60
        leaks = [
            row
            for row in read_jsonl(folder / "prepare/report/rejected.jsonl")
            if row["reason"] in ("in_test", "near_test")
        ]
    lines = [int(row["detail"].rpartition(" ")[2]) for row in leaks]
    found = [(texts[row["line"] - 1], copies[line - 1]) for row, line in zip(leaks, lines, strict=True)]
    right = [copy for text, copy in found if similarity(text, copy) >= 0.8]
    print(
        f"near duplicates: {len(near):,} planted with a similarity of 0.8 or more, "
        f"{len(near & set(right)) / len(near):.1%} found; {1 - len(right) / max(len(found), 1):.2%} of {len(found):,} "
        f"found are false; {minutes:.1f} minutes"
    )


if __name__ == "__main__":
    main()
