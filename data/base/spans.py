"""Makes examples for the seq2seq base: `python spans.py EXAMPLES`, in this folder.

The source is a piece of text in which spans of words are hidden, the target the piece as it was: text infilling, by
which BART was made (Lewis et al. 2020, arXiv 1910.13461).

As many examples of facts.py stand between them, which need copying.

Reads:  corpus/*.jsonl.xz, but for the share-alike file.
Writes: spans/train.jsonl.xz, and spans/test.jsonl.xz of the held-out files: `source` and `text`.
"""

import json
import lzma
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random

from facts import SEED
from facts import TARGET as FACTS
from texts import documents

PIECE_WORDS = 60  # at most; sentences stay whole
HIDDEN_SHARE = 0.3  # of the words
SPANS = (1, 2, 3, 4, 5)  # words
MARK = "_"
HELD_OUT_EXAMPLES = 500
TARGET = Path("spans")


def main(examples: int) -> None:
    random = Random(SEED)
    with lzma.open(FACTS, "rt", encoding="utf-8") as file:
        facts = [{"source": row["facts"], "text": row["text"]} for row in map(json.loads, islice(file, examples))]
    rows = [*infilled("", examples, random), *facts]
    random.shuffle(rows)
    TARGET.mkdir(exist_ok=True)
    write(TARGET / "train.jsonl.xz", rows)
    write(TARGET / "test.jsonl.xz", infilled("_heldout", HELD_OUT_EXAMPLES, random))


def infilled(ending: str, wanted: int, random: Random) -> list[dict[str, str]]:
    texts = list(documents(ending))
    random.shuffle(texts)
    drawn = islice((piece for text in texts for piece in pieces(text)), wanted)
    return [{"source": hidden(piece, random), "text": piece} for piece in drawn]


def pieces(text: str) -> Iterator[str]:
    """Sentences that stand together."""
    waiting: list[str] = []
    for sentence in re.split(r"(?<=[.!?]) +|\n+", text):
        words = sentence.split()
        if waiting and len(waiting) + len(words) > PIECE_WORDS:
            yield " ".join(waiting)
            waiting = []
        waiting += words
        if len(waiting) > PIECE_WORDS:  # one long sentence
            waiting = []


def hidden(piece: str, random: Random) -> str:
    words = piece.split(" ")
    kept, at = [], 0
    mean = sum(SPANS) / len(SPANS)
    while at < len(words):
        # a span begins so often that the wanted share is hidden
        if random.random() < HIDDEN_SHARE / (mean * (1 - HIDDEN_SHARE) + HIDDEN_SHARE):
            kept.append(MARK)
            at += random.choice(SPANS)
        else:
            kept.append(words[at])
            at += 1
    return " ".join(kept)


def write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with lzma.open(path, "wt", encoding="utf-8", preset=1) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
