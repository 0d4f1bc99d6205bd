"""Conversations as people have them: a list of messages, its JSON text, or one text with many turns -> turns."""

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from stages.lib.core.templates import RejectedRow, as_text
from stages.lib.ingest.json_files import Number
from stages.lib.ingest.rows import one_line
from stages.lib.ingest.tool_calls import tool_calls
from stages.lib.params.prepare import Conversation, Role
from stages.lib.records.chats import Turn, answer_places

# keys of the role and of the content; the second form has its own names for the roles
_FORMS = (("role", "content"), ("from", "value"), ("role", "text"), ("speaker", "text"))
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")
_CALLS = ("tool_calls", "function_call")  # OpenAI's form, and its old one for a single call
_NOTHING: tuple[Any, ...] = (None, "", [], {})


def read_turns(messages: Any, conversation: Conversation, notes: Counter[str]) -> list[Turn]:
    """The turns of a conversation, at least one of them an answer with loss.

    Messages of one speaker in a row become one turn, except for results of tools. An answer before any question, and an
    answer without text and calls, is history: it has no loss. `notes` counts these, and the fields that aren't read.

    Raises:
        RejectedRow: no list of messages, a message that can't be read, a system prompt after the start, messages of one
            speaker that can't become one turn, or no answer with loss.
    """
    turns: list[Turn] = []
    for number, message in enumerate(as_messages(messages, conversation), start=1):
        turn = _turn(f"message {number}", message, conversation, notes)
        if turns and _is_one_speaker(turns[-1], turn):
            turns[-1] = _merged(f"message {number}", turns[-1], turn, conversation.merge)
            notes["merged_messages"] += 1
        elif turns and turn.role == "system":
            raise RejectedRow("wrong_role_order", f"message {number}: system after {turns[-1].role}")
        else:
            turns.append(turn)
    turns = list(_with_history(turns, notes))
    if not answer_places(turns):
        is_silent = all(turn.role != "assistant" for turn in turns)
        answers = "each answer is empty, has weight 0 or comes before any question"
        raise RejectedRow("no_answer", "no message of the assistant" if is_silent else answers)
    return turns


def as_messages(value: Any, conversation: Conversation) -> list[Any]:
    """The messages in a value: a list, a list as JSON or Python writes it, or a text that `conversation.turn` divides.

    Raises:
        RejectedRow: it is none of these.
    """
    if isinstance(value, str):
        value = _parsed(value) if conversation.turn is None else list(_divided(value, conversation.turn))
    if not isinstance(value, list):
        raise RejectedRow("bad_messages", "the messages are not a list")
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_int=Number, parse_float=Number)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python doesn't know
            return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise RejectedRow(
            "bad_messages",
            "the messages are a text, but no list in JSON; set prepare.conversation.turn to a pattern that finds its "
            "turns",
        ) from None


def _divided(text: str, pattern: str) -> Iterator[dict[str, str]]:
    """A match is a turn if the pattern has a group `text`. Otherwise a turn goes from a match to the next one."""
    matches = list(re.finditer(pattern, text))
    if not matches:
        raise RejectedRow("bad_messages", "prepare.conversation.turn finds no turn in the text")
    is_whole = "text" in matches[0].re.groupindex
    starts = [match.start() for match in matches] + [len(text)]
    _check_blank(text[: starts[0]], "before the first turn")
    for number, match in enumerate(matches, start=1):
        rest = text[match.end() : starts[number]]
        if is_whole:
            _check_blank(rest, f"after turn {number}")
        yield {"role": match["role"] or "", "content": (match["text"] or "") if is_whole else rest.strip()}


def _check_blank(text: str, place: str) -> None:
    if text.strip():
        raise RejectedRow(
            "bad_messages", f"{place}: `{one_line(text)[:80]}`; prepare.conversation.turn doesn't find it"
        )


def _turn(place: str, message: Any, conversation: Conversation, notes: Counter[str]) -> Turn:
    if not isinstance(message, Mapping):
        raise RejectedRow("bad_messages", f"{place} is not an object")
    role_key, text_key = _form(place, message)
    role = _role(place, message[role_key], conversation)
    content = message.get(text_key)
    if len(message) == 2 and content is not None:
        return Turn(role, _text(place, content))
    has_loss = role != "assistant" or _has_loss(place, message.get("weight"))
    if not has_loss:
        notes["answers_without_weight"] += 1
    fields, read = _fields(place, role, message, notes)
    for key, value in message.items():
        if key not in (role_key, text_key) and key not in read and value not in _NOTHING:
            notes[f"unread_message_fields.{key}"] += 1
    text = "" if content is None and "tool_calls" in fields else _text(place, content)
    return Turn(role, text, has_loss, _as_json(place, fields))


def _form(place: str, message: Mapping[str, Any]) -> tuple[str, str]:
    """Keys of role and content: of several forms the first with both. A message with calls needs no content."""
    for form in _FORMS:
        if message.get(form[0]) is not None and message.get(form[1]) is not None:
            return form
    has_calls = any(message.get(key) for key in _CALLS)
    for form in _FORMS:
        if message.get(form[0]) is not None and (form[1] in message or has_calls):
            return form
    raise RejectedRow("bad_messages", f"{place} has neither role and content nor from and value")


def _role(place: str, name: Any, conversation: Conversation) -> Role:
    name = str(name).strip()
    role = conversation.roles.get(name) or _ROLES.get(name.casefold())
    if role is None:
        shown = one_line(repr(name))[:80]
        raise RejectedRow(
            "bad_messages", f"{place}: unknown role {shown}; prepare.conversation.roles can name its role"
        )
    return role


