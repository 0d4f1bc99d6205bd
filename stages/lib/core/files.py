"""Files with reproducible bytes, written atomically: a file is complete, or it does not exist."""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as part:
        part.write_text(text, "utf-8")


def read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def write_csv(path: Path, header: Sequence[object], rows: Iterable[Iterable[object]]) -> None:
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object per line, keys in the given order. Memory is bounded."""
    with jsonl_writer(path) as write:
        for record in records:
            write(record)


@contextmanager
def jsonl_writer(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields a function that appends a record. The file appears only if the block succeeds."""
    # UTF-8 has no lone surrogates; written as \\udXXX, one is valid JSON and reads back unchanged
    with atomic_file(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as lines:
        yield lambda record: print(json.dumps(record, ensure_ascii=False, allow_nan=False), file=lines)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to. The file gets its final name only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
