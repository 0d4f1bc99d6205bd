"""From the values of a row to its texts: templates, references, labels, patterns and conversations."""

import json
import pickle
import re
from collections import Counter
from typing import Any

import pytest

from stages.lib.core.templates import RejectedRow
from stages.lib.ingest.cleaning import Cleaner
from stages.lib.ingest.json_files import Number
from stages.lib.ingest.row_texts import RowReader, Texts, columns
from stages.lib.params.prepare import Prepare
from stages.lib.records.examples import Split

NO_BOUNDS = {"min": None, "max": None}
USUAL: dict[str, Any] = {
    "folder": "data/raw",
    "train": "t.jsonl",
    "test": "test.jsonl",
    "clean": {
        "encoding": True,
        "html_entities": True,
        "unicode": "NFC",
        "control_characters": True,
        "whitespace": "strip",
    },
    "mask": {"emails": False, "phones": False, "phone_region": None, "cards": False},
    "lengths": {name: NO_BOUNDS for name in ("source_characters", "source_words", "target_characters", "target_words")},
    "duplicates": {"compare": "pair", "in_train": "drop", "near": None},
    "limits": {"max_rejected_fraction": 0.5, "max_duplicate_fraction": 0.5, "max_leak_fraction": 0.5},
    "train_share": 1.0,
    "shown_examples": 5,
    "seed": 1,
}
MASKED = {"mask": {"emails": True, "phones": True, "phone_region": None, "cards": True}}


def params(**task: Any) -> Prepare:
    return Prepare.model_validate({**USUAL, **task})


def read(values: dict[str, Any], split: Split = "train", notes: Counter[str] | None = None, **task: Any) -> Texts:
    prepare = params(**task)
    clean = Cleaner(prepare.clean, prepare.mask)
    return RowReader(prepare).texts(values, split, clean, Counter() if notes is None else notes)


def rejected(values: dict[str, Any], split: Split = "train", **task: Any) -> tuple[str, str]:
    with pytest.raises(RejectedRow) as problem:
        read(values, split, **task)
    return problem.value.reason, problem.value.detail


def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def turns(texts: Texts) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in texts.turns]


# optional fields


@pytest.mark.parametrize(
    ("source", "values", "expected"),
    [
        ("{q}{hint?}", {"q": "why", "hint": None}, "why"),
        ("{q} {context.title?}", {"q": "why", "context": None}, "why"),
        ("{q} {tags.*.name?}", {"q": "why", "tags": [{"name": "a"}, {}]}, "why a"),
        ("{q}{from?}", {"q": "why", "from": "me"}, "whyme"),
    ],
)
def test_optional_fields_of_a_source(source: str, values: dict[str, Any], expected: str) -> None:
    assert read({**values, "a": "so"}, source=source, target="{a}").source == expected


def test_a_source_of_nothing_but_empty_optional_fields_is_empty() -> None:
    assert rejected({"a": "so"}, source="{q?}", target="{a}")[0] == "empty_source"


# sources that are lists


@pytest.mark.parametrize(
    ("source", "triples", "expected"),
    [
        ("{x}", [["a", "b", "c"], ["d", "e", "f"]], "a ; b ; c\nd ; e ; f"),
        ("{x.*.s} = {x.*.o}", [{"s": "a", "o": 1}], "a = 1"),
        ("facts:\n{x}", ["a"], "facts:\na"),
        ("{x.*}", {"name": "Aromi", "food": "Thai"}, "Aromi\nThai"),
    ],
)
def test_lists_are_joined_by_the_separators_of_the_params(source: str, triples: Any, expected: str) -> None:
    task: dict[str, Any] = {"source": source, "target": "{a}", "list_separators": ["\n", " ; "]}
    assert read({"x": triples, "a": "so"}, **task).source == expected


# references


@pytest.mark.parametrize(
    ("target", "values", "expected", "left_out"),
    [
        ("{r}", {"r": ["a", "", "b", "  ", "\x00", None]}, ["a", "b"], 4),
        ("{r.*.text}", {"r": [{"text": "a"}, {"text": None}, {"text": "b"}, {"text": ""}]}, ["a", "b"], 2),
        (["{r}", "{s}", "{t}", "{u?}"], {"r": "a", "s": "", "t": None}, ["a"], 3),
        (["{r}", "{s}"], {"r": ["a", ""], "s": [None, "b"]}, ["a", "b"], 2),
        (["so {r}", "so {s}"], {"r": None, "s": "b"}, ["so b"], 1),
        (["{r}", "{s}"], {"r": [], "s": "b"}, ["b"], 0),
        ("{r}", {"r": ["a", "a"]}, ["a", "a"], 0),
    ],
)
def test_empty_references_are_left_out_and_counted(
    target: Any, values: dict[str, Any], expected: list[str], left_out: int
) -> None:
    notes: Counter[str] = Counter()
    assert read({"q": "why", **values}, notes=notes, source="{q}", target=target).targets == expected
    assert notes["empty_references"] == left_out


