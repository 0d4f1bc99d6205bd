"""The calls of tools in a message, in the form that chat templates read."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from stages.lib.core.templates import RejectedRow, as_text
from stages.lib.ingest.json_files import MAX_DEPTH, is_deep, with_numbers
from stages.lib.ingest.rows import one_line

_ARGUMENTS = ("arguments", "parameters")


def tool_calls(place: str, calls: Any, is_single: bool, notes: Counter[str]) -> list[dict[str, Any]]:
    """The calls of one message, in OpenAI's form. `calls` is a list, or one call, or the JSON text of either.

    Raises:
        RejectedRow: broken JSON, or a call without a name, or with arguments that are no object.
    """
    if isinstance(calls, str):
        calls = _parsed(f"{place}: the tool calls", calls)
    if is_single:
        calls = [calls]
    elif calls is None:
        calls = []
    if not isinstance(calls, list):
        raise RejectedRow("bad_messages", f"{place}: the tool calls are not a list")
    return [_call(f"{place}, tool call {number}", call, notes) for number, call in enumerate(calls, start=1)]


def _call(place: str, call: Any, notes: Counter[str]) -> dict[str, Any]:
    """Of {id, type, function: {name, arguments}}, or of {id, name, arguments}."""
    if not isinstance(call, Mapping):
        raise RejectedRow("bad_messages", f"{place} is not an object")
    inner = call.get("function")
    function = inner if isinstance(inner, Mapping) else call
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise RejectedRow("bad_messages", f"{place} names no function")
    key = next((key for key in _ARGUMENTS if function.get(key) is not None), None)
    arguments = {} if key is None else _arguments(place, function[key], notes)
    fields = [(key, value) for key, value in call.items() if key not in ("id", "type") and value is not function]
    for each, value in fields if function is call else [*fields, *function.items()]:
        if value is not None and each not in ("name", key):
            notes[f"unread_message_fields.tool_calls.{each}"] += 1
    number = {} if call.get("id") in (None, "") else {"id": as_text(f"{place}, id,", call["id"])}
    return number | {"type": "function", "function": {"name": name, "arguments": arguments}}


def _arguments(place: str, arguments: Any, notes: Counter[str]) -> dict[str, Any]:
    """JSON text becomes an object, since most chat templates write arguments as JSON once more. Numbers are numbers,
    and so written anew: 1.10 becomes 1.1. What was an object already loses its keys without a value, which are counted:
    parquet gives each call the keys of all others."""
    is_text = isinstance(arguments, str)
    if is_text:
        arguments = _parsed(f"{place}: the arguments", arguments) if arguments.strip() else {}
    if not isinstance(arguments, Mapping):
        raise RejectedRow("bad_messages", f"{place}: the arguments are not an object")
    if is_deep(arguments):
        raise RejectedRow("bad_messages", f"{place}: the arguments are nested more than {MAX_DEPTH} levels deep")
    return dict(arguments) if is_text else without_nulls(with_numbers(arguments), "null_arguments", notes)


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RejectedRow("bad_messages", f"{place} are no JSON: {one_line(error)}") from None


def without_nulls(value: Any, note: str, notes: Counter[str]) -> Any:
    """Parquet gives each object of a list the keys of all others, with nulls. They are counted as `note`."""
    if isinstance(value, list):
        return [without_nulls(element, note, notes) for element in value]
    if not isinstance(value, Mapping):
        return value
    if nulls := sum(element is None for element in value.values()):
        notes[note] += nulls
    return {key: without_nulls(element, note, notes) for key, element in value.items() if element is not None}
