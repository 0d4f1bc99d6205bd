"""Free text joined into full pieces: no token lost, none learned twice, and each piece sees what stood before it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.packing import packed
from stages.lib.pairs import Pair

START, END = 0, 1


def documents(*lengths: int) -> list[list[Pair]]:
    """Tokens count up over all documents, so that each is there once; the end token closes each document."""
    first, batches = 2, []
    for number, length in enumerate(lengths):
        ids = list(range(first, first + length))
        first += length
        batches.append([Pair(str(number), [START], [*ids, END], [], 10 * length)])
    return batches


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 25), st.data())
@settings(max_examples=200, deadline=None)
def test_every_token_is_learned_once_and_in_its_order(lengths: list[int], size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    batches = documents(*lengths)
    stream = [token for batch in batches for pair in batch for token in pair.target_ids]
    pieces = [pair for batch in packed(batches, size, overlap) for pair in batch]
    assert [token for piece in pieces for token in piece.target_ids] == stream
    assert {len(piece.target_ids) for piece in pieces[:-1]} <= {size}
    assert 0 < len(pieces[-1].target_ids) <= size
    learned = 0
    for piece in pieces:
        assert piece.source_ids == [START, *stream[max(learned - overlap, 0) : learned]]
        learned += len(piece.target_ids)
    assert sum(piece.target_bytes for piece in pieces) == 10 * sum(lengths)


def test_a_piece_has_the_id_of_the_document_that_it_begins_in() -> None:
    pieces = [pair for batch in packed(documents(3, 3, 9), 6, 0) for pair in batch]
    assert [(pair.id, pair.target_ids) for pair in pieces] == [
        ("0", [2, 3, 4, END, 5, 6]),
        ("1", [7, END, 8, 9, 10, 11]),
        ("2", [12, 13, 14, 15, 16, END]),
    ]


def test_no_document_makes_no_piece() -> None:
    assert [pair for batch in packed([], 6, 2) for pair in batch] == []