@pytest.mark.parametrize(
    ("target", "values", "reason"),
    [
        ("{r}", {"r": ""}, "empty_target"),
        ("{r}", {"r": []}, "empty_target"),
        ("{r}", {"r": ["", None]}, "empty_target"),
        (["{r}", "{s}"], {"r": None, "s": " "}, "empty_target"),
        ("{r?}", {}, "empty_target"),
        ("{r}", {"r": None}, "missing_field"),
        (["{r}", "{s}"], {"r": "a"}, "missing_field"),  # a wrong name must not look like an empty reference
        (["{r}", "{s}"], {"r": [["a", None], ["b"]], "s": "c"}, "missing_field"),
        ("{r.*.text}", {"r": [{"text": "a"}, {"txt": "b"}]}, "missing_field"),
        ("{r}", {"r": [{"text": "a"}]}, "no_text"),
    ],
)
def test_a_row_without_any_reference_is_rejected(target: Any, values: dict[str, Any], reason: str) -> None:
    assert rejected({"q": "why", **values}, source="{q}", target=target)[0] == reason


def test_test_may_have_no_answers() -> None:
    task: dict[str, Any] = {"source": "{q}", "target": {"train": "{a}", "test": None}}
    assert read({"q": "why"}, "test", **task) == Texts("why", [])
    assert rejected({"q": " "}, "test", **task)[0] == "empty_source"
    assert columns(params(**task), "test") == ["q"]


def test_free_text_has_no_source() -> None:
    assert read({"text": "once"}, source=None, target="{text}") == Texts("", ["once"])


# labels

LABELS: dict[str, Any] = {
    "source": "{q}",
    "target": "{label}",
    "labels": {"0": "no", "1": "yes", "true": "right", "": "none"},
}


@pytest.mark.parametrize(
    ("label", "word"),
    [("1", "yes"), (0, "no"), (True, "right"), (["1", 1, "1"], "yes"), ("", "none"), (["", None], "none")],
)
def test_a_label_becomes_its_word(label: Any, word: str) -> None:
    assert read({"q": "why", "label": label}, **LABELS).targets == [word]


@pytest.mark.parametrize(
    ("label", "reason", "detail"),
    [
        ("2", "unknown_label", "`2` is not in prepare.labels"),
        (["0", "1"], "several_labels", "the labels no and yes for one source"),
        (["1", "1", "0"], "several_labels", "the labels yes and no for one source"),
        ([True, ""], "several_labels", "the labels right and none for one source"),
        ([], "empty_target", "the target is empty"),
        (None, "missing_field", "label is null"),
    ],
)
def test_a_label_that_is_none_of_them_or_several_is_rejected(label: Any, reason: str, detail: str) -> None:
    assert rejected({"q": "why", "label": label}, **LABELS) == (reason, detail)


def test_an_empty_label_is_an_empty_target_unless_it_has_a_word() -> None:
    task: dict[str, Any] = {**LABELS, "labels": {"0": "no", "1": "yes"}}
    assert rejected({"q": "why", "label": ""}, **task) == ("empty_target", "the target is empty")


# lengths


@pytest.mark.parametrize(
    ("lengths", "detail"),
    [
        ({"source_characters": {"min": 4, "max": None}}, "the source has 3 characters, fewer than 4"),
        ({"target_words": {"min": None, "max": 1}}, "the target has 2 words, more than 1"),
        ({"source_words": {"min": 2, "max": None}}, "the source has 1 words, fewer than 2"),
        ({"target_characters": {"min": None, "max": 4}}, "the target has 5 characters, more than 4"),
    ],
)
def test_texts_have_bounds(lengths: dict[str, Any], detail: str) -> None:
    task: dict[str, Any] = {"source": "{q}", "target": "{a}", "lengths": {**USUAL["lengths"], **lengths}}
    assert rejected({"q": "why", "a": ["x", "so so"]}, **task)[1] == detail


