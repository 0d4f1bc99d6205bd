"""A tokenized example: one source and one of its targets as token ids; what `tokenize` writes and training reads."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.lib.core.files import read_json, write_json
from stages.lib.core.shards import shard_paths, write_shards

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("masked_positions", pa.list_(pa.int32())),
        ("target_bytes", pa.int64()),
    ]
)

Counts = np.ndarray[Any, np.dtype[np.int64]]


class TokenizedExample(NamedTuple):
    """`id` is that of the question; the tokenized examples of one example are neighbours.

    Loss is on `target_ids`, except at `masked_positions` (what others say between two answers). The target ends with
    the end token, unless its text continues in the next tokenized example. `target_bytes` is the length of the text
    with loss in UTF-8, since losses per byte compare tokenizers.
    """

    id: str
    source_ids: list[int]
    target_ids: list[int]
    masked_positions: list[int]
    target_bytes: int


class Label(NamedTuple):
    """A word that targets are chosen from, and its ids as a target."""

    word: str
    target_ids: list[int]


def write_label_ids(path: Path, labels: Sequence[Label]) -> None:
    write_json(path, {"labels": [label._asdict() for label in labels]})


def read_label_ids(path: Path) -> list[Label]:
    return [Label(**label) for label in read_json(path)["labels"]]


def write_tokenized_examples(folder: Path, batches: Iterable[Sequence[TokenizedExample]]) -> None:
    write_shards(folder, _SCHEMA, ((_table(batch), list(map(_size, batch))) for batch in batches))


def _size(example: TokenizedExample) -> int:
    """Bytes of its ids."""
    return 4 * (len(example.source_ids) + len(example.target_ids))


def _table(examples: Sequence[TokenizedExample]) -> pa.Table:
    return pa.table({name: [getattr(example, name) for example in examples] for name in _SCHEMA.names}, schema=_SCHEMA)


class TokenizedDataset:
    """The tokenized examples of a folder, held as Arrow arrays: as Python lists they would take ten times the memory.

    Args:
        first: keep only this many, from the first on.
    """

    def __init__(self, folder: Path, first: int | None = None) -> None:
        tables = [pq.read_table(path, schema=_SCHEMA) for path in shard_paths(folder)]
        self._table = pa.concat_tables(tables)[:first].combine_chunks()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> TokenizedExample:
        return TokenizedExample(*(self._table[name][index].as_py() for name in _SCHEMA.names))

    def __iter__(self) -> Iterator[TokenizedExample]:
        return map(self.__getitem__, range(len(self)))

    def source_lengths(self) -> Counts:
        """Tokens, one number for each example; so do the next two."""
        return self._lengths("source_ids")

    def target_lengths(self) -> Counts:
        return self._lengths("target_ids")

    def lengths(self) -> Counts:
        return self.source_lengths() + self.target_lengths()

    def target_tokens(self) -> int:
        """All tokens with loss."""
        return int(self.target_lengths().sum() - self._lengths("masked_positions").sum())

    def target_bytes(self) -> int:
        """Of all texts with loss, in UTF-8."""
        return int(pc.sum(self._table["target_bytes"]).as_py())

    def _lengths(self, name: str) -> Counts:
        return np.asarray(pc.list_value_length(self._table[name]).to_numpy(), np.int64)
