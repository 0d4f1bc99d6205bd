"""Bad inputs of the prepare stage. Either a bad row is rejected with its place and reason, and its neighbours stay; or
the stage stops with a message for its user. No row is lost. Some inputs only look bad: these are read correctly.
"""

import bz2
import gzip
import io
import json
import lzma
import re
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages.lib.core.files import read_json, read_jsonl
from stages.lib.core.params import read_section
from stages.lib.core.process import UserError
from stages.lib.ingest import duplicates_and_splits
from stages.lib.params.prepare import Prepare
from stages.lib.records.examples import SPLITS, Example, read_examples
from stages.prepare import run
from tests.build import PARAMS

Row = tuple[str, str]  # a source and one of its targets
Text = str | bytes


@dataclass(frozen=True)
class Case:
    name: str
    files: Mapping[str, bytes]  # the first is train, unless params say otherwise
    kept: Sequence[Row] = ()  # all rows of train, in order
    rejected: Sequence[tuple[str, int, str]] = ()  # file, line, reason
    stop: str | None = None  # a piece of the message, if the stage must stop
    params: Mapping[str, Any] = field(default_factory=dict)
    may_stop: bool = False  # the stage may refuse the whole file instead of the row


@dataclass(frozen=True)
class Prepared:
    train: list[Row]
    examples: list[Example]  # of train
    rejected: list[dict[str, Any]]
    stats: dict[str, Any]
    held_out: int  # references of validation and test


GOOD = [("g1", "G1"), ("g2", "G2"), ("g3", "G3")]
FREE = [("", target) for _, target in GOOD]
CHATS = [(f"user: {source}", target) for source, target in GOOD]

FREE_TEXT: dict[str, Any] = {"source": None, "group_references": False}
CHAT: dict[str, Any] = {**FREE_TEXT, "target": None, "messages": "messages"}
DIALOG: dict[str, Any] = {**CHAT, "reading": {"format": "dialog"}}
NO_CLEANING: dict[str, Any] = {
    "clean": {
        "encoding": False,
        "html_entities": False,
        "unicode": None,
        "control_characters": False,
        "whitespace": "keep",
    }
}


def as_bytes(text: Text) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def lines(*texts: Text) -> bytes:
    return b"".join(as_bytes(text) + b"\n" for text in texts)


def in_csv(*bad: Text) -> bytes:
    """Among good rows. The first bad row is on line 4."""
    return lines("facts,text", "g1,G1", "g2,G2", *bad, "g3,G3")


def in_tsv(*bad: Text) -> bytes:
    return lines("facts\ttext", "g1\tG1", "g2\tG2", *bad, "g3\tG3")


def record(source: Any, target: Any, **others: Any) -> str:
    return json.dumps({"facts": source, "text": target, **others})


def in_jsonl(*bad: Text, **others: Any) -> bytes:
    """Among good rows, which have the other fields too. The first bad row is on line 3."""
    good = [record(*row, **others) for row in GOOD]
    return lines(*good[:2], *bad, good[2])


def in_json(*bad: str) -> bytes:
    """In a list, as its third row, on line 3."""
    good = [record(*row) for row in GOOD]
    return "[{}]".format(",\n".join([*good[:2], *bad, good[2]])).encode()


def in_text(*bad: Text) -> bytes:
    return lines("G1", "G2", *bad, "G3")


def chat(*messages: Any) -> str:
    return json.dumps({"messages": list(messages)})


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def in_chats(*bad: Text) -> bytes:
    good = [chat(said("user", source), said("assistant", target)) for source, target in GOOD]
    return lines(*good[:2], *bad, good[2])


def in_dialogs(*bad: Text) -> bytes:
    """The first bad line is line 5, after a blank line."""
    return lines("1 g1\tG1", "", "1 g2\tG2", "", *bad, "", "1 g3\tG3", "")


def parquet(columns: Mapping[str, Any], names: Sequence[str] | None = None) -> bytes:
    table = pa.table(dict(columns))
    sink = io.BytesIO()
    pq.write_table(table.rename_columns(list(names)) if names else table, sink)
    return sink.getvalue()


def in_parquet(texts: Any = None, **others: Any) -> bytes:
    """Four rows. The third one is bad: in its text, or in another column."""
    texts = pa.array(["G1", "G2", None, "G3"]) if texts is None else texts
    return parquet({"facts": ["g1", "g2", "b", "g3"], "text": texts, **others})


def not_utf8() -> pa.Array:
    return pa.array([b"G1", b"G2", b"\xff", b"G3"]).view(pa.string())


def damaged(content: bytes) -> bytes:
    """With different bytes in the middle."""
    middle = len(content) // 2
    return content[: middle - 8] + b"\xff\x00" * 8 + content[middle + 8 :]


def merged(values: Any, overrides: Any) -> Any:
    """Merges sections at every depth."""
    if not (isinstance(values, dict) and isinstance(overrides, dict)):
        return overrides
    return {**values, **{name: merged(values.get(name), new) for name, new in overrides.items()}}


@cache
def usual() -> dict[str, Any]:
    return read_section(Prepare, PARAMS).model_dump()


def reads(
    name: str,
    file: str,
    content: bytes,
    *more: Row,
    kept: Sequence[Row] = GOOD,
    **params: Any,
) -> Case:
    """`more` are rows before the last good row."""
    return Case(name, {file: content}, [*kept[:2], *more, *kept[2:]], params=params)


def rejects(name: str, file: str, content: bytes, reason: str, line: int, *more: Row, **params: Any) -> Case:
    good = CHATS if "messages" in params else FREE if params.get("source", "") is None else GOOD
    return Case(name, {file: content}, [*good[:2], *more, *good[2:]], [(file, line, reason)], params=params)


def either(name: str, file: str, content: bytes, reason: str, line: int, **params: Any) -> Case:
    return Case(name, {file: content}, GOOD, [(file, line, reason)], params=params, may_stop=True)


STRICT = {"limits": {"max_rejected_fraction": 0.1}}


def stops(name: str, files: str | Mapping[str, bytes], content: bytes, stop: str, **params: Any) -> Case:
    return Case(name, {files: content} if isinstance(files, str) else files, stop=stop, params=params)


CSV_GOOD, JSONL_GOOD, TEXT_GOOD = in_csv(), in_jsonl(), in_text()
WIDE = "facts,text\ng1,G1\ng2,G2\né,ɸ\ng3,G3\n"
LATIN = "facts,text\ng1,G1\ng2,G2\né,É\ng3,G3\n".encode("latin-1")
LONG = "x" * 20_000_000  # more than a batch of rows may hold

