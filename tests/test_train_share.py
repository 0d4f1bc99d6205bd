"""`prepare.train_share`: a part of train, for learning curves. Nothing else may change by it."""

from pathlib import Path
from typing import Any

import pytest

from stages.lib.core.process import UserError
from stages.lib.records.examples import SPLITS
from tests.test_mixing import mixed
from tests.test_prepare import Prepared, as_csv, as_jsonl, prepare, prepare_train

ROWS = [(f"question {n}", f"answer {n}") for n in range(200)]


def shared(folder: Path, share: float, rows: list[tuple[str, str]] = ROWS, **overrides: Any) -> Prepared:
    return prepare(folder / str(share), {"train.csv": as_csv(rows)}, train_share=share, **overrides)


def test_a_smaller_share_is_a_part_of_a_larger_one_in_whatever_order_the_rows_are(tmp_path: Path) -> None:
    whole, half, quarter = (shared(tmp_path, share) for share in (1.0, 0.5, 0.25))
    reversed_ = shared(tmp_path / "reversed", 0.25, ROWS[::-1])
    trains = [{own.id: own.targets for own in found.splits["train"]} for found in (quarter, half, whole)]
    assert trains[0].items() < trains[1].items() < trains[2].items()
    assert {own.id for own in reversed_.splits["train"]} == trains[0].keys()
    for train, share in zip(trains, (0.25, 0.5, 1.0), strict=True):
        assert abs(len(train) - share * len(trains[2])) <= 0.5
    for split in SPLITS[1:]:
        assert half.splits[split] == quarter.splits[split] == whole.splits[split]


def test_every_row_is_counted(tmp_path: Path) -> None:
    whole, half = (shared(tmp_path, share).stats for share in (1.0, 0.5))
    unused = whole["examples"]["train"] - half["examples"]["train"]
    assert "rows_unused" not in whole
    assert half["rows_unused"] == half["lines"]["not_drawn"] == unused > 0
    assert half["rows_read"] == half["rows_kept"] + half["rows_rejected"] + unused == len(ROWS)
    assert half["lines"]["read"] == whole["lines"]["read"]


def test_a_group_is_never_cut(tmp_path: Path) -> None:
    lines = [{"facts": f"q {n}", "text": f"a {n}", "page": f"p {n // 8}"} for n in range(400)]
    files = {"train.jsonl": as_jsonl(lines)}
    split = {"by": "group", "field": "page"}
    half = prepare(tmp_path, files, split=split, train_share=0.5)
    pages = [int(own.source.split()[1]) // 8 for own in half.splits["train"]]
    assert len(pages) == 8 * len(set(pages)) > 0


def test_two_rows_of_one_source_stay_together(tmp_path: Path) -> None:
    found = shared(tmp_path, 0.5, [(f"question {n % 100}", f"answer {n}") for n in range(200)])
    assert {len(own.targets) for own in found.splits["train"]} == {2}


def test_each_stratum_leaves_its_share(tmp_path: Path) -> None:
    labels = {"yes": "yes", "no": "no"}
    rows = [(f"question {n}", "no" if n % 10 else "yes") for n in range(400)]
    usual: dict[str, Any] = {"labels": labels, "split": {"by": "stratum", "field": "text"}}
    whole, half = (
        [own.targets[0] for own in shared(tmp_path, share, rows, **usual).splits["train"]] for share in (1.0, 0.5)
    )
    assert half.count("yes") == whole.count("yes") / 2
    assert half.count("no") == whole.count("no") / 2


def test_other_data_keep_their_share_of_train(tmp_path: Path) -> None:
    half = mixed(tmp_path, share=0.25, train_share=0.5)
    assert half.stats["examples"]["train"] == 40
    assert half.stats["mixed"]["tales"]["examples"] == 10
    read = half.stats["rows_kept"] + half.stats["rows_rejected"] + half.stats["rows_unused"]
    assert half.stats["rows_read"] == read + half.stats["mixed"]["tales"]["rows_not_drawn"]


def test_a_document_that_is_in_two_splits_stays_in_the_other(tmp_path: Path) -> None:
    """The end of train cuts the second document; of its two, train keeps the first."""
    texts = [f"{name} {number} " * 300 for number, name in enumerate(("first", "cut", "last"))]
    usual: dict[str, Any] = {"source": None, "target": "{text}", "split": {"by": "order"}}
    files = {"train.jsonl": as_jsonl([{"text": text} for text in texts])}
    whole, half = (prepare(tmp_path / str(share), files, train_share=share, **usual) for share in (1.0, 0.5))
    assert [own.targets[0].split()[0] for own in whole.splits["train"]] == ["first", "cut"]
    assert [own.targets[0].split()[0] for own in half.splits["train"]] == ["first"]
    assert half.splits["validation"] == whole.splits["validation"]
    assert half.stats["rows_kept"] == half.stats["rows_read"] == 3


def test_a_share_without_any_example_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prepare: no examples for train") as error:
        prepare_train(tmp_path, "train.csv", as_csv(ROWS[:10]), train_share=0.01)
    assert "train_share" in error.value.lines[0]
