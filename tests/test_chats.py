"""Conversations: which messages are accepted and how they are read, and the questions in an example."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.core.templates import RejectedRow
from stages.lib.ingest.conversations import as_messages, read_turns
from stages.lib.params.prepare import Conversation
from stages.lib.records.chats import Turn, answer_places, render
from stages.lib.records.examples import Example, Question

QUESTION, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
HI, HELLO = Turn("user", "hi"), Turn("assistant", "hello")


def read(messages: Any, **conversation: Any) -> tuple[list[Turn], Counter[str]]:
    notes: Counter[str] = Counter()
    return read_turns(messages, Conversation(**conversation), notes), notes


def turns_of(messages: Any, **conversation: Any) -> list[Turn]:
    """For messages about which there is nothing to note."""
    turns, notes = read(messages, **conversation)
    assert not notes
    return turns


def rejection(messages: Any, **conversation: Any) -> tuple[str, str]:
    with pytest.raises(RejectedRow) as problem:
        read_turns(messages, Conversation(**conversation), Counter())
    return problem.value.reason, problem.value.detail


def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def of_roles(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]


@pytest.mark.parametrize(
    "messages",
    [
        [QUESTION, ANSWER],
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
        [{"role": "prompter", "text": "hi"}, {"role": "assistant", "text": "hello"}],
        [{"speaker": "User", "text": "hi"}, {"speaker": "bot", "text": "hello"}],
        [{"role": " User", "content": "hi"}, {"role": "MODEL", "content": "hello", "weight": 1}],
        [QUESTION, {"from": "bot", "value": "hello"}],
        [{**QUESTION, "from": None, "value": None, "name": None}, {**ANSWER, "tool_calls": [], "weight": None}],
    ],
)
def test_all_forms_and_names_of_roles_are_read(messages: list[dict[str, Any]]) -> None:
    assert turns_of(messages) == [HI, HELLO]


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("Kunde", "Agent"), {"Kunde": "user", "Agent": "assistant"}),
        (("0", "1"), {"0": "user", "1": "assistant"}),
        (("assistant", "user"), {"assistant": "user", "user": "assistant"}),  # a model that plays the user
    ],
)
def test_roles_can_be_named(names: tuple[str, str], roles: dict[str, str]) -> None:
    assert turns_of([said(names[0], "hi"), said(names[1], "hello")], roles=roles) == [HI, HELLO]


def test_an_unknown_role_is_named_with_the_parameter_that_names_it() -> None:
    reason, detail = rejection([said("wizard", "hi"), ANSWER])
    assert reason == "bad_messages"
    assert "'wizard'" in detail
    assert "prepare.conversation.roles" in detail


@pytest.mark.parametrize("write", [json.dumps, repr, lambda value: f"\n {json.dumps(value, indent=1)}\n"])
def test_a_list_in_a_text_is_read(write: Any) -> None:
    messages = [said("user", 'it\'s "ü"\n\\d'), said("assistant", "hello", name=None)]
    assert turns_of(write(messages)) == [Turn("user", 'it\'s "ü"\n\\d'), HELLO]


@pytest.mark.parametrize(
    ("text", "turn"),
    [
        ("#Person1#: hi\n#Person2#: hello", r"(?P<role>#Person\d#):"),
        ("Human: hi\n\nAssistant: hello\n", r"(?m)^(?P<role>Human|Assistant): "),
        ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n",
         r"(?s)<\|im_start\|>(?P<role>\w+)\n(?P<text>.*?)<\|im_end\|>"),
        ("[user](hi) [assistant](hello)", r"\[(?P<role>\w+)\]\((?P<text>[^)]*)\)"),
    ],
)  # fmt: skip
def test_turns_in_one_text_are_found(text: str, turn: str) -> None:
    roles = {"#Person1#": "user", "#Person2#": "assistant"}
    assert turns_of(text, turn=turn, roles=roles) == [HI, HELLO]


@pytest.mark.parametrize(
    ("text", "turn", "place"),
    [
        ("Dialogue: user: hi assistant: hello", r"(?P<role>user|assistant):", "before the first turn: `Dialogue:`"),
        ("<user>hi</user>, and <assistant>hello</assistant>", r"<(?P<role>\w+)>(?P<text>.*?)</\w+>", "after turn 1"),
        ("<user>hi</user><assistant>hello</assistant><user>so", r"<(?P<role>\w+)>(?P<text>.*?)</\w+>", "after turn 2"),
        ("hi", r"(?P<role>user|assistant):", "finds no turn"),
        ("", r"(?P<role>user|assistant):", "finds no turn"),
    ],
)
def test_no_text_outside_of_turns_is_lost(text: str, turn: str, place: str) -> None:
    reason, detail = rejection(text, turn=turn)
    assert reason == "bad_messages"
    assert place in detail


@pytest.mark.parametrize("text", ["user: hi", "[1, 2", "[{'role': 'user'} {'role': 'assistant'}]", "[" * 100_000])
def test_a_text_that_is_no_list_names_the_parameter_that_divides_it(text: str) -> None:
    reason, detail = rejection(text)
    assert reason == "bad_messages"
    assert "prepare.conversation.turn" in detail


@given(st.lists(st.text(st.characters(exclude_characters="#"), min_size=1).filter(lambda text: text == text.strip())))
def test_a_divided_text_keeps_every_character_of_its_turns(texts: list[str]) -> None:
    pairs = [*texts, "x", "y"] if len(texts) % 2 == 0 else [*texts, "x"]
    written = "".join(f"#{'ab'[place % 2]}# {text}\n" for place, text in enumerate(pairs))
    turns = turns_of(written, turn="#(?P<role>.)#", roles={"a": "user", "b": "assistant"})
    assert [turn.text for turn in turns] == pairs


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "hello"}],
        [{"type": "text", "text": "hel"}, {"type": "output_text", "text": "lo"}],
        ["hel", {"text": "lo"}],
    ],
)
def test_parts_of_text_are_one_text(content: Any) -> None:
    assert turns_of([QUESTION, said("assistant", content)]) == [HI, HELLO]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image"}, "an image"),
        ({"type": "image_url", "image_url": {"url": "x"}}, "an image"),
        ({"type": "input_audio", "text": "x"}, "an audio"),
        ({"type": "tool_use", "name": "x"}, "a tool_use"),
        (3, "an int"),
    ],
)
def test_a_part_without_text_is_named(part: Any, kind: str) -> None:
    messages = [QUESTION, ANSWER, said("user", [{"type": "text", "text": "see"}, part]), ANSWER]
    assert rejection(messages) == ("no_text", f"message 3 holds {kind}, not text")


@pytest.mark.parametrize(
    "roles",
    [
        ("system", "user", "assistant"),
        ("user", "assistant", "user", "assistant", "user"),
        ("user", "assistant", "tool", "tool", "assistant"),
        ("tool", "user", "assistant"),
        ("tool", "assistant"),
        ("user", "tool", "user", "assistant"),
    ],
)
def test_possible_orders_are_read(roles: tuple[str, ...]) -> None:
    assert [turn.role for turn in turns_of(of_roles(*roles))] == list(roles)


@pytest.mark.parametrize("roles", [("user", "system", "assistant"), ("user", "assistant", "system", "assistant")])
def test_a_system_prompt_can_only_be_the_start(roles: tuple[str, ...]) -> None:
    number = roles.index("system") + 1
    detail = f"message {number}: system after {roles[number - 2]}"
    assert rejection(of_roles(*roles)) == ("wrong_role_order", detail)


@pytest.mark.parametrize(
    ("roles", "texts"),
    [
        (("user", "user", "assistant"), ["user 0\nuser 1", "assistant 2"]),
        (("system", "system", "user", "assistant"), ["system 0\nsystem 1", "user 2", "assistant 3"]),
        (("user", "assistant", "assistant", "assistant"), ["user 0", "assistant 1\nassistant 2\nassistant 3"]),
    ],
)
def test_messages_of_one_speaker_are_merged(roles: tuple[str, ...], texts: list[str]) -> None:
    turns, notes = read(of_roles(*roles))
    assert [turn.text for turn in turns] == texts
    assert notes == {"merged_messages": len(roles) - len(texts)}
    reason, detail = rejection(of_roles(*roles), merge=None)
    assert reason == "wrong_role_order"
    assert "prepare.conversation.merge" in detail


def test_what_stands_between_merged_messages_can_be_chosen() -> None:
    messages = [said("user", "a"), said("user", " "), said("user", "b"), ANSWER]
    assert read(messages, merge=" ++ ")[0] == [Turn("user", "a ++ b"), HELLO]


def test_people_of_different_names_are_different_speakers() -> None:
    messages = [said("user", "a", name="Ann"), said("user", "b", name="Bo"), said("user", "c", name="Bo"), ANSWER]
    turns, notes = read(messages)
    assert [turn.message() for turn in turns[:2]] == [said("user", "a", name="Ann"), said("user", "b\nc", name="Bo")]
    assert notes == {"merged_messages": 1}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (said("assistant", "bad", weight=0), said("assistant", "good")),
        (said("assistant", "good"), said("assistant", "bad", weight=0)),
        (said("assistant", None, tool_calls=[{"name": "f"}]), said("assistant", "good")),
        (said("assistant", "so"), said("assistant", "good", reasoning="hm")),
        (said("assistant", None, tool_calls=[{"name": "f"}]), said("assistant", "", reasoning="hm")),
    ],
)
def test_what_can_not_be_one_turn_is_rejected(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert rejection([QUESTION, first, second])[0] == "wrong_role_order"


def test_merged_answers_keep_thoughts_text_and_calls() -> None:
    parts = [
        said("assistant", "", reasoning_content="t1"),
        said("assistant", "a", reasoning_content="t2"),
        said("assistant", "b", tool_calls=[{"name": "f"}]),
        said("assistant", None, tool_calls=[{"name": "g"}]),
    ]
    turns, _ = read([QUESTION, *parts])
    calls = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in "fg"]
    assert turns[1].message() == said("assistant", "a\nb", reasoning_content="t1\nt2", tool_calls=calls)
    assert turns[1].has_loss


@pytest.mark.parametrize(
    "start",
    [
        [said("assistant", "how can I help?")],
        [said("system", "be kind"), said("assistant", "how can I help?")],
        [said("assistant", None, tool_calls=[{"name": "f"}])],
    ],
)
def test_a_greeting_is_history(start: list[dict[str, Any]]) -> None:
    turns, notes = read([*start, QUESTION, ANSWER])
    assert [turn.has_loss for turn in turns if turn.role == "assistant"] == [False, True]
    assert notes == {"greetings": 1}


@pytest.mark.parametrize(
    "empty", [said("assistant", ""), said("assistant", " \n"), said("assistant", "", thinking="hm")]
)
def test_an_empty_answer_is_history(empty: dict[str, Any]) -> None:
    turns, notes = read([QUESTION, empty, said("user", "hey"), ANSWER])
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert answer_places(turns) == [3]
    assert notes == {"empty_answers": 1}


def test_an_empty_message_does_not_decide_about_the_loss_of_its_turn() -> None:
    assert read([QUESTION, said("assistant", "", weight=0), ANSWER])[0] == [HI, HELLO]
    assert read([QUESTION, ANSWER, said("assistant", "", weight=0)])[0] == [HI, HELLO]


@pytest.mark.parametrize("weight", [0, 0.0, False, "0", "0.0"])
def test_an_answer_of_weight_0_has_no_loss(weight: Any) -> None:
    turns, notes = read([QUESTION, said("assistant", "bad", weight=weight), said("user", "no", weight=0), ANSWER])
    assert turns == [HI, Turn("assistant", "bad", has_loss=False), Turn("user", "no"), HELLO]
    assert notes == {"answers_without_weight": 1}


@pytest.mark.parametrize("weight", [0.5, -1, "high", "nan", [0]])
def test_no_other_weight_is_guessed(weight: Any) -> None:
    reason, detail = rejection([QUESTION, {**ANSWER, "weight": weight}])
    assert reason == "bad_messages"
    assert detail.startswith("message 2: weight")


CALL: dict[str, Any] = {
    "id": "1",
    "type": "function",
    "function": {"name": "w", "arguments": {"c": "x", "a": [1, None]}},
}
BARE = {key: value for key, value in CALL.items() if key != "id"}


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({"tool_calls": [CALL]}, [CALL]),
        ({"tool_calls": [{**CALL, "function": {"name": "w", "arguments": '{"c": "x", "a": [1, null]}'}}]}, [CALL]),
        ({"tool_calls": [{"name": "w", "arguments": {"c": "x", "a": [1, None]}, "id": "1"}]}, [CALL]),
        ({"tool_calls": [{"name": "w", "parameters": {"c": "x", "a": [1, None]}}]}, [BARE]),
        ({"tool_calls": json.dumps([CALL, CALL])}, [CALL, CALL]),
        ({"function_call": {"name": "w", "arguments": '{"c": "x", "a": [1, null]}'}}, [BARE]),
    ],
)
@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}])
def test_all_forms_of_calls_are_kept(fields: dict[str, Any], calls: list[Any], content: dict[str, Any]) -> None:
    result = said("tool", "sun", tool_call_id="1", name="w")
    turns = turns_of([QUESTION, {"role": "assistant", **content, **fields}, result, ANSWER])
    assert turns[1].message() == said("assistant", "", tool_calls=calls)
    assert turns[2].message() == result
    assert answer_places(turns) == [1, 3]


def test_arguments_keep_the_order_of_their_keys() -> None:
    arguments = '{"z": 1.5, "a": {"y": true, "b": "ü"}}'
    turns = turns_of([QUESTION, said("assistant", None, tool_calls=[{"name": "w", "arguments": arguments}])])
    assert json.dumps(turns[1].message()["tool_calls"][0]["function"]["arguments"], ensure_ascii=False) == arguments


@pytest.mark.parametrize("number", ["1", "-2.5", "0", "12345678901234567890"])
def test_numbers_in_arguments_are_numbers(number: str) -> None:
    """Elsewhere JSON's numbers are kept as they are written."""
    messages = f'[{{"role": "user", "content": 1.10}}, {{"role": "assistant", "tool_calls": [{{"name": "w", \
"arguments": {{"n": [{number}], "text": "{number}"}}}}]}}]'
    turns = turns_of(messages)
    assert turns[0].text == "1.10"
    assert f'"arguments":{{"n":[{number}],"text":"{number}"}}' in turns[1].fields


