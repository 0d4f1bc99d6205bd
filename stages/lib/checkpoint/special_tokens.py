"""The special tokens of a tokenizer, told apart from texts of the data that only look like them.

A text has three forms. `protected`: as a chat template gets it, with no special token in one piece. `marked`: as a
template has rendered it, with MARK in front of each special token that the template itself has written. `plain`: as
people read it.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

# Printable characters, since some templates write what Python's `repr` makes of a value. Texts may hold them too: a
# MARK of a text is followed by NO_MARK.
MARK, NO_MARK = "\N{RUNIC SINGLE PUNCTUATION}", "\N{RUNIC MULTIPLE PUNCTUATION}"

# Some tokenizers have them as special tokens. In an answer they are what the model writes, and they end no turn.
_THOUGHT_TAGS = ("<think>", "</think>")

_LONE_MARK = f"{MARK}(?!{NO_MARK})"
_MARKS = re.compile(f"{MARK}({NO_MARK})?")

_BYTE = re.compile("<0x[0-9A-F]{2}>")


class SpecialTokens:
    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.ids: dict[str, int] = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        for token_id, token in tokenizer.added_tokens_decoder.items():
            if token.special and not is_byte(token.content):
                self.ids[token.content] = token_id
        names = _any_of(self.ids)
        self._in_text = re.compile(f"{names}|{MARK}")
        self._in_answer = re.compile(f"{_any_of(set(self.ids) - set(_THOUGHT_TAGS))}|{MARK}")
        # before each character of a protected one stands a mark
        self._in_rendering = re.compile(f"(?<!{MARK})({names})|{_LONE_MARK}")
        self._marked = re.compile(f"{MARK}({names})")
        self._ambiguous = re.compile(f"{inert(MARK)}({names})")

    def protected(self, value: Any, is_answer: bool = False) -> Any:
        """The same text, or the same JSON value with all its texts, for a template."""
        if isinstance(value, str):
            return (self._in_answer if is_answer else self._in_text).sub(_broken, value)
        if isinstance(value, dict):
            return {self.protected(key): self.protected(each, is_answer) for key, each in value.items()}
        return [self.protected(each, is_answer) for each in value] if isinstance(value, list) else value

    def are_in(self, text: str, is_answer: bool = False) -> bool:
        """Whether a text of the data has some, which stay plain text."""
        return any(found[0] != MARK for found in (self._in_answer if is_answer else self._in_text).finditer(text))

    def marked(self, rendered: str) -> str:
        return self._in_rendering.sub(lambda found: f"{MARK}{found[1]}" if found[1] else "", rendered)

    def plain(self, marked: str) -> str:
        return _MARKS.sub(lambda found: MARK if found[1] else "", marked)

    def is_ambiguous(self, marked: str) -> bool:
        """Whether the text has a MARK of its own right before the name of a special token."""
        return inert(MARK) in marked and self._ambiguous.search(marked) is not None

    def places(self, marked: str, start: int = 0) -> Iterator[tuple[int, int, str]]:
        """Where each special token begins and ends in a marked text, from `start` on, and its name."""
        return ((*found.span(), found[1]) for found in self._marked.finditer(marked, start))


def inert(text: str) -> str:
    """A text of the data, in marked form."""
    return text.replace(MARK, MARK + NO_MARK)


def is_byte(token: str) -> bool:
    """Whether it stands for a byte, of which a model makes unknown characters. Some tokenizers call them special."""
    return bool(_BYTE.fullmatch(token))


def _any_of(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)"


def _broken(found: re.Match[str]) -> str:
    return MARK + NO_MARK if found[0] == MARK else "".join(MARK + character for character in found[0])
