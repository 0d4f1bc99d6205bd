"""Tables as folders of parquet files of bounded size: written and read as a stream, with reproducible bytes.

DVC uploads whole files, so the rows decide where a file ends (content-defined chunking: Muthitacharoen, Chen and
Mazières 2001, with a least and a greatest size as in FastCDC, Xia et al. 2016). A row that is new, changed or gone
changes the shard that it is in, and hardly ever another one: the next shards still end after the same rows.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq

# The usual size of a shard, in bytes of Arrow memory: a 128th of all rows before it, so that a new row uploads a small
# part of the table, and yet the number of files grows only with the logarithm of its size. Smaller files would be
# mainly their descriptions of themselves, and each costs DVC a request; greater ones would take memory.
PART, SMALLEST, GREATEST = 128, 64 << 10, 8 << 20
_ROW_BYTES = 100  # of a row beside its texts: ids, and where each text ends

# no statistics, no dictionaries and no second schema: nothing reads them, and in a small file they are much
_FORMAT = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, "store_schema": False}


def write_shards(folder: Path, schema: pa.Schema, tables: Iterable[tuple[pa.Table, Sequence[int]]]) -> None:
    """Replaces the folder. An empty table has one empty shard. A killed writer leaves no incomplete table: until it is
    complete, it has another name.

    Args:
        tables: rows with an `id`, divided in any way, and the bytes of the texts of each row.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number, shard in enumerate(_shards(schema, tables)):
        # in one piece: else the pages of the file would end where those of Arrow do
        pq.write_table(shard.combine_chunks(), part / f"{number:05}.parquet", **_FORMAT)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _shards(schema: pa.Schema, tables: Iterable[tuple[pa.Table, Sequence[int]]]) -> Iterator[pa.Table]:
    """From half the usual size on, a shard ends with the first row whose id has a small hash, large rows the likelier.
    At twice that size it ends anyway."""
    held, filled, before = [schema.empty_table()], 0, 0
    usual = _usual_size(before)
    for table, sizes in tables:
        start = 0
        for end, (name, size) in enumerate(zip(table["id"].to_pylist(), sizes, strict=True), 1):
            size += _ROW_BYTES
            filled += size
            is_end = filled >= usual // 2 and crc32(name.encode()) * usual < 2 * size << 32
            if is_end or filled >= 2 * usual:
                yield pa.concat_tables([*held, table.slice(start, end - start)])
                held, start = [schema.empty_table()], end
                before, filled = before + filled, 0
                usual = _usual_size(before)
        held.append(table.slice(start))
    if filled or not before:
        yield pa.concat_tables(held)


def _usual_size(before: int) -> int:
    """Of a shard after so many bytes: a power of two, since it has to be the same if some rows before it change."""
    return 1 << min(max(before // PART, SMALLEST), GREATEST).bit_length() - 1


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
