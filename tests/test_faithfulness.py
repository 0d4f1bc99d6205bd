"""Facts told, missing, invented and wrong, found without a list of synonyms; names and numbers of other texts."""

import json
from collections.abc import Callable
from functools import cache

import pytest

from stages.lib.scores.faithfulness import details, faithfulness
from stages.lib.scores.slots import SlotCheck, Slots
from tests.benchmarks.planted_slots import SAMPLE, is_found, learned, read, sample_source, sample_texts
from tests.build import prediction

FACTS = "name: The Tin Spoon; kind: bakery; price: cheap; near: Swan Pond; dogs: not allowed; rating: 3"
TEXT = (
    "Although it turns dogs away, The Tin Spoon, a bakehouse not far from Swan Pond, charges little. It earns 3 stars."
)


@cache
def of_the_sample() -> Slots:
    return learned(read(SAMPLE, "facts", "text"))


def check(text: str, facts: str = FACTS) -> SlotCheck:
    return of_the_sample().check(facts, text)


@pytest.mark.parametrize("kind", ["missing", "invented", "wrong", "true"])
def test_planted_errors_are_all_found_and_no_true_text_is_accused(kind: str) -> None:
    planted = [one for one in sample_texts(150, seed=5) if one.kind == kind]
    assert len(planted) == 150
    assert [one for one in planted if not is_found(of_the_sample(), sample_source, one)] == []


def test_facts_in_other_words_are_told() -> None:
    checked = check(TEXT)
    assert checked == SlotCheck(FACTS.split("; "), [], [], [])
    assert (checked.slots, checked.errors) == (6, 0)


def test_the_words_that_tell_a_fact_are_found() -> None:
    places = of_the_sample().places(FACTS, TEXT)
    told = {field: [TEXT[start:end] for start, end in own] for field, own in places.items()}
    assert told["name"] == ["The Tin Spoon"]
    assert told["near"] == ["Swan Pond"]
    assert any("dogs away" in words for words in told["dogs"])
    assert told.keys() == {fact.partition(":")[0] for fact in FACTS.split("; ")}


def test_a_fact_left_out_is_missing() -> None:
    assert check(TEXT.replace(" not far from Swan Pond", "")).missing == ["near: Swan Pond"]
    assert check(TEXT.replace(", charges little", "")).missing == ["price: cheap"]


def test_a_fact_that_the_source_lacks_is_invented() -> None:
    assert check(TEXT + " It welcomes families.").invented == ["families: yes"]
    assert check(TEXT, FACTS.replace("; near: Swan Pond", "")).invented == ["near: Swan Pond"]


def test_another_value_in_place_of_a_fact_is_one_error() -> None:
    checked = check(TEXT.replace("charges little", "does not come cheap"))
    assert checked.wrong == [("price: cheap", "price: high")]
    assert (checked.missing, checked.invented, checked.errors) == (["price: cheap"], ["price: high"], 1)


def test_another_value_beside_a_fact_is_invented() -> None:
    facts = "name: Barley Rise; kind: guest house; open: all year"
    text = (
        "Barley Rise is a guest house. It is open all year round. It closes outside the summer. A tavern stands there."
    )
    assert check(text, facts).missing == []
    assert check(text, facts).invented == ["open: summer only", "kind: pub"]


def test_a_name_is_not_told_by_a_part_of_it() -> None:
    assert check(TEXT.replace("Swan Pond", "Swan")).missing == ["near: Swan Pond"]


def test_a_name_that_no_data_has_is_invented_in_the_field_that_its_place_suggests() -> None:
    assert check(TEXT.replace("The Tin Spoon", "The Crimson Yak")).wrong == [
        ("name: The Tin Spoon", "name: The Crimson Yak")
    ]
    assert check(TEXT.replace("Swan Pond", "Quell Tower")).wrong == [("near: Swan Pond", "near: Quell Tower")]


def test_a_name_that_only_test_sources_have_is_told_and_known_to_the_others() -> None:
    new = FACTS.replace("Swan Pond", "the Ü Bar & Grill")
    text = TEXT.replace("Swan Pond", "the u-bar and grill")
    assert "near: the Ü Bar & Grill" not in check(text, new).told
    text = TEXT.replace("Swan Pond", "the u bar grill")
    assert "near: the Ü Bar & Grill" in check(text, new).told
    assert of_the_sample().knowing([new]).check(FACTS, text).wrong == [("near: Swan Pond", "near: the Ü Bar & Grill")]


