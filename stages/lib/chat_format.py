"""Conversations as the model's own chat template has them, cut where loss begins and ends."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from stages.lib.chats import Turn
from stages.lib.templates import Unusable

# for tokenizers that bring none: one line a turn, and the end token behind each answer
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

# text or the id of a special token, and the number of the answer that it is learned for, if any
Chunk = tuple[str | int, int | None]

# stands for the content of a turn while the template is applied, so that no content can forge a turn
_HOLE = "\ue000{}\ue001"
_HOLES = re.compile("\ue000(\\d+)\ue001")

# some templates name the day on which they are applied: then the same inputs would not give the same ids tomorrow
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
        """The token that ends an answer, by which generation stops. Raises Unusable where there is none."""
        *_, (end, _) = (
            chunk for chunk in self.chunks([Turn("user", "a"), Turn("assistant", "b")]) if chunk[1] is not None
        )
        assert isinstance(end, int), "an answer ends with a special token"
        return end

    def chunks(self, turns: Sequence[Turn], last_only: bool = False) -> list[Chunk]:
        """The conversation in order. What is learned of an answer begins where the template's prompt for it ends, and
        ends with the first special token behind it.

        Args:
            last_only: the last turn is the only answer that is learned.

        Raises:
            Unusable: the template refuses such a conversation, leaves out a turn, has no end token behind an answer,
                or, unless only the last is learned, writes what stands before an answer differently once others follow.
        """
        whole = self._rendered(turns, prompt=False)
        there = {int(hole[1]) for hole in _HOLES.finditer(whole)}
        if left_out := [place for place in range(len(turns)) if place not in there]:
            turn = turns[left_out[0]]
            raise Unusable("chat_template", f"it leaves out message {left_out[0] + 1} ({turn.role})")
        places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
        borders = [self._border(whole, turns[:place]) for place in (places[-1:] if last_only else places)]
        return _merged(self._cut(whole, borders, turns))

    def _border(self, whole: str, before: Sequence[Turn]) -> int:
        """Where the prompt for the answer behind these turns ends; thoughts that stay empty belong to the prompt."""
        prompts = (self._rendered(before, prompt=True, thinking=thinking) for thinking in (True, False))
        ends = [len(prompt) for prompt in prompts if whole.startswith(prompt)]
        if not ends:
            raise Unusable("chat_template", f"it changes what stands before message {len(before) + 1}")
        return max(ends)

    def _rendered(self, turns: Sequence[Turn], prompt: bool, thinking: bool = True) -> str:
        messages = [{"role": turn.role, "content": _HOLE.format(place)} for place, turn in enumerate(turns)]
        options: dict[str, Any] = {} if thinking else {"enable_thinking": False}  # as Qwen 3 calls it
        try:
            text = self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=prompt, **options
            )
        except (TemplateError, ValueError) as error:
            raise Unusable("chat_template", str(error).partition("\n")[0]) from None
        return str(text)

    def _cut(self, whole: str, borders: list[int], turns: Sequence[Turn]) -> Iterator[Chunk]:
        """Chunks as small as they come: pieces of the template, contents and special tokens."""
        answer: int | None = None
        passed = -1  # answers begun
        is_said = False  # the content of the answer that is being learned
        for start, piece in _pieces(whole, borders):
            hole = _HOLES.fullmatch(piece)
            if is_said and answer is not None and (hole or start in borders):
                raise Unusable("chat_template", "it has no special token behind an answer")
            if passed + 1 < len(borders) and start >= borders[passed + 1]:
                passed, is_said = passed + 1, False
                answer = passed
            if hole:
                yield turns[int(hole[1])].text, answer
                is_said = True
                continue
            position = 0
            for special in self._special.finditer(piece):
                yield piece[position : special.start()], answer
                yield self._ids[special[0]], answer
                position = special.end()
                if is_said:
                    answer = None
            yield piece[position:], answer
        if answer is not None:
            raise Unusable("chat_template", "it has no special token behind an answer")


def _pieces(whole: str, borders: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Position and text of the holes, and of what stands between holes and borders."""
    cuts = {0, len(whole), *borders}
    for hole in _HOLES.finditer(whole):
        cuts |= {hole.start(), hole.end()}
    for start, stop in pairwise(sorted(cuts)):
        yield start, whole[start:stop]


def _merged(chunks: Iterator[Chunk]) -> list[Chunk]:
    """Neighbouring texts of the same kind as one, so that they are encoded as one."""
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
