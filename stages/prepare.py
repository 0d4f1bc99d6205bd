"""Raw text -> examples in train, validation and test, and an account of every row.

Reads:  the raw files of the scenario, in `prepare.folder`, or a data set on the hub.
Writes: data/prepare/{train,validation,test}/ (shards), set_aside.jsonl (rows not used: file, line, reason, the row),
        account.json (rows read = rows kept + rows set aside), labels.json (the words that targets are chosen from,
        none for free text) and preview.md (some rows, kept and set aside, to look at).
Random: nothing; a source's split is a hash of it and `prepare.seed`, so new rows never move old ones.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.lib.batches import cores, in_batches, ordered_map
from stages.lib.examples import SPLITS, Example, Split, write_examples, write_labels
from stages.lib.files import write_json, write_jsonl
from stages.lib.formats import Row
from stages.lib.ledger import Ledger
from stages.lib.markdown import table, write_page
from stages.lib.params import read_scenario, read_section
from stages.lib.params.machine import Machine
from stages.lib.params.prepare import Limits, Prepare
from stages.lib.process import UserError, launch
from stages.lib.readers import Origin, origins, read_rows
from stages.lib.staging import Batch, Stager

TARGET = Path("data/prepare")

_BATCH_ROWS = 4096
_SHOWN_QUESTIONS = 20  # of each split: a conversation has many
_DUPLICATE = ("duplicate", "near_duplicate")
_LEAKED = ("in_test", "in_validation", "near_test", "near_validation")


@dataclass
class Account:
    """Where every row went."""

    read: Counter[Split] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # reason -> its first rows


def main() -> None:
    params = read_section(Prepare)
    run(params, read_section(Machine).processes, source=Path(params.folder) / read_scenario(), target=TARGET)


def run(params: Prepare, processes: int | None, source: Path, target: Path) -> None:
    found = origins(params, source)
    staged = target / ".staged"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        account = _stage(found, params, staged, processes)
        ledger = Ledger(staged, params, processes or cores())
        _decide(ledger)
        aside = _counted(ledger.set_aside_rows([origin.name for origin in found]), account, params.shown_examples)
        write_jsonl(target / "set_aside.jsonl", aside)
        counts = ledger.counts()
        summary = _summary(account, ledger, counts)
        write_json(target / "account.json", summary)
        _check(account, counts, params.limits, target)
        shown = {
            split: _write_split(
                target / split, ledger.examples(split), counts[split]["examples"], params.shown_examples
            )
            for split in SPLITS
        }
        write_labels(target / "labels.json", list((params.labels or {}).values()))
        write_page(target / "preview.md", "Data, as prepared", _preview(shown, account))
    finally:
        shutil.rmtree(staged)
    examples = ", ".join(f"{counts[split]['examples']:,} {split}" for split in SPLITS)
    print(
        f"prepare: {summary['rows_read']:,} rows -> examples: {examples}; {summary['rows_set_aside']:,} rows set aside"
    )


def _stage(found: list[Origin], params: Prepare, staged: Path, processes: int | None) -> Account:
    account = Account()
    Stager(params, staged)(Batch(0, 0, 0, "train", []))  # so that there are tables to ask, be there no row
    for report in ordered_map(Stager(params, staged), _batches(found, params), processes):
        account.read[report.split] += report.read
        account.changed.update(report.changed)
        account.masked.update(report.masked)
    return account


def _batches(found: list[Origin], params: Prepare) -> Iterator[Batch]:
    number, first = 1, 0
    for place, origin in enumerate(found):
        for rows in in_batches(read_rows(origin, params), Row.characters, _BATCH_ROWS):
            yield Batch(number, first, place, origin.split, rows)
            number, first = number + 1, first + len(rows)


def _decide(ledger: Ledger) -> None:
    ledger.set_aside_duplicates()
    ledger.assign_splits()
    ledger.set_aside_leaks()
    ledger.set_aside_similar()


def _counted(rows: Iterable[dict[str, Any]], account: Account, shown: int) -> Iterator[dict[str, Any]]:
    """The same rows, counted and the first of each reason kept as they pass by."""
    for row in rows:
        account.set_aside[row["reason"]] += 1
        first = account.shown.setdefault(row["reason"], [])
        if len(first) < max(shown, 1):
            first.append(row)
        yield row


def _summary(account: Account, ledger: Ledger, counts: dict[Split, dict[str, int]]) -> dict[str, Any]:
    return {
        "rows_read": account.read.total(),
        "rows_set_aside": account.set_aside.total(),
        "rows_kept": ledger.rows_kept(),
        "rows_read_for": account.read,
        "set_aside": account.set_aside,
        "examples": {split: counts[split]["examples"] for split in SPLITS},
        "references": {split: counts[split]["references"] for split in SPLITS},
        "texts_changed": account.changed,
        "masked": account.masked,
        "overlaps": ledger.overlaps(),
    }


def _check(account: Account, counts: dict[Split, dict[str, int]], limits: Limits, target: Path) -> None:
    """Raises UserError where going on would waste the user's time."""
    unusable = [reason for reason in account.set_aside if reason not in _DUPLICATE + _LEAKED]
    kinds = {"set_aside": ("unusable", unusable), "duplicate": ("duplicates", _DUPLICATE), "leak": ("leaks", _LEAKED)}
    lines, causes = [], []
    for name, (words, reasons) in kinds.items():
        count, read = sum(account.set_aside[reason] for reason in reasons), account.read.total()
        if count > round(getattr(limits, f"max_{name}_fraction") * read, 6):
            lines.append(
                f"prepare: {count:,} of {read:,} rows are {words}, more than prepare.limits.max_{name}_fraction "
                f"allows; they are in {target / 'set_aside.jsonl'}"
            )
            causes += [reason for reason in reasons if account.set_aside[reason]]
    causes.sort(key=lambda reason: -account.set_aside[reason])
    lines += [_cause(account, reason) for reason in causes[:10]]
    if not lines and (empty := [split for split in SPLITS if not counts[split]["examples"]]):
        lines.append(
            f"prepare: no examples for {', '.join(empty)} among {account.read.total():,} rows; "
            f"{account.set_aside.total():,} of them are set aside; see prepare in params.yaml, files and fractions of "
            f"the splits, and {target / 'set_aside.jsonl'}"
        )
    if lines:
        raise UserError(lines)


