"""An example: one source with its target or targets, as `prepare` writes it and every later stage reads it."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from stages.lib.files import read_jsonl, write_jsonl

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """`id` is a hash of the content, so that rows added elsewhere in a file never rename it."""

    id: str
    source: str
    targets: list[str]


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    write_jsonl(path, map(asdict, examples))


def read_examples(path: Path) -> Iterator[Example]:
    return (Example(**record) for record in read_jsonl(path))