@pytest.mark.parametrize(
    "written",
    [
        lambda facts: ", ".join(f"{name}[{value}]" for name, value in facts.items()),
        lambda facts: "\n".join(f"{name}: {value}" for name, value in facts.items()),
        lambda facts: " | ".join(f"{name}={value}" for name, value in facts.items()),
        lambda facts: "\n".join(f"place | {name} | {value.replace(' ', '_')}" for name, value in facts.items()),
        json.dumps,
    ],
    ids=["brackets", "lines", "pairs", "triples", "json"],
)
def test_facts_are_read_in_the_form_of_the_training_sources(written: Callable[[dict[str, str]], str]) -> None:
    places = [{"name": f"Inn {number}", "wifi": "yes" if number % 2 else "no"} for number in range(200)]
    texts = [f"{place['name']} has {'free' if place['wifi'] == 'yes' else 'no'} wireless." for place in places]
    slots = Slots.learn((written(place), [text]) for place, text in zip(places, texts, strict=True))
    assert slots
    checked = slots.check(written({"name": "Inn 7", "wifi": "no"}), "Inn 8 has free wireless.")
    assert checked.wrong == [("name: Inn 7", "name: Inn 8"), ("wifi: no", "wifi: yes")]


def test_free_text_that_is_mixed_into_train_hides_no_facts() -> None:
    examples = list(read(SAMPLE, "facts", "text").items())
    mixed = Slots.learn([*examples, *[("", [f"Once upon a time, number {n}."]) for n in range(len(examples))]])
    assert mixed is not None
    assert mixed.check(FACTS, TEXT) == check(TEXT)


def test_sources_that_are_no_facts_have_no_slots() -> None:
    assert Slots.learn([(f"user: hello {n}\nbot: hi\nuser: where is it?", ["There."]) for n in range(50)]) is None
    assert Slots.learn([(f"The inn has {n} rooms, and a view of the sea.", ["Good."]) for n in range(50)]) is None
    assert Slots.learn([("name: a; kind: b", ["A b."])] * 5) is None


def test_the_slot_error_rate_is_errors_over_facts() -> None:
    texts = [TEXT, TEXT.replace("charges little", "does not come cheap"), "The Tin Spoon is a bakery."]
    scores = faithfulness([prediction(text, TEXT, source=FACTS) for text in texts], of_the_sample())
    assert scores["slot_error"].each.tolist() == pytest.approx([0, 1 / 6, 4 / 6])
    assert {name: score.value for name, score in scores.items()} == pytest.approx(
        {"slot_error": 5 / 18, "slot_missing": 5 / 18, "slot_invented": 1 / 18}
    )
    assert not any(score.higher_is_better for score in scores.values())


def test_a_value_is_not_told_where_the_words_around_it_tell_otherwise() -> None:
    wordings = {"便宜": ("价格便宜", "价钱不高", "很实惠"), "昂贵": ("价格昂贵", "价钱很高", "并不便宜")}
    examples = [
        (f"店: {n}号; 价: {price}", [f"{n}号, {told}。"])
        for n in range(60)
        for price in wordings
        for told in wordings[price]
    ]
    slots = Slots.learn(examples)
    assert slots
    assert slots.check("店: 7号; 价: 便宜", "7号, 并不便宜。").wrong == [("价: 便宜", "价: 昂贵")]
    assert slots.check("店: 7号; 价: 便宜", "7号, 价格便宜。").errors == 0


def test_names_and_numbers_that_the_source_lacks_are_counted() -> None:
    source = "In 1,200 days Ada Byron crossed Peru. Rates rose by 3,5 percent."
    text = 'Nobody but Ada Byron and Max Born crossed Peru in 1200 days. "Rates rose by 3.5 percent," said 2 of them.'
    told = prediction(text, source=source)
    assert faithfulness([told], None)["unsupported"].each == [2 / 6]
    assert details(told, None) == ["not in the source: Max Born", "not in the source: 2"]


def test_the_first_word_of_a_sentence_is_no_name() -> None:
    told = prediction("We met Ada. Then she left. In May came Max Born.", source="Ada left in May.")
    assert details(told, None) == ["not in the source: Max Born"]


def test_numbers_written_otherwise_are_the_same() -> None:
    told = prediction("It cost 1,200.50 and ١٢ of 07, or 3.5.", source="It cost 1.200,5 and 12 of 7, or 3.05.")
    assert details(told, None) == ["not in the source: 3.5"]


def test_free_text_has_nothing_to_be_true_to() -> None:
    assert faithfulness([prediction("Some 12 men.", "A text.")], None) == {}


def test_errors_are_named_for_the_tables() -> None:
    told = prediction(TEXT.replace("Swan Pond", "Mill Bridge"), source=FACTS)
    assert details(told, of_the_sample()) == ["missing near: Swan Pond", "invented near: Mill Bridge"]
