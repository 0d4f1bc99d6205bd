"""Templates over the fields of a row."""

from typing import Any

import pytest

from stages.lib.core.templates import RejectedRow, Template, as_text, value_at


def test_columns_are_inserted_into_the_text() -> None:
    template = Template("ask: {q}\n{a}.")
    assert template.fields == ("q", "a")
    assert template.render({"q": "why?", "a": "so"}) == "ask: why?\nso."


def test_doubled_braces_are_literal_braces() -> None:
    assert Template('{{"q": "{q}"}}').render({"q": "why?"}) == '{"q": "why?"}'
    assert Template("{{q}}").fields == ()


@pytest.mark.parametrize("text", ["{q", "q}", "{}", "{q!r}", "{q:>5}", "{a{b}}"])
def test_a_malformed_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - for unbalanced braces, Python writes the message
        Template(text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.b", 1), ("list.0", "first"), ("list.1.c", 2), ("dotted.name", 3), ("objects.0", "by key")],
)
def test_a_dotted_path_goes_through_objects_and_lists(path: str, expected: Any) -> None:
    values = {
        "a": {"b": 1},
        "list": ["first", {"c": 2}],
        "dotted.name": 3,  # a column with exactly this name comes first
        "dotted": {"name": 4},
        "objects": {"0": "by key"},
    }
    assert value_at(path, values) == expected


@pytest.mark.parametrize("path", ["b", "a.c", "a.b.c", "list.2", "list.-1", "list.x", "list.²"])
def test_a_path_without_a_value_is_a_missing_field(path: str) -> None:
    with pytest.raises(RejectedRow) as problem:
        value_at(path, {"a": {"b": "text"}, "list": [1, 2]})
    assert problem.value.reason == "missing_field"
    assert path in problem.value.detail


def test_a_list_is_several_texts_only_if_the_template_is_only_this_field() -> None:
    values = {"answers": {"text": ["yes", 2]}}
    assert Template("{answers.text}").render_all(values) == ["yes", "2"]
    assert Template("{answers.text.0}!").render_all(values) == ["yes!"]
    with pytest.raises(RejectedRow, match="a list, not text"):
        Template("{answers.text}!").render_all(values)
    with pytest.raises(RejectedRow, match="a list, not text"):
        Template("{answers.text}").render(values)


def test_a_list_with_null_is_rejected() -> None:
    with pytest.raises(RejectedRow) as problem:
        Template("{texts}").render_all({"texts": ["yes", None]})
    assert (problem.value.reason, problem.value.detail) == ("missing_field", "texts.1 is null")


@pytest.mark.parametrize(
    ("value", "text"), [("", ""), (7, "7"), (-1.5, "-1.5"), (2.0, "2.0"), (10**20, "1" + "0" * 20)]
)
def test_texts_and_numbers_are_texts(value: Any, text: str) -> None:
    assert as_text("q", value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "missing_field"),
        (True, "no_text"),
        (float("nan"), "no_text"),
        (float("inf"), "no_text"),
        ({"a": 1}, "no_text"),
        (b"bytes", "no_text"),
    ],
)
def test_other_values_are_not_texts(value: Any, reason: str) -> None:
    with pytest.raises(RejectedRow) as problem:
        as_text("q", value)
    assert problem.value.reason == reason
    assert problem.value.detail.startswith("q ")
