"""Raw text -> examples in train, validation and test, with a report on every row.

Reads:  the raw files of the scenario, in `prepare.folder`, or a data set on the hub.
Writes: data/prepare/{train,validation,test}/ (shards), labels.json (the words that a target can be; none for free text)
        and report/: stats.json (rows read = rows kept + rejected + unused by `train_share` + not drawn from `mix`, and
        the same of lines), settings.json, rejected.jsonl (rows that are not used: file, line, reason, the row) and
        preview.md (some rows of each split, and some rejected ones).
Random: nothing. The split of a row depends only on its content and `prepare.seed`; with `split.by: stratum` and `order`
        on the other rows too. The rows of `mix` are drawn by a hash of both, those of `train_share` by one of content.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.lib.core.files import write_json, write_jsonl
from stages.lib.core.markdown import table, write_page
from stages.lib.core.params import read_scenario, read_section
from stages.lib.core.process import UserError, launch
from stages.lib.core.worker_pool import available_cores, in_batches, ordered_map
from stages.lib.ingest.disk import check_disk
from stages.lib.ingest.duplicates_and_splits import RowDatabase
from stages.lib.ingest.known_ngrams import KnownNgrams
from stages.lib.ingest.readers import Origin, origins, raw_files, read_rows
from stages.lib.ingest.row_cleaner import RowBatch, RowCleaner
from stages.lib.ingest.rows import Row
from stages.lib.ingest.tracking import check_copy
from stages.lib.params.machine import Machine
from stages.lib.params.prepare import Limits, Prepare
from stages.lib.records.examples import SPLITS, Example, Split, write_examples, write_labels

TARGET = Path("data/prepare")

_BATCH_ROWS = 4096
_REJECTED_COLUMNS = ("file", "line", "detail", "row")
_DUPLICATE = ("duplicate", "near_duplicate")
_LEAKED = ("in_test", "in_validation", "near_test", "near_validation", "in_known_test")
_REPEATED = "prefix"  # a conversation that a longer one begins with: no fault of the data


@dataclass
class Stats:
    """What became of the rows, in counts."""

    read: Counter[Split] = field(default_factory=Counter)
    skipped_lines: Counter[str] = field(default_factory=Counter)  # header, blank ...: lines of no row
    changed: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    unread_fields: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # reason -> its first rows


def main() -> None:
    params = read_section(Prepare)
    source = Path(params.folder) / read_scenario()
    check_copy(lambda: raw_files(params, source))
    run(params, read_section(Machine).data_workers, source, TARGET)


def run(params: Prepare, workers: int | None, source: Path, target: Path) -> None:
    found = origins(params, source)
    cleaned = target / ".cleaned"
    shutil.rmtree(cleaned, ignore_errors=True)
    cleaned.mkdir(parents=True)
    try:
        check_disk(found, params, cleaned)
        stats = _clean(found, params, RowCleaner(params, cleaned, _known_ngrams(params, source)), workers)
        database = RowDatabase(cleaned, params, workers or available_cores(), _mixed(found))
        _decide(database)
        rejected = _counted(database.rejected_rows([origin.name for origin in found]), stats, params.shown_examples)
        write_jsonl(target / "report/rejected.jsonl", rejected)
        counts = database.counts()
        summary = _summary(stats, database, counts)
        write_json(target / "report/stats.json", summary)
        write_json(target / "report/settings.json", params.model_dump(mode="json"))
        _check(stats, database, counts, params.limits, target)
        shown: dict[str, list[Example]] = {
            split: _write_split(
                target / split, database.examples(split), counts[split]["examples"], params.shown_examples
            )
            for split in SPLITS
        }
        write_labels(target / "labels.json", list((params.labels or {}).values()))
        mixed = {f"mix -> {name}": some for name, some in database.some_mixed(params.shown_examples).items()}
        write_page(target / "report/preview.md", "Data, as prepared", _preview(shown | mixed, stats))
    finally:
        shutil.rmtree(cleaned)
    examples = ", ".join(f"{counts[split]['examples']:,} {split}" for split in SPLITS)
    unread = f"; fields that nothing reads: {', '.join(sorted(stats.unread_fields))}" if stats.unread_fields else ""
    unused = f", {summary['rows_unused']:,} unused by train_share" if "rows_unused" in summary else ""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in stats.rejected.most_common(3))
    for name, figures in summary["mixed"].items():
        print(f"prepare: mix -> {name}: {_drawn(figures)}, spread over train")
    print(
        f"prepare: {summary['rows_read']:,} rows -> examples: {examples}; {summary['rows_rejected']:,} rows rejected"
        f"{f' ({reasons})' if reasons else ''}{unused}{unread}"
    )


def _drawn(mixed: Mapping[str, int]) -> str:
    rows, examples = mixed["rows"], mixed["examples"]
    times = f", each taken about {examples / rows:.1f} times" if examples > rows else ""
    return f"{examples:,} examples from {rows:,} rows{times}"


def _known_ngrams(params: Prepare, source: Path) -> KnownNgrams | None:
    """Raises UserError if the file is broken, before the first row is read."""
    if params.known_ngrams is None:
        return None
    known = KnownNgrams(source / params.known_ngrams)
    len(known)
    return known


def _clean(found: list[Origin], params: Prepare, clean: RowCleaner, workers: int | None) -> Stats:
    stats = Stats()
    for report in ordered_map(clean, _batches(found, params, stats.skipped_lines), workers):
        stats.read[report.split] += report.read
        stats.changed.update(report.changed)
        stats.masked.update(report.masked)
        stats.notes.update(report.notes)
        stats.unread_fields.update(report.unread_fields)
    return stats


def _batches(found: list[Origin], params: Prepare, skipped: Counter[str]) -> Iterator[RowBatch]:
    number, first = 0, 0
    for place, origin in enumerate(found):
        read = read_rows(origin, params.mixed(origin.mix), skipped)
        for rows in in_batches(read, Row.characters, _BATCH_ROWS):
            yield RowBatch(number, first, place, origin.split, rows, origin.mix)
            number, first = number + 1, first + len(rows)


def _mixed(found: list[Origin]) -> dict[str, list[int]]:
    """Name in `prepare.mix` -> the numbers of its origins."""
    names = dict.fromkeys(origin.mix for origin in found if origin.mix is not None)
    return {name: [number for number, origin in enumerate(found) if origin.mix == name] for name in names}


def _decide(database: RowDatabase) -> None:
    database.drop_duplicates()
    database.assign_splits()
    database.drop_leaks()
    database.drop_beginnings()
    database.drop_near_duplicates()
    database.draw_share()
    database.draw_mixed()


def _counted(rows: Iterable[dict[str, Any]], stats: Stats, shown: int) -> Iterator[dict[str, Any]]:
    """Passes the rows on, counts them, and keeps the first ones of each reason."""
    for row in rows:
        stats.rejected[row["reason"]] += 1
        first = stats.shown.setdefault(row["reason"], [])
        if len(first) < max(shown, 1):
            first.append(row)
        yield row


def _summary(stats: Stats, database: RowDatabase, counts: dict[Split, dict[str, int]]) -> dict[str, Any]:
    return {
        "rows_read": stats.read.total(),
        "rows_rejected": stats.rejected.total(),
        "rows_kept": database.rows_kept(),
        **({"rows_unused": unused} if (unused := database.rows_unused()) else {}),
        "rows_read_for": stats.read,
        "lines": _lines(stats, database),
        "rejected": stats.rejected,
        "examples": {split: counts[split]["examples"] for split in SPLITS},
        "references": {split: counts[split]["references"] for split in SPLITS},
        "texts_changed": stats.changed,
        "masked": stats.masked,
        "notes": stats.notes,
        "unread_fields": stats.unread_fields,
        "overlaps": database.overlaps(),
        "mixed": database.mixed(),
    }


def _lines(stats: Stats, database: RowDatabase) -> dict[str, int]:
    """Where each line of the files is: read = kept + rejected + not drawn + those of no row. A row of parquet, arrow,
    xlsx or the hub is one line."""
    kept, rejected = database.lines()
    not_drawn = database.lines_not_drawn()
    return {
        "read": kept + rejected + not_drawn + stats.skipped_lines.total(),
        "kept": kept,
        "rejected": rejected,
        **({"not_drawn": not_drawn} if not_drawn else {}),
        **{name: count for name, count in sorted(stats.skipped_lines.items()) if count},
    }


def _check(
    stats: Stats, database: RowDatabase, counts: dict[Split, dict[str, int]], limits: Limits, target: Path
) -> None:
    """Raises UserError if too many rows are lost, or if a split or an entry of `mix` is empty."""
    unusable = [reason for reason in stats.rejected if reason not in (*_DUPLICATE, *_LEAKED, _REPEATED)]
    losses = {"rejected": ("unusable", unusable), "duplicate": ("duplicates", _DUPLICATE), "leak": ("leaks", _LEAKED)}
    lines, causes, read = [], [], stats.read.total()
    for name, (words, reasons) in losses.items():
        count = sum(stats.rejected[reason] for reason in reasons)
        if count > round(getattr(limits, f"max_{name}_fraction") * read, 6):
            lines.append(
                f"prepare: {count:,} of {read:,} rows are {words}, more than prepare.limits.max_{name}_fraction "
                f"allows; they are in {target / 'report/rejected.jsonl'}"
            )
            causes += [reason for reason in reasons if stats.rejected[reason]]
    lines += [
        f"prepare: mix -> {name}: none of its rows can be used; see {target / 'report/rejected.jsonl'}"
        for name, mixed in database.mixed().items()
        if not mixed["rows"]
    ]
    if not lines and (empty := [split for split in SPLITS if not counts[split]["examples"]]):
        lines.append(
            f"prepare: no examples for {', '.join(empty)} among {read:,} rows; {stats.rejected.total():,} of them were "
            f"rejected; see the files and fractions of the splits and train_share in params.yaml -> prepare, and "
            f"{target / 'report/rejected.jsonl'}"
        )
        causes = list(stats.rejected)
    causes.sort(key=lambda reason: -stats.rejected[reason])
    lines += [_cause(stats, reason) for reason in causes[:10]]
    if lines:
        raise UserError(lines)


def _cause(stats: Stats, reason: str) -> str:
    first = stats.shown[reason][0]
    return f"  {stats.rejected[reason]:,} {reason}; the first: {first['file']} line {first['line']}, {first['detail']}"


def _write_split(folder: Path, examples: Iterator[Example], count: int, shown: int) -> list[Example]:
    """Returns some of the examples, evenly spaced."""
    every = max(count // max(shown, 1), 1)
    some: list[Example] = []

    def passed_on() -> Iterator[Example]:
        for number, example in enumerate(examples):
            if number % every == 0 and len(some) < shown:
                some.append(example)
            yield example

    write_examples(folder, passed_on())
    return some


def _preview(shown: Mapping[str, list[Example]], stats: Stats) -> Iterator[Iterable[str]]:
    for name, examples in shown.items():
        last = [list(example.questions())[-1] for example in examples]  # of a conversation, with all before it
        rows = [(question.source, " ⏎ ".join(question.references)) for question in last]
        yield table(f"Some of {name}", ("source", "targets"), rows)
    for reason, rejected in stats.shown.items():
        cells = [(row["file"], row["line"], row["detail"], _row_text(row["row"])) for row in rejected]
        yield table(f"Rejected: {reason} ({stats.rejected[reason]:,} rows)", _REJECTED_COLUMNS, cells)


def _row_text(values: Mapping[str, Any]) -> str:
    """As it stands in the file, if it can't be parsed."""
    return str(values["raw"]) if values.keys() == {"raw"} else json.dumps(values, ensure_ascii=False)


if __name__ == "__main__":
    launch(main)
