"""Similar rows: bands of MinHash find candidates, signatures sort out most of them, and the texts decide.

A band has a file with a key for every row, and the signatures have one too: a cleaner writes its rows into them at
their places. Candidates are rows that share a key of a band; sorting finds them.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stages.lib.ingest.cleaned_rows import RANKS
from stages.lib.overlap.minhash import (
    SIGNATURE_BYTES,
    Hashes,
    Signatures,
    bands_and_rows,
    bands_and_signatures,
    fewest_common_bytes,
)

# a row is compared with the first row of its band, and with this many rows right before it: to compare all rows of a
# large group of similar texts would take quadratic time
_NEIGHBOURS = 2
# keys of about so many rows are sorted at a time. Each time, the file of a band is read as a whole: not too often
_SORTED_ROWS = 1 << 20
_MOST_PARTS = 16
_READ_ROWS = 1 << 18

Numbers = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.uint8]]
Pairs = tuple[Numbers, Numbers, Flags]  # rows of train, rows to compare them with, and the ranks of these


def write_bands(folder: Path, rows: Sequence[int], texts: Sequence[Sequence[str]], near: float) -> None:
    """Writes the keys and signatures of rows with these numbers, which are near each other. Those between them have
    zeros. Several processes can do so at once."""
    first, last = rows[0], rows[-1]
    for path, own in zip(_paths(folder, near), _columns(texts, near), strict=True):
        column = np.zeros((last - first + 1, *own.shape[1:]), own.dtype)
        column[np.array(rows) - first] = own
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            file.seek(first * column[:1].nbytes)
            file.write(column.tobytes())


def _paths(folder: Path, near: float) -> list[Path]:
    """Of the bands and, at the end, of the signatures."""
    return [*(folder / f"band-{band}" for band in range(bands_and_rows(near)[0])), folder / "signatures"]


def _columns(texts: Sequence[Sequence[str]], near: float) -> list[Hashes | Signatures]:
    keys, signatures = bands_and_signatures(texts, near)
    return [*keys.T, signatures]


def candidates(folder: Path, flags: Flags, near: float, in_train: bool) -> Iterator[Pairs]:
    """Pairs of rows that may be similar, several times if they share several bands. `flags` has the bit 1 << rank for
    each split that a row is in. Unless `in_train`, rows of train are compared only with those of the other splits."""
    *bands, signatures = _paths(folder, near)
    fewest = fewest_common_bytes(near)
    parts = min(len(flags) // _SORTED_ROWS + 1, _MOST_PARTS)
    for band in tqdm(bands, desc="prepare similar rows", unit=" bands"):
        for part in range(parts):
            row, other, rank = _neighbours(*_entries(band, flags, part, parts))
            if not in_train:
                row, other, rank = (own[rank != RANKS["train"]] for own in (row, other, rank))
            for start in range(0, len(row), _READ_ROWS):
                some = slice(start, start + _READ_ROWS)
                common = _common_bytes(signatures, row[some], other[some])
                yield row[some][common >= fewest], other[some][common >= fewest], rank[some][common >= fewest]


def _entries(band: Path, flags: Flags, part: int, parts: int) -> tuple[Hashes, Numbers, Flags]:
    """(key, row, rank) of all keys in this part of their range, by rank, then by row."""
    found: list[list[tuple[Hashes, Numbers]]] = [[], [], []]
    for start in range(0, len(flags), _READ_ROWS):
        own = flags[start : start + _READ_ROWS]
        keys = np.fromfile(band, np.uint64, len(own), offset=start * 8)
        in_part = (keys >> np.uint64(48)) * np.uint64(parts) >> np.uint64(16) == part
        for rank in RANKS.values():
            places = np.flatnonzero(in_part & (own[: len(keys)] >> rank & 1 == 1))
            found[rank].append((keys[places], places + start))
    keys, rows = (np.concatenate([pair[number] for pairs in found for pair in pairs]) for number in (0, 1))
    counts = [sum(len(own) for own, _ in pairs) for pairs in found]
    return keys, rows, np.repeat(np.arange(len(found), dtype=np.uint8), counts)


def _neighbours(keys: Hashes, rows: Numbers, ranks: Flags) -> Pairs:
    """Each row of train with the first entry of its key, and with those right before it."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    repeated = np.flatnonzero(keys[1:] == keys[:-1]) + 1  # places whose key is that of the place before
    begins = np.ones(len(keys), bool)
    begins[repeated] = False
    firsts = np.flatnonzero(begins)
    first = firsts[np.searchsorted(firsts, repeated, side="right") - 1]
    before = [(repeated, first)]
    for distance in range(1, _NEIGHBOURS + 1):
        near = repeated - distance > first  # the first one is there already
        before.append((repeated[near], repeated[near] - distance))
    later, earlier = (order[np.concatenate([pair[number] for pair in before])] for number in (0, 1))
    wanted = (ranks[later] == RANKS["train"]) & (rows[later] != rows[earlier])
    return rows[later][wanted], rows[earlier][wanted], ranks[earlier][wanted]


def _common_bytes(signatures: Path, rows: Numbers, others: Numbers) -> Numbers:
    wanted, places = np.unique(np.concatenate([rows, others]), return_inverse=True)
    found = np.empty((len(wanted), SIGNATURE_BYTES), np.uint8)
    blocks = wanted // _READ_ROWS
    for block in np.unique(blocks).tolist():
        count, offset = _READ_ROWS * SIGNATURE_BYTES, block * _READ_ROWS * SIGNATURE_BYTES
        own = np.fromfile(signatures, np.uint8, count, offset=offset).reshape(-1, SIGNATURE_BYTES)
        found[blocks == block] = own[wanted[blocks == block] - block * _READ_ROWS]
    first, second = found[places[: len(rows)]], found[places[len(rows) :]]
    return (first == second).sum(axis=1)