# values that no text can hold


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ({"source": "{q}", "target": "{a}"}, {"q": "\ud800", "a": "so"}),
        ({"source": "{q}", "target": "{a}"}, {"q": "why", "a": ["so", "\udfff"]}),
        ({"messages": "m"}, {"m": [said("user", "\ud800"), said("assistant", "so")]}),
        ({"messages": "m"}, {"m": [said("user", "a"), said("assistant", "so", reasoning_content="\ud800")]}),
        (
            {"messages": "m", "conversation": {"tools": "t"}},
            {"m": [said("user", "a"), said("assistant", "so")], "t": [{"name": "\ud800"}]},
        ),
    ],
)
def test_half_of_a_surrogate_pair_is_rejected(task: dict[str, Any], values: dict[str, Any]) -> None:
    assert rejected(values, **task)[0] == "lone_surrogate"


def test_values_that_are_nested_too_deeply_are_rejected() -> None:
    deep: Any = "text"
    for _ in range(5000):
        deep = [deep]
    assert rejected({"q": deep, "a": "so"}, source="{q}", target="{a}")[0] == "no_text"


# patterns

AUTHOR = {"author": {"field": "meta.id", "pattern": r"^([a-z]+)-\d+"}}


@pytest.mark.parametrize(
    ("extract", "values", "source"),
    [
        (AUTHOR, {"meta": {"id": "kim-17"}, "q": "why"}, "kim: why"),
        ({"author": {"field": "q", "pattern": r"by (\w+)"}}, {"q": "a tale by kim"}, "kim: a tale by kim"),
        ({"author": {"field": "author", "pattern": r"(\w+)@"}}, {"author": "kim@host", "q": "why"}, "kim: why"),
        ({"author": {"field": "n", "pattern": r"(\d)$"}}, {"n": 12, "q": "why"}, "2: why"),
    ],
)
def test_a_column_is_a_part_of_another(extract: Any, values: dict[str, Any], source: str) -> None:
    task: dict[str, Any] = {"extract": extract, "source": "{author}: {q}", "target": "{a}"}
    assert read({**values, "a": "so"}, **task).source == source
    assert set(columns(params(**task), "train")) == {extract["author"]["field"], "q", "a"}


def test_a_part_can_be_the_group_of_the_split_and_metadata() -> None:
    task: dict[str, Any] = {
        "extract": {**AUTHOR, "kind": {"field": "url", "pattern": r"\.(\w+)$"}},
        "source": "{q}",
        "target": "{a}",
        "split": {"by": "group", "field": "author"},
        "metadata": ["kind", "year?"],
    }
    reader = RowReader(params(**task))
    values = {"meta": {"id": "kim-17"}, "url": "x.pdf"}
    assert [reader.value(name, values) for name in ("author", "kind", "year?", "url")] == ["kim", "pdf", None, "x.pdf"]
    assert columns(params(**task), "train") == ["q", "a", "meta.id", "url"]


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        ({"meta": {"id": "17"}}, "author: the pattern finds nothing in meta.id"),
        ({"meta": {"id": None}}, "meta.id is null"),
        ({"meta": {}}, "no meta.id"),
        ({}, "no meta.id"),
    ],
)
def test_a_part_that_is_not_there_is_missing_unless_it_is_optional(values: dict[str, Any], detail: str) -> None:
    task: dict[str, Any] = {"extract": AUTHOR, "source": "{author}: {q}", "target": "{a}"}
    row = {**values, "q": "why", "a": "so"}
    assert rejected(row, **task) == ("missing_field", detail)
    assert read(row, **{**task, "source": "{author?}: {q}"}).source == ": why"
    assert RowReader(params(**task)).value("author?", row) is None
    with pytest.raises(RejectedRow, match=re.escape(detail)):
        RowReader(params(**task)).value("author", row)


def test_a_group_of_the_pattern_that_takes_no_part_finds_nothing() -> None:
    task: dict[str, Any] = {"extract": {"x": {"field": "q", "pattern": "(a)|b"}}, "source": "{x}", "target": "{q}"}
    assert rejected({"q": "b"}, **task) == ("missing_field", "x: the pattern finds nothing in q")


def test_a_pattern_that_no_field_uses_rejects_nothing() -> None:
    assert read({"q": "why", "a": "so"}, extract=AUTHOR, source="{q}", target="{a}").source == "why"


# conversations


