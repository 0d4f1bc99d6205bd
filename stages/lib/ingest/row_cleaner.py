"""Raw rows -> clean texts, with the columns that the decisions about duplicates and splits need; batch by batch."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.lib.core.templates import RejectedRow, as_text
from stages.lib.ingest.cleaned_rows import (
    ANSWERS,
    KEPT,
    RANKS,
    UNUSABLE,
    VALUES,
    CleanRow,
    as_columns,
    compared_parts,
    normalised_pair,
    text_columns,
    text_fields,
    write_table,
)
from stages.lib.ingest.cleaning import Cleaner
from stages.lib.ingest.known_ngrams import KnownNgrams
from stages.lib.ingest.near_duplicates import write_bands
from stages.lib.ingest.row_texts import RowReader, Texts, check_surrogates, clean_text
from stages.lib.ingest.rows import Row
from stages.lib.overlap.minhash import MULTIPLIER, key, normalised
from stages.lib.params.prepare import Prepare
from stages.lib.records.examples import Split

# characters; longer metadata groups nothing, and it travels with every prediction
_LONGEST_METADATA = 200
_DATE = re.compile(r"(19|20)\d{6}|.*\d[-:]\d.*")  # a date, and no number

Values = tuple[Any, ...]  # of one row of a table


@dataclass(frozen=True)
class RowBatch:
    """Rows of one origin. `first` is the number of the first row, over all files. `mix` is the entry of `prepare.mix`
    that they are of, if any."""

    number: int
    first: int
    origin: int
    split: Split
    rows: list[Row]
    mix: str | None = None


@dataclass
class Report:
    """The counts of one batch. `notes` tells what was changed in rows that stay, or passed over; `unread_fields` how
    many rows have a value there that nothing in the params reads."""

    split: Split
    read: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    unread_fields: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class RowCleaner:
    """Cleans batches and writes their tables into `folder`. It can run in any process, on batches in any order. Rows of
    train with an n-gram of `known` tests are not used."""

    params: Prepare
    folder: Path
    known: KnownNgrams | None = None

    def __call__(self, batch: RowBatch) -> Report:
        cleaner = Cleaner(self.params.clean, self.params.mask)
        report = Report(batch.split, len(batch.rows), cleaner.changed, cleaner.masked)
        kept: list[CleanRow] = []
        keys: list[Values] = []
        unusable: list[Values] = []
        for number, row in enumerate(batch.rows, start=batch.first):
            place = (number, batch.origin, row.line, row.lines)
            try:
                clean = self._cleaned(row, batch, cleaner, report)
                keys.append((*place, RANKS[batch.split], *self._keys(clean.texts, row.values, batch)))
                kept.append(clean)
            except RejectedRow as problem:
                values = json.dumps(row.values, default=str)
                unusable.append((*place, problem.reason, problem.detail, len(values), values))
        self._write(batch, kept, keys, unusable)
        return report

    def _cleaned(self, row: Row, batch: RowBatch, cleaner: Cleaner, report: Report) -> CleanRow:
        """Raises RejectedRow."""
        if row.problem is not None:
            raise row.problem
        reader = self._readers[batch.mix]
        report.unread_fields.update(reader.unread(row.values, batch.split))
        notes: Counter[str] = Counter()  # a rejected row leaves none
        texts = reader.texts(row.values, batch.split, cleaner, notes)
        if self.known is not None and batch.split == "train":
            _check_known(texts, self.known)
        clean = CleanRow(texts, _metadata(reader, row.values, cleaner))
        report.notes.update(notes)
        return clean

    @cached_property
    def _readers(self) -> dict[str | None, RowReader]:
        """Of the scenario's own rows, and of those of each entry of `prepare.mix`."""
        return {name: RowReader(self.params.mixed(name)) for name in (None, *self.params.mix)}

    def _keys(self, texts: Texts, values: Mapping[str, Any], batch: RowBatch) -> Values:
        """The columns of `KEPT` from `example_key` on. Raises RejectedRow if `split.field` holds nothing of use."""
        reader = self._readers[batch.mix]
        params, by = reader.params, reader.params.split.by
        source, target = normalised_pair(texts)
        split_value = _split_value(reader, values, batch.split)
        group = [split_value] if split_value is not None and params.group_field is not None else []
        is_free = params.source is None and not texts.turns
        undivided = group[0] if group else target if is_free else source
        source_key, target_key = key(source), key(target)
        both = (source_key * MULTIPLIER + target_key) % 2**64  # as good as a hash of both texts
        return (
            key(*([texts.source, *group] if params.groups else _content(texts)), *([batch.mix] if batch.mix else [])),
            {"pair": both, "source": source_key, "target": target_key}[params.duplicates.compare],
            source_key,
            target_key,
            key(undivided) if group else target_key if is_free else source_key,
            key(str(params.seed), undivided) / 2**64,
            split_value if by == "stratum" else None,
            _time(params.split.field, split_value) if by == "order" and split_value is not None else 0.0,
            sum(map(len, (texts.source, *texts.targets, *(turn.text for turn in texts.turns)))),
            len(texts.targets),
        )

    def _write(self, batch: RowBatch, kept: list[CleanRow], keys: list[Values], unusable: list[Values]) -> None:
        """Only tables that have rows."""
        numbers = [row for row, *_ in keys]
        if kept:
            schema = pa.schema([*KEPT, *text_fields(self.params)])
            columns = [*as_columns(KEPT, keys), *text_columns(self.params, kept)]
            write_table(self.folder, "kept", batch.number, schema, columns)
        if kept and self.params.message_fields:
            answers = [
                (row, RANKS[batch.split], *answer)
                for row, clean in zip(numbers, kept, strict=True)
                for answer in _answers(clean.texts)
            ]
            write_table(self.folder, "answers", batch.number, ANSWERS, as_columns(ANSWERS, answers))
        if kept and (near := self.params.duplicates.near) is not None:
            parts = [compared_parts(normalised_pair(clean.texts), self.params) for clean in kept]
            write_bands(self.folder, numbers, parts, near)
        if unusable:
            schema = UNUSABLE.append(VALUES)
            write_table(self.folder, "unusable", batch.number, schema, as_columns(schema, unusable))


