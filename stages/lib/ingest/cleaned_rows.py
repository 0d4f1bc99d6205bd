"""Cleaned rows on disk: written by any process, batch by batch, and read by the decisions about all rows. Arrow files
are mapped into memory, so that a row is read without the others of its file."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.lib.ingest.row_texts import Texts
from stages.lib.overlap.minhash import normalised
from stages.lib.params.prepare import Prepare
from stages.lib.records.chats import Turn
from stages.lib.records.examples import METADATA, TURNS, Split

# a row that is in several splits stays in the one of lowest rank: reported scores are those of test
RANKS: dict[Split, int] = {"test": 0, "validation": 1, "train": 2}
KEPT = pa.schema(
    [
        ("row", pa.int64()),  # number of the row, over all files
        ("origin", pa.int32()),  # position among the origins
        ("line", pa.int64()),
        ("lines", pa.int64()),
        ("rank", pa.int8()),  # of the split that the file was given for
        ("example_key", pa.uint64()),  # rows that share it are one example, or (ungrouped) copies of each other
        ("compared_key", pa.uint64()),  # of what `duplicates.compare` names, normalised, as are the next two
        ("source_key", pa.uint64()),
        ("target_key", pa.uint64()),
        ("group_key", pa.uint64()),  # of what must stay in one split
        ("place", pa.float64()),  # in [0, 1), a hash of the seed and of what must stay in one split
        ("stratum", pa.string()),
        ("time", pa.float64()),
        ("characters", pa.int64()),
        ("target_count", pa.int64()),
    ]
)
UNUSABLE = pa.schema(
    [
        ("row", pa.int64()),
        ("origin", pa.int32()),
        ("line", pa.int64()),
        ("lines", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("characters", pa.int64()),
    ]
)
# of each answer of a conversation
ANSWERS = pa.schema(
    [
        ("row", pa.int64()),
        ("file_rank", pa.int8()),
        ("number", pa.int32()),  # of its turn
        ("key", pa.uint64()),  # of the tools and all turns up to it, normalised
        ("learned_key", pa.uint64()),  # of these turns, and of which answers among them have loss
        ("has_loss", pa.bool_()),
        ("is_last", pa.bool_()),
    ]
)
VALUES = pa.field("values", pa.string())  # of an unusable row, as JSON
_PAIR = [("source", pa.string()), ("targets", pa.list_(pa.string()))]
_CONVERSATION = [("turns", TURNS), ("tools", pa.string())]


@dataclass(frozen=True)
class CleanRow:
    texts: Texts
    metadata: dict[str, str]


def normalised_pair(texts: Texts) -> tuple[str, str]:
    """Of source and target. The tools belong to what a conversation's model reads."""
    source, target = texts.joined()
    source = f"{texts.tools}\n{source}" if texts.tools else source
    return normalised(source), normalised(target)


def compared_parts(pair: tuple[str, str], params: Prepare) -> tuple[str, ...]:
    """What `duplicates.compare` names, of normalised source and target."""
    return {"pair": pair, "source": pair[:1], "target": pair[1:]}[params.duplicates.compare]


def as_columns(schema: pa.Schema, rows: Sequence[Sequence[Any]]) -> list[pa.Array]:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return [pa.array(column, own.type) for column, own in zip(columns, schema, strict=True)]


