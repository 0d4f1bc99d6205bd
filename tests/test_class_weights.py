"""The weights of labels in the loss, and the mistakes that can be made in naming them."""

from pathlib import Path
from typing import Any

import pytest

from stages.lib.core.process import UserError
from stages.lib.params.fit import Fit, check_class_weights
from stages.lib.records.tokenized_examples import Label, TokenizedDataset, TokenizedExample, write_tokenized_examples
from stages.lib.training.class_weights import class_weights
from tests.build import section

LABELS = [Label("bad", [5, 9, 2]), Label("fair", [7, 2]), Label("good", [8, 2])]


def train(folder: Path, *counts: int) -> TokenizedDataset:
    targets = [label.target_ids for label, count in zip(LABELS, counts, strict=True) for _ in range(count)]
    examples = [TokenizedExample(str(number), [1], target, [], 1) for number, target in enumerate(targets)]
    write_tokenized_examples(folder / "train", [examples])
    return TokenizedDataset(folder / "train")


def weights(folder: Path, value: Any, *counts: int) -> dict[tuple[int, ...], float] | None:
    return class_weights(section(Fit, class_weights=value), LABELS, train(folder, *counts))


def test_balanced_labels_weigh_the_same_together(tmp_path: Path) -> None:
    # scikit-learn: compute_class_weight("balanced", classes=[0, 1, 2], y=[0] * 6 + [1] * 3 + [2] * 1)
    expected = {(5, 9, 2): 10 / 18, (7, 2): 10 / 9, (8, 2): 10 / 3}
    assert weights(tmp_path, "balanced", 6, 3, 1) == pytest.approx(expected)


def test_a_label_without_examples_does_not_change_the_balance_of_the_others(tmp_path: Path) -> None:
    assert weights(tmp_path, "balanced", 6, 2, 0) == pytest.approx({(5, 9, 2): 8 / 12, (7, 2): 2.0})


def test_weights_are_given_by_the_words_of_labels(tmp_path: Path) -> None:
    found = weights(tmp_path, {"good": 1.0, "bad": 3.0, "fair": 0.5}, 1, 1, 1)
    assert found == {(5, 9, 2): 3.0, (7, 2): 0.5, (8, 2): 1.0}


def test_without_weights_there_are_none(tmp_path: Path) -> None:
    assert weights(tmp_path, None, 1, 1, 1) is None


@pytest.mark.parametrize(
    ("value", "labels", "lines"),
    [
        ("balanced", [], ["params.yaml: fit -> class_weights: this scenario has no labels; write null"]),
        ({"good": 1.0}, [], ["params.yaml: fit -> class_weights: this scenario has no labels; write null"]),
        (
            {"good": 2.0},
            ["bad", "fair", "good"],
            ["params.yaml: fit -> class_weights: no weight of bad, fair; give one to each label, usually 1.0"],
        ),
        (
            {"god": 2.0, "bad": 1.0, "zzz": 1.0},
            ["bad", "good"],
            [
                "params.yaml: fit -> class_weights -> god: no such label; did you mean good?",
                "params.yaml: fit -> class_weights -> zzz: no such label; there are bad, good",
                "params.yaml: fit -> class_weights: no weight of good; give one to each label, usually 1.0",
            ],
        ),
    ],
)
def test_every_mistake_is_one_line(value: Any, labels: list[str], lines: list[str]) -> None:
    with pytest.raises(UserError) as error:
        check_class_weights(section(Fit, class_weights=value), labels)
    assert error.value.lines == lines
