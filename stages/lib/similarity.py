"""When two texts count as the same: keys for equal ones, MinHash bands to find similar ones, Jaccard to be sure."""

import hashlib
import unicodedata
from functools import cache
from typing import Any

import numpy as np

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

SHINGLE_CHARACTERS = 5
_PERMUTATIONS = 128
_FOUND = 0.99  # probability that a pair right at the threshold shares a band
_CHUNK = 1 << 12  # shingles permuted at a time: 4 MiB of intermediate results


def normalised(text: str) -> str:
    """Without what nobody would call a difference: case, width and blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key(*parts: str) -> int:
    """64 bits of BLAKE2b. Among n texts two different ones share a key with probability n²/2⁶⁵: 1e-7 for 2 million."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest())


def shingles(text: str, salt: int = 0) -> Hashes:
    """Hashes of the distinct 5-character pieces of a text, sorted; a shorter text is a single piece."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if not len(characters):
        return np.empty(0, np.uint64)
    windows = max(len(characters) - SHINGLE_CHARACTERS + 1, 1)
    hashes = np.full(windows, salt + 1, np.uint64)
    for offset in range(min(SHINGLE_CHARACTERS, len(characters))):
        hashes = _mixed(hashes * np.uint64(0x9E3779B97F4A7C15) + characters[offset : offset + windows])
    return np.unique(hashes)


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of the input moves every bit of the output (the finaliser of MurmurHash3)."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def jaccard(first: Hashes, second: Hashes) -> float:
    """Shared pieces over all pieces of two sets as `shingles` makes them; two empty texts are equal."""
    if not len(first) and not len(second):
        return 1.0
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


@cache
def bands_and_rows(threshold: float) -> tuple[int, int]:
    """The most rows a band, hence the fewest pairs to look at, that still find a pair at the threshold.

    A pair of similarity s shares one of b bands of r rows with probability 1 - (1 - s^r)^b
    (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4.2).
    """
    for rows in range(_PERMUTATIONS, 1, -1):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= _FOUND:
            return bands, rows
    return _PERMUTATIONS, 1


def band_keys(hashes: Hashes, threshold: float) -> Hashes:
    """One key a band; texts that share one are candidates. An array of `bands_and_rows(threshold)[0]` keys.

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
    random = np.random.default_rng(1)  # the same for every text ever compared
    numbers = random.integers(0, 1 << 63, (2, _PERMUTATIONS), np.uint64)
    return numbers[0] * np.uint64(2) + np.uint64(1), numbers[1]
