"""A pair: one source and one of its targets as token ids, as `tokenize` writes it and training reads it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.lib.shards import shard_paths, write_shards

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("target_bytes", pa.int64()),
    ]
)


class Pair(NamedTuple):
    """`id` is that of the example; pairs of one example stand together. Loss is on `target_ids`, all of them, which
    end with the end token unless the text goes on in the next pair. `target_bytes` is the length of the target's text
    in UTF-8: losses by the byte compare different tokenizers."""

    id: str
    source_ids: list[int]
    target_ids: list[int]
    target_bytes: int


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

    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens of source and target together, one number a pair."""
        lengths = (pc.list_value_length(self._table[name]).to_numpy() for name in ("source_ids", "target_ids"))
        return np.sum(list(lengths), axis=0, dtype=np.int64)

    def target_tokens(self) -> int:
        return int(pc.sum(pc.list_value_length(self._table["target_ids"])).as_py() or 0)
