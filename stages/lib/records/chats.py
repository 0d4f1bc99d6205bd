"""The turns of a conversation, and how they are written where no chat template is used."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Turn:
    """`role` is system, user, assistant or tool. `fields` is a JSON object of what a chat template reads beside role
    and content: reasoning_content, tool_calls, tool_call_id, name; or an empty text. An answer is learned, and asked
    for in test, if it `has_loss`. For other turns, that says nothing."""

    role: str
    text: str
    has_loss: bool = True  # only of an answer
    fields: str = ""

    def message(self) -> dict[str, Any]:
        """As chat templates expect it."""
        return {"role": self.role, "content": self.text, **(json.loads(self.fields) if self.fields else {})}

    def written(self) -> str:
        """The whole turn as one text: thoughts and calls of tools in the tags that most chat templates use."""
        message = self.message()
        thoughts = f"<think>\n{message['reasoning_content']}\n</think>\n\n" if "reasoning_content" in message else ""
        functions = [call["function"] for call in message.get("tool_calls", ())]
        calls = [f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>" for function in functions]
        return thoughts + "\n".join([self.text, *calls] if self.text else calls)


def answer_places(turns: Sequence[Turn]) -> list[int]:
    """Of the answers with loss."""
    return [place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.has_loss]


def render(turns: Sequence[Turn]) -> str:
    return "\n".join(f"{turn.role}: {turn.written()}" for turn in turns)
