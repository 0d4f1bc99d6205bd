"""Tables as folders of parquet files of bounded size: written and read as a stream, with reproducible bytes."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SHARD_BYTES = 32 << 20  # in Arrow memory; about a third of it on disk


def write_shards(folder: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Replaces the folder. An empty table has one empty shard. A killed writer leaves no incomplete table: until it is
    complete, it has another name."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number, table in enumerate(_shards(schema, tables)):
        pq.write_table(table, part / f"{number:05}.parquet", compression="zstd")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _shards(schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held = [schema.empty_table()]
    empty = True
    for table in tables:
        held.append(table)
        if sum(table.nbytes for table in held) >= SHARD_BYTES:
            yield pa.concat_tables(held)
            held, empty = [schema.empty_table()], False
    if empty or len(held) > 1:
        yield pa.concat_tables(held)


def shard_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def read_tables(folder: Path, schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Tables of at most `rows` rows, in bounded memory."""
    for path in shard_paths(folder):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows, columns=schema.names):
                yield pa.Table.from_batches([batch])


def count_rows(folder: Path) -> int:
    return sum(int(pq.read_metadata(path).num_rows) for path in shard_paths(folder))
