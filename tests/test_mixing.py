"""Further data sets in train: how many of their rows, which, and where."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stages.lib.core.process import UserError
from stages.lib.records.examples import SPLITS
from tests.test_prepare import (
    HELD_OUT,
    HELD_OUT_ROWS,
    Prepared,
    as_csv,
    as_jsonl,
    build_params,
    prepare,
    prepare_three,
    prepare_train,
)

OWN = [(f"question {n}", f"answer {n}") for n in range(60)]
TALES = {"files": "tales.jsonl", "target": "{tale}"}


def tales(count: int) -> str:
    return as_jsonl([{"tale": f"Once upon a time, number {n}."} for n in range(count)])


def mixed(folder: Path, share: float, count: int = 100, **overrides: Any) -> Prepared:
    """60 own examples of train, and a file of tales, of which so large a share of train is wanted."""
    files = {"train.csv": as_csv(OWN), "tales.jsonl": tales(count), **HELD_OUT}
    held_out = {"validation": "held_validation.jsonl", "test": "held_test.jsonl"}
    return prepare(folder, files, **{**held_out, "mix": {"tales": {**TALES, "share": share}}, **overrides})


def tales_of(found: Prepared) -> list[str]:
    return [own.targets[0] for own in found.splits["train"] if not own.source]


def test_the_share_is_that_of_all_examples_of_train_and_nothing_else_changes(tmp_path: Path) -> None:
    found = mixed(tmp_path / "with", share=0.25)
    assert len(found.splits["train"]) == 80
    assert len(set(tales_of(found))) == 20
    without = prepare_train(tmp_path / "without", "train.csv", as_csv(OWN))
    assert [own for own in found.splits["train"] if own.source] == without.splits["train"]
    assert [found.splits[split] for split in SPLITS[1:]] == [without.splits[split] for split in SPLITS[1:]]


def test_every_row_is_counted(tmp_path: Path) -> None:
    stats = mixed(tmp_path, share=0.25).stats
    assert stats["mixed"] == {"tales": {"rows": 100, "examples": 20, "rows_not_drawn": 80}}
    assert stats["rows_read"] == 60 + 100 + HELD_OUT_ROWS
    assert (stats["rows_kept"], stats["rows_rejected"]) == (60 + 20 + HELD_OUT_ROWS, 0)
    assert (stats["examples"]["train"], stats["references"]["train"]) == (80, 80)
    lines = stats["lines"]
    assert lines["not_drawn"] == 80
    assert lines["read"] == sum(count for name, count in lines.items() if name != "read")
    assert len({own.id for own in mixed(tmp_path, share=0.25).splits["train"]}) == 80


def test_the_first_examples_have_the_share_too(tmp_path: Path) -> None:
    """Trials of tuning train on the first examples."""
    train = mixed(tmp_path, share=0.25).splits["train"]
    assert sum(not own.source for own in train[:8]) == sum(not own.source for own in train[-8:]) == 2


def test_new_own_rows_at_the_end_leave_the_order_before_them(tmp_path: Path) -> None:
    """So DVC uploads only the last shards again."""
    sets = {
        name: {**TALES, "files": f"{name}.jsonl", "share": share} for name, share in (("one", 0.3), ("other", 0.13))
    }
    first, second = (
        prepare(
            tmp_path / f"{count}",
            {"train.csv": as_csv(own), "one.jsonl": tales(50), "other.jsonl": as_jsonl(other), **HELD_OUT},
            validation="held_validation.jsonl",
            test="held_test.jsonl",
            mix=sets,
        ).splits["train"]
        for count in (60, 67)
        for own in [[(f"question {n}", f"answer {n}") for n in range(count)]]
        for other in [[{"tale": f"Another one, {n}."} for n in range(50)]]
    )
    assert second[:100] == first[:100]
    assert len(first) == 60 + 32 + 14


def test_the_seed_decides_which_rows_are_drawn(tmp_path: Path) -> None:
    first, again, other = (
        tales_of(mixed(tmp_path / name, share=0.25, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert set(first) != set(other)
    # at random: neither the first rows of the file, nor in its order
    numbers = [int(found[0]) for tale in first if (found := re.search(r"\d+", tale))]
    assert numbers != sorted(numbers)
    assert max(numbers) > 20


def test_too_few_rows_are_repeated_evenly_and_the_user_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = mixed(tmp_path, share=0.5, count=25)
    counts = Counter(tales_of(found))
    assert len(counts) == 25
    assert sorted(counts.values()) == [2] * 15 + [3] * 10
    assert len({own.id for own in found.splits["train"]}) == 120
    assert found.stats["mixed"] == {"tales": {"rows": 25, "examples": 60, "rows_not_drawn": 0}}
    printed = capsys.readouterr().out
    assert "prepare: mix -> tales: 60 examples from 25 rows, each taken about 2.4 times, spread over train" in printed


def test_several_sets_have_their_shares_together(tmp_path: Path) -> None:
    more = as_csv([(f"other question {n}", f"other answer {n}") for n in range(50)])
    found = prepare(
        tmp_path,
        {"train.csv": as_csv(OWN), "tales.jsonl": tales(100), "more/more.csv": more, **HELD_OUT},
        validation="held_validation.jsonl",
        test="held_test.jsonl",
        mix={
            "tales": {**TALES, "share": 0.3},
            "more": {"files": "more", "source": "{facts}", "target": "{text}", "share": 0.3},
        },
    )
    kinds = Counter((own.source or "tale").rpartition(" ")[0] for own in found.splits["train"])
    assert kinds == {"question": 60, "other question": 45, "": 45}


def test_what_validation_or_test_also_holds_leaves_train(tmp_path: Path) -> None:
    rows = [("a", "A"), ("v", "V"), ("t", "T"), ("b", "B"), ("own", "Own")]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/more.csv").write_text(as_csv(rows))
    more = {"files": "more.csv", "source": "{facts}", "target": "{text}", "share": 0.5}
    found = prepare_three(tmp_path, [("own", "Own"), ("p", "P")], [("v", "V")], [("t", "T")], mix={"more": more})
    assert sorted(own.source for own in found.splits["train"]) == ["a", "b", "own", "p"]
    assert found.reasons() == [
        ("more.csv", 3, "in_validation"),
        ("more.csv", 4, "in_test"),
        ("more.csv", 6, "duplicate"),
    ]


def test_mixed_rows_are_never_split_off_and_need_no_field_of_the_split(tmp_path: Path) -> None:
    rows = [{"facts": f"question {n}", "text": f"answer {n}", "author": f"author {n % 20}"} for n in range(60)]
    files = {"train.jsonl": as_jsonl(rows), "tales.jsonl": tales(100)}
    by = {"by": "group", "field": "author", "validation_fraction": 0.2, "test_fraction": 0.2}
    mix = {"tales": {**TALES, "share": 0.5}}
    found = prepare(tmp_path, files, split=by, metadata=["author"], mix=mix)
    assert all(own.source and own.metadata for split in SPLITS[1:] for own in found.splits[split])
    assert len(tales_of(found)) == sum(bool(own.source) for own in found.splits["train"])


@pytest.mark.parametrize("by", ["stratum", "order"])
def test_other_ways_to_split_divide_the_own_rows_alone(by: str, tmp_path: Path) -> None:
    rows = [
        {"facts": f"question {n}", "text": f"answer {n}", "key": str(n % 2 if by == "stratum" else n)}
        for n in range(60)
    ]
    files = {"train.jsonl": as_jsonl(rows), "tales.jsonl": tales(100)}
    split = {"by": by, "field": "key", "validation_fraction": 0.2, "test_fraction": 0.2}
    with_tales = prepare(tmp_path / "a", files, split=split, mix={"tales": {**TALES, "share": 0.5}})
    without = prepare(tmp_path / "b", files, split=split)
    assert [with_tales.splits[name] for name in SPLITS[1:]] == [without.splits[name] for name in SPLITS[1:]]
    assert [own for own in with_tales.splits["train"] if own.source] == without.splits["train"]


def test_mixed_rows_are_cleaned_and_limited_like_others(tmp_path: Path) -> None:
    lengths = {
        "source_characters": {"min": None, "max": None},
        "source_words": {"min": None, "max": None},
        "target_characters": {"min": None, "max": 40},
        "target_words": {"min": None, "max": None},
    }
    long = as_jsonl([{"tale": "  A short &amp; sweet tale.  "}, {"tale": "A long tale. " * 9}, {"other": "no tale"}])
    files = {"train.csv": as_csv(OWN), "tales.jsonl": long, **HELD_OUT}
    found = prepare(
        tmp_path,
        files,
        validation="held_validation.jsonl",
        test="held_test.jsonl",
        lengths=lengths,
        mix={"tales": {**TALES, "share": 0.01}},
    )
    assert tales_of(found) == ["A short & sweet tale."]
    assert found.reasons() == [("tales.jsonl", 2, "too_long"), ("tales.jsonl", 3, "missing_field")]


def test_mixed_labels_must_be_labels(tmp_path: Path) -> None:
    labels = {"good": "good", "bad": "bad"}
    reviews = as_csv([(f"review {n}", ("good", "bad")[n % 2]) for n in range(20)])
    more = as_jsonl([{"review": "fine", "mark": "good"}, {"review": "so so", "mark": "medium"}])
    own = {"files": "more.jsonl", "source": "{review}", "target": "{mark}", "share": 0.05}
    found = prepare(tmp_path, {"train.csv": reviews, "more.jsonl": more}, labels=labels, mix={"more": own})
    assert found.reasons() == [("more.jsonl", 2, "unknown_label")]
    assert "fine" in found.sources("train")


def test_conversations_are_mixed_with_conversations(tmp_path: Path) -> None:
    def talk(question: str) -> dict[str, Any]:
        return {"talk": [{"role": "user", "content": question}, {"role": "assistant", "content": f"{question}!"}]}

    files = {
        "train.jsonl": as_jsonl([talk(f"own {n}") for n in range(40)]),
        "more.jsonl": as_jsonl([{"turns": talk(f"more {n}")["talk"]} for n in range(40)]),
    }
    found = prepare(
        tmp_path,
        files,
        source=None,
        target=None,
        messages="talk",
        mix={"more": {"files": "more.jsonl", "messages": "turns", "share": 0.5}},
    )
    firsts = {split: Counter(own.turns[0].text.split()[0] for own in found.splits[split]) for split in SPLITS}
    assert firsts["train"]["more"] == firsts["train"]["own"] > 10
    assert "more" not in firsts["validation"] + firsts["test"]
    assert found.stats["references"]["train"] == len(found.splits["train"])


def test_the_preview_shows_some(tmp_path: Path) -> None:
    found = mixed(tmp_path, share=0.02, count=3)
    page = (found.folder / "report/preview.md").read_text()
    assert page.count("Once upon a time") >= 1
    assert "Some of mix -&gt; tales" in page or "Some of mix -> tales" in page


def test_missing_files_are_named_together_with_their_parameter(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        prepare(tmp_path, HELD_OUT, train="no.csv", mix={"tales": {**TALES, "share": 0.5}})
    assert [re.sub(r"^\S*/", "", line) for line in error.value.lines] == [
        "no.csv: no such file; see prepare -> train of the scenario",
        "tales.jsonl: no such file; see prepare -> mix -> tales of the scenario",
    ]


def test_a_set_without_a_usable_row_is_a_mistake(tmp_path: Path) -> None:
    files = {"train.csv": as_csv(OWN), "tales.jsonl": as_jsonl([{"tale": " "}])}
    with pytest.raises(UserError, match="prepare: mix -> tales: none of its rows can be used; see "):
        prepare(tmp_path, files, mix={"tales": {**TALES, "share": 0.5}})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"mix": {"a": {"files": "a.csv", "share": 0.5}}},
            "mix -> a: the scenario has no conversations; give `target`",
        ),
        ({"mix": {"a": {**TALES, "share": 0.5}, "b": {**TALES, "share": 0.5}}}, "mix: the shares leave nothing"),
        ({"mix": {"a": {**TALES, "share": 0.5}}, "labels": {"x": "x", "y": "y"}}, "mix -> a: a label answers a source"),
        (
            {
                "mix": {"a": {**TALES, "share": 0.5}},
                "duplicates": {"compare": "source", "in_train": "drop", "near": None},
            },
            "mix -> a: with duplicates -> compare: source",
        ),
        ({"mix": {"a": {**TALES, "files": "../a.csv", "share": 0.5}}}, "outside the scenario's folder"),
        ({"mix": {"a": {**TALES, "target": "tale", "share": 0.5}}}, "`tale` names no column"),
        ({"mix": {"a": {**TALES, "share": 1.0}}}, "less than 1"),
    ],
)
def test_what_does_not_go_together_is_told(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(line)):
        build_params(**changes)
