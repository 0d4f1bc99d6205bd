"""Runs of 13 words as hashes: texts that share one share more than chance, whatever their case and punctuation."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import regex  # type: ignore[import-untyped]  # `re` has no classes of letters and marks

from stages.lib.core.words import words
from stages.lib.overlap.minhash import MULTIPLIER, Hashes, normalised

N = 13  # words
_CACHED_WORDS = 1 << 17

_ASCII_WORD = re.compile("[0-9a-z]+")
_NO_WORD = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


def words_of(text: str) -> list[str]:
    """In lower case and without punctuation. In scripts without blanks between words, a character is a word."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return words(_NO_WORD.sub(" ", normalised(text)))


def ngrams(found: Sequence[str]) -> Hashes:
    """The hash of the n-gram at each word: a polynomial of the hashes of its words, modulo 2⁶⁴."""
    if len(found) < N:
        return np.empty(0, np.uint64)
    return np.lib.stride_tricks.sliding_window_view(word_hashes(found), N) @ POWERS


POWERS = np.array([pow(MULTIPLIER, power, 1 << 64) for power in range(N)], np.uint64)


def word_hashes(found: Sequence[str]) -> Hashes:
    """64 bits of BLAKE2b of each word."""
    return np.fromiter(map(_word_hash, found), np.uint64, len(found))


@lru_cache(_CACHED_WORDS)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())