def test_turns_after_the_last_answer_with_loss_are_cut_off() -> None:
    messages = [
        said("user", "a"),
        said("assistant", "b"),
        said("user", "c"),
        said("assistant", "d", weight=0),
        said("user", "e"),
    ]
    texts = read({"m": messages}, messages="m")
    assert (turns(texts), texts.targets) == ([("user", "a"), ("assistant", "b")], ["b"])
    assert texts.joined() == ("user: a", "b")


@pytest.mark.parametrize("text", ["", " ", "\x00", "\u200b \n"])
def test_an_answer_that_is_empty_after_cleaning_has_no_loss(text: str) -> None:
    notes: Counter[str] = Counter()
    messages = [said("user", "a"), said("assistant", text), said("user", "b"), said("assistant", "c")]
    texts = read({"m": messages}, notes=notes, messages="m")
    assert [turn.has_loss for turn in texts.turns if turn.role == "assistant"] == [False, True]
    assert (texts.targets, notes["empty_answers"]) == (["c"], 1)
    assert rejected({"m": messages[:2]}, messages="m")[0] == "no_answer"


def test_a_call_without_text_is_an_answer() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "w", "arguments": '{"c": "x"}'}}
    texts = read({"m": [said("user", "a"), said("assistant", None, tool_calls=[call])]}, messages="m")
    assert texts.targets == ['<tool_call>\n{"name": "w", "arguments": {"c": "x"}}\n</tool_call>']


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("why", "so", [("user", "why"), ("assistant", "so")]),
        ([said("user", "why")], [said("assistant", "so")], [("user", "why"), ("assistant", "so")]),
        ([said("system", "s"), said("user", "why")], "so", [("system", "s"), ("user", "why"), ("assistant", "so")]),
        (json.dumps([said("user", "why")]), "so", [("user", "why"), ("assistant", "so")]),
        (str([said("user", "why")]), "so", [("user", "why"), ("assistant", "so")]),
        ("[1] why", "[1, 2]", [("user", "[1] why"), ("assistant", "[1, 2]")]),
        ('"why"', "7", [("user", '"why"'), ("assistant", "7")]),
        (
            [said("user", "a"), said("assistant", "b"), said("user", "why")],
            [said("assistant", "so"), said("user", "c"), said("assistant", "d")],
            [
                ("user", "a"),
                ("assistant", "b"),
                ("user", "why"),
                ("assistant", "so"),
                ("user", "c"),
                ("assistant", "d"),
            ],
        ),
    ],
)
def test_a_conversation_in_two_fields(prompt: Any, completion: Any, expected: list[tuple[str, str]]) -> None:
    task: dict[str, Any] = {"messages": ["prompt", "completion"]}
    texts = read({"prompt": prompt, "completion": completion}, **task)
    assert turns(texts) == expected
    assert texts.targets == [text for role, text in expected if role == "assistant" and text != "b"]
    assert columns(params(**task), "train") == ["prompt", "completion"]


@pytest.mark.parametrize("history", [None, "", " ", [], "[]"])
def test_a_first_field_may_be_empty(history: Any) -> None:
    texts = read({"h": history, "q": "why", "a": "so"}, messages=["h", "q", "a"])
    assert turns(texts) == [("user", "why"), ("assistant", "so")]
    assert read({"q": "why", "a": "so"}, messages=["h?", "q", "a"]) == texts


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (None, "no_answer"),
        ("", "no_answer"),
        ([], "no_answer"),
        ([said("user", "b")], "no_answer"),
        (7, "bad_messages"),
    ],
)
def test_a_last_field_without_an_answer_is_rejected(completion: Any, reason: str) -> None:
    history = [said("user", "why"), said("assistant", "learned nowhere"), said("user", "and")]
    assert rejected({"p": history, "c": completion}, messages=["p", "c"])[0] == reason


def test_a_text_with_turns_is_divided_in_one_of_several_fields() -> None:
    conversation = {"turn": r"(?P<role>#\w+): ", "roles": {"#A": "user", "#B": "assistant"}}
    texts = read({"p": "#A: a #B: b #A: c", "c": "so"}, messages=["p", "c"], conversation=conversation)
    assert turns(texts) == [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "so")]
    assert texts.targets == ["so"]


# system prompts and tools

TALK = [said("user", "a"), said("assistant", "b")]