CSV = [
    rejects("csv-too-many-fields", "t.csv", in_csv("b,B,c"), "wrong_number_of_fields", 4),
    rejects("csv-too-few-fields", "t.csv", in_csv("b"), "wrong_number_of_fields", 4),
    rejects("csv-comma-at-line-end", "t.csv", in_csv("b,B,"), "wrong_number_of_fields", 4),
    rejects("csv-latin-1-row", "t.csv", in_csv(b"b,\xe9"), "not_decodable", 4),
    rejects("csv-half-a-utf-8-character-at-the-end", "t.csv", CSV_GOOD + b"b,\xe2\x82", "not_decodable", 5),
    rejects("csv-text-after-closing-quote", "t.csv", in_csv('"b" x,B'), "bad_quoting", 4),
    rejects("csv-quote-closed-by-that-of-the-next-row", "t.csv", in_csv('b,"B', 'c,"C"'), "bad_quoting", 4, ("c", "C")),
    rejects("csv-quote-never-closed-in-mid-file", "t.csv", in_csv('b,"B'), "bad_quoting", 4),
    rejects("csv-quote-never-closed-at-the-end", "t.csv", CSV_GOOD + b'b,"B', "bad_quoting", 5),
    rejects("csv-lone-return-between-rows", "t.csv", in_csv("b,B\rc,C"), "bad_quoting", 4),
    rejects("csv-lone-return-in-a-field", "t.csv", in_csv("b,B\rB"), "bad_quoting", 4),
    rejects("csv-lone-return-before-a-line-end", "t.csv", in_csv("b\r,B\r\r"), "bad_quoting", 4),
    rejects(
        "csv-line-after-a-multi-line-row",
        "t.csv",
        in_csv('"b\nb","B\n\nB"', "c"),
        "wrong_number_of_fields",
        8,
        ("b\nb", "B\n\nB"),
    ),
    rejects("csv-line-after-blank-lines", "t.csv", in_csv("", "", "b"), "wrong_number_of_fields", 6),
    rejects("csv-blanks-on-a-line", "t.csv", in_csv("   "), "wrong_number_of_fields", 4),
    rejects("csv-empty-source", "t.csv", in_csv(",B"), "empty_source", 4),
    rejects("csv-empty-target", "t.csv", in_csv("b,"), "empty_target", 4),
    rejects("csv-target-of-blanks", "t.csv", in_csv("b, \t\u3000"), "empty_target", 4),
    rejects("csv-target-of-blanks-kept", "t.csv", in_csv("b, \t\u3000"), "empty_target", 4, **NO_CLEANING),
    rejects("csv-target-of-zero-width", "t.csv", in_csv("b,\u200b\ufeff"), "empty_target", 4),
    rejects("csv-target-of-html-entities", "t.csv", in_csv("b,&nbsp;&#8203;&#32;"), "empty_target", 4),
    rejects("csv-nothing-but-nul", "t.csv", in_csv("b,\0\0"), "empty_target", 4),
    rejects("csv-nul-in-copies", "t.csv", in_csv("b\0,B", "b\0,B"), "duplicate", 5, ("b\0", "B"), **NO_CLEANING),
    rejects(
        "csv-columns-given",
        "t.csv",
        lines("g1,G1", "g2,G2", "b", "g3,G3"),
        "wrong_number_of_fields",
        3,
        reading={"columns": ["facts", "text"]},
    ),
    reads("csv-stray-quote-in-a-field", "t.csv", in_csv('b "x",5" B'), ('b "x"', '5" B')),
    reads("csv-byte-order-mark", "t.csv", b"\xef\xbb\xbf" + CSV_GOOD),
    reads(
        "csv-byte-order-mark-beats-params",
        "t.csv",
        b"\xef\xbb\xbf" + WIDE.encode(),
        ("é", "ɸ"),
        reading={"encoding": "latin-1"},
    ),
    reads("csv-utf-16-with-mark", "t.csv", WIDE.encode("utf-16"), ("é", "ɸ")),
    reads("csv-utf-16-be-with-mark", "t.csv", b"\xfe\xff" + WIDE.encode("utf-16-be"), ("é", "ɸ")),
    reads("csv-utf-32-with-mark", "t.csv", WIDE.encode("utf-32"), ("é", "ɸ")),
    reads("csv-utf-16-named", "t.csv", WIDE.encode("utf-16-le"), ("é", "ɸ"), reading={"encoding": "utf-16-le"}),
    reads("csv-latin-1-named", "t.csv", LATIN, ("é", "É"), reading={"encoding": "latin-1"}),
    reads("csv-crlf", "t.csv", CSV_GOOD.replace(b"\n", b"\r\n")),
    reads("csv-cr", "t.csv", CSV_GOOD.replace(b"\n", b"\r")),
    reads("csv-mixed-newlines", "t.csv", b"facts,text\r\ng1,G1\ng2,G2\r\ng3,G3"),
    reads("csv-quoted-return", "t.csv", in_csv('"b\rb","B\r"'), ("b\rb", "B\r"), **NO_CLEANING),
    reads("csv-blank-lines", "t.csv", b"\n\r\n" + CSV_GOOD.replace(b"\n", b"\n\n")),
    reads("csv-nul-removed", "t.csv", in_csv("b\0b,B\0"), ("bb", "B")),
    reads("csv-nul-kept", "t.csv", in_csv("b\0b,B\0"), ("b\0b", "B\0"), **NO_CLEANING),
    reads(
        "csv-control-characters-kept",
        "t.csv",
        in_csv("b\x1b[0m,\x07\u202eB\x7f"),
        ("b\x1b[0m", "\x07\u202eB\x7f"),
        **NO_CLEANING,
    ),
    reads("csv-field-over-128-kib", "t.csv", in_csv("b," + "x" * 200_000), ("b", "x" * 200_000)),
    reads("csv-name-in-capitals", "T.CSV", CSV_GOOD),
    stops("csv-utf-16-not-named", "t.csv", CSV_GOOD.decode().encode("utf-16-le"), "prepare.reading.encoding"),
    stops("csv-utf-16-cut-off", "t.csv", WIDE.encode("utf-16")[:-1], "t.csv: not in the encoding"),
    stops(
        "csv-utf-16-wrongly-named",
        "t.csv",
        CSV_GOOD + b"x",
        "t.csv: not in the encoding",
        reading={"encoding": "utf-16"},
    ),
    stops(
        "csv-column-twice", "t.csv", lines("facts,text,text", "g1,G1,G1"), "t.csv: column text is twice in the header"
    ),
    stops("csv-no-such-column", "t.csv", lines("facts,txt", "g1,G1"), "t.csv: no column text; there are facts, txt"),
    stops("csv-semicolons", "t.csv", lines("facts;text", "g1;G1"), "set prepare.reading.delimiter: ';'"),
    stops("csv-line-end-in-the-header", "t.csv", lines('"facts\nx",text', "g1,G1"), "t.csv: no column facts"),
    stops("csv-line-end-in-a-doubled-column", "t.csv", lines('facts,text,"a\n","a\n"', "g1,G1,,"), "is twice"),
    stops("csv-bad-quoting-in-the-header", "t.csv", lines('"facts" x,text', "g1,G1"), "expected after"),
    stops("csv-that-is-one-huge-line", "t.csv", b"x," * 60_000, "t.csv: "),
    stops("csv-header-of-1-mb", "t.csv", b"x" * 1_000_000 + b"\n", "t.csv: no column facts"),
    stops("csv-header-only", "t.csv", lines("facts,text"), "no examples for train"),
    stops("csv-empty", "t.csv", b"", "t.csv: empty file"),
    stops("csv-mark-only", "t.csv", b"\xef\xbb\xbf", "t.csv: empty file"),
    stops("csv-columns-given-too-few", "t.csv", CSV_GOOD, "t.csv: no column text", reading={"columns": ["facts"]}),
    rejects("tsv-too-many-fields", "t.tsv", in_tsv("b\tB\tc"), "wrong_number_of_fields", 4),
    rejects("tsv-latin-1-row", "t.tsv", in_tsv(b"b\t\xe9"), "not_decodable", 4),
    reads("tsv-quotes", "t.tsv", in_tsv('"b\t"B" b'), ('"b', '"B" b')),
    stops("tsv-empty", "t.tsv", b"", "t.tsv: empty file"),
]