def test_the_gaps_that_parquet_makes_are_no_arguments() -> None:
    calls = [{"name": "w", "arguments": {"city": "x", "day": None, "in": {"unit": None}}}]
    turns, notes = read([QUESTION, said("assistant", None, tool_calls=calls)])
    assert turns[1].message()["tool_calls"][0]["function"]["arguments"] == {"city": "x", "in": {}}
    assert notes == {"null_arguments": 2}


@pytest.mark.parametrize(
    "calls",
    [
        {"name": "w"},
        "[{",
        ["w"],
        [{"arguments": {}}],
        [{"name": "w", "arguments": '{"c": '}],
        [{"name": "w", "arguments": "[1]"}],
        [{"name": "w", "arguments": ["x"]}],
        [{"name": "w", "arguments": '{"c": NaN}'}],
        [{"name": "w", "arguments": '{"c": 1e999}'}],
        [{"name": "w", "arguments": {"c": float("inf")}}],
        [{"name": "w", "arguments": '{"c": ' + "[" * 500 + "]" * 500 + "}"}],
    ],
)
def test_broken_calls_are_rejected(calls: Any) -> None:
    reason, detail = rejection([QUESTION, said("assistant", None, tool_calls=calls)])
    assert reason == "bad_messages"
    assert detail.startswith("message 2")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_are_kept(key: str) -> None:
    turns = turns_of([QUESTION, {**ANSWER, key: "hm"}])
    assert turns[1].message() == {**ANSWER, "reasoning_content": "hm"}