@pytest.mark.parametrize(
    ("value", "system"), [("be short", "be short"), (" x ", "x"), (None, None), ("", None), (" \n", None), (7, "7")]
)
def test_a_system_prompt_in_a_column_is_put_in_front(value: Any, system: str | None) -> None:
    task: dict[str, Any] = {"messages": "m", "conversation": {"system": "s"}}
    front = [] if system is None else [("system", system)]
    assert turns(read({"m": TALK, "s": value}, **task)) == [*front, ("user", "a"), ("assistant", "b")]
    assert columns(params(**task), "train") == ["m", "s"]


@pytest.mark.parametrize(("value", "unused"), [("own", 0), ("other", 1), (None, 0)])
def test_a_system_prompt_of_the_messages_comes_first(value: Any, unused: int) -> None:
    notes: Counter[str] = Counter()
    task: dict[str, Any] = {"messages": "m", "conversation": {"system": "s"}}
    texts = read({"m": [said("system", "own"), *TALK], "s": value}, notes=notes, **task)
    assert turns(texts)[0] == ("system", "own")
    assert notes["unused_system_prompts"] == unused


def test_a_greeting_follows_the_system_prompt() -> None:
    task: dict[str, Any] = {"messages": "m", "conversation": {"system": "s"}}
    texts = read({"m": [said("assistant", "hello"), *TALK], "s": "be short"}, **task)
    assert [role for role, _ in turns(texts)] == ["system", "assistant", "user", "assistant"]
    assert texts.targets == ["b"]


TOOL = {"type": "function", "function": {"name": "w", "parameters": {"b": {"type": "string"}, "a": 1}}}
AS_JSON = '[{"type":"function","function":{"name":"w","parameters":{"b":{"type":"string"},"a":1}}}]'


@pytest.mark.parametrize(
    ("value", "tools"),
    [
        ([TOOL], AS_JSON),
        (json.dumps([TOOL], indent=2), AS_JSON),
        ([{**TOOL, "strict": None}], AS_JSON),  # as parquet fills in what other tools have
        ([{"max": Number("1.10"), "n": "1"}], '[{"max":1.1,"n":"1"}]'),  # as our reader of JSON gives numbers
        ('[{"name": "é", "default": null}]', '[{"name":"é","default":null}]'),
        ([], ""),
        ("[]", ""),
        (None, ""),
        ("null", ""),
        (" ", ""),
    ],
)
def test_tools_in_a_column(value: Any, tools: str) -> None:
    task: dict[str, Any] = {"messages": "m", "conversation": {"tools": "t"}}
    assert read({"m": TALK, "t": value}, **task).tools == tools
    assert columns(params(**task), "train") == ["m", "t"]


def test_null_fields_of_tools_are_counted() -> None:
    notes: Counter[str] = Counter()
    tools = [{"name": "a", "x": None, "y": {"z": None}}, {"name": "b", "enum": ["c", None]}]
    texts = read({"m": TALK, "t": tools}, notes=notes, messages="m", conversation={"tools": "t"})
    assert texts.tools == '[{"name":"a","y":{}},{"name":"b","enum":["c",null]}]'
    assert notes["null_fields_of_tools"] == 2


def test_optional_columns_of_a_conversation_may_be_missing() -> None:
    task: dict[str, Any] = {"messages": "m", "conversation": {"tools": "t?", "system": "s?"}}
    assert read({"m": TALK}, **task).tools == ""
    assert columns(params(**task), "train") == ["m"]
    assert rejected({"m": TALK}, messages="m", conversation={"tools": "t"}) == ("missing_field", "no t")
    assert rejected({"m": TALK}, messages="m", conversation={"system": "s"}) == ("missing_field", "no s")


@pytest.mark.parametrize("value", ["a tool", "{}", TOOL, ["w"], "[1]", 7, "[" * 10_000, '[{"n": NaN}]', [{"n": b""}]])
def test_tools_that_are_no_list_are_rejected(value: Any) -> None:
    reason, _ = rejected({"m": TALK, "t": value}, messages="m", conversation={"tools": "t"})
    assert reason in ("bad_tools", "no_text")


# masks


