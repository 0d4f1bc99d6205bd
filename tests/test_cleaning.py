"""Cleaning and masking: what each step changes, and what it must not change."""

import time
from typing import Any

import pytest

from stages.lib.core.words import count_words
from stages.lib.ingest.cleaning import Cleaner
from stages.lib.params.prepare import Clean, Mask

NO_STEP: dict[str, Any] = {
    "encoding": False,
    "html_entities": False,
    "unicode": None,
    "control_characters": False,
    "whitespace": "keep",
}
NO_MASK: dict[str, Any] = {"emails": False, "phones": False, "phone_region": None, "cards": False}


def cleaner(**switched: Any) -> Cleaner:
    steps = {name: value for name, value in switched.items() if name in NO_STEP}
    masks = {name: value for name, value in switched.items() if name in NO_MASK}
    assert len(steps) + len(masks) == len(switched)
    return Cleaner(Clean(**{**NO_STEP, **steps}), Mask(**{**NO_MASK, **masks}))


@pytest.mark.parametrize(
    ("step", "value", "before", "after"),
    [
        ("encoding", True, "sâ€™il vous plaÃ®t", "s\u2019il vous plaît"),
        ("html_entities", True, "a &amp; b &lt;c&gt; &eacute;&#233;", "a & b <c> éé"),
        ("unicode", "NFC", "e\u0301 \ufb01", "é \ufb01"),
        ("unicode", "NFKC", "e\u0301 \ufb01 \uff21", "é fi A"),
        ("control_characters", True, "a\x00b\u200bc\ufeffd\u00ade\r\nf\rg\u2028h\ti", "abcde\nf\ng\nh\ti"),
        ("whitespace", "strip", " \n a  b \t", "a  b"),
        ("whitespace", "collapse", " a \t b\u00a0c  \n  d\n\n\n\n \n e ", "a b c\nd\n\ne"),
    ],
)
def test_a_step_is_applied_and_counted_only_if_switched_on(step: str, value: Any, before: str, after: str) -> None:
    own, off = cleaner(**{step: value}), cleaner()
    assert [own(before), own(after)] == [after, after]
    assert own.changed == {step: 1}
    assert off(before) == before
    assert off.changed == {}


PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"


@pytest.mark.parametrize("text", [PERSIAN, "क्\u200dष", "👨\u200d👩\u200d👧", "naïve “quoted” … 日本", "a < b & c; d"])
def test_correct_spelling_stays(text: str) -> None:
    """Persian, Hindi and emoji need joiners. A lone & is no entity of HTML."""
    steps = {"encoding": True, "html_entities": True, "unicode": "NFC", "control_characters": True}
    assert cleaner(**steps, whitespace="collapse")(text) == text


def test_collapse_keeps_paragraphs_and_lines() -> None:
    assert cleaner(whitespace="collapse")("one\ntwo\n\n\nthree") == "one\ntwo\n\nthree"


VISA = "4111 1111 1111 1111"


@pytest.mark.parametrize(
    "card",
    [VISA, "4111111111111111", "4111-1111-1111-1111", "5555 5555 5555 4444", "2223003122003222", "3782 822463 10005",
     "6011111111111117", "3530111333300000", "3056 9309 0259 04", "4222222222222", "6212345678901232"],
)  # fmt: skip
def test_cards_of_all_issuers_are_masked(card: str) -> None:
    masks = cleaner(cards=True)
    assert masks(f"card {card}, thanks") == "card <card>, thanks"
    assert masks.masked == {"cards": 1}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("4111 1111 1111 1112", id="wrong-check-digit"),
        pytest.param("order 1234567890123452", id="no-issuer-but-check-digit"),
        pytest.param("2024 1234 5678", id="short"),
        pytest.param("0.4111111111111111", id="decimals"),
        pytest.param("41111111111111111111111", id="within-a-longer-number"),
        pytest.param("4111  1111  1111  1111", id="two-blanks"),
    ],
)
def test_other_numbers_are_no_cards(text: str) -> None:
    masks = cleaner(cards=True)
    assert masks(text) == text
    assert masks.masked == {"cards": 0}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{VISA} 12/27", "<card> 12/27"),
        (f"{VISA} 123", "<card> 123"),
        (f"2 {VISA}", "2 <card>"),
        (f"{VISA} {VISA}", "<card> <card>"),
        (f"No.{VISA}", "No.<card>"),
    ],
)
def test_a_card_is_masked_next_to_any_numbers(before: str, after: str) -> None:
    """The expiry date and the security code often follow."""
    assert cleaner(cards=True)(before) == after


