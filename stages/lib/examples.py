"""An example: one source with its target or targets, as `prepare` writes it and every later stage reads it."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from stages.lib.batches import in_batches
from stages.lib.shards import count_rows, read_tables, write_shards

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_SCHEMA = pa.schema([("id", pa.string()), ("source", pa.string()), ("targets", pa.list_(pa.string()))])
_BATCH_EXAMPLES = 1024


@dataclass(frozen=True)
class Example:
    """`id` is a hash of the content, so that rows added elsewhere in a file never rename it."""

    id: str
    source: str
    targets: list[str]

    def characters(self) -> int:
        return len(self.source) + sum(map(len, self.targets))


def write_examples(folder: Path, examples: Iterable[Example]) -> None:
    batches = in_batches(examples, Example.characters, _BATCH_EXAMPLES)
    write_shards(folder, _SCHEMA, (pa.Table.from_pylist(list(map(asdict, b)), schema=_SCHEMA) for b in batches))


def read_examples(folder: Path) -> Iterator[Example]:
    tables = read_tables(folder, _SCHEMA, _BATCH_EXAMPLES)
    return (Example(**record) for table in tables for record in table.to_pylist())


def count_examples(folder: Path) -> int:
    return count_rows(folder)
