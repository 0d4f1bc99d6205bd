"""Raw text -> examples in train, validation and test, and an account of every row.

Reads:  the raw files in `prepare.folder`.
Writes: data/prepare/{train,validation,test}.jsonl, set_aside.jsonl (rows not used: file, line, reason, the row)
        and account.json (rows read = rows kept + rows set aside).
Random: nothing; a source's split is a hash of it and `prepare.seed`, so new rows never move old ones.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.lib.examples import SPLITS, Example, Split, write_examples
from stages.lib.files import write_json, write_jsonl
from stages.lib.params import read_section
from stages.lib.params.prepare import Prepare
from stages.lib.process import UserError, launch
from stages.lib.readers import Row, read_rows

TARGET = Path("data/prepare")

Pair = tuple[str, str]  # source, target


@dataclass
class Account:
    """Where every row went."""

    rows_read: int = 0
    set_aside: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, file: Path, row: Row, reason: str) -> None:
        self.set_aside.append({"file": file.name, "line": row.line, "reason": reason, "row": row.values})


def main() -> None:
    run(read_section(Prepare), target=TARGET)


def run(params: Prepare, target: Path) -> None:
    account = Account()
    splits: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for given, file in _input_files(params):
        pairs = _usable_pairs(file, params, account)
        for example in _examples(pairs, params.group_references):
            splits[_split(example, given, params)].append(example)
    _check(splits, account, params)
    for split, examples in splits.items():
        write_examples(target / f"{split}.jsonl", examples)
    write_jsonl(target / "set_aside.jsonl", account.set_aside)
    write_json(target / "account.json", _summary(splits, account))
    counts = ", ".join(f"{len(examples):,} {split}" for split, examples in splits.items())
    print(f"prepare: {account.rows_read:,} rows -> examples: {counts}; {len(account.set_aside):,} rows set aside")


def _input_files(params: Prepare) -> list[tuple[Split, Path]]:
    named = {"train": params.train, "validation": params.validation, "test": params.test}
    return [(split, Path(params.folder) / name) for split in SPLITS if (name := named[split]) is not None]


def _usable_pairs(file: Path, params: Prepare, account: Account) -> Iterator[Pair]:
    columns = (params.source_column, params.target_column)
    for row in tqdm(read_rows(file, columns), desc=f"prepare {file.name}", unit=" rows"):
        account.rows_read += 1
        problem = row.problem or _text_problem(row, columns)
        if problem is None:
            yield row.values[params.source_column].strip(), row.values[params.target_column].strip()
        else:
            account.reject(file, row, problem)


def _text_problem(row: Row, columns: Iterable[str]) -> str | None:
    for column in columns:
        text = row.values[column]
        if not isinstance(text, str):
            return f"{column} is no text"
        if not text.strip():
            return f"{column} is empty"
        if _has_lone_surrogate(text):
            return f"{column} holds half of a surrogate pair"
    return None


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _examples(pairs: Iterable[Pair], group_references: bool) -> Iterator[Example]:
    """In the order in which they are first met."""
    if group_references:
        targets_of: dict[str, list[str]] = {}
        for source, target in pairs:
            targets_of.setdefault(source, []).append(target)
        for source, targets in targets_of.items():
            yield Example(_hash(source), source, targets)
    else:
        seen: Counter[Pair] = Counter()
        for source, target in pairs:
            seen[source, target] += 1
            yield Example(_hash(source, target, str(seen[source, target])), source, [target])


def _split(example: Example, given: Split, params: Prepare) -> Split:
    """The split of a given file, or, for splits without a file, a share of train."""
    if given != "train":
        return given
    # by source, so that one source never stands in two splits, grouped or not
    place = int(_hash(str(params.seed), example.source), 16) / 16**16
    test = params.test_fraction if params.test is None else 0.0
    validation = params.validation_fraction if params.validation is None else 0.0
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def _hash(*parts: str) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _check(splits: dict[Split, list[Example]], account: Account, params: Prepare) -> None:
    """Raises UserError where going on would waste the user's time."""
    reasons = Counter(row["reason"] for row in account.set_aside)
    if len(account.set_aside) > params.max_set_aside_fraction * account.rows_read:
        worst = [f"  {count:,} rows: {reason}" for reason, count in reasons.most_common(10)]
        first = account.set_aside[0]
        raise UserError(
            [
                f"prepare: {len(account.set_aside):,} of {account.rows_read:,} rows are unusable, more than "
                f"prepare.max_set_aside_fraction allows; the first is {first['file']} line {first['line']}",
                *worst,
            ]
        )
    if empty := [split for split in SPLITS if not splits[split]]:
        raise UserError(
            f"prepare: no examples for {', '.join(empty)} among {account.rows_read:,} rows; "
            f"see prepare in params.yaml: files and fractions of the splits"
        )


def _summary(splits: dict[Split, list[Example]], account: Account) -> dict[str, Any]:
    return {
        "rows_read": account.rows_read,
        "rows_set_aside": len(account.set_aside),
        "rows_kept": sum(len(example.targets) for examples in splits.values() for example in examples),
        "examples": {split: len(examples) for split, examples in splits.items()},
        "references": {split: sum(len(e.targets) for e in examples) for split, examples in splits.items()},
    }


if __name__ == "__main__":
    launch(main)
