"""Equal and similar texts: keys, pieces, and the bands that find similar texts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.ingest.minhash import SHINGLE_CHARACTERS, band_keys, bands_and_rows, jaccard, key, normalised, shingles

texts = st.text("ab é\N{GRINNING FACE}", max_size=30)


def pieces(text: str) -> set[str]:
    """The simple way to compute them."""
    last = max(len(text) - SHINGLE_CHARACTERS, 0)
    return {text[start : start + SHINGLE_CHARACTERS] for start in range(last + 1)} if text else set()


@given(texts, texts)
def test_jaccard_is_that_of_the_sets_of_pieces(first: str, second: str) -> None:
    one, two = pieces(first), pieces(second)
    expected = len(one & two) / len(one | two) if one | two else 1.0
    assert jaccard(shingles(first), shingles(second)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("", "", 1.0), ("", "a", 0.0), ("a", "a", 1.0), ("a", "b", 0.0), ("a", "aa", 0.0), ("abcd", "abcde", 0.0)],
)
def test_short_texts_are_a_single_piece(first: str, second: str, expected: float) -> None:
    assert jaccard(shingles(first), shingles(second)) == expected


def test_pieces_with_different_salt_never_match() -> None:
    assert jaccard(shingles("some text", salt=0), shingles("some text", salt=1)) == 0


def test_a_key_depends_on_the_borders_of_its_parts() -> None:
    keys = {key("ab", "c"), key("a", "bc"), key("abc"), key("abc", ""), key("", "abc"), key("c", "ab"), key()}
    assert len(keys) == 7
    assert key("ab", "c") == key("ab", "c")
    assert all(0 <= number < 2**64 for number in keys)


def test_a_key_of_half_a_surrogate_pair_is_no_error() -> None:
    assert key("\ud83d") != key("\ud83e")


@pytest.mark.parametrize(
    ("text", "same"),
    [("A  b\n", "a b"), ("STRASSE", "straße"), ("\uff21\uff42", "ab"), ("a\u00a0b", "a\tb"), ("ﬁn", "fin")],
)
def test_case_width_and_blanks_make_no_difference(text: str, same: str) -> None:
    assert normalised(text) == normalised(same)


def test_accents_and_words_make_a_difference() -> None:
    assert len({normalised(text) for text in ("a b", "ab", "á b", "a, b")}) == 4


def two_similar_texts(seed: int, threshold: float) -> tuple[str, str]:
    """Two texts whose similarity is just at the threshold: a shared part, and different ends."""
    draw = random.Random(seed)
    shared = 400
    differing = int(shared * (1 - threshold) / threshold / 2)
    lengths = (shared, differing, differing)
    common, one, two = ("".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=length)) for length in lengths)
    return common + one, common + two


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_texts_at_the_threshold_share_a_band(threshold: float) -> None:
    found, similarities = 0, []
    for seed in range(300):
        one, two = (shingles(text) for text in two_similar_texts(seed, threshold))
        similarities.append(jaccard(one, two))
        found += bool((band_keys(one, threshold) == band_keys(two, threshold)).any())
    assert max(similarities) < threshold + 0.02
    assert sum(similarities) / 300 > threshold - 0.02
    assert found / 300 >= 0.97


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9, 1.0])
def test_unrelated_texts_rarely_share_a_band(threshold: float) -> None:
    draw = random.Random(1)
    keys = [band_keys(shingles("".join(draw.choices("abcdefghij ", k=300))), threshold) for _ in range(200)]
    shared = sum(bool((one == two).any()) for place, one in enumerate(keys) for two in keys[:place])
    assert shared < 0.001 * 200 * 199 / 2


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_every_band_has_a_key_even_for_an_empty_text(threshold: float) -> None:
    bands, rows = bands_and_rows(threshold)
    assert 1 - (1 - threshold**rows) ** bands >= 0.99
    for text in ("", "a", "a longer text " * 1000):
        assert band_keys(shingles(text), threshold).shape == (bands,)


def test_different_bands_have_different_keys() -> None:
    """Otherwise, equal minima in two different bands would match."""
    assert len(set(band_keys(shingles(""), 0.8).tolist())) == bands_and_rows(0.8)[0]
