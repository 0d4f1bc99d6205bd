"""Conversations from rows that are single messages: no message is lost, none is learned twice, memory is bounded."""

import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.core.templates import RejectedRow
from stages.lib.ingest.conversations import read_turns
from stages.lib.ingest.rows import Row
from stages.lib.ingest.threads import conversations_of
from stages.lib.params.prepare import Conversation, Thread
from stages.lib.records.chats import answer_places

OASST = Thread(id="message_id", parent="parent_id", role="role", text="text")
Place = tuple[str, str | None]  # the id of a message, and of the one that it answers


def rows_of(places: Iterable[Place]) -> Iterator[Row]:
    """Roles by the first letter of an id: p asks, a answers."""
    for line, (name, parent) in enumerate(places, start=2):
        role = {"p": "prompter", "a": "assistant"}.get(name[:1], "tool")
        yield Row(
            line, {"message_id": name, "parent_id": parent, "role": role, "text": name, "tree": f"tree of {name}"}
        )


def threads(places: Iterable[Place]) -> list[Row]:
    return list(conversations_of(rows_of(places), OASST))


def shown(row: Row) -> str:
    """Its messages, those without weight in brackets; of a rejected row its id and the reason."""
    if row.problem is not None:
        return f"{row.values['message_id']}: {row.problem.reason}"
    messages = row.values["messages"]
    return " ".join(f"({each['content']})" if "weight" in each else each["content"] for each in messages)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([("p1", None), ("a1", "p1"), ("p2", "a1"), ("a2", "p2")], ["p1 a1 p2 a2"]),
        ([("p1", None), ("a1", "p1"), ("a2", "p1")], ["p1 a1", "(p1) a2"]),
        ([("p1", None), ("p2", ""), ("a2", "p2"), ("a1", "p1")], ["p1 a1", "p2 a2"]),
        ([("a2", "p2"), ("p2", "a1"), ("a1", "p1"), ("p1", None)], ["p1 a1 p2 a2"]),
        (
            [("p1", None), ("a1", "p1"), ("a2", "p1"), ("p3", "a1"), ("p4", "a1"), ("a4", "p4"), ("a3", "p3")],
            ["p1 a1 p3 a3", "(p1) (a1) p4 a4", "(p1) a2"],
        ),
        ([("p1", None), ("a1", "gone"), ("p2", "a1")], ["p1", "a1: no_parent", "p2: no_parent"]),
        ([("p1", None), ("p1", None), ("a1", "p1")], ["p1: repeated_id", "p1 a1"]),
        ([("p1", "p1"), ("p2", None)], ["p2", "p1: no_parent"]),
        (
            [("p1", "a1"), ("a1", "p1"), ("p2", "a1"), ("p3", None)],
            ["p3", "p1: no_parent", "a1: no_parent", "p2: no_parent"],
        ),
        ([("", None), ("p1", None)], [": missing_field", "p1"]),
        ([], []),
    ],
)  # fmt: skip
def test_every_way_through_a_tree_is_a_conversation(places: list[Place], expected: list[str]) -> None:
    assert [shown(row) for row in threads(places)] == expected


def test_a_conversation_has_the_line_and_the_fields_of_its_first_message() -> None:
    [first, second] = threads([("p1", None), ("a1", "p1"), ("a2", "p1")])
    assert (first.line, first.lines, second.line, second.lines) == (2, 2, 2, 1)
    assert first.values.keys() == {"message_id", "tree", "messages"}
    assert first.values["message_id"] == second.values["message_id"] == "p1"
    assert first.values["tree"] == "tree of p1"


def test_no_answer_is_learned_twice() -> None:
    places = [("p1", None), ("a1", "p1"), ("p2", "a1"), ("a2", "p2"), ("p3", "a1"), ("a3", "p3"), ("p4", "a1")]
    *rows, only_a_question = [row.values["messages"] for row in threads(places)]
    conversations = [read_turns(messages, Conversation(), Counter()) for messages in rows]
    learned = [turns[place].text for turns in conversations for place in answer_places(turns)]
    assert learned == ["a1", "a2", "a3"]
    with pytest.raises(RejectedRow, match="no_answer"):
        read_turns(only_a_question, Conversation(), Counter())


@pytest.mark.parametrize(("name", "parent"), [(12, 12), (12, 12.0), ("x\udc80", "x\udc80")])
def test_ids_of_any_type_are_compared_as_texts(name: Any, parent: Any) -> None:
    rows = [
        Row(1, {"message_id": name, "role": "user", "text": "hi"}),
        Row(2, {"message_id": 13, "parent_id": float("nan"), "role": "user", "text": "hey"}),
        Row(3, {"message_id": 14, "parent_id": parent, "role": "assistant", "text": "hello"}),
    ]
    found = list(conversations_of(iter(rows), OASST))
    assert [len(row.values["messages"]) for row in found] == [2, 1]


@pytest.mark.parametrize("column", ["message_id", "role", "text"])
def test_a_row_that_is_no_message_is_rejected_with_what_answers_it(column: str) -> None:
    rows = list(rows_of([("p1", None), ("a1", "p1"), ("p2", None)]))
    del rows[0].values[column]
    [rejected, kept, orphan] = conversations_of(iter(rows), OASST)
    assert (rejected.problem and rejected.problem.reason, rejected.line) == ("missing_field", 2)
    assert (orphan.problem and orphan.problem.reason, orphan.line) == ("no_parent", 3)
    assert shown(kept) == "p2"


def test_rows_with_a_problem_pass_through_with_their_lines() -> None:
    bad = Row(7, {"raw": "{"}, RejectedRow("no_json", "broken"), lines=3)
    assert list(conversations_of(iter([bad]), OASST)) == [bad]


def test_columns_can_lie_inside_of_others() -> None:
    thread = Thread(id="meta.id", parent="meta.to", role="by.role", text="body.text")
    rows = [
        Row(1, {"meta": {"id": "1", "to": None}, "by": {"role": "user"}, "body": {"text": "hi"}}),
        Row(2, {"meta": {"id": "2", "to": "1"}, "by": {"role": "bot"}, "body": {"text": "hello"}}),
    ]
    [row] = conversations_of(iter(rows), thread)
    assert row.values["messages"] == [{"role": "user", "content": "hi"}, {"role": "bot", "content": "hello"}]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.one_of(st.none(), st.integers(0, 12)), st.integers(0, 3)), max_size=25)
)
def test_the_lines_of_all_messages_are_counted_once(messages: list[tuple[int, int | None, int]]) -> None:
    rows = [
        Row(line, {"message_id": name, "parent_id": parent, "role": "user", "text": f"{line}"}, lines=lines)
        for line, (name, parent, lines) in enumerate(messages)
    ]
    found = list(conversations_of(iter(rows), OASST))
    assert sum(row.lines for row in found) == sum(lines for *_, lines in messages)
    new = [each["content"] for row in found for each in row.values.get("messages", ()) if "weight" not in each]
    rejected = [row.values["text"] for row in found if row.problem is not None]
    assert sorted(new + rejected) == sorted(row.values["text"] for row in rows)


def test_memory_does_not_grow_with_the_messages() -> None:
    def peak(trees: int) -> int:
        places = (
            (f"{letter}{tree}", f"p{tree}" if letter == "a" else None) for tree in range(trees) for letter in "pa"
        )
        tracemalloc.start()
        count = sum(row.problem is None for row in conversations_of(rows_of(places), OASST))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == trees
        return most

    peak(10)  # what is loaded once
    assert peak(5000) < peak(500) + 100_000  # bytes; a message alone has 300
