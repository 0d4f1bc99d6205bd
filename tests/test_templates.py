"""Templates over the fields of a row."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.core.templates import RejectedRow, Template, as_text, value_at


def test_columns_are_inserted_into_the_text() -> None:
    template = Template("ask: {q}\n{a}.")
    assert template.fields == ("q", "a")
    assert template.render({"q": "why?", "a": "so"}) == "ask: why?\nso."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{{"q": "{q}"}}', '{"q": "why"}'),
        ("{{{q}}}", "{why}"),
        ("{{q}}", "{q}"),
        ("{q}}}{{", "why}{"),
        ("", ""),
    ],
)
def test_doubled_braces_are_literal_braces(text: str, expected: str) -> None:
    assert Template(text).render({"q": "why"}) == expected


@pytest.mark.parametrize("text", ["{q", "q}", "{a{b}}", "{{q}", "{q}}", "{a}{", "}"])
def test_a_single_brace_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a single [{}]; write"):
        Template(text)


@pytest.mark.parametrize("text", ["{}", "a {} b", "{?}"])
def test_braces_without_a_name_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="name of a column"):
        Template(text)


@pytest.mark.parametrize(
    "name",
    ["time: start", "q!r", "q:>5", "!", "rows[0]", "a[b", " q ", "two words", "a.b.c", "weiß", "a,b", "100%", "what?"],
)
def test_a_name_of_a_column_may_hold_any_characters_but_braces(name: str) -> None:
    assert Template(f"<{{{name}}}>").render({name: "text"}) == "<text>"


@given(st.text(st.characters(exclude_characters="{}"), min_size=1).filter(lambda name: name != "?"), st.text())
def test_every_column_can_be_named_and_every_text_can_stand_around_it(name: str, around: str) -> None:
    literal = around.replace("{", "{{").replace("}", "}}")
    assert Template(f"{literal}{{{name}}}{literal}").render({name: "text"}) == f"{around}text{around}"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.b", 1),
        ("list.0", "first"),
        ("list.1.c", 2),
        ("dotted.name", 3),
        ("objects.0", "by key"),
        ("qas.*.text", ["x", "y"]),
        ("qas.*.tags.*", [["t", "u"], []]),
        ("qas.*.tags", [["t", "u"], []]),
        ("map.*.n", [5, 6]),
        ("starred.*", "by its own key"),
        ("a.*", [1]),
        ("none.*", []),
    ],
)
def test_a_dotted_path_goes_through_objects_and_lists(path: str, expected: Any) -> None:
    values = {
        "a": {"b": 1},
        "list": ["first", {"c": 2}],
        "dotted.name": 3,  # a column with exactly this name comes first
        "dotted": {"name": 4},
        "objects": {"0": "by key"},
        "qas": [{"text": "x", "tags": ["t", "u"]}, {"text": "y", "tags": []}],
        "map": {"one": {"n": 5}, "two": {"n": 6}},
        "starred": {"*": "by its own key"},
        "none": [],
    }
    assert value_at(path, values) == expected


@pytest.mark.parametrize(
    "path", ["b", "a.c", "a.b.c", "list.2", "list.-1", "list.x", "list.²", "a.b.*", "list.*.x", "null.*", "null.a"]
)
def test_a_path_without_a_value_is_a_missing_field(path: str) -> None:
    with pytest.raises(RejectedRow) as problem:
        Template(f"{{{path}}}!").render({"a": {"b": "text"}, "list": [{"x": "text"}, 2], "null": None})
    assert problem.value.reason == "missing_field"
    assert path in problem.value.detail


@pytest.mark.parametrize(
    "values",
    [{"in": None}, {}, {"in": ""}, {"in": []}, {"in": [None]}],
)
def test_an_optional_field_may_be_missing(values: dict[str, Any]) -> None:
    template = Template("{q}\n{in?}")
    assert template.render({"q": "add", **values}) == "add\n"
    assert (template.fields, template.required) == (("q", "in"), ("q",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{in?}", "1 2"),
        ("{why?}", "by its own name"),
        ("{nested.a?}", "x"),
        ("{nested.b?}", ""),
        ("{null.b.c?}", ""),
        ("{list.5?}", ""),
        ("{list.*.a?}", "x\ny"),  # the one in the middle has none
        ("{missing.*.a?}", ""),
    ],
)
def test_an_optional_field_that_is_there_has_its_value(text: str, expected: str) -> None:
    values = {
        "in": "1 2",
        "why": "without the question mark",
        "why?": "by its own name",
        "nested": {"a": "x"},
        "null": None,
        "list": [{"a": "x"}, {}, {"a": "y"}],
    }
    assert Template(text).render(values) == expected


def test_what_is_not_text_is_refused_in_an_optional_field_too() -> None:
    with pytest.raises(RejectedRow, match="an object"):
        Template("{in?}").render({"in": {"a": 1}})


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("{x}", ["a | b", "c | d"], "a | b\nc | d"),
        ("facts: {x}.", ["a"], "facts: a."),
        ("{x}", [["a", "b", "c"], ["d", "e", 1]], "a; b; c\nd; e; 1"),
        ("{x}", [[["a", "b"], ["c"]], "d"], "a; b; c\nd"),  # the last separator is for all that is deeper
        ("{x}", [], ""),
        ("{x}", [[], ["a"]], "\na"),
        ("{x.*.s}", [{"s": "a"}, {"s": "b"}], "a\nb"),
        ("{x.*.s} {x.*.o}", [{"s": "a", "o": 1}, {"s": "b", "o": 2}], "a\nb 1\n2"),
        ("{x.*.s}", [{"s": ["a", "b"]}, {"s": []}], "a; b\n"),
        ("{x.*}", {"name": "Aromi", "food": "Thai"}, "Aromi\nThai"),
        ("{x.0}", [["a", "b"]], "a\nb"),
    ],
)
def test_a_list_in_a_source_is_joined(text: str, value: Any, expected: str) -> None:
    assert Template(text, ("\n", "; ")).render({"x": value}) == expected


def test_a_single_separator_is_for_all_lists() -> None:
    assert Template("{x}", [", "]).render({"x": [["a", "b"], ["c"]]}) == "a, b, c"


@pytest.mark.parametrize(
    ("text", "value", "reason", "advice"),
    [
        ("{x}!", ["a", None], "missing_field", "{x?}"),
        ("{x.*.s}!", [{"s": None}, {"s": "a"}], "missing_field", "{x.*.s?}"),
        ("{x}!", [[None]], "missing_field", "{x?}"),
        ("{x}!", {"text": "a"}, "no_text", "x.text"),
        ("{x}", [{"text": "a"}], "no_text", "x.*.text"),
        ("{x}!", [{"text": "a"}], "no_text", "x.*.text"),
        ("{x}!", [[{"text": "a"}]], "no_text", "x.*.*.text"),
        ("{x.*.s}!", [{"s": {"text": "a"}}], "no_text", "x.*.s.text"),
        ("{x}!", {}, "no_text", "x.NAME"),
        ("{x}!", {"triples": [{"subject": "a"}]}, "no_text", "x.triples.*.subject"),
        ("{x}!", [[{"a.b": "c", "none": None, "subject": {"name": 1}}]], "no_text", "x.*.*.subject.name"),
        ("{x.*}!", [{"in": [[], [{"s": "a"}]]}], "no_text", "x.*.in.*.*.s"),
    ],
)
def test_what_a_list_can_not_hold_is_told_with_what_to_write(text: str, value: Any, reason: str, advice: str) -> None:
    with pytest.raises(RejectedRow) as problem:
        Template(text).render_all({"x": value})
    assert problem.value.reason == reason
    assert advice in problem.value.detail
    if reason == "no_text" and value:
        assert Template(f"{{{advice}}}!").render({"x": value}) != "!", "the path must work"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{x}", [{"role": "user", "content": "hi"}]),
        ("Talk: {x?}", [{"from": "human", "value": "hi"}]),
        ("{x.*}!", [{"content": None, "role": "user", "name": "n"}]),
    ],
)
def test_messages_in_a_template_are_told_where_to_write_them(text: str, value: Any) -> None:
    with pytest.raises(RejectedRow) as problem:
        Template(text).render({"x": value})
    assert problem.value.detail.endswith("; for a conversation, use prepare.messages: x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{answers.text}", ["yes", "2"]),
        ("{answers.text?}", ["yes", "2"]),
        ("{objects.*.text}", ["a", "b"]),
        ("{objects.*.text?}", ["a", "b"]),
        ("{answers.text.0}!", ["yes!"]),
        ("{answers.text}!", ["yes\n2!"]),
        ("{tokens}", ["a; b", "c"]),
        ("{nulls}", ["a", ""]),
        ("{missing?}", [""]),
        ("{none}", []),
        ("{one}", ["text"]),
    ],
)
def test_a_list_is_several_texts_only_if_the_template_is_only_this_field(text: str, expected: list[str]) -> None:
    values = {
        "answers": {"text": ["yes", 2]},
        "objects": [{"text": "a"}, {"text": "b"}],
        "tokens": [["a", "b"], ["c"]],
        "nulls": ["a", None],
        "none": [],
        "one": "text",
    }
    assert Template(text, ("\n", "; ")).render_all(values) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        (7, "7"),
        (10**400, "1" + "0" * 400),
        (-1.5, "-1.5"),
        (2.0, "2.0"),
        (True, "true"),
        (False, "false"),
        (Decimal("1.10"), "1.10"),
        (Decimal("0.00000001"), "0.00000001"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E+999"), "1" + "0" * 999),
        (date(2024, 1, 6), "2024-01-06"),
        (datetime(2024, 1, 6, 10, tzinfo=UTC), "2024-01-06T10:00:00+00:00"),
        (time(9, 5), "09:05:00"),
        (timedelta(days=1, hours=2, minutes=3, milliseconds=500), "26:03:00.5"),
        (timedelta(seconds=-1), "-0:00:01"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_values_with_one_usual_form_are_texts(value: Any, text: str) -> None:
    assert as_text("q", value) == text


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (None, "missing_field", "q is null"),
        (float("nan"), "no_text", "not finite"),
        (float("inf"), "no_text", "not finite"),
        (Decimal("NaN"), "no_text", "not finite"),
        (Decimal("-Infinity"), "no_text", "not finite"),
        ({"a": 1}, "no_text", "q.a"),
        (["a"], "no_text", "q.0"),
        (b"bytes", "no_text", "bytes, not text"),
        (1j, "no_text", "a complex, not text"),
    ],
)
def test_other_values_are_not_texts(value: Any, reason: str, detail: str) -> None:
    with pytest.raises(RejectedRow) as problem:
        as_text("q", value)
    assert problem.value.reason == reason
    assert problem.value.detail.startswith("q ")
    assert detail in problem.value.detail
