"""Whether texts are true to their sources: facts told, left out and invented; elsewhere names and numbers."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from stages.lib.records.predictions import Prediction
from stages.lib.scores.folded_words import BREAK, folded, word_matches, words_of
from stages.lib.scores.score import Score, ratio_score
from stages.lib.scores.slots import Slots

_THOUSANDS = re.compile(r"[.,](?=\d{3}(?!\d))")
_JOINED = re.compile("[\\s,&'\u2019-]*")  # between words of a sentence; other signs may begin one, as a quotation mark


def faithfulness(predictions: Sequence[Prediction], slots: Slots | None) -> dict[str, Score]:
    """Shares from 0 to 1, lower ones are better.

    Where sources are facts: `slot_error` is the slot error rate, missing, invented and wrong facts over all facts of
    the sources (Wen et al. 2015); `slot_missing` and `slot_invented` count a wrong fact each. Other sources, if any:
    `unsupported`, the share of the texts' names and numbers that the source lacks. It means something only where the
    references have a low share.
    """
    if slots:
        return _slot_scores(predictions, slots.knowing(own.source for own in predictions))
    if not any(own.source for own in predictions):
        return {}
    return {"unsupported": _unsupported(predictions)}


def details(prediction: Prediction, slots: Slots | None) -> list[str]:
    """What is wrong with a text, one phrase for each error: "missing name: The Mill", "not in the source: 1987"."""
    if slots:
        check = slots.check(prediction.source, prediction.prediction)
        return [f"missing {fact}" for fact in check.missing] + [f"invented {fact}" for fact in check.invented]
    if not prediction.source:
        return []
    lacking = dict.fromkeys(_lacking(prediction.source, prediction.prediction)[0])  # a text in a loop has one fault
    return [f"not in the source: {name}" for name in lacking]


def _slot_scores(predictions: Sequence[Prediction], slots: Slots) -> dict[str, Score]:
    checks = [slots.check(own.source, own.prediction) for own in predictions]
    counts = {
        "slot_error": [check.errors for check in checks],
        "slot_missing": [len(check.missing) for check in checks],
        "slot_invented": [len(check.invented) for check in checks],
    }
    signature = f"facts:of the source|phrases:{slots.fingerprint}"
    wholes = [check.slots for check in checks]
    return {name: ratio_score(parts, wholes, signature, higher_is_better=False) for name, parts in counts.items()}


def _unsupported(predictions: Sequence[Prediction]) -> Score:
    found = [_lacking(own.source, own.prediction) for own in predictions]
    lacking, every = (len(names) for names, _ in found), (number for _, number in found)
    return ratio_score(lacking, every, "names:capitalised inside a sentence|numbers:digits", higher_is_better=False)


def _lacking(source: str, text: str) -> tuple[list[str], int]:
    """The names and numbers of a text that the source lacks, and how many it has in all. A name is in the source if all
    its words are."""
    known = {_normalised(word) for word in words_of(source)}
    named = list(_names_and_numbers(text))
    return [name for name in named if not known.issuperset(map(_normalised, words_of(name)))], len(named)


def _normalised(word: str) -> str:
    """Numbers have ASCII digits, a decimal point, no separators of thousands, and no zeros around: "1.200,50" is
    "1200.5", and "03" is "3"."""
    if not word[0].isdigit():
        return folded(word)
    digits = "".join(str(unicodedata.digit(character, character)) for character in folded(word))
    number = _THOUSANDS.sub("", digits).replace(",", ".").lstrip("0")
    return number.rstrip("0").rstrip(".") if "." in number else number


def _names_and_numbers(text: str) -> Iterator[str]:
    """Numbers, and runs of capitalised words that no sentence begins with. Scripts without case have no such names."""
    name: list[str] = []
    begins, end = True, 0
    for match in word_matches(text):
        word, begins = match[0], begins or not _JOINED.fullmatch(text, end, match.start())
        is_name = word[0].isupper() and len(word) > 1 and not begins
        if not is_name and name:
            yield " ".join(name)
            name = []
        if is_name:
            name.append(word)
        elif word[0].isdigit():
            yield word
        begins, end = folded(word) == BREAK, match.end()
    if name:
        yield " ".join(name)
