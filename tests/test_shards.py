"""Tables as folders of parquet files whose ends the rows decide."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.lib.core import shards
from tests.build import contents

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])

Row = tuple[str, str]


def rows(count: int, seed: int = 1) -> list[Row]:
    draw = random.Random(seed)
    return [(f"{draw.getrandbits(64):016x}", "word " * draw.randrange(60)) for _ in range(count)]


def write(folder: Path, table: Sequence[Row], together: int = 100) -> Path:
    shards.write_shards(folder, SCHEMA, divided(table, together))
    return folder


def divided(table: Sequence[Row], together: int) -> Iterator[tuple[pa.Table, list[int]]]:
    for start in range(0, len(table), together):
        names, texts = zip(*table[start : start + together], strict=True)
        yield pa.table([names, texts], schema=SCHEMA), list(map(len, texts))


def read(folder: Path) -> list[Row]:
    found = list(shards.read_tables(folder, SCHEMA, 7))
    assert all(0 < table.num_rows <= 7 for table in found)
    return [(row["id"], row["text"]) for table in found for row in table.to_pylist()]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of about ten rows."""
    monkeypatch.setattr(shards, "SMALLEST", 2 << 10)


def test_rows_are_read_in_the_written_order(tmp_path: Path, small: None) -> None:
    write(tmp_path / "t", table := rows(300))
    assert read(tmp_path / "t") == table
    assert shards.count_rows(tmp_path / "t") == 300
    names = [path.name for path in shards.shard_paths(tmp_path / "t")]
    assert names == [f"{number:05}.parquet" for number in range(len(names))]
    assert len(names) > 10


def test_a_table_of_few_rows_is_one_shard(tmp_path: Path) -> None:
    assert len(shards.shard_paths(write(tmp_path, rows(50)))) == 1


@pytest.mark.parametrize(("length", "usual"), [(1, 2 << 10), (20, 8 << 20)])
def test_the_same_rows_are_the_same_bytes_however_they_are_divided(
    length: int, usual: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches, and so workers, are no part of the result: in many shards, and in one of many pages."""
    monkeypatch.setattr(shards, "SMALLEST", usual)
    table = [(name, text * length) for name, text in rows(1000)]
    found = [contents(write(tmp_path / f"{together}", table, together)) for together in (1, 3, 100, 1000)]
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("edit", ["appended", "in the middle", "changed", "gone"])
def test_an_edit_changes_few_shards(edit: str, tmp_path: Path, small: None) -> None:
    """Of about 200, in ten places: the one with the edit, and at times the next."""
    table, (new, *_) = rows(2000), rows(20, seed=2)
    before = set(contents(write(tmp_path / "before", table)).values())
    changed = []
    for place in range(50, 2000, 200):
        edited = {
            "appended": [*table, *rows(20, seed=place)],
            "in the middle": [*table[:place], *rows(20, seed=place), *table[place:]],
            "changed": [*table[:place], new, *table[place + 1 :]],
            "gone": [*table[:place], *table[place + 1 :]],
        }[edit]
        changed.append(len(set(contents(write(tmp_path / "after", edited)).values()) - before))
    new_shards = {"appended": 3, "in the middle": 3}.get(edit, 0)
    assert len(before) > 100
    assert max(changed) <= 6 + new_shards
    assert sum(changed) / len(changed) <= 2 + new_shards


def test_shards_grow_with_the_table_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SMALLEST", 1 << 10)
    monkeypatch.setattr(shards, "PART", 8)
    monkeypatch.setattr(shards, "GREATEST", 32 << 10)
    paths = shards.shard_paths(write(tmp_path, rows(4000)))
    sizes = [pq.read_table(path).nbytes for path in paths]
    assert sizes[0] < 4 << 10
    assert 32 << 10 < max(sizes) < 66 << 10
    assert len(paths) < 80


def test_an_edit_between_grown_shards_changes_few_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual size of all that follow is counted from another row on."""
    monkeypatch.setattr(shards, "SMALLEST", 1 << 10)
    monkeypatch.setattr(shards, "PART", 32)
    table = rows(4000)
    before = contents(write(tmp_path / "before", table))
    for place in (0, 700, 2000):
        after = contents(write(tmp_path / "after", [*table[:place], *rows(10, seed=3), *table[place:]]))
        new = {data for data in after.values() if data not in set(before.values())}
        assert sum(map(len, new)) < 0.15 * sum(map(len, before.values()))


def test_an_empty_table_has_one_shard_with_its_columns(tmp_path: Path) -> None:
    shards.write_shards(tmp_path / "t", SCHEMA, [])
    assert len(shards.shard_paths(tmp_path / "t")) == 1
    assert shards.count_rows(tmp_path / "t") == 0
    assert read(tmp_path / "t") == []


def test_a_smaller_table_leaves_no_shard_of_a_larger_one(tmp_path: Path, small: None) -> None:
    write(tmp_path / "t", rows(500))
    write(tmp_path / "t", table := rows(100))
    assert read(tmp_path / "t") == table


def test_an_interrupted_write_leaves_the_old_table_and_the_next_write_starts_anew(tmp_path: Path, small: None) -> None:
    before = contents(write(tmp_path / "t", rows(100)))

    def interrupted() -> Iterator[tuple[pa.Table, list[int]]]:
        yield from divided(rows(400), 100)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_shards(tmp_path / "t", SCHEMA, interrupted())
    assert contents(tmp_path / "t") == before
    write(tmp_path / "t", table := rows(10))
    assert read(tmp_path / "t") == table
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