def _cause(account: Account, reason: str) -> str:
    first = account.shown[reason][0]
    return (
        f"  {account.set_aside[reason]:,} {reason}; the first: {first['file']} line {first['line']}, {first['detail']}"
    )


def _write_split(folder: Path, examples: Iterator[Example], count: int, shown: int) -> list[Example]:
    """Returns some of them, evenly spaced."""
    every = max(count // max(shown, 1), 1)
    some: list[Example] = []

    def watched() -> Iterator[Example]:
        for number, example in enumerate(examples):
            if number % every == 0 and len(some) < shown:
                some.append(example)
            yield example

    write_examples(folder, watched())
    return some


def _preview(shown: dict[Split, list[Example]], account: Account) -> Iterator[Iterable[str]]:
    for split, examples in shown.items():
        questions = [question for example in examples for question in example.questions()][:_SHOWN_QUESTIONS]
        rows = [(question.source, " ⏎ ".join(question.references)) for question in questions]
        yield table(f"Some of {split}", ("source", "targets"), rows)
    for reason, aside in account.shown.items():
        title = f"Set aside: {reason} ({account.set_aside[reason]:,} rows)"
        yield table(
            title, ("file", "line", "detail", "row"), [tuple(row.values()) for row in _without(aside, "reason")]
        )


def _without(rows: list[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    return ({key: value for key, value in row.items() if key != name} for row in rows)


if __name__ == "__main__":
    launch(main)
