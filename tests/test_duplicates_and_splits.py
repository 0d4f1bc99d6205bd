"""Conversations that share turns: growing talks, and answers that train and test have in common; times of rows; and
what the account says of them."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.ingest.duplicates_and_splits import RowDatabase
from stages.lib.ingest.known_ngrams import KnownNgrams, write_ngrams
from stages.lib.ingest.row_cleaner import Report, RowBatch, RowCleaner
from stages.lib.ingest.rows import Row
from stages.lib.overlap.hashed_ngrams import ngrams, words_of
from stages.lib.params.prepare import Prepare
from stages.lib.records.chats import answer_places
from stages.lib.records.examples import SPLITS, Example, Split
from tests.build import section

Talk = Sequence[str]  # what user and assistant say, in turns


@dataclass
class Decided:
    database: RowDatabase
    splits: dict[Split, list[Example]]
    rejected: list[dict[str, Any]]
    reports: list[Report] = field(default_factory=list)

    def reasons(self) -> list[tuple[int, str]]:
        return [(row["line"], row["reason"]) for row in self.rejected]

    def learned(self, split: Split = "train") -> list[list[str]]:
        """Of each conversation, the answers with loss."""
        return [[own.turns[place].text for place in answer_places(own.turns)] for own in self.splits[split]]

    def talks(self, split: Split) -> set[str]:
        """The first questions."""
        return {own.turns[0].text for own in self.splits[split]}


def build_params(**overrides: Any) -> Prepare:
    return Prepare.model_validate({**section(Prepare).model_dump(), **overrides})


def decide(folder: Path, rows: Mapping[Split, list[dict[str, Any]]], batch_rows: int = 3, **overrides: Any) -> Decided:
    """Cleans rows of each split, in small batches, and decides about them."""
    given_files = {split: f"{split}.jsonl" if rows.get(split) else None for split in ("validation", "test")}
    params = build_params(**given_files, **overrides)
    folder.mkdir(exist_ok=True)
    cleaner, number, first, reports = RowCleaner(params, folder), 0, 0, []
    for origin, split in enumerate(SPLITS):
        own = [Row(line, values) for line, values in enumerate(rows.get(split, []), start=1)]
        for start in range(0, len(own), batch_rows):
            batch = RowBatch(number, first, origin, split, own[start : start + batch_rows])
            reports.append(cleaner(batch))
            number, first = number + 1, first + len(batch.rows)
    database = RowDatabase(folder, params, threads=1)
    database.drop_duplicates()
    database.assign_splits()
    database.drop_leaks()
    database.drop_beginnings()
    database.drop_near_duplicates()
    rejected = list(database.rejected_rows([*SPLITS]))
    return Decided(database, {split: list(database.examples(split)) for split in SPLITS}, rejected, reports)


CHATS: dict[str, Any] = {"source": None, "target": None, "group_references": False, "messages": "talk"}


def conversation(talk: Talk, without_loss: Sequence[int] = ()) -> dict[str, Any]:
    """`without_loss` are numbers of turns."""
    return {
        "talk": [
            {"role": "assistant" if n % 2 else "user", "content": text} | ({"weight": 0} if n in without_loss else {})
            for n, text in enumerate(talk)
        ]
    }


def decide_talks(
    folder: Path, train: Sequence[Talk], test: Sequence[Talk] = (), validation: Sequence[Talk] = (), **overrides: Any
) -> Decided:
    rows: dict[Split, list[dict[str, Any]]] = {
        "train": list(map(conversation, train)),
        "validation": list(map(conversation, validation)),
        "test": list(map(conversation, test)),
    }
    return decide(folder, rows, **CHATS | overrides)


def talk(name: str, answers: int) -> list[str]:
    return [f"{name} {kind} {n}" for n in range(answers) for kind in ("question", "answer")]


OTHER = [talk("v", 1)]
LONG = talk("a", 4)
OTHER_ROWS = [conversation(OTHER[0]) | {"tools": []}]

# ---- answers that train and test have in common


@pytest.mark.parametrize(
    ("train", "test", "learned", "reasons"),
    [
        pytest.param([LONG[:2]], [LONG], [], [(1, "in_test")], id="train-is-the-beginning"),
        pytest.param([LONG], [LONG[:2]], [["a answer 1", "a answer 2", "a answer 3"]], [], id="test-is-the-beginning"),
        pytest.param(
            [[*LONG[:4], "else?", "yes"]], [[*LONG[:4], "bye", "bye!"]], [["yes"]], [], id="both-go-on-otherwise"
        ),
        pytest.param([[t.upper() for t in LONG[:4]]], [LONG], [], [(1, "in_test")], id="differs-in-case"),
        pytest.param([["x", *LONG[1:2]]], [LONG], [["a answer 0"]], [], id="other-question"),
        pytest.param([[LONG[0], "another"]], [LONG], [["another"]], [], id="other-answer"),
        pytest.param([["x", "y", *LONG[:2]]], [LONG], [["y", "a answer 0"]], [], id="other-turns-before"),
    ],
)
def test_an_answer_behind_the_same_turns_is_learned_only_if_no_other_split_asks_for_it(
    tmp_path: Path, train: list[Talk], test: list[Talk], learned: list[list[str]], reasons: list[tuple[int, str]]
) -> None:
    decided = decide_talks(tmp_path, train, test, OTHER)
    assert decided.learned() == learned
    assert [own.targets for own in decided.splits["train"]] == learned
    assert decided.reasons() == reasons
    assert decided.learned("test") == [own[1::2] for own in test]
    assert decided.database.counts()["train"]["references"] == sum(map(len, learned))


def with_tools(*names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return conversation(LONG[:2]) | {"tools": tools}


@pytest.mark.parametrize(("other", "is_same"), [(["f"], True), (["g"], False), (["f", "g"], False), ([], False)])
def test_tools_are_a_part_of_what_the_model_reads(tmp_path: Path, other: list[str], is_same: bool) -> None:
    params: dict[str, Any] = CHATS | {"conversation": {"tools": "tools"}}
    train, test = with_tools("f"), with_tools(*other)
    leaked = decide(tmp_path / "leaked", {"train": [train], "test": [test], "validation": [test]}, **params)
    assert leaked.reasons() == ([(1, "in_test")] if is_same else [])
    twice = decide(tmp_path / "twice", {"train": [train, test], "test": OTHER_ROWS, "validation": OTHER_ROWS}, **params)
    assert twice.reasons() == ([(2, "duplicate")] if is_same else [])


@pytest.mark.parametrize("without_loss", [[[1], []], [[], [1]], [[1, 3], [1]]])
def test_of_equal_talks_that_with_most_loss_stays(tmp_path: Path, without_loss: list[list[int]]) -> None:
    train = [conversation(LONG[:6], without) for without in without_loss]
    decided = decide(tmp_path, {"train": train, "test": OTHER_ROWS, "validation": OTHER_ROWS}, **CHATS)
    (learned,) = decided.learned()
    assert len(learned) == 3 - min(map(len, without_loss))
    assert [reason for _, reason in decided.reasons()] == ["duplicate"]


def test_the_turns_of_an_answer_without_loss_stay(tmp_path: Path) -> None:
    (example,) = decide_talks(tmp_path, [LONG], [LONG[:4]], OTHER).splits["train"]
    assert [turn.text for turn in example.turns] == LONG
    assert [turn.has_loss for turn in example.turns if turn.role == "assistant"] == [False, False, True, True]


def test_the_place_of_the_same_answer_is_named_and_test_goes_before_validation(tmp_path: Path) -> None:
    train = [LONG[:2], talk("b", 1)]
    decided = decide_talks(tmp_path, train, [talk("t", 1), LONG], [LONG[:4], [*train[1], "so?", "so"]])
    assert decided.reasons() == [(1, "in_test"), (2, "in_validation")]
    assert [row["detail"].rpartition("to ")[2] for row in decided.rejected] == ["test line 2", "validation line 2"]
    assert [turn["text"] for turn in decided.rejected[0]["row"]["turns"]] == train[0]


def test_an_answer_that_test_does_not_ask_for_is_no_leak(tmp_path: Path) -> None:
    train, test = [conversation(LONG[:2])], [conversation(LONG, without_loss=[1])]
    decided = decide(tmp_path, {"train": train, "test": test, "validation": [conversation(OTHER[0])]}, **CHATS)
    assert decided.learned() == [["a answer 0"]]


def test_how_many_talks_begin_is_no_leak(tmp_path: Path) -> None:
    start = ["hi", "what can I do?"]
    train, test = ([[*start, *talk(f"{split} {n}", 1)] for n in range(20)] for split in ("train", "test"))
    decided = decide_talks(tmp_path, [*train, start], test, OTHER)
    assert decided.learned()[:20] == [own[1::2] for own in train]
    overlaps = decided.database.overlaps()
    assert (overlaps["commonplace_answers_in_test"], overlaps["train_answers_in_test"]) == (21, 0)


@pytest.mark.parametrize(
    ("test", "is_leak"),
    [
        pytest.param([talk("a", n) for n in (1, 2, 3, 4)], True, id="one-growing-talk"),
        pytest.param([talk("a", 2)] * 5, True, id="copies"),
        pytest.param([talk("a", 1), [*talk("a", 1), "x", "y"]], True, id="two"),
        pytest.param([[*talk("a", 1), f"x{n}", "y"] for n in range(3)], False, id="three-talks"),
        pytest.param(
            [*([*talk("a", 1), f"x{n}", "y"] for n in range(3)), *(talk(f"t{n}", 1) for n in range(400))],
            True,
            id="three-of-many",
        ),
    ],
)
def test_only_different_talks_make_an_answer_commonplace(tmp_path: Path, test: list[Talk], is_leak: bool) -> None:
    decided = decide_talks(tmp_path, [talk("a", 1)], test, OTHER, batch_rows=100)
    assert decided.reasons() == ([(1, "in_test")] if is_leak else [])


def test_shared_answers_are_counted(tmp_path: Path) -> None:
    validation = [[*LONG[:2], "then?", "that"], talk("b", 2)]
    decided = decide_talks(tmp_path, [LONG, talk("b", 3), talk("c", 1)], [LONG[:4]], validation)
    overlaps = decided.database.overlaps()
    names = ("train_answers_in_test", "train_answers_in_validation", "validation_answers_in_test")
    assert [overlaps[name] for name in names] == [2, 2, 1]


# ---- growing talks


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("in_train", "rows_of_a_talk"), [("drop", 1), ("keep", 3)])
def test_a_growing_talk_is_in_one_split_and_one_group(
    tmp_path: Path, shuffled: bool, in_train: str, rows_of_a_talk: int
) -> None:
    rows = [talk(f"talk {n}", answers) for n in range(60) for answers in (1, 2, 4)]
    if shuffled:
        random.Random(1).shuffle(rows)
    duplicates = {**section(Prepare).duplicates.model_dump(), "in_train": in_train}
    decided = decide_talks(tmp_path, rows, batch_rows=50, duplicates=duplicates)
    names = [decided.talks(split) for split in SPLITS]
    assert all(names)
    assert sum(map(len, names)) == len(set.union(*names)) == 60
    for split in SPLITS:
        assert len(decided.splits[split]) == rows_of_a_talk * len(decided.talks(split))
        assert len({own.group for own in decided.splits[split]}) == len(decided.talks(split))
    assert sum(counts["examples"] for counts in decided.database.counts().values()) == 60 * rows_of_a_talk


def test_a_group_is_in_one_split_even_if_talks_grow_over_several(tmp_path: Path) -> None:
    talks = [(f"user {n % 7}", talk(f"talk {n // 3}", 1 + n % 3)) for n in range(90)]
    rows = [conversation(own) | {"user": user} for user, own in talks]
    split = {"by": "group", "field": "user", "validation_fraction": 0.3, "test_fraction": 0.3}
    duplicates = {**section(Prepare).duplicates.model_dump(), "in_train": "keep"}
    decided = decide(tmp_path, {"train": rows}, 50, **CHATS, split=split, metadata=["user"], duplicates=duplicates)
    users = [{own.metadata["user"] for own in decided.splits[name]} for name in SPLITS]
    assert sum(map(len, users)) == len(set.union(*users))
    assert {len({own.group for own in decided.splits[name]}) for name in SPLITS} == set(map(len, users))


def test_of_a_growing_talk_train_keeps_the_longest(tmp_path: Path) -> None:
    train = [LONG[:2], LONG[:6], LONG[:4], talk("b", 1), LONG[:6]]
    decided = decide_talks(tmp_path, train, [talk("t", 1)], OTHER)
    assert [own.turns[-1].text for own in decided.splits["train"]] == ["a answer 2", "b answer 0"]
    assert decided.reasons() == [(1, "prefix"), (3, "prefix"), (5, "duplicate")]
    assert decided.rejected[0]["detail"] == "begins train line 2"


def test_all_of_a_growing_talk_can_be_kept(tmp_path: Path) -> None:
    duplicates = {**section(Prepare).duplicates.model_dump(), "in_train": "keep"}
    train = [LONG[:2], LONG[:6], LONG[:4]]
    decided = decide_talks(tmp_path, train, [talk("t", 1)], OTHER, duplicates=duplicates)
    assert len(decided.splits["train"]) == 3


@pytest.mark.parametrize(
    ("shorter", "longer", "learned"),
    [
        pytest.param(
            (1, []), (3, [1]), [["a answer 0"], ["a answer 1", "a answer 2"]], id="only-the-shorter-learns-it"
        ),
        pytest.param((1, []), (3, [3]), [["a answer 0", "a answer 2"]], id="both-learn-it"),
        pytest.param((2, [1]), (3, [1]), [["a answer 1", "a answer 2"]], id="neither-learns-the-first"),
        pytest.param((1, []), (2, [1]), [["a answer 0"], ["a answer 1"]], id="each-learns-its-last"),
    ],
)
def test_no_answer_is_lost_with_the_beginning_of_a_talk(
    tmp_path: Path, shorter: tuple[int, list[int]], longer: tuple[int, list[int]], learned: list[list[str]]
) -> None:
    """Each has so many answers, and turns without loss."""
    train = [conversation(talk("a", answers), without_loss) for answers, without_loss in (shorter, longer)]
    rows: dict[Split, list[dict[str, Any]]] = {
        "train": train,
        "test": [conversation(talk("t", 1))],
        "validation": [conversation(OTHER[0])],
    }
    assert decide(tmp_path, rows, **CHATS).learned() == learned


def test_a_greeting_alone_does_not_tie_all_talks_together(tmp_path: Path) -> None:
    rows = [["hi", "hello"], *(["hi", "hello", *talk(f"{n}", 1)] for n in range(200))]
    decided = decide_talks(tmp_path, rows, batch_rows=100)
    assert all(decided.splits[split] for split in SPLITS)
    assert len({own.group for split in SPLITS for own in decided.splits[split]}) == 200


def test_talks_that_only_begin_alike_are_several(tmp_path: Path) -> None:
    rows = [["hi", "hello", *talk(f"{n}", 2)] for n in range(40)]
    decided = decide_talks(tmp_path, rows, batch_rows=100)
    assert decided.reasons() == []
    assert len({own.group for split in SPLITS for own in decided.splits[split]}) == 40


answers = st.lists(st.sampled_from("ab"), min_size=1, max_size=4)
talks = st.lists(answers, min_size=1, max_size=8)


@settings(max_examples=25, derandomize=True)
@given(train=talks, validation=talks, test=talks, batch_rows=st.integers(1, 9))
def test_train_learns_no_answer_that_is_asked_for(
    tmp_path_factory: pytest.TempPathFactory,
    train: list[list[str]],
    validation: list[list[str]],
    test: list[list[str]],
    batch_rows: int,
) -> None:
    """Compared with a simple search through all answers. Three talks or more may begin alike."""

    def asked(own: list[list[str]]) -> Counter[tuple[str, ...]]:
        return Counter(tuple(one[: n + 1]) for one in own for n in range(len(one)))

    folder = tmp_path_factory.mktemp("talks")
    splits = [
        [[text for answer in own for text in ("q", answer)] for own in part] for part in (train, test, validation)
    ]
    decided = decide_talks(folder, *splits, batch_rows=batch_rows)
    held_out = asked(test) + asked(validation)
    for own in decided.splits["train"]:
        spoken = tuple(turn.text for turn in own.turns[1::2])
        for number, turn in enumerate(own.turns[1::2]):
            assert not turn.has_loss or held_out[spoken[: number + 1]] in (0, *range(3, 99))
            assert turn.has_loss or held_out[spoken[: number + 1]]
    counts = decided.database.counts()
    for split in SPLITS:
        assert counts[split]["references"] == sum(len(own.targets) for own in decided.splits[split])
        assert counts[split]["examples"] == len(decided.splits[split])
    assert decided.database.rows_kept() + len(decided.rejected) == len(train) + len(validation) + len(test)


# ---- times


@pytest.mark.parametrize(
    "in_order",
    [
        pytest.param(["1704499200", "1704585600", "1704672000"], id="unix-seconds"),
        pytest.param(["1704499200000", "1704585600000", "1704672000000"], id="unix-milliseconds"),
        pytest.param(["2023", "2024", "2024.5"], id="years"),
        pytest.param(["20231230", "20240102", "20240106"], id="digits"),
        pytest.param(["20240106", "2024-01-07", "20240108"], id="dates-in-two-forms"),
        pytest.param(["2024-01-06T10:00Z", "2024-01-06T10:00-02:00", "2024-01-07"], id="iso-8601"),
        pytest.param(["20240106", "2024-01-06T10:00Z", "1704672000"], id="dates-and-unix-seconds"),
        pytest.param(["-5", "-1e-3", "99999999"], id="numbers-with-signs"),
    ],
)
def test_times_are_put_in_order(tmp_path: Path, in_order: list[str]) -> None:
    rows = [{"facts": f"source {n}", "text": "A", "when": text} for n, text in enumerate(in_order)][::-1]
    split = {"by": "order", "field": "when", "validation_fraction": 0.33, "test_fraction": 0.33}
    decided = decide(tmp_path, {"train": rows}, split=split)
    assert [decided.splits[split][0].source for split in SPLITS] == ["source 0", "source 1", "source 2"]


@pytest.mark.parametrize("text", ["soon", "nan", "2024-13-01", "1-2", "20240230", ""])
def test_what_is_no_time_is_told(tmp_path: Path, text: str) -> None:
    rows = [{"facts": f"a{text}", "text": "A", "when": text} for text in ("1", "2", "3", text)]
    decided = decide(tmp_path, {"train": rows}, split={"by": "order", "field": "when"})
    assert decided.reasons() == [(4, "no_time")]


# ---- known tests

KNOWN = "A known question of a public test, which has more words than thirteen; so it is found."


@pytest.mark.parametrize(
    ("values", "overrides"),
    [
        pytest.param({"facts": f"Say: {KNOWN}", "text": "A"}, {}, id="in-the-source"),
        pytest.param({"facts": "a", "text": ["A", KNOWN.upper()]}, {}, id="in-the-second-reference"),
        pytest.param(conversation(["a", "b", f"{KNOWN} c", "d"]), CHATS, id="in-a-turn"),
    ],
)
def test_rows_of_train_that_hold_a_known_test_are_rejected(
    tmp_path: Path, values: dict[str, Any], overrides: dict[str, Any]
) -> None:
    write_ngrams(tmp_path / "known.npy", [ngrams(words_of(KNOWN))])
    params = build_params(validation=None, test="test.jsonl", **overrides)
    cleaner = RowCleaner(params, tmp_path, KnownNgrams(tmp_path / "known.npy"))
    cleaner(RowBatch(0, 0, 0, "train", [Row(1, values)]))
    cleaner(RowBatch(1, 1, 1, "test", [Row(1, values)]))
    database = RowDatabase(tmp_path, params, threads=1)
    database.drop_duplicates()
    database.assign_splits()
    (row,) = database.rejected_rows(["train", "validation", "test"])
    assert (row["file"], row["reason"], row["row"]) == ("train", "in_known_test", values)
    assert "which has more words than" in row["detail"]
    assert len(list(database.examples("test"))) == 1


# ---- the account


def test_references_of_a_cut_document_are_counted_where_they_are(tmp_path: Path) -> None:
    rows = [{"text": ["a" * 50, "b" * 20, "c" * 10, "d" * 20]}]
    split = {"by": "order", "validation_fraction": 0.2, "test_fraction": 0.25}
    decided = decide(tmp_path, {"train": rows}, source=None, group_references=False, split=split)
    counts = decided.database.counts()
    for name in SPLITS:
        assert counts[name]["references"] == sum(len(own.targets) for own in decided.splits[name])


def test_lines_of_rows_add_up(tmp_path: Path) -> None:
    params = build_params(validation=None, test=None)
    rows = [{"facts": "a", "text": "A"}, {"facts": "b", "text": "B"}, {"facts": "A", "text": "a"}, {"facts": "c"}]
    batch = [Row(1 + 10 * n, values, lines=10**n) for n, values in enumerate(rows)]
    RowCleaner(params, tmp_path)(RowBatch(0, 0, 0, "train", batch))
    database = RowDatabase(tmp_path, params, threads=1)
    database.drop_duplicates()
    database.assign_splits()
    assert database.lines() == (11, 1100)


def test_fields_that_nothing_reads_and_what_was_left_out_are_reported(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"facts": "a", "text": ["A", ""], "more": 1},
        {"facts": "b", "text": "", "more": 2},
        {"facts": "c", "text": "C"},
    ]
    (report,) = decide(tmp_path, {"train": rows}).reports
    assert report.unread_fields == {"more": 2}
    assert report.notes == {"empty_references": 1}


@pytest.mark.parametrize(
    ("row", "overrides"),
    [
        ({"facts": "a", "text": ["A", ""]}, {"metadata": ["missing"]}),
        (conversation(["a", "b", "c", "d"], without_loss=[1, 3]), CHATS),
        ({"talk": [{"role": role, "content": "a"} for role in ("user", "user", "system")]}, CHATS),
        ({"talk": conversation(["a", "b", "c", "d"], without_loss=[1])["talk"]}, CHATS | {"metadata": ["missing"]}),
    ],
)
def test_a_rejected_row_leaves_no_notes(tmp_path: Path, row: dict[str, Any], overrides: dict[str, Any]) -> None:
    decided = decide(tmp_path, {"train": [row]}, **overrides)
    (report,) = decided.reports
    assert (report.read, len(list(decided.database.rejected_rows(["train"])))) == (1, 1)
    assert not report.notes
