"""Equal and similar texts: keys, pieces, and the bands that find similar texts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.overlap.minhash import (
    SHINGLE_CHARACTERS,
    bands_and_rows,
    bands_and_signatures,
    fewest_common_bytes,
    jaccard,
    key,
    normalised,
    shingles,
)

texts = st.text("ab é\N{GRINNING FACE}", max_size=30)


def pieces(text: str) -> set[str]:
    """The simple way to compute them."""
    last = max(len(text) - SHINGLE_CHARACTERS, 0)
    return {text[start : start + SHINGLE_CHARACTERS] for start in range(last + 1)} if text else set()


def similarity(first: str, second: str) -> float:
    (parts,) = shingles([(first, second)])
    return jaccard(*parts)


@given(texts, texts)
def test_jaccard_is_that_of_the_sets_of_pieces(first: str, second: str) -> None:
    one, two = pieces(first), pieces(second)
    expected = len(one & two) / len(one | two) if one | two else 1.0
    assert similarity(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("", "", 1.0), ("", "a", 0.0), ("a", "a", 1.0), ("a", "b", 0.0), ("a", "aa", 0.0), ("abcd", "abcde", 0.0)],
)
def test_short_texts_are_a_single_piece(first: str, second: str, expected: float) -> None:
    assert similarity(first, second) == expected


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


def bands(*texts: str, threshold: float) -> list[tuple[int, ...]]:
    keys, _ = bands_and_signatures([(text,) for text in texts], threshold)
    return [tuple(own.tolist()) for own in keys]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_texts_at_the_threshold_share_a_band_and_most_of_their_signatures(threshold: float) -> None:
    found, similarities = 0, []
    for seed in range(300):
        one, two = two_similar_texts(seed, threshold)
        similarities.append(similarity(one, two))
        (first, second), signatures = bands_and_signatures([(one,), (two,)], threshold)
        found += bool((first == second).any())
        assert (signatures[0] == signatures[1]).sum() >= fewest_common_bytes(threshold)
    assert max(similarities) < threshold + 0.02
    assert sum(similarities) / 300 > threshold - 0.02
    assert found / 300 >= 0.97


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9, 1.0])
def test_unrelated_texts_rarely_share_a_band_and_their_signatures_differ(threshold: float) -> None:
    draw = random.Random(1)
    texts = ["".join(draw.choices("abcdefghij ", k=300)) for _ in range(200)]
    keys, signatures = bands_and_signatures([(text,) for text in texts], threshold)
    pairs = [(one, two) for one in range(200) for two in range(one)]
    assert sum(bool((keys[one] == keys[two]).any()) for one, two in pairs) < 0.001 * len(pairs)
    most = max(int((signatures[one] == signatures[two]).sum()) for one, two in pairs)
    assert most < fewest_common_bytes(threshold)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_every_band_has_a_key_even_for_an_empty_text(threshold: float) -> None:
    number, rows = bands_and_rows(threshold)
    assert 1 - (1 - threshold**rows) ** number >= 0.99
    for text in ("", "a", "a longer text " * 1000):
        (own,) = bands(text, threshold=threshold)
        assert len(own) == number


def test_different_bands_have_different_keys() -> None:
    """Otherwise, equal minima in two different bands would match."""
    (own,) = bands("", threshold=0.8)
    assert len(set(own)) == bands_and_rows(0.8)[0]


@given(st.lists(st.tuples(texts, texts), max_size=8), st.sampled_from([0.5, 0.8, 1.0]))
def test_keys_and_signatures_depend_on_no_other_text(items: list[tuple[str, str]], threshold: float) -> None:
    keys, signatures = bands_and_signatures(items, threshold)
    for number, item in enumerate(items):
        own_keys, own_signatures = bands_and_signatures([item], threshold)
        assert keys[number].tolist() == own_keys[0].tolist()
        assert signatures[number].tolist() == own_signatures[0].tolist()


@given(st.lists(st.tuples(texts, texts), max_size=8))
def test_the_pieces_of_many_texts_are_those_of_each(items: list[tuple[str, str]]) -> None:
    alone = [[next(shingles([(part,)]))[0].tolist() for part in item] for item in items]
    assert [[own.tolist() for own in found] for found in shingles(items)] == alone


def test_texts_longer_than_what_is_hashed_at_a_time_keep_their_keys() -> None:
    draw = random.Random(3)
    many = ["".join(draw.choices("abc ", k=length)) for length in (5, 40_000, 0, 70_000, 3, 1)]
    assert bands(*many, threshold=0.8) == [own for text in many for own in bands(text, threshold=0.8)]


@given(texts.filter(bool), texts.filter(bool))
def test_a_piece_of_one_part_matches_none_of_another_part(one: str, two: str) -> None:
    (first, second), signatures = bands_and_signatures([(one, two), (two, one)], 0.8)
    if not pieces(one) & pieces(two):
        assert not (first == second).any()
        assert (signatures[0] == signatures[1]).sum() < fewest_common_bytes(0.8)