def _metadata(reader: RowReader, values: Mapping[str, Any], cleaner: Cleaner) -> dict[str, str]:
    """Cleaned and masked like other texts. Raises RejectedRow where a field is missing or holds no text."""
    texts = {name: _metadata_text(name, reader.value(name, values)) for name in reader.params.metadata}
    return {name: clean_text(text, name, cleaner)[:_LONGEST_METADATA] for name, text in texts.items()}


def _split_value(reader: RowReader, values: Mapping[str, Any], split: Split) -> str | None:
    """Only rows of train are divided, so those of other files may lack the field."""
    field = reader.params.group_field or reader.params.split.field
    if field is None:
        return None
    try:
        text = as_text(field, reader.value(field, values))
    except RejectedRow:
        if split == "train":
            raise
        return None
    check_surrogates(text, field)
    return text


def _content(texts: Texts) -> list[str]:
    fields = [turn.fields for turn in texts.turns if turn.fields] + ([texts.tools] if texts.tools else [])
    return [texts.source, *(turn.text for turn in texts.turns), *texts.targets, *fields]


def _check_known(texts: Texts, known: KnownNgrams) -> None:
    for text in [turn.text for turn in texts.turns] or [texts.source, *texts.targets]:
        if (found := known.first_in(text)) is not None:
            raise RejectedRow("in_known_test", f"13 words of a known test: {found}")


def _answers(texts: Texts) -> Iterator[Values]:
    """The columns of `ANSWERS` from `number` on."""
    history = key(texts.tools) if texts.tools else 0
    learned = ""
    for number, turn in enumerate(texts.turns):
        history = key(str(history), turn.role, normalised(turn.written()))
        if turn.role == "assistant":
            learned += "01"[turn.has_loss]
            is_last = number == len(texts.turns) - 1
            yield number, history, key(str(history), learned), turn.has_loss, is_last


def _metadata_text(field: str, value: Any) -> str:
    """Of null: an empty text, since not every row has a value for everything that is known about some."""
    return "" if value is None else as_text(field, value)


def _time(name: str | None, text: str) -> float:
    """A number, or the seconds since 1970 of an ISO 8601 date, which is UTC if it has no time zone."""
    for read in (_iso_seconds,) if _DATE.fullmatch(text) else (float, _iso_seconds):
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
