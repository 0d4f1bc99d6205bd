"""What `train` says before and after its fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages import train
from stages.lib.fitting import Curve
from tests import tiny


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (90, "90 s"), (130, "2 min"), (7100, "118 min"), (9000, "2 h")]
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert train._duration(seconds) == said


def test_a_batch_too_large_for_memory_is_told_and_no_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def estimate(*args: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(train, "estimate", estimate)
    tokens = tiny.tokenizer()
    data = tiny.pairs(tokens, tmp_path)
    plan = train._plan(tiny.model(tokens), data, data, tiny.settings(), tiny.machine())
    assert plan.startswith("37,120 parameters, 12 pairs with ")
    assert plan.endswith(
        "12 updates of 4 pairs; memory ends with the longest batch, so batches will be computed in parts"
    )


def test_the_conclusion_names_what_was_chosen_by() -> None:
    curve = Curve([(8, 1.0)], [(4, 2.0), (8, 1.5)], [(4, 30.0), (8, 20.0)], averaged=(2, 31.0))
    said = train._conclusion(tiny.settings(choose_by="bleu"), curve)
    assert said == "best validation bleu 30.0000 at step 4 of 8; the mean of 2 has 31.0000"
    account = train._account(tiny.model(tiny.tokenizer()), 7, curve)
    assert account["validation_loss"] == {"first": 2.0, "best": 2.0}
    assert account["validation_score"] == {"first": 30.0, "best": 30.0}
    assert (account["averaged"], account["best_update"]) == (2, 4)
