"""What differs between two texts, word by word."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from stages.lib.core.words import UNSPACED

# a word or a sign, with the space after it; a character of scripts without spaces
_UNIT = re.compile(rf"(?:[{UNSPACED}]|[^\W{UNSPACED}]+|\W)\s*|\s+")
_MOST_UNITS = 2000  # comparing takes time with the square of it


class Piece(NamedTuple):
    text: str
    differs: bool


def word_differences(first: str, second: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces; their texts joined are the text. Beyond 2,000 words, all the rest is one piece."""
    units = [_UNIT.findall(text) for text in (first, second)]
    ours, theirs = ([unit.strip() for unit in side[:_MOST_UNITS]] for side in units)
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return (
        list(_pieces(units[0], [(block.a, block.a + block.size) for block in blocks])),
        list(_pieces(units[1], [(block.b, block.b + block.size) for block in blocks])),
    )


def _pieces(units: Sequence[str], same: Sequence[tuple[int, int]]) -> Iterator[Piece]:
    place = 0
    for start, end in (*same, (len(units), len(units))):
        other, common = "".join(units[place:start]), "".join(units[start:end])
        marked = other.rstrip()  # a mark that ends in a space looks like a mistake
        for piece in (Piece(marked, True), Piece(other[len(marked) :] + common, False)):
            if piece.text:
                yield piece
        place = end
