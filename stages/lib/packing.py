"""Free text without waste: documents joined, each behind the end token of the one before, and cut into full pieces."""

from collections.abc import Iterable, Iterator, Sequence

from stages.lib.pairs import Pair


def packed(batches: Iterable[Sequence[Pair]], size: int, overlap: int) -> Iterator[list[Pair]]:
    """Pairs whose targets have `size` tokens, but for the last; each token of the documents is in exactly one target.

    Args:
        batches: pairs of free text: their targets, end tokens among them, are the documents in their order, and
            the source of the first is what a document begins from.
        overlap: tokens before a piece that it sees as its source, those of the document before among them.
    """
    start: list[int] = []
    seen: list[int] = []  # the last `overlap` tokens that are learned already
    waiting: list[int] = []
    name, bytes_left = "", 0.0
    for batch in batches:
        pieces = []
        for pair in batch:
            start = start or list(pair.source_ids)
            name = name if waiting else pair.id
            waiting += pair.target_ids
            bytes_left += pair.target_bytes
            while len(waiting) >= size:
                share = round(bytes_left * size / len(waiting))
                pieces.append(Pair(name, start + seen, waiting[:size], [], share))
                seen = [*seen, *waiting[:size]][-overlap:] if overlap else []
                waiting, bytes_left, name = waiting[size:], bytes_left - share, pair.id
        yield pieces
    if waiting:
        yield [Pair(name, start + seen, waiting, [], round(bytes_left))]
