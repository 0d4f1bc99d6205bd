"""Free text in pieces of one length: documents are joined, each after the end token of the one before, and divided."""

from collections.abc import Iterable, Iterator, Sequence

from stages.lib.records.tokenized_examples import TokenizedExample


def packed(batches: Iterable[Sequence[TokenizedExample]], size: int, overlap: int) -> Iterator[list[TokenizedExample]]:
    """Tokenized examples whose targets have `size` tokens, except for the last. Each token of the documents is in
    exactly one target.

    Args:
        batches: tokenized examples of free text. Their targets, end tokens included, are the documents in their order.
            The source of the first is the start of every document; a long one can come in parts, whose sources don't
            count.
        overlap: tokens before a piece that become its source; they may be of the document before.
    """
    start: list[int] = []
    seen: list[int] = []  # the last `overlap` tokens that have had loss
    waiting: list[int] = []
    name, bytes_left = "", 0.0
    for batch in batches:
        pieces = []
        for example in batch:
            start = start if name else list(example.source_ids)
            name = name if waiting else example.id
            waiting += example.target_ids
            bytes_left += example.target_bytes
            while len(waiting) >= size:
                share = round(bytes_left * size / len(waiting))
                pieces.append(TokenizedExample(name, start + seen, waiting[:size], [], share))
                seen = [*seen, *waiting[:size]][-overlap:] if overlap else []
                waiting, bytes_left, name = waiting[size:], bytes_left - share, example.id
        yield pieces
    if waiting:
        yield [TokenizedExample(name, start + seen, waiting, [], round(bytes_left))]
