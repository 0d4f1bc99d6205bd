"""Tables as folders of parquet files of bounded size."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from stages.lib.core import shards
from tests.build import contents

SCHEMA = pa.schema([("id", pa.string()), ("number", pa.int64())])


def tables(count: int, rows: int = 10) -> Iterator[pa.Table]:
    for table in range(count):
        numbers = range(table * rows, (table + 1) * rows)
        yield pa.table({"id": [f"row {n}" for n in numbers], "number": list(numbers)}, schema=SCHEMA)


def numbers_in(folder: Path, rows: int = 7) -> list[int]:
    read = list(shards.read_tables(folder, SCHEMA, rows))
    assert all(0 < table.num_rows <= rows for table in read)
    return [number for table in read for number in table["number"].to_pylist()]


def test_rows_are_read_in_the_written_order(tmp_path: Path) -> None:
    shards.write_shards(tmp_path / "t", SCHEMA, tables(3))
    assert numbers_in(tmp_path / "t") == list(range(30))
    assert shards.count_rows(tmp_path / "t") == 30
    assert [path.name for path in shards.shard_paths(tmp_path / "t")] == ["00000.parquet"]


def test_a_large_table_is_several_shards_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 2 * next(tables(1)).nbytes)
    shards.write_shards(tmp_path / "t", SCHEMA, tables(5))
    assert [path.name for path in shards.shard_paths(tmp_path / "t")] == [f"{n:05}.parquet" for n in range(3)]
    assert numbers_in(tmp_path / "t") == list(range(50))
    assert shards.count_rows(tmp_path / "t") == 50


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        shards.write_shards(tmp_path / name, SCHEMA, tables(5))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_empty_table_has_one_shard_with_its_columns(tmp_path: Path) -> None:
    shards.write_shards(tmp_path / "t", SCHEMA, [])
    assert len(shards.shard_paths(tmp_path / "t")) == 1
    assert shards.count_rows(tmp_path / "t") == 0
    assert numbers_in(tmp_path / "t") == []


def test_a_smaller_table_leaves_no_shard_of_a_larger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    shards.write_shards(tmp_path / "t", SCHEMA, tables(5))
    shards.write_shards(tmp_path / "t", SCHEMA, tables(2))
    assert numbers_in(tmp_path / "t") == list(range(20))


def test_an_interrupted_write_leaves_the_old_table_and_the_next_write_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    shards.write_shards(tmp_path / "t", SCHEMA, tables(2))
    before = contents(tmp_path / "t")

    def interrupted() -> Iterator[pa.Table]:
        yield from tables(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_shards(tmp_path / "t", SCHEMA, interrupted())
    assert contents(tmp_path / "t") == before
    shards.write_shards(tmp_path / "t", SCHEMA, tables(1))
    assert numbers_in(tmp_path / "t") == list(range(10))
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
