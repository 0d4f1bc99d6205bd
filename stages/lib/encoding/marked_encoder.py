"""Marked texts (see special_tokens) -> token ids, as the tokenizer reads them; divided where loss begins and ends."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stages.lib.checkpoint.special_tokens import MARK, SpecialTokens, inert
from stages.lib.encoding.text_encoder import TextEncoder

# the first character, and the one after the last
Span = tuple[int, int]


@dataclass
class MarkedIds:
    """`starts` has the first character of each token; never falling."""

    ids: list[int]
    starts: list[int]

    def before(self, character: int) -> int:
        """How many tokens begin before this character."""
        return bisect_left(self.starts, character)


class MarkedEncoder:
    def __init__(self, texts: TextEncoder, special: SpecialTokens) -> None:
        self._texts, self._special = texts, special

    def ids(self, texts: Sequence[str], spans: Iterable[Sequence[Span]]) -> list[MarkedIds]:
        """As the tokenizer itself encodes each text. Only where loss begins within a token, the text is encoded apart
        there: generation reads all before it, and no more.

        Args:
            spans: of each text, those with loss.
        """
        at_once = [text for text in texts if self._is_at_once(text)]
        encoded = dict(zip(at_once, self._encoded(at_once), strict=True))
        return [self._cut(text, own, encoded.get(text)) for text, own in zip(texts, spans, strict=True)]

    def _cut(self, text: str, spans: Sequence[Span], encoded: tuple[list[int], list[Span]] | None) -> MarkedIds:
        if encoded is None:
            return self._divided(text, [place for span in spans for place in span])
        ids, offsets = encoded
        cuts = [begin for begin, _ in spans if _is_within_token(offsets, begin)]
        return self._divided(text, cuts) if cuts else MarkedIds(ids, [start for start, _ in offsets])

    def _is_at_once(self, text: str) -> bool:
        """Whether the tokenizer can tell the template's special tokens by their marks."""
        return self._texts.is_fast and not self._special.is_ambiguous(text)

    def _encoded(self, texts: list[str]) -> Iterator[tuple[list[int], list[Span]]]:
        encodings = self._texts.marked([text.replace(inert(MARK), MARK) for text in texts])
        for text, encoding in zip(texts, encodings, strict=True):
            yield encoding.ids, _in_marked(encoding.offsets, text) if inert(MARK) in text else encoding.offsets

    def _divided(self, text: str, cuts: Sequence[int]) -> MarkedIds:
        found = MarkedIds([], [])
        for start, stop in pairwise(sorted({0, *cuts, len(text)})):
            piece = self._after(text[:start], text[start:stop])
            found.ids += piece.ids
            found.starts += [start + place for place in piece.starts]
        return found

    def _after(self, before: str, text: str) -> MarkedIds:
        """The ids of a text after another one. Tokenizers such as Llama 2's put a blank before a text that is encoded
        alone."""
        since_special = before[max(before.rfind(MARK), 0) :]
        for context in (since_special, "\n", "x"):
            alone, both = self._alone(context), self._alone(context + text)
            if both.ids[: len(alone.ids)] == alone.ids:
                starts = (max(start - len(context), 0) for start in both.starts[len(alone.ids) :])
                return MarkedIds(both.ids[len(alone.ids) :], list(starts))
        return self._alone(text)

    def _alone(self, text: str) -> MarkedIds:
        if self._is_at_once(text):
            ((ids, offsets),) = self._encoded([text])
            return MarkedIds(ids, [start for start, _ in offsets])
        found, done = MarkedIds([], []), 0
        for start, stop, name in self._special.places(text):
            self._add(found, text[done:start], done)
            found.ids.append(self._special.ids[name])
            found.starts.append(start)
            done = stop
        self._add(found, text[done:], done)
        return found

    def _add(self, found: MarkedIds, text: str, start: int) -> None:
        if text:
            (ids,) = self._texts.ids([self._special.plain(text)], special=False)
            found.ids += ids
            found.starts += [start] * len(ids)


def _in_marked(offsets: list[Span], text: str) -> list[Span]:
    """Places in a marked text that were found in the same text without the character after each MARK of its own."""
    marks = [found.start() - number for number, found in enumerate(re.finditer(inert(MARK), text))]
    return [(start + bisect_left(marks, start), stop + bisect_left(marks, stop)) for start, stop in offsets]


def _is_within_token(offsets: list[Span], character: int) -> bool:
    last = bisect_left(offsets, (character,)) - 1
    return last >= 0 and offsets[last][1] > character