def nested(source: str, value: Any) -> str:
    return json.dumps({"facts": source, "a": {"b": value}})


def in_nested(bad: str) -> bytes:
    return lines(*(nested(source, [target]) for source, target in GOOD[:2]), bad, nested("g3", ["G3"]))


def bad_json(name: str, bad: Text, reason: str, *more: Row, **params: Any) -> Case:
    return rejects(f"jsonl-{name}", "t.jsonl", in_jsonl(bad), reason, 3, *more, **params)


def bad_split(name: str, by: str, bad: str, reason: str, good: Any = "2024-01-01") -> Case:
    split = {"by": by, "field": "at"}
    return rejects(f"split-{name}", "t.jsonl", in_jsonl(bad, at=good), reason, 3, split=split)


def bad_metadata(name: str, reason: str, **bad: Any) -> Case:
    content = in_jsonl(record("b", "B", **bad), at="now")
    return rejects(f"metadata-{name}", "t.jsonl", content, reason, 3, metadata=["at"])


JSON_LINES = [
    bad_metadata("missing", "missing_field"),
    bad_metadata("list", "no_text", at=["now"]),
    bad_metadata("half-a-surrogate-pair", "lone_surrogate", at="\ud83d"),
    bad_json("missing-key", '{"facts": "b"}', "missing_field"),
    bad_json("null", record("b", None), "missing_field"),
    bad_json("object", record({"a": "b"}, "B"), "no_text"),
    bad_json("source-is-a-list-of-objects", record([{"a": "b"}], "B"), "no_text"),
    bad_json("nan", '{"facts": NaN, "text": "B"}', "no_text"),
    bad_json("infinity", '{"facts": "b", "text": [-Infinity]}', "no_text"),
    bad_json("key-twice", '{"facts": "b", "text": "B", "text": "C"}', "no_json"),
    bad_json("too-deep", "[" * 100_000, "no_json"),
    bad_json("cut-off", '{"facts": "b", "te', "no_json"),
    bad_json("cut-off-in-an-escape", '{"facts": "b", "text": "\\u12', "no_json"),
    bad_json("trailing-comma", '{"facts": "b", "text": "B",}', "no_json"),
    bad_json("comma-after-the-row", record("b", "B") + ",", "no_json"),
    bad_json("two-on-a-line", record("b", "B") + record("c", "C"), "no_json"),
    bad_json("single-quotes", "{'facts': 'b', 'text': 'B'}", "no_json"),
    bad_json("comment", "// b", "no_json"),
    bad_json("raw-control-character", '{"facts": "b\tb", "text": "B"}', "no_json"),
    bad_json("mark-in-mid-file", "\ufeff" + record("b", "B"), "no_json"),
    bad_json("list", '["b", "B"]', "missing_field"),
    bad_json("text", '"b"', "no_object"),
    bad_json("null-for-a-row", "null", "no_object"),
    bad_json("latin-1", b'{"facts": "b", "text": "\xe9"}', "not_decodable"),
    bad_json("utf-8-of-a-surrogate", b'{"facts": "b", "text": "\xed\xa0\xbd"}', "not_decodable"),
    bad_json("half-pair-in-the-source", r'{"facts": "\ud83d", "text": "B"}', "lone_surrogate"),
    bad_json("half-pair-in-the-target", r'{"facts": "b", "text": "\ude00\ud83d"}', "lone_surrogate"),
    bad_json("half-pair-that-looks-undecoded", r'{"facts": "b", "text": "\udc80"}', "lone_surrogate"),
    bad_json("empty-source", record(" \n", "B"), "empty_source"),
    bad_json("targets-none", record("b", []), "empty_target"),
    bad_json("targets-of-nothing", record("b", [None, "", " "]), "empty_target"),
    bad_json("targets-with-an-object", record("b", ["B", {"a": "C"}]), "no_text"),
    bad_json("too-short", record("b", "B"), "too_short", lengths={"target_characters": {"min": 2}}),
    bad_json("too-long", record("b b b", "B"), "too_long", lengths={"source_words": {"max": 2}}),
    bad_split("time-is-no-date", "order", record("b", "B", at="yesterday"), "no_time"),
    bad_split("time-is-not-finite", "order", record("b", "B", at="nan"), "no_time"),
    bad_split("time-out-of-range", "order", record("b", "B", at="9999-99-99"), "no_time"),
    bad_split("time-missing", "order", record("b", "B"), "missing_field", good=17.5),
    bad_split("stratum-missing", "stratum", record("b", "B"), "missing_field"),
    bad_split("stratum-is-a-list", "stratum", record("b", "B", at=[1]), "no_text"),
    bad_split("stratum-is-half-a-pair", "stratum", record("b", "B", at="\ud83d"), "lone_surrogate"),
    bad_split("group-null", "group", record("b", "B", at=None), "missing_field"),
    rejects("nested-null", "t.jsonl", in_nested(nested("b", None)), "missing_field", 3, target="{a.b}"),
    rejects("nested-null-above", "t.jsonl", in_nested('{"facts": "b", "a": null}'), "missing_field", 3, target="{a.b}"),
    rejects("nested-in-text", "t.jsonl", in_nested('{"facts": "b", "a": "b"}'), "missing_field", 3, target="{a.b}"),
    rejects("nested-past-the-end", "t.jsonl", in_nested(nested("b", [])), "missing_field", 3, target="{a.b.0}"),
    reads("jsonl-numbers", "t.jsonl", in_jsonl(record(-7, 1.5)), ("-7", "1.5")),
    reads("jsonl-long-number", "t.jsonl", in_jsonl(record("b", 10**4000)), ("b", str(10**4000))),
    reads("jsonl-numbers-as-written", "t.jsonl", in_jsonl('{"facts": 1.10, "text": 1e5}'), ("1.10", "1e5")),
    reads("jsonl-number-too-large", "t.jsonl", in_jsonl('{"facts": "b", "text": 1e999}'), ("b", "1e999")),
    reads("jsonl-booleans", "t.jsonl", in_jsonl(record(True, False)), ("true", "false")),
    reads("jsonl-target-is-a-list", "t.jsonl", in_jsonl(record("b", ["B", 2])), ("b", "B"), ("b", "2")),
    reads("jsonl-target-is-a-list-with-nothing", "t.jsonl", in_jsonl(record("b", ["B", None, ""])), ("b", "B")),
    reads("jsonl-target-is-a-list-of-lists", "t.jsonl", in_jsonl(record("b", [["B", "C"]])), ("b", "B | C")),
    reads("jsonl-source-is-a-list", "t.jsonl", in_jsonl(record(["b", 1], "B")), ("b\n1", "B")),
    reads("jsonl-source-is-a-list-of-lists", "t.jsonl", in_jsonl(record([["b", 1], ["c"]], "B")), ("b | 1\nc", "B")),
    reads(
        "split-stratum-is-true",
        "t.jsonl",
        in_jsonl(record("b", "B", at=True), at="now"),
        ("b", "B"),
        split={"by": "stratum", "field": "at"},
    ),
    reads("jsonl-surrogate-pair", "t.jsonl", in_jsonl(record("b", "\U0001f600")), ("b", "\U0001f600")),
    reads("jsonl-half-pair-in-a-field-not-used", "t.jsonl", in_jsonl(record("b", "B", c="\ud83d")), ("b", "B")),
    reads("jsonl-nan-in-a-field-not-used", "t.jsonl", in_jsonl('{"facts": "b", "text": "B", "c": NaN}'), ("b", "B")),
    reads("jsonl-null-in-a-field-not-used", "t.jsonl", in_jsonl(record("b", "B", c=None)), ("b", "B")),
    reads("jsonl-nul", "t.jsonl", in_jsonl(record("b\0", "\0B")), ("b\0", "\0B"), **NO_CLEANING),
    reads(
        "jsonl-line-separators",
        "t.jsonl",
        in_jsonl('{"facts": "b\u2028\x85", "text": "B\u2029B"}'),
        ("b\u2028\x85", "B\u2029B"),
        **NO_CLEANING,
    ),
    reads("jsonl-return-between-tokens", "t.jsonl", in_jsonl('{"facts": "b",\r "text": "B"}\r'), ("b", "B")),
    reads("jsonl-blank-lines", "t.jsonl", JSONL_GOOD.replace(b"\n", b"\n \r\n\n")),
    reads("jsonl-byte-order-mark", "t.jsonl", b"\xef\xbb\xbf" + JSONL_GOOD),
    reads("jsonl-utf-16", "t.jsonl", JSONL_GOOD.decode().encode("utf-16")),
    reads("jsonl-line-of-20-mb", "t.jsonl", in_jsonl(record("b", LONG)), ("b", LONG)),
    stops(
        "jsonl-that-is-csv",
        "t.jsonl",
        CSV_GOOD,
        "prepare.limits.max_rejected_fraction",
        limits={"max_rejected_fraction": 0.5},
    ),
    stops(
        "jsonl-that-is-a-list",
        "t.jsonl",
        in_json().replace(b"\n", b""),
        "t.jsonl: no field facts, text in its only row; there are 0, 1, 2",
    ),
    stops(
        "jsonl-template-with-an-unknown-column",
        "t.jsonl",
        JSONL_GOOD,
        "t.jsonl: no field question in its first 3 rows; there are facts, text",
        source="{question}",
    ),
    stops("jsonl-empty", "t.jsonl", b"", "no examples for train"),
    stops("jsonl-all-files-empty", "t.jsonl", b"", "no examples for train", validation=None, test=None),
    stops("jsonl-blank", "t.jsonl", b"\n \n", "no examples for train"),
    stops("jsonl-utf-16-not-named", "t.jsonl", JSONL_GOOD.decode().encode("utf-16-be"), "t.jsonl: every other byte"),
]

