"""Words as texts are searched for them: without case and accents, in any script."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from stages.lib.core.words import UNSPACED

Words = tuple[str, ...]

BREAK = "."  # stands for the end of a sentence: no phrase goes across it

# punctuation and symbols of ASCII, Latin-1, Arabic, Devanagari, general punctuation, currencies, CJK, full-width forms
_SIGNS = (
    r"!-/:-@\[-`{-~\u00a1-\u00a9\u00ab-\u00b1\u00b4-\u00b8\u00bb-\u00bf\u060c\u061b\u061f\u0964\u0965\u2000-\u206f"
    r"\u20a0-\u20cf\u3000-\u3020\uff01-\uff0f\uff1a-\uff20"
)
_ENDS = ".!?\n\u0964\u3002\uff01\uff1f"
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{UNSPACED}]|[^\s{UNSPACED}{_SIGNS}]+|[{_ENDS}]")
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?")
_LATIN_MARKS = re.compile("[\u0300-\u036f]")


def words_of(text: str) -> list[str]:
    """Each sentence ends with BREAK; other punctuation is left out, so "family-friendly" is two words."""
    return [folded(word) for word in spelled_words(text)]


def spelled_words(text: str) -> list[str]:
    """The same words as the text spells them."""
    return _WORD.findall(text)


def word_matches(text: str) -> Iterator[re.Match[str]]:
    """The same words with their places."""
    return _WORD.finditer(text)


@lru_cache(100_000)
def folded(word: str) -> str:
    """A number loses its thousands separators. Latin accents are dropped, since many writers leave them out; vowel
    signs of other scripts stay, as they tell words apart."""
    if word in _ENDS:
        return BREAK
    if _THOUSANDS.fullmatch(word):
        return word.replace(",", "")
    if word.isascii():
        return word.lower()
    return unicodedata.normalize("NFC", _LATIN_MARKS.sub("", unicodedata.normalize("NFKD", word.casefold())))
