"""Conversations in the form of the model's own chat template, divided where loss begins and ends."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from stages.lib.core.templates import RejectedRow
from stages.lib.records.chats import Turn

# for tokenizers without a template: one line for each turn, and the end token after each answer
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

# a text or the id of a special token; and the number of the answer that it belongs to, None where it has no loss
Chunk = tuple[str | int, int | None]

# a placeholder for the content of a turn while the template is applied, so that no content can forge a turn
_HOLE = "\ue000{}\ue001"
_HOLES = re.compile("\ue000(\\d+)\ue001")

# some templates write the current date: the same inputs would not give the same ids tomorrow
_FIXED_DATE = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro %}"


class ChatFormat:
    """One tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._template = _FIXED_DATE + tokenizer.get_chat_template()
        self._ids = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        for token_id, token in tokenizer.added_tokens_decoder.items():
            if token.special:
                self._ids[token.content] = token_id
        self._special = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))))

    def end_id(self) -> int:
        """The token that ends an answer, where generation stops. Raises RejectedRow where there is none."""
        *_, (end, _) = (
            chunk for chunk in self.chunks([Turn("user", "a"), Turn("assistant", "b")]) if chunk[1] is not None
        )
        assert isinstance(end, int), "an answer ends with a special token"
        return end

    def chunks(self, turns: Sequence[Turn], last_only: bool = False) -> list[Chunk]:
        """The conversation in order. The loss of an answer begins where the template's prompt for it ends. It ends with
        the first special token after the answer.

        Args:
            last_only: only the last turn has loss.

        Raises:
            RejectedRow: the template refuses the conversation, leaves out a turn, has no end token after an answer, or
                (unless `last_only`) changes the text before an answer when more turns follow.
        """
        whole = self._rendered(turns, prompt=False)
        found = {int(hole[1]) for hole in _HOLES.finditer(whole)}
        if missing := [place for place in range(len(turns)) if place not in found]:
            turn = turns[missing[0]]
            raise RejectedRow("chat_template", f"it leaves out message {missing[0] + 1} ({turn.role})")
        places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
        borders = [self._border(whole, turns[:place]) for place in (places[-1:] if last_only else places)]
        return _merged(self._divided(whole, borders, turns))

    def _border(self, whole: str, before: Sequence[Turn]) -> int:
        """Where the prompt for the answer after these turns ends. An empty thinking block belongs to the prompt."""
        prompts = (self._rendered(before, prompt=True, thinking=thinking) for thinking in (True, False))
        ends = [len(prompt) for prompt in prompts if whole.startswith(prompt)]
        if not ends:
            raise RejectedRow("chat_template", f"it changes the text before message {len(before) + 1}")
        return max(ends)

    def _rendered(self, turns: Sequence[Turn], prompt: bool, thinking: bool = True) -> str:
        messages = [{"role": turn.role, "content": _HOLE.format(place)} for place, turn in enumerate(turns)]
        options: dict[str, Any] = {} if thinking else {"enable_thinking": False}  # as Qwen 3 calls it
        try:
            text = self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=prompt, **options
            )
        except (TemplateError, ValueError) as error:
            raise RejectedRow("chat_template", str(error).partition("\n")[0]) from None
        return str(text)

    def _divided(self, whole: str, borders: list[int], turns: Sequence[Turn]) -> Iterator[Chunk]:
        """Chunks before they are merged: pieces of the template, contents and special tokens."""
        answer: int | None = None  # the answer that has loss here
        begun = -1  # number of the last answer that has begun
        has_content = False  # whether the content of this answer was there
        for start, piece in _pieces(whole, borders):
            hole = _HOLES.fullmatch(piece)
            if has_content and answer is not None and (hole or start in borders):
                raise RejectedRow("chat_template", "it has no special token after an answer")
            if begun + 1 < len(borders) and start >= borders[begun + 1]:
                begun, has_content = begun + 1, False
                answer = begun
            if hole:
                yield turns[int(hole[1])].text, answer
                has_content = True
                continue
            position = 0
            for special in self._special.finditer(piece):
                yield piece[position : special.start()], answer
                yield self._ids[special[0]], answer
                position = special.end()
                if has_content:
                    answer = None
            yield piece[position:], answer
        if answer is not None:
            raise RejectedRow("chat_template", "it has no special token after an answer")


def _pieces(whole: str, borders: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Position and text of each hole, and of each piece between holes and borders."""
    cuts = {0, len(whole), *borders}
    for hole in _HOLES.finditer(whole):
        cuts |= {hole.start(), hole.end()}
    for start, stop in pairwise(sorted(cuts)):
        yield start, whole[start:stop]


def _merged(chunks: Iterator[Chunk]) -> list[Chunk]:
    """Joins neighbouring texts of the same answer, so that they are encoded as one text."""
    merged: list[Chunk] = []
    for content, answer in chunks:
        last = merged[-1] if merged else None
        if content == "":
            continue
        if last and isinstance(content, str) and isinstance(last[0], str) and last[1] == answer:
            merged[-1] = (last[0] + content, answer)
        else:
            merged.append((content, answer))
    return merged