def test_a_field_that_is_not_read_is_counted_by_its_name() -> None:
    messages = [
        said("user", "hi", tool_calls=[CALL], tags=[], lang="en", weight=1),
        said("assistant", "a", thinking=True, reasoning="b", reasoning_content="c", lang="en", train=False),
        said("user", "on", tool_call_id="1"),
        said("assistant", None, tool_calls=[{**CALL, "index": 0, "function": {**CALL["function"], "strict": True}}]),
    ]
    assert read(messages)[1] == {
        "unread_message_fields.tool_calls": 1,
        "unread_message_fields.lang": 2,
        "unread_message_fields.weight": 1,
        "unread_message_fields.thinking": 1,
        "unread_message_fields.reasoning": 1,
        "unread_message_fields.train": 1,
        "unread_message_fields.tool_call_id": 1,
        "unread_message_fields.tool_calls.index": 1,
        "unread_message_fields.tool_calls.strict": 1,
    }


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        pytest.param("hi", "bad_messages", id="text"),
        pytest.param(None, "bad_messages", id="null"),
        pytest.param({"role": "user", "content": "hi"}, "bad_messages", id="object"),
        pytest.param('{"role": "user"}', "bad_messages", id="object-in-a-text"),
        pytest.param(["hi"], "bad_messages", id="no-object"),
        pytest.param([{"role": "user"}], "bad_messages", id="no-content"),
        pytest.param([{"role": None, "content": "hi"}], "bad_messages", id="null-role"),
        pytest.param([], "no_answer", id="empty"),
        pytest.param([QUESTION], "no_answer", id="no-answer"),
        pytest.param([ANSWER], "no_answer", id="greeting-only"),
        pytest.param([QUESTION, {**ANSWER, "content": " "}], "no_answer", id="empty-answer-only"),
        pytest.param([QUESTION, {**ANSWER, "weight": 0}], "no_answer", id="weight-0-only"),
        pytest.param([QUESTION, {**ANSWER, "content": None}], "missing_field", id="null-content"),
        pytest.param([QUESTION, {**ANSWER, "content": {"text": "hello"}}], "no_text", id="object-as-content"),
    ],
)
def test_other_values_are_rejected(messages: Any, reason: str) -> None:
    assert rejection(messages)[0] == reason


def test_messages_can_be_joined_before_they_are_read() -> None:
    conversation = Conversation()
    prompt, completion = as_messages(json.dumps([QUESTION]), conversation), as_messages([ANSWER], conversation)
    assert turns_of(prompt + completion) == [HI, HELLO]


def test_every_answer_makes_a_question_from_the_turns_before_it() -> None:
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("tool", "c"), Turn("assistant", "d")]
    example = Example("x", "", ["b", "d"], turns, metadata={"topic": "letters"})
    assert list(example.questions()) == [
        Question("x-1", "user: a", ["b"], "x", {"topic": "letters"}),
        Question("x-2", "user: a\nassistant: b\ntool: c", ["d"], "x", {"topic": "letters"}),
    ]
    assert render(turns[:1]) == "user: a"
