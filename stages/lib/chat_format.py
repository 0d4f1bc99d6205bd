"""Conversations as the model's own chat template has them, cut where loss begins and ends."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

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


class ChatFormat:
    """One tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        for token_id, token in tokenizer.added_tokens_decoder.items():
            if token.special:
                self._ids[token.content] = token_id
        self._special = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))))

    def end_id(self) -> int | None:
        """The token that ends an answer, by which generation stops."""
        try:
            chunks = self.chunks([Turn("user", "a"), Turn("assistant", "b")])
        except Unusable:
            return None
        learned = [content for content, answer in chunks if answer is not None]
        return learned[-1] if learned and isinstance(learned[-1], int) else None

    def chunks(self, turns: Sequence[Turn]) -> list[Chunk]:
        """The conversation in order; texts are to be encoded one by one. What is learned of an answer begins where
        the template's prompt for it ends, and ends with the first special token behind it.

        Raises:
            Unusable: the template refuses such a conversation, or writes an answer differently once others follow.
        """
        whole = self._rendered(turns, prompt=False)
        borders: list[int] = []
        for place, turn in enumerate(turns):
            if turn.role == "assistant":
                prompt = self._rendered(turns[:place], prompt=True)
                if not whole.startswith(prompt):
                    raise Unusable("chat_template", f"it changes what stands before message {place + 1}")
                borders.append(len(prompt))
        return _merged(self._cut(whole, borders, turns))

    def _rendered(self, turns: Sequence[Turn], prompt: bool) -> str:
        messages = [{"role": turn.role, "content": _HOLE.format(place)} for place, turn in enumerate(turns)]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except (TemplateError, ValueError) as error:
            raise Unusable("chat_template", str(error).partition("\n")[0]) from None
        return str(text)

    def _cut(self, whole: str, borders: list[int], turns: Sequence[Turn]) -> Iterator[Chunk]:
        """Chunks as small as they come: pieces of the template, contents and special tokens."""
        answer: int | None = None
        passed = -1  # answers begun
        is_said = False  # the content of the answer that is being learned
        for start, piece in _pieces(whole, borders):
            if passed + 1 < len(borders) and start >= borders[passed + 1]:
                passed, is_said = passed + 1, False
                answer = passed
            if hole := _HOLES.fullmatch(piece):
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
            raise Unusable("chat_template", "it has no end token behind an answer")


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
