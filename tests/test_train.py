"""What `train` prints before and after training, and the stats it writes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages import train
from stages.lib.training.state import Curve
from tests import tiny


@pytest.mark.parametrize(
    ("seconds", "printed"), [(0.4, "0 s"), (90, "90 s"), (130, "2 min"), (7100, "118 min"), (9000, "2 h")]
)
def test_durations_have_a_unit_that_suits_them(seconds: float, printed: str) -> None:
    assert train._duration(seconds) == printed


def test_a_batch_too_large_for_memory_is_reported_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def estimate(*args: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(train, "estimate", estimate)
    tokens = tiny.tokenizer()
    data = tiny.dataset(tokens, tmp_path)
    plan = train._plan(tiny.model(tokens), data, data, tiny.settings(), tiny.machine(), teacher=None)
    assert plan.startswith("37,120 parameters, 12 examples with ")
    assert plan.endswith(
        "12 updates of 4 examples; memory ends with the longest batch, so micro-batches will be halved"
    )


def test_the_conclusion_names_the_metric_of_the_choice() -> None:
    curve = Curve([(8, 1.0)], [(4, 2.0), (8, 1.5)], [(4, 30.0), (8, 20.0)], averaged=(2, 31.0))
    printed = train._conclusion(tiny.settings(metric_for_best_model="bleu"), curve)
    assert printed == "best validation bleu 30.0000 at step 4 of 8; the mean of 2 has 31.0000"
    stats = train._stats(tiny.model(tiny.tokenizer()), 7, curve)
    assert stats["validation_loss"] == {"first": 2.0, "best": 2.0}
    assert stats["validation_score"] == {"first": 30.0, "best": 30.0}
    assert (stats["averaged"], stats["best_update"]) == (2, 4)


@pytest.mark.parametrize(
    ("scores", "averaged", "reported"),
    [
        ([], None, 1.5),
        ([], (2, 1.4), 1.4),
        ([(4, 30.0), (8, 20.0)], None, 2.0),
        ([(4, 30.0), (8, 20.0)], (2, 31.0), None),  # the loss of the mean is not known
    ],
)
def test_the_reported_loss_is_that_of_the_chosen_weights(
    scores: list[tuple[int, float]], averaged: tuple[int, float] | None, reported: float | None
) -> None:
    assert train._reported_loss(Curve([(8, 1.0)], [(4, 2.0), (8, 1.5)], scores, averaged)) == reported