JSON = [
    either("json-null-row", "t.json", in_json("null"), "no_object", 3),
    either("json-text-row", "t.json", in_json('"b"'), "no_object", 3),
    either("json-missing-key", "t.json", in_json('{"facts": "b"}'), "missing_field", 3),
    either("json-half-pair", "t.json", in_json(r'{"facts": "b", "text": "\ud83d"}'), "lone_surrogate", 3),
    either("json-key-twice", "t.json", in_json('{"facts": "b", "text": "B", "text": "C"}'), "no_json", 3),
    either("json-nan", "t.json", in_json('{"facts": "b", "text": NaN}'), "no_text", 3),
    either("json-latin-1", "t.json", in_json(record("b", "%")).replace(b"%", b"\xe9"), "not_decodable", 3),
    reads("json", "t.json", in_json('\n\n{"facts": "b",\r\n "text": 1.50}'), ("b", "1.50")),
    reads("json-number-too-large", "t.json", in_json('{"facts": "b", "text": 1e999}'), ("b", "1e999")),
    reads(
        "json-records", "t.json", b'{"n": 1, "data": {"rows": ' + in_json() + b"}}", reading={"records": "data.rows"}
    ),
    stops(
        "json-object-at-the-top", "t.json", b'{"data": ' + in_json() + b"}", "set prepare.reading.records to its key"
    ),
    stops(
        "json-records-of-nothing",
        "t.json",
        b'{"data": ' + in_json() + b"}",
        "`rows`",
        reading={"records": "rows"},
    ),
    stops("json-lines-named-json", "t.json", JSONL_GOOD, "name the file .jsonl"),
    stops("json-cut-off", "t.json", in_json()[:-20], "after row 2"),
    stops("json-trailing-comma", "t.json", in_json()[:-1] + b",]", "after row 3"),
    stops("json-more-after-the-list", "t.json", in_json() + b"]", "after row 3"),
    stops("json-empty", "t.json", b"", "t.json: "),
    stops("json-empty-list", "t.json", b"[]", "no examples for train"),
    stops("json-number", "t.json", b"7", "at the top"),
    reads("json-utf-16", "t.json", in_json().decode().encode("utf-16")),
    reads("json-byte-order-mark", "t.json", b"\xef\xbb\xbf" + in_json()),
]

NANOSECONDS, LATE = pa.array([1] * 4, pa.timestamp("ns")), pa.array([10**14] * 4, pa.timestamp("s"))
PARQUET = [
    rejects("parquet-null", "t.parquet", in_parquet(), "missing_field", 3),
    rejects("parquet-null-beside-nan", "t.parquet", in_parquet(n=[1.0, 2.0, float("nan"), 4.0]), "missing_field", 3),
    rejects("parquet-null-beside-bytes", "t.parquet", in_parquet(n=[b"\xff"] * 4), "missing_field", 3),
    rejects("parquet-null-beside-times", "t.parquet", in_parquet(n=[datetime(2024, 1, 1)] * 4), "missing_field", 3),
    either("parquet-null-beside-nanoseconds", "t.parquet", in_parquet(n=NANOSECONDS), "missing_field", 3),
    either("parquet-null-beside-years-past-9999", "t.parquet", in_parquet(n=LATE), "missing_field", 3),
    rejects("parquet-empty-text", "t.parquet", in_parquet(["G1", "G2", "", "G3"]), "empty_target", 3),
    either("parquet-not-utf-8", "t.parquet", in_parquet(not_utf8()), "not_decodable", 3),
    either("parquet-damaged", "t.parquet", damaged(in_parquet()), "missing_field", 3),
    reads(
        "parquet-list-of-targets", "t.parquet", parquet({"facts": ["g1", "g2", "g3"], "text": [["G1"], ["G2"], ["G3"]]})
    ),
    reads(
        "parquet-path-into-a-struct",
        "t.parquet",
        parquet({"facts": ["g1", "g2", "g3"], "a": [{"b": target} for _, target in GOOD]}),
        target="{a.b}",
    ),
    stops(
        "parquet-binary",
        "t.parquet",
        parquet({"facts": ["g1"], "text": [b"G1"]}),
        "t.parquet line 1, text holds bytes",
        **STRICT,
    ),
    reads(
        "parquet-time",
        "t.parquet",
        parquet({"facts": ["g1"], "text": [datetime(2024, 1, 1)]}),
        kept=[("g1", "2024-01-01T00:00:00")],
    ),
    reads(
        "parquet-duration",
        "t.parquet",
        parquet({"facts": ["g1"], "text": pa.array([93_600], pa.duration("s"))}),
        kept=[("g1", "26:00:00")],
    ),
    stops(
        "parquet-struct",
        "t.parquet",
        parquet({"facts": ["g1"], "text": [{"a": "G1"}]}),
        "line 1, text holds an object",
        **STRICT,
    ),
    reads(
        "parquet-decimal",
        "t.parquet",
        parquet({"facts": ["g1"], "text": [Decimal("1.50")]}),
        kept=[("g1", "1.50")],
    ),
    reads(
        "parquet-float32",
        "t.parquet",
        parquet({"facts": pa.array([0.1, 1e-7], pa.float32()), "text": pa.array([0.1, 0.2], pa.float16())}),
        kept=[("0.1", "0.1"), ("1e-07", "0.2")],
    ),
    stops(
        "parquet-nan",
        "t.parquet",
        parquet({"facts": ["g1"], "text": [float("nan")]}),
        "a number that is not finite",
        **STRICT,
    ),
    stops("parquet-no-such-column", "t.parquet", parquet({"facts": ["g1"]}), "t.parquet: no column text"),
    stops(
        "parquet-column-twice",
        "t.parquet",
        parquet({"facts": ["g1"], "text": ["G1"], "n": [1]}, ["facts", "text", "text"]),
        "t.parquet: column text is twice in the header",
    ),
    stops(
        "parquet-no-rows",
        "t.parquet",
        parquet({"facts": pa.array([], pa.string()), "text": pa.array([], pa.string())}),
        "no examples for train",
    ),
    stops("parquet-that-is-csv", "t.parquet", CSV_GOOD, "t.parquet: not a readable parquet file"),
    stops("parquet-cut-off", "t.parquet", in_parquet()[:-5], "t.parquet: not a readable parquet file"),
    stops("parquet-empty", "t.parquet", b"", "t.parquet: not a readable parquet file"),
]

