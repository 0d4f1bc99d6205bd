"""The words of a text, and which tokens each is made of: by any tokenizer, in a prompt or a chat template."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.special_tokens import SpecialTokens
from stages.lib.core.words import UNSPACED

_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_INCOMPLETE = "\ufffd"  # what bytes are decoded as that are no whole character
# letters in a row that a text and its tokens share: fewer are often those of the prompt around it, if they are no word
_SHORTEST = 3


class Word(NamedTuple):
    """What stands between blanks, from character `start` to `end`; in scripts without blanks, a character. `tokens` are
    the places of its tokens. It `is_read` if tokens have some of it: not where the tokenizer can't express it, or where
    the text was cut."""

    text: str
    start: int
    end: int
    tokens: list[int]
    is_read: bool = True  # also without tokens, where one token has several words


def words_of(text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[Word]:
    """Each token belongs to the word that most of its characters are in. Those of a prompt, of a chat template and
    special ones belong to no word."""
    words = [Word(found[0], *found.span(), []) for found in _WORD.finditer(text)]
    number_at = {place: number for number, word in enumerate(words) for place in range(word.start, word.end)}
    decoded, spans = _decoded(ids, tokenizer)
    place_of = _aligned(decoded, text)
    for token, (start, end) in enumerate(spans):
        numbers = Counter(number_at[place_of[character]] for character in range(start, end) if character in place_of)
        for number, _ in numbers.most_common(1):
            words[number].tokens.append(token)
    read = {number_at[place] for place in place_of.values()}
    return [word._replace(is_read=number in read) for number, word in enumerate(words)]


def _decoded(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[tuple[int, int]]]:
    """The text of all tokens, and where each of them stands in it. Tokens that are bytes of one character stand where
    it does; special tokens have no character."""
    special = set(SpecialTokens(tokenizer).ids.values())
    plain, spans = list[int](), list[tuple[int, int]]()
    text, end = "", 0
    for token in ids:
        start = end
        if token not in special:
            plain.append(token)
            text = str(tokenizer.decode(plain, clean_up_tokenization_spaces=False))
            end = max(end, len(text.rstrip(_INCOMPLETE)))  # an incomplete character can spoil those before it
        spans.append((start, end if token in special else max(end, start + 1)))
    return text, spans


def _aligned(decoded: str, text: str) -> dict[int, int]:
    """Place of a character in the decoded text -> its place in the text, without regard to case, accents and blanks,
    which some tokenizers change."""
    (ours, own_places), (theirs, their_places) = _letters(decoded), _letters(text)
    found: dict[int, int] = {}
    for ours_from, theirs_from, size in SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks():
        own, other = own_places[ours_from : ours_from + size], their_places[theirs_from : theirs_from + size]
        if size >= _SHORTEST or (size and _is_whole(decoded, own) and _is_whole(text, other)):
            found |= zip(own, other, strict=True)
    return found


def _is_whole(text: str, places: Sequence[int]) -> bool:
    """Whether no letter or digit stands right beside these characters."""
    around = (*text[: places[0]][-1:], *text[places[-1] + 1 :][:1])
    return not any(character.isalnum() for character in around)


def _letters(text: str) -> tuple[list[str], list[int]]:
    """Characters in lower case, without blanks and marks, and the place that each is from."""
    found = list(_each_letter(text))
    return [letter for letter, _ in found], [place for _, place in found]


def _each_letter(text: str) -> Iterator[tuple[str, int]]:
    for place, character in enumerate(text):
        for letter in unicodedata.normalize("NFKD", character).casefold():
            if not letter.isspace() and not unicodedata.combining(letter):
                yield letter, place
