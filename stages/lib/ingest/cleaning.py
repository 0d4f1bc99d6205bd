"""Cleaning and masking of texts, with a count for each step. Nothing here depends on a language."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator

import ftfy
import phonenumbers
from ftfy.fixes import unescape_html

from stages.lib.params.prepare import Clean, Mask

# zero-width joiner and non-joiner (U+200C, U+200D) stay: Persian, Indic scripts and emoji need them
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u180e\u200b\u200e\u200f"
    r"\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_LINE_END = re.compile(r"\r\n?|[\x85\u2028\u2029]")
_BLANKS = re.compile(r"[^\S\n]+")
_BLANKS_AT_LINE_END = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")

# bounded left of the @: otherwise a search would start at each character of a long word
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[^\W_](?:[\w-]{0,62}\.)+[^\W\d_]{2,24}")
_CARD = re.compile(r"(?<!\d)(?<!\d[.,])(?<!\d[ -])\d(?:[ -]?\d){12,}")
# issuers' first digits and lengths (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, JCB, Diners, UnionPay
_ISSUER = re.compile(
    r"4(\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(011|5\d\d|4[4-9]\d)\d{12}|35\d{14}|3(0[0-5]|[68]\d)\d{11}|62\d{14,17}"
)
_LONGEST_CARD = 19
_SEVEN_DIGITS = re.compile(r"(?:\d[^\w]{0,3}){6}\d")


class Cleaner:
    """Applies the steps that are switched on, in their order.

    `changed` counts the texts that each step has changed. `masked` counts the e-mail addresses, phone numbers and card
    numbers that were masked.
    """

    def __init__(self, clean: Clean, mask: Mask) -> None:
        self._region = mask.phone_region
        self._steps = dict(_steps(clean))
        self._masks = {
            name: step
            for name, step in (("emails", _emails), ("cards", _cards), ("phones", self._phones))
            if getattr(mask, name)
        }
        # zeros too: a metric that is sometimes missing can't be compared
        self.changed = Counter(dict.fromkeys(self._steps, 0))
        self.masked = Counter(dict.fromkeys(self._masks, 0))

    def __call__(self, text: str) -> str:
        for name, step in self._steps.items():
            after = step(text)
            if after != text:
                self.changed[name] += 1
                text = after
        return self.mask(text)

    def mask(self, text: str) -> str:
        """Only masks: for texts that programs read."""
        for name, mask in self._masks.items():
            text, count = mask(text)
            if count:
                self.masked[name] += count
        return text

    def _phones(self, text: str) -> tuple[str, int]:
        """Masks the numbers that libphonenumber accepts; national ones only if a region is given."""
        if not _SEVEN_DIGITS.search(text):
            return text, 0
        matches = list(phonenumbers.PhoneNumberMatcher(text, self._region))
        for match in reversed(matches):
            text = text[: match.start] + "<phone>" + text[match.end :]
        return text, len(matches)


def _steps(clean: Clean) -> Iterator[tuple[str, Callable[[str], str]]]:
    if clean.encoding:
        yield "encoding", _fix_encoding
    if clean.html_entities:
        yield "html_entities", lambda text: unescape_html(text) if "&" in text else text
    if form := clean.unicode:
        yield "unicode", lambda text: text if text.isascii() else unicodedata.normalize(form, text)
    if clean.control_characters:
        yield "control_characters", lambda text: _CONTROL.sub("", _LINE_END.sub("\n", text))
    if clean.whitespace == "strip":
        yield "whitespace", str.strip
    if clean.whitespace == "collapse":
        yield "whitespace", _collapse


def _fix_encoding(text: str) -> str:
    """`Ã©` -> `é`: UTF-8 that was once decoded with another encoding."""
    return text if text.isascii() else ftfy.fix_encoding(text)


def _collapse(text: str) -> str:
    text = _BLANKS_AT_LINE_END.sub("\n", _BLANKS.sub(" ", text))
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _emails(text: str) -> tuple[str, int]:
    return _EMAIL.subn("<email>", text) if "@" in text else (text, 0)


def _cards(text: str) -> tuple[str, int]:
    count = 0

    def mask(match: re.Match[str]) -> str:
        nonlocal count
        parts = re.split("([ -])", match[0])  # digits at even positions, separators at odd ones
        for start in range(0, len(parts), 2):
            if parts[start] and (stop := _card_end(parts, start)):
                parts[start:stop] = ["<card>", *[""] * (stop - start - 1)]
                count += 1
        return "".join(parts)

    return _CARD.sub(mask, text), count


def _card_end(parts: list[str], start: int) -> int | None:
    """The end of the card number that begins with this group. An expiry date or another number may follow it."""
    digits = ""
    for place in range(start, len(parts), 2):
        digits += parts[place]
        if len(digits) > _LONGEST_CARD:
            return None
        if _ISSUER.fullmatch(digits) and _luhn(digits):
            return place + 1
    return None


def _luhn(digits: str) -> bool:
    """The check digit of ISO/IEC 7812-1, annex B."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[::-2]))) % 10 == 0