TEXT = [
    rejects("text-latin-1-row", "t.txt", in_text(b"\xe9"), "not_decodable", 3, **FREE_TEXT),
    rejects("text-zero-width-row", "t.txt", in_text("\u200b"), "empty_target", 3, **FREE_TEXT),
    rejects(
        "text-paragraph-with-latin-1",
        "t.txt",
        lines("G1", "", "G2", "", "", b"\xe9", "b", "", "G3"),
        "not_decodable",
        6,
        reading={"text_row": "paragraph"},
        **FREE_TEXT,
    ),
    Case(
        "text-file-without-text",
        {"t/1.txt": b"G1", "t/2.txt": b"G2\n", "t/3.txt": b" \n\n", "t/4.txt": b"G3"},
        FREE,
        [("t/3.txt", 1, "empty_target")],
        params={"train": "t", "reading": {"text_row": "file"}, **FREE_TEXT},
    ),
    reads("text-blank-lines", "t.txt", b"\n" + TEXT_GOOD.replace(b"\n", b"\n \t\n"), kept=FREE, **FREE_TEXT),
    reads("text-byte-order-mark", "t.txt", b"\xef\xbb\xbf" + TEXT_GOOD, kept=FREE, **FREE_TEXT),
    reads("text-utf-16", "t.txt", TEXT_GOOD.decode().encode("utf-16"), kept=FREE, **FREE_TEXT),
    reads(
        "text-latin-1-named",
        "t.txt",
        in_text(b"\xe9"),
        ("", "é"),
        kept=FREE,
        reading={"encoding": "latin-1"},
        **FREE_TEXT,
    ),
    reads("text-mixed-newlines", "t.txt", b"G1\r\nG2\nb\rB\nG3", ("", "b\nB"), kept=FREE, **FREE_TEXT),
    reads(
        "text-line-separator",
        "t.txt",
        in_text("b\u2028B\x0c"),
        ("", "b\u2028B\x0c"),
        kept=FREE,
        **FREE_TEXT,
        **NO_CLEANING,
    ),
    reads(
        "text-paragraphs",
        "t.txt",
        b"\n\nG1\r\n\r\nG2\n\nb\nB\n \nG3",
        ("", "b\nB"),
        kept=FREE,
        reading={"text_row": "paragraph"},
        **FREE_TEXT,
    ),
    stops("text-empty", "t.txt", b"", "no examples for train", **FREE_TEXT),
    stops(
        "text-empty-file",
        "t.txt",
        b"",
        "prepare",
        reading={"text_row": "file"},
        **FREE_TEXT,
        limits={"max_rejected_fraction": 0.1},
    ),
    stops("text-with-a-source", "t.txt", TEXT_GOOD, "t.txt: no field facts in its first 3 rows; there are text"),
]


def bad_chat(name: str, reason: str, *messages: Any) -> Case:
    return rejects(f"chat-{name}", "t.jsonl", in_chats(chat(*messages)), reason, 3, **CHAT)


USER, ANSWER = said("user", "b"), said("assistant", "B")
CHAT_FORMS = [
    bad_chat("starts-with-the-answer", "no_answer", ANSWER),
    bad_chat("system-in-the-middle", "wrong_role_order", USER, ANSWER, said("system", "s")),
    bad_chat("unknown-role", "bad_messages", said("teacher", "b"), ANSWER),
    bad_chat("role-is-null", "bad_messages", said("user", "b"), {"role": None, "content": "B"}),
    bad_chat("role-with-line-ends", "bad_messages", said("a\nb\ud83d", "b"), ANSWER),
    bad_chat("no-answer", "no_answer", USER),
    bad_chat("no-messages", "no_answer"),
    bad_chat("empty-answer", "no_answer", USER, said("assistant", " \u200b")),
    bad_chat("no-content", "bad_messages", USER, {"role": "assistant"}),
    bad_chat("content-is-null", "missing_field", USER, said("assistant", None)),
    bad_chat("content-is-an-image", "no_text", USER, said("assistant", [{"type": "image_url", "image_url": "B"}])),
    bad_chat("content-is-half-a-pair", "lone_surrogate", USER, said("assistant", "\ud83d")),
    bad_chat("message-is-text", "bad_messages", USER, "B"),
    rejects("chat-messages-are-text", "t.jsonl", in_chats('{"messages": "b"}'), "bad_messages", 3, **CHAT),
    rejects(
        "chat-messages-are-an-object", "t.jsonl", in_chats('{"messages": {"role": "user"}}'), "bad_messages", 3, **CHAT
    ),
    rejects("chat-messages-missing", "t.jsonl", in_chats("{}"), "missing_field", 3, **CHAT),
    reads(
        "chat-from-and-value",
        "t.jsonl",
        in_chats(chat({"from": "human", "value": "b"}, {"from": "gpt", "value": "B"})),
        ("user: b", "B"),
        kept=CHATS,
        **CHAT,
    ),
    reads(
        "chat-roles-in-capitals-and-several-answers",
        "t.jsonl",
        in_chats(chat(said("User", "b"), said("ASSISTANT", "B"), said("user", "c"), said("assistant", "C"))),
        ("user: b", "B"),
        ("user: b\nassistant: B\nuser: c", "C"),
        kept=CHATS,
        **CHAT,
    ),
    rejects("dialog-line-without-a-number", "t.txt", in_dialogs("hello\tB"), "bad_messages", 5, **DIALOG),
    rejects("dialog-number-only", "t.txt", in_dialogs("1 b\tB", "2"), "bad_messages", 5, **DIALOG),
    rejects("dialog-facts-only", "t.txt", in_dialogs("1 b", "2 c"), "no_answer", 5, **DIALOG),
    rejects("dialog-empty-answer", "t.txt", in_dialogs("1 b\t"), "no_answer", 5, **DIALOG),
    rejects("dialog-latin-1", "t.txt", in_dialogs(b"1 b\t\xe9", "2 c\tC"), "not_decodable", 5, **DIALOG),
    reads(
        "dialog-without-a-blank-line-at-the-end",
        "t.txt",
        in_dialogs("1 f", "2 b\tB")[:-2],
        ("tool: f\nuser: b", "B"),
        kept=CHATS,
        **DIALOG,
    ),
    reads("dialog-crlf", "t.txt", in_dialogs("1 b\tB").replace(b"\n", b"\r\n"), ("user: b", "B"), kept=CHATS, **DIALOG),
]

