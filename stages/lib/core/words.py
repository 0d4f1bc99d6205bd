"""The words of a text: counted in any script, or normalised to compare answers."""

import re
import string
from collections import Counter
from collections.abc import Sequence

# scripts without blanks between words, where each character counts: Thai, Lao, Tibetan, Burmese, Khmer, Tai, kana,
# ideographs
UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def words(text: str) -> list[str]:
    """What stands between blanks; in scripts without blanks, each character."""
    return text.split() if text.isascii() else _WORD.findall(text)


def count_words(text: str) -> int:
    return len(text.split()) if text.isascii() else sum(1 for _ in _WORD.finditer(text))


def normalised_answer(text: str) -> str:
    """As SQuAD compares answers (Rajpurkar et al. 2016): in lower case, without punctuation and articles, with single
    blanks."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_words(text: str) -> list[str]:
    """The words of the normalised answer."""
    return words(normalised_answer(text))


def shared_words(answer: Sequence[str], truth: Sequence[str]) -> float:
    """F1 of the words that both have, from 0 to 1. Of two texts without a word it is 1, as in SQuAD 2.0 (in 1.1: 0)."""
    if not answer or not truth:
        return float(answer == truth)
    same = (Counter(answer) & Counter(truth)).total()
    return 2 * same / (len(answer) + len(truth))
