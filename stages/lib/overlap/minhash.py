"""Equal and similar texts: keys, pieces, and the bands that find similar texts."""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from stages.lib.core.worker_pool import in_batches

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Counts = np.ndarray[Any, np.dtype[np.int64]]
Signatures = np.ndarray[Any, np.dtype[np.uint8]]

SHINGLE_CHARACTERS = 5
# 2⁶⁴ over the golden ratio, odd: products with it spread over all 64 bits (Knuth, volume 3, section 6.4)
MULTIPLIER = 0x9E3779B97F4A7C15
# bytes of a signature: two texts of similarity s have about the share s of them in common
SIGNATURE_BYTES = 64
_PERMUTATIONS = 128
_MIN_RECALL = 0.99  # probability that two texts at the threshold share a band
_FILLER = "\U0010ffff"  # no character; it fills up texts that are shorter than a piece
_AT_A_TIME = 1 << 15  # characters: what is computed of them stays in the cache of a processor
_DEVIATIONS = 6  # of a binomial distribution; a share of 1e-8 of similar texts lies below


def normalised(text: str) -> str:
    """Without differences in case, width and blanks."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().split())


def key(*parts: str) -> int:
    """64 bits of BLAKE2b. Among n texts, two different ones share a key with probability n²/2⁶⁵: 1e-7 for 2 million."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest())


def shingles(texts: Sequence[Sequence[str]]) -> Iterator[list[Hashes]]:
    """Of each part of each item, the sorted hashes of its distinct 5-character pieces. A shorter text is one piece."""
    for some in _some_at_a_time(texts):
        flat = [part for parts in some for part in parts]
        hashes, lengths = _pieces(flat, [0] * len(flat))
        ends = np.cumsum(lengths).tolist()
        divided = (np.unique(hashes[start:end]) for start, end in zip([0, *ends], ends, strict=False))
        yield from (list(islice(divided, len(parts))) for parts in some)


def _pieces(texts: Sequence[str], salts: Sequence[int]) -> tuple[Hashes, Counts]:
    """Hashes of the pieces of all texts, one text after the other, and how many each text has."""
    filled = [text.ljust(SHINGLE_CHARACTERS, _FILLER) if text else "" for text in texts]
    lengths = np.array([len(text) for text in filled])
    if not lengths.any():
        return np.empty(0, np.uint64), lengths
    characters = np.frombuffer("".join(filled).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    windows = len(characters) - SHINGLE_CHARACTERS + 1
    hashes = np.repeat(np.array(salts, np.uint64) + np.uint64(1), lengths)[:windows]
    for offset in range(SHINGLE_CHARACTERS):
        hashes = _mixed(hashes * np.uint64(MULTIPLIER) + characters[offset : offset + windows])
    within = np.ones(len(characters), bool)  # and not across the end of a text
    for before in range(1, SHINGLE_CHARACTERS):
        within[np.cumsum(lengths[lengths > 0]) - before] = False
    return hashes[within[:windows]], np.maximum(lengths - SHINGLE_CHARACTERS + 1, 0)


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of the input affects every bit of the output (the finaliser of MurmurHash3)."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def jaccard(first: Hashes, second: Hashes) -> float:
    """Shared pieces over all pieces, of two texts. Two empty texts are equal."""
    if not len(first) and not len(second):
        return 1.0
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


@cache
def bands_and_rows(threshold: float) -> tuple[int, int]:
    """The most rows per band, and so the fewest candidates, that still find two texts at the threshold.

    Two texts of similarity s share one of b bands of r rows with probability 1 - (1 - s^r)^b
    (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4.2).
    """
    for rows in range(_PERMUTATIONS, 1, -1):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= _MIN_RECALL:
            return bands, rows
    return _PERMUTATIONS, 1


def bands_and_signatures(texts: Sequence[Sequence[str]], threshold: float) -> tuple[Hashes, Signatures]:
    """For each item of `texts`, which has several parts: one key per band, and a signature. Items that share a key of
    a band are candidates. A piece of a part never matches one of another part.

    MinHash (Broder 1997) with multiply-shift hashing (Dietzfelbinger et al. 1997) in place of permutations; signatures
    keep a byte of each minimum (Li and König 2010).
    """
    bands, rows = bands_and_rows(threshold)
    minima = np.concatenate(
        [np.empty((0, bands * rows), np.uint64), *(_minima(some, bands * rows) for some in _some_at_a_time(texts))]
    )
    keys = np.repeat(np.arange(bands, dtype=np.uint64)[None], len(minima), axis=0)
    for row in minima.reshape(-1, bands, rows).transpose(2, 0, 1):
        keys = _mixed(keys * np.uint64(MULTIPLIER) + row)
    return keys, minima[:, :SIGNATURE_BYTES].astype(np.uint8)


def _some_at_a_time(texts: Sequence[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    return in_batches(texts, lambda parts: sum(map(len, parts)), len(texts), _AT_A_TIME)


def _minima(texts: Sequence[Sequence[str]], count: int) -> Hashes:
    """Of each item, the smallest hash under each permutation; the largest number if it has no pieces."""
    salts = [salt for parts in texts for salt in range(len(parts))]
    hashes, lengths = _pieces([part for parts in texts for part in parts], salts)
    item = np.repeat(np.arange(len(texts)), [len(parts) for parts in texts])
    sizes = np.bincount(item, lengths, len(texts)).astype(int)
    filled = sizes > 0
    minima = np.full((len(texts), count), np.iinfo(np.uint64).max, np.uint64)
    if filled.any():
        starts = (np.cumsum(sizes) - sizes)[filled]
        for number, (factor, summand) in enumerate(_permutations()[:count]):
            minima[filled, number] = np.minimum.reduceat(hashes * factor + summand, starts)
    return minima


@cache
def _permutations() -> list[tuple[Any, Any]]:
    """Factors, which are odd, and summands."""
    random = np.random.default_rng(1)  # the same in every process and every run
    factors, summands = random.integers(0, 1 << 63, (2, _PERMUTATIONS), np.uint64)
    return list(zip(factors * np.uint64(2) + np.uint64(1), summands, strict=True))


def fewest_common_bytes(threshold: float) -> int:
    """Two texts at the threshold have at least so many bytes of their signatures in common, but for rare exceptions."""
    deviation = (SIGNATURE_BYTES * threshold * (1 - threshold)) ** 0.5
    return int(SIGNATURE_BYTES * threshold - _DEVIATIONS * deviation)