ZIPPED = gzip.compress(CSV_GOOD * 50, mtime=0)
COMPRESSED = [
    reads("gzip", "t.csv.gz", gzip.compress(CSV_GOOD)),
    reads("gzip-in-two-parts", "t.csv.gz", gzip.compress(CSV_GOOD[:15]) + gzip.compress(CSV_GOOD[15:])),
    reads("xz-of-utf-16", "t.csv.xz", lzma.compress(CSV_GOOD.decode().encode("utf-16"))),
    reads("bz2-in-capitals", "t.jsonl.BZ2", bz2.compress(JSONL_GOOD)),
    stops("gzip-cut-off", "t.csv.gz", ZIPPED[:-10], "t.csv.gz: the compressed file ends too early"),
    stops(
        "gzip-cut-off-json",
        "t.json.gz",
        gzip.compress(in_json())[:-10],
        "t.json.gz: the compressed file ends too early",
    ),
    stops("gzip-that-is-not", "t.csv.gz", CSV_GOOD, "t.csv.gz: not a valid .gz file"),
    stops("gzip-damaged", "t.csv.gz", damaged(ZIPPED), "t.csv.gz: not a valid .gz file"),
    stops("gzip-wrong-checksum", "t.csv.gz", ZIPPED[:-8] + b"\0" * 4 + ZIPPED[-4:], "t.csv.gz: not a valid .gz file"),
    stops("gzip-with-more-after-it", "t.csv.gz", ZIPPED + b"more", "t.csv.gz: not a valid .gz file"),
    stops("gzip-empty", "t.csv.gz", b"", "t.csv.gz: empty file"),
    stops("bz2-damaged", "t.csv.bz2", damaged(bz2.compress(CSV_GOOD)), "download it again"),
    stops("bz2-that-is-not", "t.jsonl.bz2", JSONL_GOOD, "download it again"),
    stops("bz2-cut-off", "t.csv.bz2", bz2.compress(CSV_GOOD)[:-5], "t.csv.bz2: the compressed file ends too early"),
    stops("xz-damaged", "t.csv.xz", damaged(lzma.compress(CSV_GOOD * 50)), "t.csv.xz: not a valid .xz file"),
    stops("xz-cut-off", "t.csv.xz", lzma.compress(CSV_GOOD)[:-5], "t.csv.xz: the compressed file ends too early"),
    stops("parquet-in-gzip", "t.parquet.gz", gzip.compress(in_parquet()), "unpack the .gz first"),
]

TWO_FILES = {"a.csv": CSV_GOOD, "b.csv": CSV_GOOD}
PLACES = [
    stops("file-of-unknown-ending", "t.docx", b"", "prepare.reading.format"),
    stops("file-without-ending", "t", CSV_GOOD, "prepare.reading.format"),
    stops("file-in-two-splits", TWO_FILES, b"", "a.csv: read for train and for test", train="*.csv", test="a.csv"),
    stops(
        "file-in-two-splits-spelt-otherwise",
        TWO_FILES,
        b"",
        "a.csv: read for train and for validation",
        train="a.csv",
        validation="./a.csv",
    ),
    stops("glob-of-nothing", TWO_FILES, b"", "*.tsv: no file there; see prepare -> train", train="*.tsv"),
    stops("glob-with-a-slip", TWO_FILES, b"", "**.csv", train="**.csv"),
    stops("folder-with-a-readme", {"t/a.csv": CSV_GOOD, "t/README.md": b"# a"}, b"", "t/README.md: ", train="t"),
    stops("folder-with-hidden-files-only", {"t/.keep": b""}, b"", "t: no file there", train="t"),
    stops(
        "file-missing",
        TWO_FILES,
        b"",
        "c.csv: no such file; see prepare -> validation",
        train="a.csv",
        validation="c.csv",
    ),
    stops("folder-missing", TWO_FILES, b"", "nowhere/a.csv: no such file; see prepare -> train", train="nowhere/a.csv"),
    Case("folder-with-a-hidden-file", {"t/a.csv": CSV_GOOD, "t/.b/c": b"\0"}, GOOD, params={"train": "t"}),
]

ALIGNED = {"train": {"facts": "s", "text": "t"}}
G_SOURCES, G_TARGETS = (lines(*texts) for texts in zip(*GOOD, strict=True))


def aligned(name: str, source: Text, target: Text, reason: str) -> Case:
    """Bad texts on the second line."""
    files = {"s": lines("g1", source, "g2", "g3"), "t": lines("G1", target, "G2", "G3")}
    return Case(f"aligned-{name}", files, GOOD, [("s, t", 2, reason)], params=ALIGNED)


ALIGNED_FILES = [
    aligned("empty-source", "", "B", "empty_source"),
    aligned("empty-target", "b", " ", "empty_target"),
    aligned("both-texts-empty", "", "", "empty_target"),
    aligned("latin-1", b"\xe9", "B", "not_decodable"),
    Case(
        "aligned-stray-returns",
        {"s": lines("g1", "g2", "b\rb\u2028\x85\x0c", "g3"), "t": in_text("B\r").replace(b"\n", b"\r\n")},
        [*GOOD[:2], ("b\rb\u2028\x85\x0c", "B"), GOOD[2]],
        params={**ALIGNED, **NO_CLEANING},
    ),
    Case(
        "aligned-marks-and-no-last-line-end",
        {"s": b"\xef\xbb\xbf" + G_SOURCES, "t": G_TARGETS[:-1]},
        GOOD,
        params=ALIGNED,
    ),
    Case(
        "aligned-utf-16-and-gzip",
        {"s": G_SOURCES.decode().encode("utf-16"), "t.gz": gzip.compress(G_TARGETS)},
        GOOD,
        params={"train": {"facts": "s", "text": "t.gz"}},
    ),
    stops("aligned-lengths-differ", {"s": G_SOURCES, "t": G_TARGETS + b"G4\n"}, b"", "t 4", **ALIGNED),
    stops("aligned-one-empty", {"s": G_SOURCES, "t": b""}, b"", "t 0", **ALIGNED),
    stops("aligned-both-empty", {"s": b"", "t": b""}, b"", "no examples for train", **ALIGNED),
    stops("aligned-file-missing", {"s": G_SOURCES}, b"", "t: no such file; see prepare -> train", **ALIGNED),
    stops(
        "aligned-no-such-column",
        {"s": G_SOURCES, "t": G_TARGETS},
        b"",
        "no column text among the aligned files",
        train={"facts": "s", "target": "t"},
    ),
]

