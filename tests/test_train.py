"""What `train` prints before and after training, where its settings come from, and the stats it writes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages import train
from stages.lib.core.files import read_json, write_json
from stages.lib.models.cost import duration
from stages.lib.models.loading import parameter_count, saved_model
from stages.lib.params.fit import with_settings
from stages.lib.records.tokenized_examples import write_label_ids
from stages.lib.training.state import Curve
from tests import tiny
from tests.build import scratch_model


@pytest.mark.parametrize(
    ("seconds", "printed"), [(0.4, "0 s"), (90, "90 s"), (130, "2 min"), (7100, "118 min"), (9000, "2 h")]
)
def test_durations_have_a_unit_that_suits_them(seconds: float, printed: str) -> None:
    assert duration(seconds) == printed


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
    stats = train._stats(9, 7, curve)
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


def run_tiny(folder: Path, found: dict[str, Any]) -> None:
    """The stage, on a tiny model, with what the search has found."""
    tokens = tiny.tokenizer()
    source = folder / "tokenize"
    tokens.save_pretrained(source / "tokenizer")
    write_label_ids(source / "label_ids.json", [])
    for split in ("train", "validation"):
        tiny.dataset(tokens, source / split)
    write_json(folder / "best.json", found)
    settings = tiny.settings(epochs=1, learning_rate=0.004, dropout=0.1)
    places: dict[str, Any] = {
        "source": source,
        "tuned": folder / "best.json",
        "target": folder,
        "folder": folder / "s",
    }
    train.run(settings, scratch_model(tiny.ARCHITECTURE), tiny.machine(), **places)


def test_weights_that_layers_share_are_counted_once(tmp_path: Path) -> None:
    run_tiny(tmp_path, {})
    stats, saved = read_json(tmp_path / "report/stats.json"), saved_model(tmp_path / "model", trust_remote_code=False)
    assert stats["parameters"] == stats["trainable_parameters"] == parameter_count(saved)


def test_each_searched_setting_is_told_with_where_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"dropout": None, "freeze.embeddings": True, "learning_rate": 0.0021, "schedule": "cosine"}
    run_tiny(tmp_path, found)
    assert capsys.readouterr().out.splitlines()[:5] == [
        "train: model own, from random weights (params.yaml)",
        "train: fit.dropout null (search; params.yaml has 0.1)",
        "train: fit.freeze.embeddings true (search; params.yaml has false)",
        "train: fit.learning_rate 0.0021 (search; params.yaml has 0.004)",
        "train: fit.schedule cosine (params.yaml; the search found nothing better)",
    ]
    written = read_json(tmp_path / "report/settings.json")
    assert written["from_search"] == ["dropout", "freeze.embeddings", "learning_rate"]
    assert (written["dropout"], written["freeze"]["embeddings"], written["learning_rate"]) == (None, True, 0.0021)


def test_a_dotted_name_replaces_a_value_in_its_section() -> None:
    values: dict[str, Any] = {"seed": 1, "freeze": {"embeddings": False, "names": ["*.attn.*"]}, "adapters": None}
    chosen = {"seed": 2, "freeze.embeddings": True, "adapters": {"rank": 8}}
    assert with_settings(values, chosen) == {
        "seed": 2,
        "freeze": {"embeddings": True, "names": ["*.attn.*"]},
        "adapters": {"rank": 8},
    }
    assert values == {"seed": 1, "freeze": {"embeddings": False, "names": ["*.attn.*"]}, "adapters": None}
