"""Conversations: which messages are accepted, and the questions in an example."""

from typing import Any

import pytest

from stages.lib.core.templates import RejectedRow
from stages.lib.records.chats import Turn, read_turns, render
from stages.lib.records.examples import Example, Question

QUESTION, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def of_roles(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]


@pytest.mark.parametrize(
    "messages",
    [
        [QUESTION, ANSWER],
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
        [{"role": "User", "content": "hi"}, {"role": "MODEL", "content": "hello", "weight": 1}],
        [QUESTION, {"from": "bot", "value": "hello"}],
    ],
)
def test_both_forms_and_all_names_of_roles_are_read(messages: list[dict[str, Any]]) -> None:
    assert read_turns(messages) == [Turn("user", "hi"), Turn("assistant", "hello")]


@pytest.mark.parametrize(
    "roles",
    [
        ("system", "user", "assistant"),
        ("user", "assistant", "user", "assistant", "user"),
        ("user", "assistant", "tool", "tool", "assistant"),
        ("tool", "user", "assistant"),
        ("user", "tool", "user", "assistant"),
    ],
)
def test_possible_orders_are_read(roles: tuple[str, ...]) -> None:
    assert [turn.role for turn in read_turns(of_roles(*roles))] == list(roles)


@pytest.mark.parametrize(
    ("roles", "detail"),
    [
        (("assistant", "user"), "message 1: assistant at the start"),
        (("system", "assistant"), "message 2: assistant after system"),
        (("user", "user", "assistant"), "message 2: user after user"),
        (("user", "assistant", "assistant"), "message 3: assistant after assistant"),
        (("user", "system", "assistant"), "message 2: system after user"),
    ],
)
def test_an_impossible_order_is_reported_with_the_message(roles: tuple[str, ...], detail: str) -> None:
    with pytest.raises(RejectedRow) as problem:
        read_turns(of_roles(*roles))
    assert (problem.value.reason, problem.value.detail) == ("wrong_role_order", detail)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        pytest.param("hi", "bad_messages", id="text"),
        pytest.param(["hi"], "bad_messages", id="no-object"),
        pytest.param([{"role": "user"}], "bad_messages", id="no-content"),
        pytest.param([{"role": "wizard", "content": "hi"}], "bad_messages", id="unknown-role"),
        pytest.param([{"role": None, "content": "hi"}], "bad_messages", id="null-role"),
        pytest.param([], "no_answer", id="empty"),
        pytest.param([QUESTION], "no_answer", id="no-answer"),
        pytest.param([QUESTION, {**ANSWER, "content": None}], "missing_field", id="null-content"),
        pytest.param([QUESTION, {**ANSWER, "content": [{"type": "image"}]}], "no_text", id="parts"),
    ],
)
def test_other_values_are_rejected(messages: Any, reason: str) -> None:
    with pytest.raises(RejectedRow) as problem:
        read_turns(messages)
    assert problem.value.reason == reason


def test_every_answer_makes_a_question_from_the_turns_before_it() -> None:
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("tool", "c"), Turn("assistant", "d")]
    example = Example("x", "", ["b", "d"], turns, metadata={"topic": "letters"})
    assert list(example.questions()) == [
        Question("x-1", "user: a", ["b"], "x", {"topic": "letters"}),
        Question("x-2", "user: a\nassistant: b\ntool: c", ["d"], "x", {"topic": "letters"}),
    ]
    assert render(turns[:1]) == "user: a"
