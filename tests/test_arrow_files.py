"""Parquet and Arrow files: every value as its writer meant it, and broken files in one line."""

import io
import math
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.core.process import UserError
from stages.lib.core.templates import as_text
from stages.lib.ingest.arrow_files import read_arrow, read_parquet
from stages.lib.ingest.rows import Row, Source
from stages.lib.params.prepare import Reading


def as_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def as_file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return sink.getvalue()


def as_stream(table: pa.Table) -> bytes:
    """As `datasets` saves its files."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


WRITERS = {"parquet": as_parquet, "file": as_file, "stream": as_stream}


def read(path: Path, columns: list[str] | None = None) -> list[Row]:
    return list((read_parquet if path.suffix == ".parquet" else read_arrow)(Source(path, Reading(), columns or [])))


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[pa.Table], Path]:
    def write(table: pa.Table) -> Path:
        path = tmp_path / ("t.parquet" if request.param == "parquet" else "t.arrow")
        path.write_bytes(WRITERS[request.param](table))
        return path

    return write


def values(path: Path) -> list[Any]:
    return [row.values["a"] for row in read(path)]


NARROW = [0.1, 1.1, None, 3.4e38, 1e-5, 16777216.0, -0.0]


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        pytest.param(pa.float32(), lambda value: value, id="plain"),
        pytest.param(pa.list_(pa.float32()), lambda value: [value, 0.7], id="list"),
        pytest.param(pa.list_(pa.float32(), 2), lambda value: [value, 0.7], id="list-of-fixed-size"),
        pytest.param(pa.large_list(pa.list_(pa.float32())), lambda value: [[value], None, []], id="list-in-a-list"),
        pytest.param(
            pa.struct([("b", pa.float32()), ("c", pa.string())]), lambda value: {"b": value, "c": "x"}, id="struct"
        ),
        pytest.param(
            pa.list_(pa.struct([("b", pa.struct([("c", pa.float32())]))])),
            lambda v: [{"b": {"c": v}}, None],
            id="structs",
        ),
        pytest.param(pa.map_(pa.string(), pa.float32()), lambda value: {"k": value}, id="map"),
        pytest.param(pa.map_(pa.string(), pa.list_(pa.float32())), lambda value: {"k": [value]}, id="lists-in-a-map"),
    ],
)
def test_a_float_of_32_bits_is_as_short_as_it_was(
    written: Callable[[pa.Table], Path], kind: pa.DataType, wrap: Callable[[Any], Any]
) -> None:
    expected = [*map(wrap, NARROW), None]
    found = values(written(pa.table({"a": pa.array(expected, kind), "n": [1] * len(expected)})))
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("texts", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("pairs", [[], [("k", "x")], [("b", "y"), ("a", None)]])
def test_a_map_is_an_object(
    written: Callable[[pa.Table], Path], texts: pa.DataType, pairs: list[tuple[str, str | None]]
) -> None:
    column = pa.array([[pairs], None], pa.list_(pa.map_(texts, pa.string())))
    assert values(written(pa.table({"a": column}))) == [[dict(pairs)], None]


@pytest.mark.parametrize(
    ("kind", "key"), [(pa.int32(), 1), (pa.date32(), date(2024, 1, 6)), (pa.struct([("b", pa.string())]), {"b": "x"})]
)
def test_a_map_of_other_keys_is_a_list(written: Callable[[pa.Table], Path], kind: pa.DataType, key: Any) -> None:
    column = pa.array([[(key, "x"), (key, "y")]], pa.map_(kind, pa.string()))
    assert values(written(pa.table({"a": column}))) == [[[key, "x"], [key, "y"]]]


def test_a_map_with_a_key_twice_stops(written: Callable[[pa.Table], Path]) -> None:
    column = pa.array([[("k", "x"), ("k", "y")]], pa.map_(pa.string(), pa.string()))
    with pytest.raises(UserError, match="twice in one map"):
        values(written(pa.table({"a": column})))


def test_a_float_of_16_bits_is_as_short_as_it_was(written: Callable[[pa.Table], Path]) -> None:
    column = pa.array([np.float16(0.1), None, np.float16(1000.5)], pa.float16())
    assert values(written(pa.table({"a": column}))) == [0.1, None, 1000.5]


def test_floats_in_a_dictionary_are_as_short_as_they_were(written: Callable[[pa.Table], Path]) -> None:
    column = pa.array([0.1, 0.1, None, 2.3], pa.float32()).dictionary_encode()
    assert values(written(pa.table({"a": column}))) == [0.1, 0.1, None, 2.3]


def test_floats_that_are_not_finite_stay_so(written: Callable[[pa.Table], Path]) -> None:
    found = values(written(pa.table({"a": pa.array([math.nan, math.inf, -math.inf], pa.float32())})))
    assert (math.isnan(found[0]), found[1:]) == (True, [math.inf, -math.inf])


@settings(max_examples=50)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_any_float_of_32_bits_means_the_same_and_is_no_longer(
    tmp_path_factory: pytest.TempPathFactory, floats: list[float]
) -> None:
    path = tmp_path_factory.mktemp("floats") / "t.parquet"
    path.write_bytes(as_parquet(pa.table({"a": pa.array(floats, pa.float32())})))
    found = values(path)
    assert list(map(np.float32, found)) == list(map(np.float32, floats))
    assert [str(value) for value in found] == [str(float(str(np.float32(value)))) for value in floats]


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.1, pa.float64(), "0.1"),
        (1e300, pa.float64(), "1e+300"),
        (Decimal("1.10"), pa.decimal128(5, 2), "1.10"),
        (Decimal("-0.000"), pa.decimal256(40, 3), "0.000"),
        (2**63 - 1, pa.int64(), "9223372036854775807"),
        (date(2024, 1, 6), pa.date32(), "2024-01-06"),
        (datetime(2024, 1, 6, 12), pa.timestamp("us"), "2024-01-06T12:00:00"),
    ],
)
def test_other_values_keep_their_digits(
    written: Callable[[pa.Table], Path], value: Any, kind: pa.DataType, text: str
) -> None:
    (found,) = values(written(pa.table({"a": pa.array([value], kind)})))
    assert as_text("a", found) == text


def test_rows_are_numbered_over_all_batches(written: Callable[[pa.Table], Path]) -> None:
    found = read(written(pa.table({"a": list(range(1000))})))
    assert [(row.line, row.values["a"], row.lines) for row in found] == [(n + 1, n, 1) for n in range(1000)]


def test_a_data_set_saved_by_datasets_is_read(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [{"q": f"q{number}", "answers": {"text": ["a", "b"]}} for number in range(5)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    assert [row.values for row in read(path)] == rows


def test_no_row_of_an_empty_table(written: Callable[[pa.Table], Path]) -> None:
    assert read(written(pa.table({"a": pa.array([], pa.float32())}))) == []


@pytest.mark.parametrize("columns", [["b"], ["a", "b.c"]])
def test_a_missing_column_is_named(written: Callable[[pa.Table], Path], columns: list[str]) -> None:
    with pytest.raises(UserError, match=r"no column b.*; there are a"):
        read(written(pa.table({"a": ["x"]})), columns)


TABLE = pa.table({"a": [f"text {number}" for number in range(2000)], "b": pa.array([0.5] * 2000, pa.float32())})


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / ("t.parquet" if name == "parquet" else "t.arrow")
    content = WRITERS[name](TABLE)
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"t\.(parquet|arrow): not a readable (parquet|Arrow) file") as error:
        read(path)
    assert len(error.value.lines) == 1


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=60, derandomize=True)
@given(place=st.floats(0, 1, exclude_max=True), bytes_=st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: float, bytes_: bytes
) -> None:
    path = tmp_path_factory.mktemp("damaged") / ("t.parquet" if name == "parquet" else "t.arrow")
    content = WRITERS[name](TABLE)
    start = int(len(content) * place)
    path.write_bytes(content[:start] + bytes_ + content[start + len(bytes_) :])
    try:
        rows = read(path)
    except UserError as error:
        check_one_line(error)
    else:
        assert [row.line for row in rows] == list(range(1, len(rows) + 1))


def check_one_line(error: UserError) -> None:
    assert len(error.lines) == 1
