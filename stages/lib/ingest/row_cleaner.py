"""Raw rows -> clean texts, with the columns that the decisions about duplicates and splits need; batch by batch."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core.templates import RejectedRow, Template, as_text, value_at
from stages.lib.core.words import count_words
from stages.lib.ingest.cleaning import Cleaner
from stages.lib.ingest.formats import Row
from stages.lib.ingest.minhash import Hashes, band_keys, bands_and_rows, key, normalised, shingles
from stages.lib.params.prepare import Prepare, Range
from stages.lib.records.chats import Turn, read_turns, render
from stages.lib.records.examples import METADATA, TURNS, Split

# a row that is in several splits stays in the one of lowest rank: reported scores are those of test
RANKS: dict[Split, int] = {"test": 0, "validation": 1, "train": 2}
# characters; longer metadata groups nothing, and it travels with every prediction
_LONGEST_METADATA = 200

_KEPT = pa.schema(
    [
        ("row", pa.int64()),  # number of the row, over all files
        ("origin", pa.int32()),  # position among the origins
        ("line", pa.int64()),
        ("rank", pa.int8()),  # of the split that the file was given for
        ("example_key", pa.uint64()),  # rows that share it are one example, or (ungrouped) copies of each other
        ("compared_key", pa.uint64()),  # of what `duplicates.compare` names, normalised, as are the next two
        ("source_key", pa.uint64()),
        ("target_key", pa.uint64()),
        ("place", pa.float64()),  # in [0, 1), a hash of the seed and of what must stay in one split
        ("stratum", pa.string()),
        ("time", pa.float64()),
        ("characters", pa.int64()),
        ("references", pa.int64()),
        ("source", pa.string()),
        ("targets", pa.list_(pa.string())),
        ("turns", TURNS),  # of a conversation
        ("group", pa.string()),  # a hash of what must stay in one split
        ("metadata", METADATA),
        ("near_source", pa.string()),  # normalised; only if near duplicates are searched
        ("near_target", pa.string()),
    ]
)
_UNUSABLE = pa.schema(
    [
        ("row", pa.int64()),
        ("origin", pa.int32()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("characters", pa.int64()),
        ("values", pa.string()),  # JSON
    ]
)


@dataclass(frozen=True)
class RowBatch:
    """Rows of one origin. `first` is the number of the first row, over all files."""

    number: int
    first: int
    origin: int
    split: Split
    rows: list[Row]


@dataclass
class Report:
    """The counts of one batch."""

    split: Split
    read: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Texts:
    """The texts of one row: a source with its targets, or the turns of a conversation, up to its last answer. Then the
    targets are its answers, and the source is empty."""

    source: str
    targets: list[str]
    turns: list[Turn] = field(default_factory=list)

    def joined(self) -> tuple[str, str]:
        """(source, target) to compare with other rows. Of a conversation: the turns before its last answer, and that
        answer."""
        if self.turns:
            return render(self.turns[:-1]), self.turns[-1].text
        return self.source, "\n".join(self.targets)


@dataclass(frozen=True)
class RowCleaner:
    """Cleans batches and writes each to two tables in `folder`. It can run in any process, on batches in any order."""

    params: Prepare
    folder: Path

    def __call__(self, batch: RowBatch) -> Report:
        cleaner = Cleaner(self.params.clean, self.params.mask)
        kept: list[dict[str, Any]] = []
        unusable: list[dict[str, Any]] = []
        for number, row in enumerate(batch.rows, start=batch.first):
            place = {"row": number, "origin": batch.origin, "line": row.line}
            try:
                if row.problem is not None:
                    raise row.problem
                texts = self._texts(row.values, cleaner)
                columns = self._columns(texts, row.values) | {"metadata": self._metadata(row.values, cleaner)}
                kept.append(place | {"rank": RANKS[batch.split]} | columns)
            except RejectedRow as problem:
                values = json.dumps(row.values, default=str)
                reason = {"reason": problem.reason, "detail": problem.detail}
                unusable.append(place | reason | {"characters": len(values), "values": values})
        self._write(batch.number, kept, unusable)
        return Report(batch.split, len(batch.rows), cleaner.changed, cleaner.masked)

    def _texts(self, values: Mapping[str, Any], cleaner: Cleaner) -> Texts:
        """Raises RejectedRow."""
        params = self.params
        if params.messages is not None:
            turns = read_turns(value_at(params.messages, values))
            clean = [Turn(turn.role, _clean(turn.text, turn.role, cleaner)) for turn in turns]
            while clean[-1].role != "assistant":  # without an answer after them, turns teach nothing
                clean.pop()
            texts = Texts("", [turn.text for turn in clean if turn.role == "assistant"], clean)
        else:
            source = "" if self._source is None else _clean(self._source.render(values), "source", cleaner)
            targets = [_clean(target, "target", cleaner) for target in self._target.render_all(values)]
            texts = Texts(source, [self._label(target) for target in targets])
        self._check(texts)
        return texts

    @cached_property
    def _source(self) -> Template | None:
        return None if self.params.source is None else Template(self.params.source)

    @cached_property
    def _target(self) -> Template:
        return Template(self.params.target or "")

    def _label(self, target: str) -> str:
        """The word for a label, if targets are labels."""
        if self.params.labels is None:
            return target
        if target not in self.params.labels:
            raise RejectedRow("unknown_label", f"`{target[:80]}` is not in prepare.labels")
        return self.params.labels[target]

    def _check(self, texts: Texts) -> None:
        lengths = self.params.lengths
        if not texts.targets or not all(target.strip() for target in texts.targets):
            raise RejectedRow("empty_target", "an answer is empty" if self.params.messages else "the target is empty")
        if self.params.source is not None and not texts.source.strip():
            raise RejectedRow("empty_source", "the source is empty")
        for name, text in (("source", texts.joined()[0]), *(("target", target) for target in texts.targets)):
            _check_length(name, "characters", len(text), getattr(lengths, f"{name}_characters"))
            words: Range = getattr(lengths, f"{name}_words")
            if words.min is not None or words.max is not None:
                _check_length(name, "words", count_words(text), words)

    def _columns(self, texts: Texts, values: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of `_KEPT` that depend on the content of a row."""
        params, split = self.params, self.params.split
        source, target = (normalised(text) for text in texts.joined())
        split_value = as_text(split.field, value_at(split.field, values)) if split.field is not None else None
        if split_value is not None and _SURROGATE.search(split_value):
            raise RejectedRow("lone_surrogate", f"{split.field} holds half of a surrogate pair")
        compared = {"pair": (source, target), "source": (source,), "target": (target,)}[params.duplicates.compare]
        if params.groups:
            identity = [texts.source, *([split_value] if split_value is not None and split.by == "group" else [])]
        else:
            identity = [texts.source, *(turn.text for turn in texts.turns), *texts.targets]
        free = params.source is None and params.messages is None
        undivided = split_value if split.by == "group" and split_value is not None else target if free else source
        return {
            "example_key": key(*identity),
            "compared_key": key(*compared),
            "source_key": key(source),
            "target_key": key(target),
            "place": key(str(params.seed), undivided) / 2**64,
            "stratum": split_value if split.by == "stratum" else None,
            "time": _time(split.field, split_value) if split.by == "order" and split_value is not None else 0.0,
            "characters": sum(map(len, (texts.source, *texts.targets, *(turn.text for turn in texts.turns)))),
            "references": len(texts.targets),
            "source": texts.source,
            "targets": texts.targets,
            "turns": [asdict(turn) for turn in texts.turns],
            "group": f"{key(undivided):016x}",
            "near_source": source if params.duplicates.near and params.duplicates.compare != "target" else "",
            "near_target": target if params.duplicates.near and params.duplicates.compare != "source" else "",
        }

    def _metadata(self, values: Mapping[str, Any], cleaner: Cleaner) -> dict[str, str]:
        """Cleaned and masked like other texts. Raises RejectedRow where a field is missing or holds no text."""
        texts = {path: _metadata_text(path, value_at(path, values)) for path in self.params.metadata}
        return {path: _clean(text, path, cleaner)[:_LONGEST_METADATA] for path, text in texts.items()}

    def _write(self, number: int, kept: list[dict[str, Any]], unusable: list[dict[str, Any]]) -> None:
        table = pa.Table.from_pylist(kept, schema=_KEPT)
        if near := self.params.duplicates.near:
            bands = np.array([_bands(record, near) for record in kept], np.uint64)
            for band, keys in enumerate(bands.reshape(-1, bands_and_rows(near)[0]).T):
                table = table.append_column(band_column(band), pa.array(keys))
        pq.write_table(table, self.folder / f"kept-{number:06}.parquet")
        pq.write_table(pa.Table.from_pylist(unusable, schema=_UNUSABLE), self.folder / f"unusable-{number:06}.parquet")


