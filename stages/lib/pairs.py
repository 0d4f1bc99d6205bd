"""A pair: one source and one of its targets as token ids, as `tokenize` writes it and training reads it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.lib.files import read_json, write_json
from stages.lib.shards import shard_paths, write_shards

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("only_read", pa.list_(pa.int32())),
        ("target_bytes", pa.int64()),
    ]
)


class Pair(NamedTuple):
    """`id` is that of the question; pairs of one example stand together. Loss is on `target_ids`, which end with the
    end token unless the text goes on in the next pair, but for the places in `only_read`: what others say between two
    answers. `target_bytes` is the length of the learned text in UTF-8: losses by the byte compare tokenizers."""

    id: str
    source_ids: list[int]
    target_ids: list[int]
    only_read: list[int]
    target_bytes: int


class Label(NamedTuple):
    """A word that targets are chosen from, and its ids as a target."""

    word: str
    target_ids: list[int]


def write_labels(path: Path, labels: Sequence[Label]) -> None:
    write_json(path, {"labels": [label._asdict() for label in labels]})


def read_labels(path: Path) -> list[Label]:
    return [Label(**label) for label in read_json(path)["labels"]]


def write_pairs(folder: Path, batches: Iterable[Sequence[Pair]]) -> None:
    write_shards(folder, _SCHEMA, map(_table, batches))


def _table(pairs: Sequence[Pair]) -> pa.Table:
    return pa.table({name: [getattr(pair, name) for pair in pairs] for name in _SCHEMA.names}, schema=_SCHEMA)


class Pairs:
    """The pairs of a folder, held as Arrow arrays: as Python lists they would take ten times the memory."""

    def __init__(self, folder: Path, first: int | None = None) -> None:
        tables = [pq.read_table(path, schema=_SCHEMA) for path in shard_paths(folder)]
        self._table = pa.concat_tables(tables)[:first].combine_chunks()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> Pair:
        return Pair(*(self._table[name][index].as_py() for name in _SCHEMA.names))

    def __iter__(self) -> Iterator[Pair]:
        return map(self.__getitem__, range(len(self)))

    def source_lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens, one number a pair; the same for the next two."""
        return self._lengths("source_ids")

    def target_lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return self._lengths("target_ids")

    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return self.source_lengths() + self.target_lengths()

    def learned_tokens(self) -> int:
        return int(self.target_lengths().sum() - self._lengths("only_read").sum())

    def _lengths(self, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.asarray(pc.list_value_length(self._table[name]).to_numpy(), np.int64)