def write_table(folder: Path, name: str, number: int, schema: pa.Schema, columns: Sequence[pa.Array]) -> None:
    with pa.OSFile(str(folder / f"{name}-{number:06}.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def text_fields(params: Prepare) -> list[tuple[str, pa.DataType]]:
    """The columns of kept rows after those of `KEPT`: the texts that rows of this kind have."""
    texts = _CONVERSATION if params.message_fields else _PAIR
    return [*texts, *([("metadata", METADATA)] if params.metadata else [])]


def text_columns(params: Prepare, rows: Sequence[CleanRow]) -> list[pa.Array]:
    if params.message_fields:
        columns = [_turns_array([row.texts.turns for row in rows]), pa.array([row.texts.tools for row in rows])]
    else:
        targets = pa.array([row.texts.targets for row in rows], pa.list_(pa.string()))
        columns = [pa.array([row.texts.source for row in rows], pa.string()), targets]
    if params.metadata:
        columns.append(pa.array([list(row.metadata.items()) for row in rows], METADATA))
    return columns


def _turns_array(conversations: Sequence[Sequence[Turn]]) -> pa.Array:
    turns = [turn for conversation in conversations for turn in conversation]
    parts = [pa.array([getattr(turn, own.name) for turn in turns], own.type) for own in TURNS.value_type.fields]
    ends = np.cumsum([0, *map(len, conversations)])
    flat = pa.StructArray.from_arrays(parts, fields=TURNS.value_type.fields)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat)


def table_paths(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-*.arrow"))


def keys_of(folder: Path, name: str, schema: pa.Schema) -> pa.RecordBatchReader:
    """The columns of `schema` of all tables."""

    def batches() -> Iterator[pa.RecordBatch]:
        for path in table_paths(folder, name):
            with _mapped(path) as batch:
                yield batch.select(schema.names)

    return pa.RecordBatchReader.from_batches(schema, batches())


@contextmanager
def _mapped(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as file:
        yield pa.ipc.open_file(file).get_batch(0)


class _Rows:
    """Fetches rows by their numbers.

    The database does not handle texts: it processes thousands of rows at once, which can be gigabytes of long texts.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = table_paths(folder, name)
        self._first_rows = [_first_row(path) for path in self._paths]

    def tables(self, rows: Iterable[int], columns: Sequence[str]) -> Iterator[tuple[list[int], pa.RecordBatch]]:
        """Some of the rows, and their columns, for each file that has any."""
        wanted = np.unique(np.fromiter(rows, np.int64))
        files = np.searchsorted(self._first_rows, wanted, side="right") - 1
        for number in np.unique(files):
            own = wanted[files == number]
            with _mapped(self._paths[number]) as batch:
                places = np.searchsorted(batch["row"].to_numpy(), own)
                yield own.tolist(), batch.select(list(columns)).take(pa.array(places))


def _first_row(path: Path) -> int:
    with _mapped(path) as batch:
        return int(batch["row"][0].as_py())


class UnusableRows(_Rows):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "unusable")

    def values(self, rows: Iterable[int]) -> dict[int, str]:
        tables = self.tables(rows, [VALUES.name])
        return {
            row: values for numbers, table in tables for row, values in zip(numbers, _strings(table[0]), strict=True)
        }


class KeptRows(_Rows):
    def __init__(self, folder: Path, params: Prepare) -> None:
        super().__init__(folder, "kept")
        self._fields = [name for name, _ in text_fields(params)]

    def fetch(self, rows: Iterable[int]) -> dict[int, CleanRow]:
        found: dict[int, CleanRow] = {}
        for numbers, table in self.tables(rows, self._fields):
            texts = _conversations(table) if "turns" in self._fields else _pairs(table)
            has_metadata = "metadata" in self._fields
            metadata = table["metadata"].to_pylist(maps_as_pydicts="strict") if has_metadata else [{}] * len(numbers)
            found |= zip(numbers, map(CleanRow, texts, metadata), strict=True)
        return found


def _pairs(table: pa.RecordBatch) -> Iterator[Texts]:
    return map(Texts, _strings(table["source"]), _divided(_strings(table["targets"].flatten()), table["targets"]))


def _conversations(table: pa.RecordBatch) -> Iterator[Texts]:
    turns = table["turns"].flatten()
    parts = [turns.field(own.name).to_pylist() for own in TURNS.value_type.fields]
    for own, tools in zip(_divided(list(map(Turn, *parts)), table["turns"]), _strings(table["tools"]), strict=True):
        yield Texts("", [turn.written() for turn in own if turn.role == "assistant" and turn.has_loss], own, tools)


def _divided(items: list[Any], lists: pa.ListArray) -> Iterator[list[Any]]:
    """The items as they are divided into lists."""
    ends = np.cumsum(lists.value_lengths().to_numpy()).tolist()
    return (items[start:end] for start, end in zip([0, *ends], ends, strict=False))


def _strings(array: pa.StringArray) -> list[str]:
    """Several times as quick as `to_pylist`."""
    found: list[str] = array.to_numpy(zero_copy_only=False).tolist()
    return found
