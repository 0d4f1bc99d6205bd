"""The words of a text: counted in any script, or normalised to compare answers."""

import re
import string
from collections import Counter
from collections.abc import Sequence

# scripts without spaces, where each character counts: kana, ideographs, Thai, Lao, Khmer, Burmese
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def count_words(text: str) -> int:
    return len(text.split()) if text.isascii() else sum(1 for _ in _WORD.finditer(text))


def answer_words(text: str) -> list[str]:
    """As SQuAD compares answers (Rajpurkar et al. 2016): in lower case, without punctuation and articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def shared_words(answer: Sequence[str], truth: Sequence[str]) -> float:
    """F1 of the words that both have, from 0 to 1."""
    if not answer or not truth:  # an empty answer is right only if the truth is empty
        return float(answer == truth)
    same = (Counter(answer) & Counter(truth)).total()
    return 2 * same / (len(answer) + len(truth))
