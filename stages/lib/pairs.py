"""A pair: one source and one of its targets as token ids, as `tokenize` writes it and training reads it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.lib.files import whole_file

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("target_bytes", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Pair:
    """`id` is that of the example; pairs of one example stand together. `target_ids` ends with the end token.
    `target_bytes` is the length of the target's text in UTF-8: losses by the byte compare different tokenizers."""

    id: str
    source_ids: list[int]
    target_ids: list[int]
    target_bytes: int


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    columns = {name: [getattr(pair, name) for pair in pairs] for name in _SCHEMA.names}
    with whole_file(path) as part:
        pq.write_table(pa.table(columns, schema=_SCHEMA), part)


class Pairs:
    """The pairs of a parquet file, held as Arrow arrays: as Python lists they would take ten times the memory."""

    def __init__(self, path: Path, first: int | None = None) -> None:
        self._table = pq.read_table(path, schema=_SCHEMA)[:first].combine_chunks()

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
