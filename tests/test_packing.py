"""Packed free text: no token is lost or has loss twice, and each piece sees the tokens before it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.encoding.packing import packed
from stages.lib.records.tokenized_examples import TokenizedExample

START, END = 0, 1


def documents(*lengths: int) -> list[list[TokenizedExample]]:
    """Tokens count up over all documents, so each occurs once. The end token closes each document."""
    first, batches = 2, []
    for number, length in enumerate(lengths):
        ids = list(range(first, first + length))
        first += length
        batches.append([TokenizedExample(str(number), [START], [*ids, END], [], 10 * length)])
    return batches


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 25), st.data())
@settings(max_examples=200)
def test_every_token_has_loss_once_and_in_its_order(lengths: list[int], size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    batches = documents(*lengths)
    stream = [token for batch in batches for example in batch for token in example.target_ids]
    pieces = [piece for batch in packed(batches, size, overlap) for piece in batch]
    assert [token for piece in pieces for token in piece.target_ids] == stream
    assert {len(piece.target_ids) for piece in pieces[:-1]} <= {size}
    assert 0 < len(pieces[-1].target_ids) <= size
    with_loss = 0
    for piece in pieces:
        assert piece.source_ids == [START, *stream[max(with_loss - overlap, 0) : with_loss]]
        with_loss += len(piece.target_ids)
    assert sum(piece.target_bytes for piece in pieces) == 10 * sum(lengths)


def test_a_piece_has_the_id_of_the_document_where_it_begins() -> None:
    pieces = [piece for batch in packed(documents(3, 3, 9), 6, 0) for piece in batch]
    assert [(piece.id, piece.target_ids) for piece in pieces] == [
        ("0", [2, 3, 4, END, 5, 6]),
        ("1", [7, END, 8, 9, 10, 11]),
        ("2", [12, 13, 14, 15, 16, END]),
    ]


def test_no_documents_make_no_piece() -> None:
    assert list(packed([], 6, 2)) == []


def test_a_document_in_parts_is_packed_as_if_it_were_whole() -> None:
    whole = [TokenizedExample("tale", [], [2, 3, 4, 5, 6, 7, 8, END], [], 80)]
    first = TokenizedExample("tale", [], [2, 3, 4, 5], [], 40)
    second = TokenizedExample("tale", [4, 5], [6, 7, 8, END], [], 40)
    assert list(packed([[first, second]], 3, 1)) == list(packed([whole], 3, 1))