CASES = [*CSV, *JSON_LINES, *JSON, *PARQUET, *TEXT, *CHAT_FORMS, *COMPRESSED, *PLACES, *ALIGNED_FILES]


def run_on(folder: Path, files: Mapping[str, bytes], params: Mapping[str, Any]) -> Path:
    """Runs the stage on these files. The first one is train. Validation and test have one good row each. Returns the
    folder of the result."""
    is_dialog = params.get("reading", {}).get("format") == "dialog"
    held_out = {f"held_{split}.{'txt' if is_dialog else 'jsonl'}": held(split, is_dialog) for split in SPLITS[1:]}
    raw, target = folder / "raw", folder / "out"
    for name, content in {**files, **held_out}.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(content)
    names = zip(SPLITS, [next(iter(files)), *held_out], strict=True)
    limits = {"max_rejected_fraction": 0.9, "max_duplicate_fraction": 0.9}
    ours: dict[str, Any] = {**{split: name for split, name in names}, "limits": limits}
    run(Prepare.model_validate(merged(merged(usual(), ours), params)), 1, raw, target)
    return target


def prepare(folder: Path, files: Mapping[str, bytes], params: Mapping[str, Any]) -> Prepared:
    target = run_on(folder, files, params)
    examples = {split: list(read_examples(target / split)) for split in SPLITS}
    questions = {split: [question for own in examples[split] for question in own.questions()] for split in SPLITS}
    rows = {split: [(own.source, text) for own in questions[split] for text in own.references] for split in SPLITS}
    rejected, stats = list(read_jsonl(target / "report/rejected.jsonl")), read_json(target / "report/stats.json")
    assert stats["rows_read"] == stats["rows_kept"] + stats["rows_rejected"]
    assert stats["rows_rejected"] == len(rejected) == sum(stats["rejected"].values())
    assert stats["lines"]["read"] == sum(count for name, count in stats["lines"].items() if name != "read")
    assert all(entry["detail"] and "\n" not in entry["detail"] for entry in rejected)
    return Prepared(rows["train"], examples["train"], rejected, stats, len(rows["validation"] + rows["test"]))


def held(split: str, is_dialog: bool) -> bytes:
    """A row that is good with any params. Its byte order mark says that it is UTF-8."""
    values = {"facts": split, "text": split.upper(), "a": {"b": [split]}, "at": "2024-01-01"}
    messages = [said("user", split), said("assistant", split.upper())]
    row = f"1 {split}\t{split.upper()}" if is_dialog else json.dumps({**values, "messages": messages})
    return b"\xef\xbb\xbf" + lines(row)


def check_message(error: UserError, expected: str, files: Iterable[str] = ()) -> None:
    """Each line of the message is one line, and not too long. The message names the place."""
    for line in error.lines:
        assert line.strip()
        assert line.splitlines() == [line]
        assert len(line) < 4000
    assert expected in str(error)
    assert any(place in str(error) for place in ("prepare", *(Path(name).name for name in files)))


