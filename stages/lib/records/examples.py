"""An example: a source with its targets, or a conversation. `prepare` writes examples; later stages read them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa

from stages.lib.core.files import read_json, write_json
from stages.lib.core.shards import count_rows, read_tables, write_shards
from stages.lib.core.worker_pool import in_batches
from stages.lib.records.chats import Turn, answer_places, render

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

TURNS = pa.list_(
    pa.struct([("role", pa.string()), ("text", pa.string()), ("has_loss", pa.bool_()), ("fields", pa.string())])
)
METADATA = pa.map_(pa.string(), pa.string())

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("targets", pa.list_(pa.string())),
        ("turns", TURNS),
        ("group", pa.string()),
        ("metadata", METADATA),
        ("tools", pa.string()),
    ]
)
_BATCH_EXAMPLES = 1024


@dataclass(frozen=True)
class Question:
    """The input of a model, and the correct outputs: none where nobody knows them. An example is one question; a
    conversation has one per answer with loss. `group` and `metadata` are those of the example."""

    id: str
    source: str
    references: list[str]
    group: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """`id` is a hash of the content: it stays the same when other rows are added. Free text has an empty source. A
    conversation has `turns`, an empty source, and its answers with loss as targets. `tools` is a JSON list of the tools
    that it may call, in the form that chat templates read, or an empty text.

    Examples that share something, such as a context, an author or the source, have the same `group`: the splits don't
    divide it, and its scores are not independent. Without one, an example is alone. `metadata` is what prepare.metadata
    names: column -> its value as text.
    """

    id: str
    source: str
    targets: list[str]
    turns: list[Turn] = field(default_factory=list)
    group: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    tools: str = ""

    def characters(self) -> int:
        texts = [turn.text for turn in self.turns] or [self.source, *self.targets]
        return sum(map(len, texts))

    def questions(self) -> Iterator[Question]:
        shared = self.group or self.id, self.metadata
        if not self.turns:
            yield Question(self.id, self.source, self.targets, *shared)
        for number, place in enumerate(answer_places(self.turns)):
            before, answer = render(self.turns[:place]), self.turns[place].written()
            yield Question(answer_id(self.id, number), before, [answer], *shared)


def answer_id(example: str, number: int) -> str:
    return f"{example}-{number + 1}"


def write_examples(folder: Path, examples: Iterable[Example]) -> None:
    batches = in_batches(examples, Example.characters, _BATCH_EXAMPLES)
    write_shards(folder, _SCHEMA, ((_table(batch), list(map(Example.characters, batch))) for batch in batches))


def _table(examples: Sequence[Example]) -> pa.Table:
    columns = {name: [getattr(example, name) for example in examples] for name in _SCHEMA.names}
    columns["turns"] = [list(map(vars, turns)) for turns in columns["turns"]]
    return pa.table(columns, schema=_SCHEMA)


def read_examples(folder: Path) -> Iterator[Example]:
    tables = read_tables(folder, _SCHEMA, _BATCH_EXAMPLES)
    return (
        Example(**record | {"turns": [Turn(**turn) for turn in record["turns"]]})
        for table in tables
        for record in table.to_pylist(maps_as_pydicts="strict")
    )


def some_questions(folder: Path, most: int) -> list[Question]:
    """Of at most so many examples, evenly spaced."""
    every = -(-count_examples(folder) // most) or 1
    return [question for example in islice(read_examples(folder), 0, None, every) for question in example.questions()]


def write_labels(path: Path, labels: Sequence[str]) -> None:
    """The words that a target can be, in the order of their numbers; an empty list for free text."""
    write_json(path, {"labels": labels})


def read_labels(path: Path) -> list[str]:
    return [str(label) for label in read_json(path)["labels"]]


def count_examples(folder: Path) -> int:
    return count_rows(folder)
