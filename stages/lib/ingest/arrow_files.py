"""Reads the columnar formats: parquet and Arrow. A narrow float keeps its shortest text: 0.1 stays 0.1. A map is an
object, or a list of [key, value] if its keys are no texts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core.process import UserError
from stages.lib.ingest.compressed import open_seekable
from stages.lib.ingest.rows import Row, Source, one_line

_BATCH_ROWS = 256
_TEXTS = (pa.string(), pa.large_string(), pa.string_view())
_FILE_MARK = b"ARROW1"
_Change = Callable[[Any], Any]


def read_parquet(source: Source) -> Iterator[Row]:
    with _opened(source, "parquet") as path, pq.ParquetFile(path) as file:
        yield from _rows(source, file.schema_arrow, file.iter_batches(_BATCH_ROWS))


def read_arrow(source: Source) -> Iterator[Row]:
    """An IPC file or stream, such as `datasets` saves. It is mapped into memory: only the pages in use are held."""
    with _opened(source, "Arrow") as path, pa.memory_map(str(path)) as file:
        is_file = file.read(len(_FILE_MARK)) == _FILE_MARK
        file.seek(0)
        if is_file:
            reader = pa.ipc.open_file(file)
            batches: Iterable[pa.RecordBatch] = map(reader.get_batch, range(reader.num_record_batches))
        else:
            batches = reader = pa.ipc.open_stream(file)
        yield from _rows(source, reader.schema, map(_validated, _slices(batches)))


@contextmanager
def _opened(source: Source, name: str) -> Iterator[Path]:
    """Raises UserError if the file is broken, or compressed as a whole."""
    with open_seekable(source.path, source.progress, source.member) as path:
        try:
            yield path
        # OverflowError: a time outside of Python's range; ValueError: two fields of one name; LookupError: a time zone
        except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
            raise UserError(f"{source.name}: not a readable {name} file: {one_line(error)}") from None


def _slices(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A batch may be a whole table."""
    for batch in batches:
        yield from (batch.slice(start, _BATCH_ROWS) for start in range(0, batch.num_rows, _BATCH_ROWS))


def _validated(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Offsets of a broken file point anywhere in memory."""
    batch.validate(full=True)
    return batch


def _rows(source: Source, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    source.check_columns(schema.names)
    changes, read = changes_of(schema), 0
    for batch in batches:
        for number, values in enumerate(batch.to_pylist(), start=read + 1):
            for name, change in changes.items():
                values[name] = change(values[name])
            yield Row(number, values)
        read += batch.num_rows
        source.progress(batch.nbytes)


def changes_of(schema: pa.Schema) -> dict[str, _Change]:
    """By column, what makes its values what templates can read: see the top of this file. Python's float has 64 bits:
    it would write the 0.1 of 32 bits as 0.10000000149011612."""
    changes = {field.name: _change(field.type) for field in schema}
    return {name: change for name, change in changes.items() if change is not None}


def _change(kind: pa.DataType) -> _Change | None:
    """None for a type without narrow floats and maps, at any depth."""
    if pa.types.is_float16(kind):
        return _or_null(lambda value: float(str(np.float16(value))))
    if pa.types.is_float32(kind):
        return _or_null(lambda value: float(str(np.float32(value))))
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _change(kind.value_type)
    if pa.types.is_struct(kind):
        fields = changes_of(pa.schema(list(kind)))
        return _or_null(lambda value: value | {name: change(value[name]) for name, change in fields.items()}, fields)
    if pa.types.is_map(kind):
        key, item = _change(kind.key_type), _change(kind.item_type)
        made = _object if kind.key_type in _TEXTS else list
        return _or_null(lambda pairs: made([[_changed(key, name), _changed(item, value)] for name, value in pairs]))
    if hasattr(kind, "value_type"):  # all kinds of lists
        inner = _change(kind.value_type)
        return _or_null(lambda values: [_changed(inner, value) for value in values], inner)
    return None


def _object(pairs: list[list[Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is twice in one map")
    return values


def _or_null(change: _Change, *inner: object) -> _Change | None:
    """None if nothing inside has to be changed."""
    if inner and not any(inner):
        return None
    return lambda value: None if value is None else change(value)


def _changed(change: _Change | None, value: Any) -> Any:
    return value if change is None else change(value)
