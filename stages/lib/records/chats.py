"""Conversations: reads messages in the two usual forms, and checks their roles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib.core.templates import RejectedRow, as_text

# of both forms: role and content; from and value, which has its own names for the roles
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
# role -> the roles that may precede it; None is the start. A tool's results may precede or follow a question.
_BEFORE: dict[str, tuple[str | None, ...]] = {
    "system": (None,),
    "user": (None, "system", "assistant", "tool"),
    "assistant": ("user", "tool"),
    "tool": (None, "system", "user", "assistant", "tool"),
}


@dataclass(frozen=True)
class Turn:
    role: str
    text: str


def read_turns(messages: Any) -> list[Turn]:
    """Raises RejectedRow unless `messages` is a conversation: known roles, in a possible order, with an answer."""
    if not isinstance(messages, list):
        raise RejectedRow("bad_messages", "the messages are not a list")
    turns = [_turn(number, message) for number, message in enumerate(messages, start=1)]
    for number, turn in enumerate(turns, start=1):
        before = turns[number - 2].role if number > 1 else None
        if before not in _BEFORE[turn.role]:
            place = f"after {before}" if before else "at the start"
            raise RejectedRow("wrong_role_order", f"message {number}: {turn.role} {place}")
    if all(turn.role != "assistant" for turn in turns):
        raise RejectedRow("no_answer", "no message of the assistant")
    return turns


def _turn(number: int, message: Any) -> Turn:
    if not isinstance(message, Mapping):
        raise RejectedRow("bad_messages", f"message {number} is not an object")
    for role_key, text_key in (("role", "content"), ("from", "value")):
        if role_key in message and text_key in message:
            role = _ROLES.get(str(message[role_key]).lower())
            if role is None:
                raise RejectedRow("bad_messages", f"message {number}: unknown role {message[role_key]!r}")
            return Turn(role, as_text(f"message {number}", message[text_key]))
    raise RejectedRow("bad_messages", f"message {number} has neither role and content nor from and value")


def render(turns: Sequence[Turn]) -> str:
    return "\n".join(f"{turn.role}: {turn.text}" for turn in turns)