_SURROGATE = re.compile("[\ud800-\udfff]")


def _clean(text: str, name: str, cleaner: Cleaner) -> str:
    if not text.isascii() and _SURROGATE.search(text):
        raise RejectedRow("lone_surrogate", f"the {name} holds half of a surrogate pair")
    return cleaner(text)


def _check_length(name: str, unit: str, length: int, bounds: Range) -> None:
    if bounds.min is not None and length < bounds.min:
        raise RejectedRow("too_short", f"the {name} has {length:,} {unit}, fewer than {bounds.min:,}")
    if bounds.max is not None and length > bounds.max:
        raise RejectedRow("too_long", f"the {name} has {length:,} {unit}, more than {bounds.max:,}")


def _metadata_text(field: str, value: Any) -> str:
    """Of null: an empty text, since not every row has a value for everything that is known about some."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else as_text(field, value)


def _time(name: str | None, text: str) -> float:
    """A number, or the seconds since 1970 of an ISO 8601 date, which is UTC if it has no time zone."""
    for read in (float, _iso_seconds):
        try:
            time = read(text)
        except (ValueError, OverflowError):
            continue
        if math.isfinite(time):
            return time
    raise RejectedRow("no_time", f"{name} holds neither a number nor an ISO 8601 date")


def _iso_seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _bands(record: Mapping[str, Any], near: float) -> Hashes:
    """Of the union of the pieces of source and target. A salt keeps pieces of one from matching those of the other. If
    both parts reach the threshold, so does the union."""
    parts = [shingles(record[name], salt) for salt, name in enumerate(("near_source", "near_target"))]
    return band_keys(np.concatenate(parts), near)


def band_column(band: int) -> str:
    return f"band_{band}"


class CleanedRows:
    """Fetches rows by their numbers from the tables of kept or of unusable rows.

    The database does not handle texts: it processes thousands of rows at once, which can be gigabytes of long texts.
    """

    def __init__(self, folder: Path, name: str) -> None:
        tables = ((pq.read_metadata(path), path) for path in sorted(folder.glob(f"{name}-*.parquet")))
        filled = [(table.row_group(0).column(0).statistics.min, path) for table, path in tables if table.num_rows]
        self._first_rows = [first for first, _ in filled]
        self._paths = [path for _, path in filled]

    def fetch(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Row -> its columns. Reads each table with one of the rows once."""
        wanted = np.unique(np.array(rows, np.int64))
        tables = np.searchsorted(self._first_rows, wanted, side="right") - 1
        found: dict[int, dict[str, Any]] = {}
        for number in np.unique(tables):
            table = pq.read_table(self._paths[number], columns=["row", *columns])
            places = np.searchsorted(table["row"].to_numpy(), wanted[tables == number])
            found |= {record.pop("row"): record for record in table.take(places).to_pylist()}
        return found