def test_masks_reach_every_text_of_a_conversation() -> None:
    arguments = {
        "to": ["a@b.example", {"cc": "c@d.example"}],
        "card": 4111111111111111,
        "n": 2.5,
        "on": True,
        "s": " x ",
    }
    call = {
        "id": "call_4111111111111111",
        "type": "function",
        "function": {"name": "mail", "arguments": json.dumps(arguments)},
    }
    messages = [
        said("system", "of s@s.example"),
        said("user", "I am u@u.example"),
        said("assistant", "I mail t@t.example", reasoning_content=" they are r@r.example ", tool_calls=[call]),
        said("tool", "sent to w@w.example", tool_call_id="call_4111111111111111"),
        said("assistant", "sent from v@v.example"),
    ]
    prepare = params(messages="m", **MASKED)
    clean = Cleaner(prepare.clean, prepare.mask)
    texts = RowReader(prepare).texts({"m": messages}, "train", clean, Counter())
    assert [turn.text for turn in texts.turns] == [
        "of <email>",
        "I am <email>",
        "I mail <email>",
        "sent to <email>",
        "sent from <email>",
    ]
    message = texts.turns[2].message()
    assert message["reasoning_content"] == "they are <email>"
    assert message["tool_calls"][0]["id"] == "call_4111111111111111"
    assert message["tool_calls"][0]["function"]["arguments"] == {
        "to": ["<email>", {"cc": "<email>"}],
        "card": "<card>",
        "n": 2.5,
        "on": True,
        "s": " x ",  # programs read arguments: they are masked, not cleaned
    }
    assert clean.masked == {"emails": 8, "cards": 1, "phones": 0}


# what nothing reads


@pytest.mark.parametrize(
    ("task", "values", "unread"),
    [
        ({"source": "{q}", "target": "{a}"}, {"q": "x", "a": "y", "system": "s", "id": 1}, ["system", "id"]),
        ({"source": "{q.text}", "target": "{a.0}"}, {"q": {}, "a": [], "empty": "", "null": None, "n": 0}, ["n"]),
        ({"source": "{q.text}", "target": "{a}"}, {"q.text": "x", "a": "y", "q.title": "z"}, ["q.title"]),
        ({"source": "{q?}", "target": "{a}"}, {"q?": "x", "a": "y", "a?": "z"}, ["a?"]),
        ({"source": "{q}", "target": ["{a}", "{b}"]}, {"q": "x", "a": "y", "b": "z", "c": "c"}, ["c"]),
        ({"source": "{author}", "target": "{a}", "extract": AUTHOR}, {"meta": {"id": "k-1"}, "a": "y"}, []),
        ({"source": "{q}", "target": "{a}", "extract": AUTHOR}, {"meta": {"id": "k-1"}, "a": "y"}, ["meta"]),
        (
            {"source": "{q}", "target": "{a}", "metadata": ["year"], "split": {"by": "group", "field": "who"}},
            {"q": "x", "a": "y", "year": 1, "who": "kim", "where": "here"},
            ["where"],
        ),
        (
            {"messages": ["p", "c"], "conversation": {"tools": "t", "system": "s?"}},
            {"p": "x", "c": "y", "t": [1], "s": "z", "tool_choice": "auto"},
            ["tool_choice"],
        ),
        (
            {"messages": "messages", "reading": {"thread": {"id": "id", "parent": "p", "role": "r", "text": "t"}}},
            {"id": 1, "messages": TALK, "rank": 2},
            ["rank"],
        ),
    ],
)
def test_columns_that_nothing_reads_are_named(task: dict[str, Any], values: dict[str, Any], unread: list[str]) -> None:
    assert list(RowReader(params(**task)).unread(values, "train")) == unread


def test_what_a_split_reads_is_its_own() -> None:
    reader = RowReader(params(source="{q}", target={"train": "{a}", "test": "{b}"}))
    values = {"q": "x", "a": "y", "b": "z"}
    assert (list(reader.unread(values, "train")), list(reader.unread(values, "test"))) == (["b"], ["a"])


@pytest.mark.parametrize(
    "task",
    [
        {"source": "{q}", "target": "{a}"},
        {"messages": "m"},
        {"extract": AUTHOR, "source": "{author}{q}", "target": ["{a}", "{b?}"]},
    ],
)
def test_a_reader_goes_to_other_processes_before_and_after_use(task: dict[str, Any]) -> None:
    reader = RowReader(params(**task))
    values = {"q": "why", "a": "so", "m": TALK, "meta": {"id": "kim-1"}}
    clean = Cleaner(reader.params.clean, reader.params.mask)
    before = pickle.loads(pickle.dumps(reader)).texts(values, "train", clean, Counter())
    assert reader.texts(values, "train", clean, Counter()) == before
    assert pickle.loads(pickle.dumps(reader)).texts(values, "train", clean, Counter()) == before