def short(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """So that pytest can show the difference between texts of 20 MB."""
    return [tuple(text if len(text) < 300 else f"{text[:9]}… {hash(text)}" for text in row) for row in rows]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_row_is_rejected_and_a_bad_file_is_named(tmp_path: Path, case: Case) -> None:
    try:
        prepared = prepare(tmp_path, case.files, case.params)
    except UserError as error:
        if case.stop is None and not case.may_stop:
            raise
        check_message(error, case.stop or next(iter(case.files)), case.files)
        return
    assert case.stop is None, "the stage should have stopped"
    assert [(own["file"], own["line"], own["reason"]) for own in prepared.rejected] == list(case.rejected)
    assert short(prepared.train) == short(case.kept)
    assert prepared.held_out == 2


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("good", [True, False], ids=["kept", "rejected"])
@pytest.mark.parametrize("depth", [200, 400, 800, 900, 940, 960, 980, 3000])
def test_nesting_near_the_limit_of_recursion_loses_no_row(tmp_path: Path, ending: str, good: bool, depth: int) -> None:
    """A nesting that one step can handle may be too deep for the next one."""
    row = f'{{"facts": "b", "text": "{"B" if good else ""}", "c": {"[" * depth}{"]" * depth}}}'
    content = in_json(row) if ending == "json" else in_jsonl(row)
    try:
        prepared = prepare(tmp_path, {f"t.{ending}": content}, {})
    except UserError as error:
        check_message(error, f"t.{ending}: ", [f"t.{ending}"])
        return
    assert prepared.stats["rows_read"] == 6
    assert [row for row in prepared.train if row != ("b", "B")] == GOOD
    assert ("b", "B") not in prepared.train or good


def test_many_long_documents_pass_through_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """28 MB of text, of which 1 MB may be fetched at once."""
    monkeypatch.setattr(duplicates_and_splits, "_FETCHED_CHARACTERS", 1 << 20)
    rows = [(f"b{number}", f"{number}" + LONG[:400_000]) for number in range(70)]
    files = {"t.jsonl": in_jsonl(*(record(*row) for row in rows))}
    tracemalloc.start()
    try:
        target = run_on(tmp_path, files, {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 14_000_000
    train = [(own.source, *own.targets) for own in read_examples(target / "train")]
    assert short(train) == short([*GOOD[:2], *rows, GOOD[2]])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param({"reading": {"encoding": "utf-9"}}, "reading -> encoding: `utf-9` is no encoding", id="encoding"),
        pytest.param({"reading": {"encoding": "hex"}}, "reading -> encoding: `hex`", id="encoding-of-no-text"),
        pytest.param({"reading": {"format": "xml"}}, "reading -> format", id="format"),
        pytest.param({"reading": {"colums": ["a"]}}, "did you mean columns?", id="misspelt"),
        pytest.param({"source": "{facts"}, "prepare -> source: ", id="brace-not-closed"),
        pytest.param({"source": "facts}"}, "prepare -> source: ", id="brace-not-opened"),
        pytest.param({"target": "{}"}, "write the name of a column into the braces", id="no-name"),
        pytest.param({"target": "text"}, "names no column", id="no-column"),
        pytest.param({"target": None}, "give either `target`", id="no-target"),
        pytest.param({"messages": "messages"}, "give either `target`", id="target-and-messages"),
        pytest.param({"train": "../t.csv"}, "`../t.csv` is outside the scenario's folder", id="outside"),
        pytest.param({"test": {"facts": "/s", "text": "t"}}, "`/s` is outside the scenario's folder", id="absolute"),
        pytest.param({"lengths": {"source_words": {"min": 3, "max": 2}}}, "min 3 is above max 2", id="min-above-max"),
        pytest.param({"lengths": {"source_words": {"min": -1}}}, "lengths -> source_words -> min", id="below-zero"),
        pytest.param({"limits": {"max_leak_fraction": 1.0}}, "limits -> max_leak_fraction", id="limit-of-one"),
        pytest.param({"split": {"by": "group"}}, "by: group needs `field`", id="group-without-field"),
        pytest.param({"split": {"field": "at"}}, "`field` is not read with by: hash", id="hash-with-field"),
        pytest.param({"split": {"test_fraction": 0.95}}, "leave nothing to train on", id="no-train"),
        pytest.param({"duplicates": {"near": 0.1}}, "duplicates -> near", id="near"),
    ],
)
def test_bad_params_are_named_before_a_file_is_read(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    params = tmp_path / "params.yaml"
    values = YAML(typ="safe", pure=True).load(PARAMS)
    section, part = values["prepare"], values["scenarios"]["data_to_text"]["prepare"]
    for name, value in overrides.items():
        home = section if name in section else part
        home[name] = merged(home[name], value) if name in section else value
    with params.open("w") as file:
        json.dump(values, file)
    with pytest.raises(UserError) as caught:
        read_section(Prepare, params)
    check_message(caught.value, message)


# with lone surrogates, NULs, quotes and all line ends
anything = st.text(st.one_of(st.characters(exclude_categories=()), st.sampled_from('"\n\r\t,\0\u2028{}\\')), max_size=8)
WHITESPACE = ["keep", "strip"]


@dataclass(frozen=True)
class Hostile:
    """A form of files: how they are read, how they begin and end, and parts of usual lines. Each # becomes a mark."""

    params: Mapping[str, Any]
    start: bytes = b""
    end: bytes = b""
    pieces: Sequence[bytes] = ()
    most_odd: int = 30  # pieces of any bytes; a single one breaks a whole file of json


def in_table(delimiter: str) -> list[bytes]:
    return [
        as_bytes(text.replace(",", delimiter)) for text in ("f#,t#\n", '"f#",t#\n', 'f#,"t#\n', 'f#,t#"\n', "f#,\n")
    ]


IN_JSON = [
    as_bytes(record("f#", "t#")),
    b'{"facts": "f#",\n"text": "t#"}',
    b'["f#", "t#"]',
    b'"f#"',
    b'{"facts": "\xff#", "text": 1e5}',
]
IN_TEXT = [b"f#\n", b"f# \r\n", b"\n", b" \n"]
IN_DIALOG = [b"1 f#\tt#\n", b"2 f#\n", b"f#\n", b"3 f#\t\n"]
HOSTILE = {
    "t.csv": Hostile({}, b"facts,text\n", b"", in_table(",")),
    "t.tsv": Hostile({}, b"facts\ttext\n", b"", in_table("\t")),
    "quoted.tsv": Hostile({"reading": {"quoted": True, "comment": "%"}}, b"facts\ttext\n", b"", in_table("\t")),
    "t.jsonl": Hostile(
        {}, as_bytes(record("f", "t")) + b"\n", b"", [piece + b"\n" for piece in (*IN_JSON, b'{"facts": "f#"')]
    ),
    "t.json": Hostile({}, b"[\n" + as_bytes(record("f", "t")), b"]", [b",\n" + piece for piece in IN_JSON], most_odd=1),
    "line.txt": Hostile(FREE_TEXT, b"f\n", b"", IN_TEXT),
    "paragraph.txt": Hostile({"reading": {"text_row": "paragraph"}, **FREE_TEXT}, b"f\n", b"", IN_TEXT),
    "file.txt": Hostile({"reading": {"text_row": "file", "skip_lines": 1}, **FREE_TEXT}, b"f\n", b"", IN_TEXT),
    "dialog.txt": Hostile(DIALOG, b"1 f\tt\n", b"", IN_DIALOG),
    "aligned.txt": Hostile({"train": {"facts": "aligned.txt", "text": "other.txt"}}, b"f\n", b"", IN_TEXT),
}
ONE_LINE_A_ROW = ("t.tsv", "t.jsonl", "line.txt", "aligned.txt")
MAY_LEAVE_OUT = ("quoted.tsv", "t.json", "dialog.txt")  # comments; other fields; turns after the last answer


def damaged_files(name: str, pieces: Sequence[bytes]) -> dict[str, bytes]:
    """The mark of a line is its number, such as <7>. Aligned files have another one with as many lines."""
    form = HOSTILE[name]
    lines = io.BytesIO(form.start + b"".join(pieces) + form.end)
    content = b"".join(line.replace(b"#", b"<%d>" % number) for number, line in enumerate(lines, start=1))
    return {name: content, **({"other.txt": b"t\n" * physical_lines(content)} if name == "aligned.txt" else {})}


def physical_lines(content: bytes) -> int:
    return content.count(b"\n") + (not content.endswith(b"\n"))


def marks(value: Any) -> set[str]:
    """Those in a value that JSON can hold."""
    return set(re.findall(r"<\d+>", json.dumps(value)))


# many pieces a run: a run takes as long with one of them as with fifty
@pytest.mark.parametrize("name", HOSTILE)
@settings(max_examples=8, derandomize=True, report_multiple_bugs=False)
@given(data=st.data())
def test_the_lines_of_any_bytes_add_up(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Each line is in one row or in none, and no row has a line of another one."""
    form = HOSTILE[name]
    usual_pieces = data.draw(st.lists(st.sampled_from(form.pieces), min_size=10, max_size=50))
    odd = st.binary(max_size=12).filter(lambda piece: b"<" not in piece)
    odd_pieces = data.draw(st.lists(odd, max_size=form.most_odd))
    files = damaged_files(name, data.draw(st.permutations([*usual_pieces, *odd_pieces])))
    params = {"group_references": False, **form.params, **NO_CLEANING}
    try:
        prepared = prepare(tmp_path_factory.mktemp("any"), files, params)
    except UserError as error:
        check_message(error, "", files)
        return
    assert prepared.stats["lines"]["read"] == physical_lines(files[name]) + prepared.held_out
    assert prepared.stats["rows_kept"] == len(prepared.examples) + prepared.held_out
    kept = [marks(asdict(own)) for own in prepared.examples]
    rejected = [marks(entry["row"]) for entry in prepared.rejected]
    found = Counter(mark for row in (*kept, *rejected) for mark in row)
    assert set(found.values()) <= {1}
    if name not in MAY_LEAVE_OUT:
        assert found.keys() == marks(files[name].decode("latin-1"))
    if name in ONE_LINE_A_ROW:
        assert all(len(row) <= 1 for row in kept)


# many rows a run: a run takes as long with one row as with fifty
@settings(max_examples=10, derandomize=True)
@given(rows=st.lists(st.tuples(anything, anything), min_size=10, max_size=50), whitespace=st.sampled_from(WHITESPACE))
@example(rows=[("b\u2028", "\x85B"), ("\0", "\ud800"), ("b", "\ufeff")], whitespace="keep")
def test_no_text_is_lost_or_changed(tmp_path_factory: pytest.TempPathFactory, rows: list[Row], whitespace: str) -> None:
    content = in_jsonl(*(record(*row) for row in rows))
    clean = {**NO_CLEANING["clean"], "whitespace": whitespace}
    prepared = prepare(tmp_path_factory.mktemp("any"), {"t.jsonl": content}, {"clean": clean})
    found = Counter(prepared.train)
    for entry in prepared.rejected:
        # of a copy of another row, the report has the texts; of any other row, the values as read
        row = entry["row"]
        found[(row["source"], row["targets"][0]) if "source" in row else (row["facts"], row["text"])] += 1
    read = [*GOOD[:2], *rows, GOOD[2]]
    if whitespace == "strip":
        read, found = [strip(row) for row in read], Counter(map(strip, found.elements()))
    assert found == Counter(read)


def strip(row: Row) -> Row:
    return row[0].strip(), row[1].strip()