@pytest.mark.parametrize(
    ("region", "text", "masked"),
    [
        (None, "call +1 202-456-1111 now", "call <phone> now"),
        (None, "call (202) 456-1111 now", "call (202) 456-1111 now"),
        ("US", "call (202) 456-1111 now", "call <phone> now"),
        ("US", "call +49 30 2270 or +44 20 7219 3000", "call <phone> or <phone>"),
        ("DE", "Tel. 030/227-0", "Tel. <phone>"),
        ("DE", "(202) 456-1111", "(202) 456-1111"),
        (None, "+1 000-000-0000", "+1 000-000-0000"),
        ("US", "order 1234567 of 2024-01-31", "order 1234567 of 2024-01-31"),
        (None, "+1 202-456-1111, +44 20 7219 3000", "<phone>, <phone>"),
    ],
)
def test_valid_phone_numbers_are_masked(region: str | None, text: str, masked: str) -> None:
    masks = cleaner(phones=True, phone_region=region)
    assert masks(text) == masked
    assert masks.masked["phones"] == masked.count("<phone>")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail me@example.org.", "mail <email>."),
        ("<first.last+tag@mail.example.co.uk>", "<<email>>"),
        ("jürgen@müller.de, x_y@a-b.museum", "<email>, <email>"),
    ],
)
def test_addresses_are_masked(text: str, masked: str) -> None:
    masks = cleaner(emails=True)
    assert masks(text) == masked
    assert masks.masked["emails"] == masked.count("<email>")


@pytest.mark.parametrize("text", ["a@b", "@handle", "see @handle.", "3 @ 4.50", "me@", "me@.org", "me@example.1"])
def test_an_at_sign_alone_makes_no_address(text: str) -> None:
    assert cleaner(emails=True)(text) == text


def test_masks_come_after_cleaning() -> None:
    """An address that is complete only after cleaning is masked too."""
    assert cleaner(html_entities=True, emails=True)("me&#64;example.org") == "<email>"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" \n", 0),
        ("two words", 2),
        ("don't over-count\nit", 3),
        ("naïve café", 2),
        ("日本語", 3),
        ("東京 Tower 2024", 4),
        ("ไทย", 3),
        ("한국어 문장", 2),
        ("здравствуй мир", 2),
        ("iPhoneを買う", 4),
    ],
)
def test_words_are_counted_in_scripts_with_and_without_spaces(text: str, count: int) -> None:
    assert count_words(text) == count


UNITS = ["a", "1", "1 ", "a@", "a.", "a@a.", "1-", "1.", "1/", "(1", "(555) 123 ", "+1 ", "&", "&amp", " ", " \n ", "é",
         "Ã©", "\u0301", "日", "1111 "]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_cleaning_takes_linear_time(unit: str) -> None:
    """In quadratic time, 200 kB would take minutes."""
    everything_but_phones = cleaner(
        encoding=True, html_entities=True, unicode="NFC", control_characters=True, whitespace="collapse",
        emails=True, cards=True,
    )  # fmt: skip
    text = unit * (200_000 // len(unit.encode())) + "@"  # without one, no e-mail address is searched
    start = time.process_time()
    count_words(everything_but_phones(text))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("unit", [unit for unit in UNITS if any(map(str.isdecimal, unit))])
def test_masking_phones_takes_linear_time(unit: str) -> None:
    """libphonenumber is slow: 200 kB take up to 12 s, although in linear time. So two shorter texts are compared."""
    masks = cleaner(phones=True, phone_region="US")
    seconds = []
    for size in (10_000, 40_000):
        text = unit * (size // len(unit))
        start = time.process_time()
        masks(text)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 8 * seconds[0] + 0.5  # in quadratic time, 16 times as long
