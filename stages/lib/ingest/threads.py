"""Rows that are single messages, each an answer to another one -> conversations."""

import math
import pickle
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from stages.lib.core.process import UserError
from stages.lib.core.templates import RejectedRow, as_text, value_at
from stages.lib.ingest.rows import Row, one_line
from stages.lib.params.prepare import Thread

_CACHE = 64 << 10  # KiB of the database that stay in memory


@dataclass
class _Message:
    """A row, and its number among the messages. `is_new` until it is in a conversation."""

    number: int
    name: bytes
    row: Row
    is_new: bool = True


def conversations_of(rows: Iterator[Row], thread: Thread) -> Iterator[Row]:
    """Every way from a message that answers none to one without an answer is a conversation, in the order of the file.

    Its `messages` are objects with role and content; beside them the row has the fields of its first message, such as
    the name of the tree. A message in several conversations has its line, and its loss, in the first one.

    Rejected are messages without an id, with the id of an earlier one ("repeated_id"), and those that no first message
    leads to ("no_parent"): what they answer is missing, rejected, or an answer to themselves. Each is a row. Memory is
    bounded: the messages wait in a temporary file of SQLite; one conversation, and a byte for each message, is held.

    Raises:
        UserError: no space for that file.
    """
    try:
        with closing(sqlite3.connect("")) as database:  # a nameless file, which disappears with its process
            messages = _Messages(database)
            yield from _stored(rows, thread, messages)
            yield from (_conversation(path, thread) for path in _paths(messages))
            yield from _unreached(messages, thread)
    except sqlite3.OperationalError as error:
        raise UserError(
            f"prepare.reading.thread: {error}; messages wait in a temporary file as large as the data: set TMPDIR to a "
            "folder with space for it"
        ) from None


class _Messages:
    """All messages, on disk."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.reached = bytearray()  # of each message whether a conversation has it
        for setting in (f"cache_size = -{_CACHE}", "journal_mode = OFF", "synchronous = OFF"):
            database.execute(f"PRAGMA {setting}")
        database.execute("CREATE TABLE message (number INTEGER PRIMARY KEY, name BLOB UNIQUE, parent BLOB, row BLOB)")
        database.execute("CREATE INDEX answers ON message (parent, number)")

    def add(self, name: bytes, parent: bytes | None, row: Row) -> bool:
        """Whether no earlier message has this name."""
        values = (len(self.reached), name, parent, pickle.dumps(row))
        if not self._database.execute("INSERT OR IGNORE INTO message VALUES (?, ?, ?, ?)", values).rowcount:
            return False
        self.reached.append(False)
        return True

    def answer(self, parent: bytes | None, after: int) -> _Message | None:
        """The first answer to a message, or the first message that answers none, behind the one of number `after`."""
        found = self._database.execute(
            "SELECT number, name, row FROM message WHERE parent IS ? AND number > ? ORDER BY number LIMIT 1",
            (parent, after),
        ).fetchone()
        if found is None:
            return None
        number, name, row = found
        self.reached[number] = True
        return _Message(number, name, pickle.loads(row))

    def has(self, name: bytes) -> bool:
        return self._database.execute("SELECT 1 FROM message WHERE name = ?", (name,)).fetchone() is not None

    def unreached(self) -> Iterator[tuple[bytes, Row]]:
        """What each of them answers, and its row."""
        number = self.reached.find(False)
        while number >= 0:
            [(parent, row)] = self._database.execute("SELECT parent, row FROM message WHERE number = ?", (number,))
            yield parent, pickle.loads(row)
            number = self.reached.find(False, number + 1)


def _stored(rows: Iterator[Row], thread: Thread, messages: _Messages) -> Iterator[Row]:
    """Stores the messages, and returns the rows that can't be messages."""
    for row in rows:
        try:
            if row.problem is not None:
                raise row.problem
            for field in (thread.role, thread.text):
                value_at(field, row.values)
            name = _name(thread.id, value_at(thread.id, row.values))
            if name is None:
                raise RejectedRow("missing_field", f"{thread.id} is empty")
            if not messages.add(name, _parent(row, thread), row):
                raise RejectedRow("repeated_id", f"{thread.id} {_shown(name)} is that of an earlier message")
        except RejectedRow as problem:
            yield Row(row.line, row.values, problem, row.lines)


def _parent(row: Row, thread: Thread) -> bytes | None:
    with suppress(RejectedRow):  # JSON may leave out what has no value
        return _name(thread.parent, value_at(thread.parent, row.values))
    return None


def _name(field: str, value: Any) -> bytes | None:
    """The id of a message. Pandas makes 12.0 of 12, and NaN of no value, where a column has gaps."""
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    text = "" if value is None else as_text(field, value)
    return text.encode("utf-8", "surrogatepass") or None


def _shown(name: bytes) -> str:
    return one_line(name.decode("utf-8", "replace"))[:80]


def _paths(messages: _Messages) -> Iterator[list[_Message]]:
    """Depth first. The caller gets the same list each time."""
    path: list[_Message] = []
    tried = [-1]  # at each depth the number of the last message tried
    while tried:
        message = messages.answer(path[-1].name if path else None, tried[-1])
        if message is not None:
            path.append(message)
            tried[-1] = message.number
            tried.append(-1)
            continue
        if path and tried[-1] < 0:
            yield path
            for message in path:
                message.is_new = False
        tried.pop()
        del path[-1:]


def _conversation(path: Sequence[_Message], thread: Thread) -> Row:
    first = path[0].row
    own = (thread.parent, thread.role, thread.text)
    shared = {name: value for name, value in first.values.items() if name not in own}
    lines = sum(message.row.lines for message in path if message.is_new)
    return Row(first.line, shared | {"messages": [_message(message, thread) for message in path]}, lines=lines)


def _message(message: _Message, thread: Thread) -> dict[str, Any]:
    role, text = (value_at(field, message.row.values) for field in (thread.role, thread.text))
    return {"role": role, "content": text} | ({} if message.is_new else {"weight": 0})


def _unreached(messages: _Messages, thread: Thread) -> Iterator[Row]:
    for parent, row in messages.unreached():
        why = "can't be reached either" if messages.has(parent) else "is not there"
        detail = f"{thread.parent} {_shown(parent)}, which it answers, {why}"
        yield Row(row.line, row.values, RejectedRow("no_parent", detail), row.lines)
