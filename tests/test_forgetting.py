"""The loss on general text: what it is, that the stages write it, and what evaluate makes of before and after."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.core.files import read_json, read_jsonl
from stages.lib.core.process import UserError
from stages.lib.generation.plain_texts import general_text_losses
from stages.lib.params.predict import Predict
from stages.lib.records.text_losses import WindowLoss, read_window_losses, write_window_losses
from stages.lib.scores.general_text import general_text
from stages.tools import check_params
from tests import tiny
from tests.build import params_of, scratch_model, section
from tests.test_evaluate import FAIR, GOOD, apart, evaluate
from tests.test_predict import of_all_facts

HALF = 32  # half of n_positions of the tiny model: a window, without the tokens before it
LONG = "The red cup, the blue hat. Ééé 😀 and a green door!\n" * 8
TEXTS = {"long.txt": LONG, "below/short.txt": "A boat.", "blank.txt": "", "notes.md": "no text"}


@pytest.fixture(scope="module")
def tokens() -> PreTrainedTokenizerBase:
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def network(tokens: PreTrainedTokenizerBase) -> PreTrainedModel:
    return tiny.model(tokens)


def folder_of(folder: Path, texts: dict[str, str] = TEXTS) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


def losses(
    network: PreTrainedModel,
    tokens: PreTrainedTokenizerBase,
    folder: Path,
    batch_tokens: int | None = None,
    state: str = "state",
) -> list[WindowLoss]:
    params = section(Predict, general_text=True, general_text_folder=str(folder))
    model = scratch_model(tiny.ARCHITECTURE)
    return general_text_losses(network, tokens, model, params, batch_tokens, folder / state, "predict")


@torch.no_grad()
def by_hand(network: PreTrainedModel, tokens: PreTrainedTokenizerBase, text: str) -> list[float]:
    """Of each window, from one plain forward pass for each."""
    ids, found = tokens(text, add_special_tokens=False)["input_ids"], list[float]()
    for first in range(0, len(ids), HALF):
        before, own = ids[max(0, first - HALF) : first] or [tokens.eos_token_id], ids[first : first + HALF]
        logits = network.eval()(torch.tensor([before + own])).logits[0, len(before) - 1 : -1].double()
        found.append(F.cross_entropy(logits, torch.tensor(own), reduction="sum").item())
    return found


def test_the_loss_is_that_of_plain_forward_passes_over_the_windows(
    network: PreTrainedModel, tokens: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    found = losses(network, tokens, folder_of(tmp_path))
    expected = [("below/short.txt", nats) for nats in by_hand(network, tokens, TEXTS["below/short.txt"])]
    expected += [("long.txt", nats) for nats in by_hand(network, tokens, LONG)]
    assert len(expected) > 5
    assert [own.text for own in found] == [text for text, _ in expected]
    assert [own.nats for own in found] == pytest.approx([nats for _, nats in expected], rel=1e-5)


def test_each_byte_counts_once(network: PreTrainedModel, tokens: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    found = losses(network, tokens, folder_of(tmp_path))
    assert sum(own.bytes for own in found) == len((LONG + TEXTS["below/short.txt"]).encode())
    assert min(own.bytes for own in found if own.text == "long.txt") > 0


def test_the_batch_does_not_change_the_loss(
    network: PreTrainedModel, tokens: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    alone, together = (losses(network, tokens, folder_of(tmp_path), size, f"by {size}") for size in (1, 1000))
    assert [own.nats for own in alone] == pytest.approx([own.nats for own in together], rel=1e-5)


def test_a_model_that_was_trained_on_one_text_is_worse_on_others(
    tokens: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    known, other = "the red cup and the red hat. " * 20, "a door, blue or green, is on a boat! " * 16
    network = tiny.model(tokens, dropout=0.0)
    before = losses(network, tokens, folder_of(tmp_path, {"other.txt": other}), state="before")
    ids = torch.tensor([tokens(known)["input_ids"][:HALF]])
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for _ in range(60):
        network(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = general_text(losses(network, tokens, tmp_path, state="after"), before)
    assert found is not None
    assert found.change is not None
    assert found.change.interval.low > 0
    assert "it has forgotten" in found.says


def test_both_stages_write_it_and_a_second_run_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"general_text": True, "general_text_folder": str(folder_of(tmp_path / "general"))}
    of_all_facts(tmp_path, **asked)
    assert "predict: general text of " in capsys.readouterr().out
    written = list(read_jsonl(tmp_path / "out/general_text.jsonl"))
    assert [own["text"] for own in written] == ["below/short.txt", *["long.txt"] * (len(written) - 1)]
    monkeypatch.setattr("stages.lib.models.losses.losses_of", pytest.fail)
    of_all_facts(tmp_path, **asked)
    assert list(read_jsonl(tmp_path / "out/general_text.jsonl")) == written


def test_several_processes_share_the_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"general_text": True, "general_text_folder": str(folder_of(tmp_path / "general"))}
    of_all_facts(tmp_path / "alone", **asked)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(FileNotFoundError):  # the other one writes
        of_all_facts(tmp_path / "shared", **asked)
    assert list((tmp_path / "shared/state/general_text").iterdir())
    monkeypatch.setenv("RANK", "0")
    of_all_facts(tmp_path / "shared", **asked)
    alone, shared = ((tmp_path / name / "out/general_text.jsonl").read_bytes() for name in ("alone", "shared"))
    assert shared == alone


def windows(change: float, texts: Sequence[str], seed: int = 1) -> list[WindowLoss]:
    """Of 1,000 bytes each, 2 bits a byte and the change, but for noise that is not the same in all."""
    drawn = random.Random(seed)
    bits = [2 + change + drawn.gauss(0, 0.01) for _ in texts]
    return [WindowLoss(text, 1000 * own * math.log(2), 1000) for text, own in zip(texts, bits, strict=True)]


MANY = [f"{number}.txt" for number in range(40)]


@pytest.mark.parametrize("texts", [MANY, ["one.txt"] * 40], ids=["texts", "windows"])
def test_the_change_is_paired_and_has_an_interval(texts: list[str]) -> None:
    found = general_text(windows(0.3, texts, 2), windows(0.0, texts))
    assert found is not None
    assert found.change is not None
    assert found.score.value == pytest.approx(2.3, abs=0.01)
    assert found.change.difference == pytest.approx(0.3, abs=0.01)
    # the standard error of the mean of 40 differences, each of two deviations of 0.01
    assert found.change.interval.error == pytest.approx(0.01 * math.sqrt(2 / 40), rel=0.4)


@pytest.mark.parametrize(
    ("change", "says"),
    [(0.3, "0.3 bits a byte more than before training (0.29 to"), (-0.3, "less than"), (0.0, "no change by training")],
)
def test_what_the_change_means_is_said(change: float, says: str) -> None:
    found = general_text(windows(change, MANY, 3), windows(0.0, MANY))
    assert found is not None
    assert says in found.says


def test_losses_of_other_windows_are_not_compared() -> None:
    with pytest.raises(UserError, match="other general texts"):
        general_text(windows(0.0, MANY), windows(0.0, MANY[::-1]))


def metrics_of(folder: Path, before: list[WindowLoss]) -> Path:
    write_window_losses(folder / "data/predict/general_text.jsonl", windows(0.3, MANY, 2))
    if before:
        write_window_losses(folder / "data/predict_base/general_text.jsonl", before)
    return evaluate(folder, apart(*[GOOD, FAIR] * 10))


def test_evaluate_tells_it_in_all_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(tmp_path, windows(0.0, MANY))
    lean, found = read_json(metrics / "evaluate.json"), read_json(metrics / "scores.json")
    assert lean["general_bits_per_byte"] == pytest.approx(2.3, abs=0.01)
    assert lean["general_bits_per_byte_95"].startswith("2.2")
    own = found["scores"]["general_bits_per_byte"]
    assert own["low"] < own["score"] < own["high"]
    assert own["before_training"] == pytest.approx(2.0, abs=0.01)
    assert own["change_low"] < own["change"] < own["change_high"]
    printed = capsys.readouterr().out
    assert "- general_bits_per_byte" in printed
    for text in (printed, *((tmp_path / "data/evaluate" / name).read_text() for name in ("report.html", "README.md"))):
        assert "it has forgotten; docs/training.md" in text
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("goal", "verdict"), [(2.5, "reached"), (2.1, "missed")])
def test_it_can_have_a_goal(tmp_path: Path, goal: float, verdict: str) -> None:
    write_window_losses(tmp_path / "data/predict/general_text.jsonl", windows(0.3, MANY, 2))
    metrics = evaluate(tmp_path, apart(*[GOOD, FAIR] * 10), goals={"general_bits_per_byte": goal})
    assert read_json(metrics / "scores.json")["goals"]["general_bits_per_byte"]["verdict"] == verdict


def test_a_goal_for_it_needs_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="general_bits_per_byte: this run has no such score"):
        evaluate(tmp_path, apart(*[GOOD, FAIR] * 10), goals={"general_bits_per_byte": 2.0})


def test_without_the_model_before_training_the_reason_is_said(tmp_path: Path) -> None:
    found = read_json(metrics_of(tmp_path, []) / "scores.json")
    assert "before_training" not in found["scores"]["general_bits_per_byte"]
    assert any("predict_base.enabled is false" in note for note in found["notes"])


def test_without_the_parameter_there_is_nothing(tmp_path: Path) -> None:
    found = read_json(evaluate(tmp_path, apart(*[GOOD, FAIR] * 10)) / "scores.json")
    assert "general_bits_per_byte" not in found["scores"]
    assert list(read_window_losses(tmp_path / "data/predict/general_text.jsonl")) == []


@pytest.mark.parametrize(
    ("architecture", "texts", "line"),
    [
        pytest.param("t5", TEXTS, "t5, from random weights is not causal", id="encoder-decoder"),
        pytest.param("bert", TEXTS, "bert, from random weights is not causal", id="encoder"),
        pytest.param("gpt2", {"blank.txt": " \n"}, "no text in .*; put files", id="no text"),
    ],
)
def test_mistakes_are_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, texts: dict[str, str], line: str
) -> None:
    folder_of(tmp_path / "texts", texts)
    edits: dict[str, Any] = {"predict__general_text": True, "predict__general_text_folder": "texts"}
    params_of("data_to_text", tmp_path, model__architecture=architecture, **edits)
    (tmp_path / "data/raw/data_to_text").mkdir(parents=True)
    (tmp_path / "data/raw/data_to_text/places.csv").write_text("facts,text\na,b\n")
    for name in ("base", "models", "teacher", "fluency_model", "sentence_encoder", "screen"):
        (tmp_path / "data/raw" / name).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"predict -> general_text: {line}"):
        check_params.main()
