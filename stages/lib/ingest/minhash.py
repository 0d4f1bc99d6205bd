"""Equal and similar texts: keys find equal ones, MinHash bands find candidates, the Jaccard similarity decides."""

import hashlib
import unicodedata
from functools import cache
from typing import Any

import numpy as np

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

SHINGLE_CHARACTERS = 5
_PERMUTATIONS = 128
_MIN_RECALL = 0.99  # probability that two texts at the threshold share a band
_CHUNK = 1 << 12  # shingles permuted at a time: 4 MiB of intermediate results


def normalised(text: str) -> str:
    """Without differences in case, width and blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key(*parts: str) -> int:
    """64 bits of BLAKE2b. Among n texts, two different ones share a key with probability n²/2⁶⁵: 1e-7 for 2 million."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest())


def shingles(text: str, salt: int = 0) -> Hashes:
    """Sorted hashes of the distinct 5-character pieces of a text. A shorter text is one piece."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if not len(characters):
        return np.empty(0, np.uint64)
    windows = max(len(characters) - SHINGLE_CHARACTERS + 1, 1)
    hashes = np.full(windows, salt + 1, np.uint64)
    for offset in range(min(SHINGLE_CHARACTERS, len(characters))):
        hashes = _mixed(hashes * np.uint64(0x9E3779B97F4A7C15) + characters[offset : offset + windows])
    return np.unique(hashes)


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of the input affects every bit of the output (the finaliser of MurmurHash3)."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def jaccard(first: Hashes, second: Hashes) -> float:
    """Shared pieces over all pieces, of two results of `shingles`. Two empty texts are equal."""
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


def band_keys(hashes: Hashes, threshold: float) -> Hashes:
    """One key per band, `bands_and_rows(threshold)[0]` in all. Texts that share a key are candidates.

    MinHash (Broder 1997) with multiply-shift hashing (Dietzfelbinger et al. 1997) in place of permutations.
    """
    bands, rows = bands_and_rows(threshold)
    multipliers, offsets = _permutations()
    used = bands * rows
    minima = np.full(used, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(hashes), _CHUNK):
        chunk = hashes[start : start + _CHUNK, None]
        minima = np.minimum(minima, (chunk * multipliers[:used] + offsets[:used]).min(axis=0))
    keys = np.arange(bands, dtype=np.uint64)
    for row in minima.reshape(bands, rows).T:
        keys = _mixed(keys * np.uint64(0x9E3779B97F4A7C15) + row)
    return keys


@cache
def _permutations() -> tuple[Hashes, Hashes]:
    random = np.random.default_rng(1)  # the same in every process and every run
    numbers = random.integers(0, 1 << 63, (2, _PERMUTATIONS), np.uint64)
    return numbers[0] * np.uint64(2) + np.uint64(1), numbers[1]