def _has_loss(place: str, weight: Any) -> bool:
    if weight in _NOTHING:
        return True
    try:
        return {0.0: False, 1.0: True}[float(weight)]
    except (ValueError, TypeError, KeyError):
        raise RejectedRow("bad_messages", f"{place}: weight {one_line(repr(weight))[:80]} is neither 0 nor 1") from None


def _fields(place: str, role: Role, message: Mapping[str, Any], notes: Counter[str]) -> tuple[dict[str, Any], set[str]]:
    """What chat templates read beside role and content, and the keys of the message that are read for it."""
    fields: dict[str, Any] = {}
    read = {"name"}
    if message.get("name") not in _NOTHING:
        fields["name"] = as_text(f"{place}, name,", message["name"])
    if role == "tool":
        read.add("tool_call_id")
        if message.get("tool_call_id") not in _NOTHING:
            fields["tool_call_id"] = as_text(f"{place}, tool_call_id,", message["tool_call_id"])
    if role == "assistant":
        read.add("weight")
        texts = [(key, message[key]) for key in _THOUGHTS if isinstance(message.get(key), str) and message[key].strip()]
        if texts:
            fields["reasoning_content"] = texts[0][1]
            read |= {key for key, text in texts if text == texts[0][1]}
        if key := next((key for key in _CALLS if message.get(key)), None):
            read.add(key)
            if calls := tool_calls(place, message[key], key == "function_call", notes):
                fields["tool_calls"] = calls
    elif not _has_loss(place, message.get("weight")):
        read.add("weight")  # other turns have no loss in any case
    return fields, read


def _text(place: str, content: Any) -> str:
    """Parts of a content follow each other as they are, as chat templates write them."""
    if not isinstance(content, list):
        return as_text(place, content)
    return "".join(part if isinstance(part, str) else _part(place, part) for part in content)


def _part(place: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if isinstance(part, Mapping) and "text" in part and kind in (None, *_TEXT_PARTS):
        return as_text(place, part["text"])
    kind = one_line(kind)[:80].removeprefix("input_").removesuffix("_url")
    raise RejectedRow("no_text", f"{place} holds {'an' if kind[:1] in 'aeiou' else 'a'} {kind}, not text")


def _is_one_speaker(first: Turn, second: Turn) -> bool:
    """People with names of their own can share a role. Each result of a tool stands alone."""
    return first.role == second.role != "tool" and _decoded(first).get("name") == _decoded(second).get("name")


def _decoded(turn: Turn) -> dict[str, Any]:
    return dict(json.loads(turn.fields)) if turn.fields else {}


def _merged(place: str, first: Turn, second: Turn, between: str | None) -> Turn:
    after = f"{place}: {second.role} after {first.role}"
    if between is None:
        raise RejectedRow("wrong_role_order", f"{after}; prepare.conversation.merge can make them one turn")
    if first.has_loss != second.has_loss and not _is_empty(first) and not _is_empty(second):
        raise RejectedRow("wrong_role_order", f"{after}, and only one of them has weight 0")
    one, two = _decoded(first), _decoded(second)
    # chat templates write thoughts, text and calls in this order; no other order can be kept
    is_called, is_said = "tool_calls" in one, bool(first.text.strip())
    if (is_called and second.text.strip()) or ((is_called or is_said) and "reasoning_content" in two):
        raise RejectedRow("wrong_role_order", f"{after}: a text after calls of tools, or thoughts after a text")
    fields = one | two
    if is_called and "tool_calls" in two:
        fields["tool_calls"] = one["tool_calls"] + two["tool_calls"]
    if "reasoning_content" in one and "reasoning_content" in two:
        fields["reasoning_content"] = between.join((one["reasoning_content"], two["reasoning_content"]))
    text = between.join(text for text in (first.text, second.text) if text.strip())
    has_loss = second.has_loss if _is_empty(first) else first.has_loss
    return Turn(first.role, text, has_loss, _as_json(place, fields))


def _is_empty(turn: Turn) -> bool:
    return not turn.text.strip() and not turn.fields


def _as_json(place: str, fields: dict[str, Any]) -> str:
    """Of nothing: an empty text."""
    if not fields:
        return ""
    try:
        return compact_json(fields, f"{place}: an argument")
    except (ValueError, TypeError) as error:
        raise RejectedRow("bad_messages", f"{place}: {one_line(error)}") from None


def compact_json(value: Any, name: str) -> str:
    """The keys keep their order, which chat templates write. Values that JSON doesn't know are texts, as in templates.

    Raises:
        ValueError: a number is not finite.
        RejectedRow: a value holds no text; it is told as `name`.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=partial(as_text, name))


def _with_history(turns: Iterable[Turn], notes: Counter[str]) -> Iterator[Turn]:
    """Takes the loss from greetings and empty answers."""
    is_asked = False
    for turn in turns:
        is_asked = is_asked or turn.role in ("user", "tool")
        if turn.role != "assistant" or not turn.has_loss:
            yield turn
        elif not is_asked:
            notes["greetings"] += 1
            yield replace(turn, has_loss=False)
        elif not turn.text.strip() and "tool_calls" not in _decoded(turn):
            notes["empty_answers"] += 1
            yield replace(turn, has_loss=False)
        else:
            yield turn
