"""The evaluate stage: the files in metrics/ are complete, repeatable, and readable for DVC and on GitHub."""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stages.evaluate import run
from stages.lib.core.files import read_json, write_json
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction, write_predictions
from tests.build import contents, prediction, section

GOOD = prediction("the old mill is open", "the old mill is open", "open is the mill", source="mill", id="good")
FAIR = prediction("the old mill was shut", "the old mill is open", source="mill", id="fair")
BAD = prediction("zzz", "a quiet place", source="place", id="bad", finish_reason="length")

STATS: dict[str, dict[str, Any]] = {
    "prepare": {"rows_read": 3, "examples": {"train": 1, "validation": 1, "test": 1}},
    "tokenize": {"test": {"tokenized_examples": 3, "target_tokens": {"median": 4.5}}},
    "tune_hyperparameters": {"trials": 0},
    "train": {"steps": 10, "validation_loss": {"best": 1.5}},
}
TRIALS = "trial,validation_loss,learning_rate\n1,1.5,0.001\n2,1.25,0.002\n"


def evaluate(
    folder: Path,
    after: Sequence[Prediction],
    before: Sequence[Prediction] = (),
    labels: Sequence[str] = (),
    **overrides: Any,
) -> Path:
    """Runs the stage on data/ as the stages before write it. Returns the folder of metrics."""
    data = folder / "data"
    write_predictions(data / "predict/predictions.jsonl", after)
    write_predictions(data / "predict_base/predictions.jsonl", before)
    for stage, stats in STATS.items():
        write_json(data / stage / "report/stats.json", stats)
        (data / stage / "report/preview.md").write_text(f"# {stage}\n")
    write_json(data / "prepare/labels.json", {"labels": list(labels)})
    (data / "tune_hyperparameters/report/trials.csv").write_text(TRIALS)
    write_json(data / "train/report/curve.json", {"training": [[1, 2.0], [2, 1.123456]], "validation": [[2, 1.5]]})
    usual = {"lowercase": False, "bleu_tokenizer": "13a", "rouge_stemmer": False, "shown_predictions": 2}
    run(section(Evaluate, **{**usual, **overrides}), source=data, target=folder / "metrics")
    return folder / "metrics"


def leaves(content: dict[str, Any]) -> Iterator[Any]:
    for value in content.values():
        yield from leaves(value) if isinstance(value, dict) else [value]


def table(lines: Sequence[str]) -> list[list[str]]:
    """Cells of the rows of a Markdown table. As on GitHub, a pipe after a backslash is text."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def tables(text: str) -> dict[str, list[list[str]]]:
    """Title -> rows. A lone carriage return ends a line in Markdown too."""
    lines = re.split(r"\r\n|\r|\n", text)
    starts = [number for number, line in enumerate(lines) if line.startswith("## ")] + [len(lines)]
    return {lines[start].removeprefix("## "): table(lines[start:end]) for start, end in pairwise(starts)}


def test_exactly_the_declared_files_are_written(tmp_path: Path) -> None:
    assert set(contents(evaluate(tmp_path, [GOOD], [BAD]))) == {
        "evaluate.json",
        "evaluate.signatures.json",
        "prepare.json",
        "tokenize.json",
        "tune_hyperparameters.json",
        "train.json",
        "predictions.md",
        "prepare.md",
        "tokenize.md",
        "plots/training_loss.csv",
        "plots/validation_loss.csv",
        "plots/lengths.csv",
        "plots/confusion.csv",
        "plots/trials.csv",
    }


def test_metrics_are_finite_numbers_and_nothing_else(tmp_path: Path) -> None:
    """`dvc metrics diff` shows neither lists nor text."""
    metrics = evaluate(tmp_path, [GOOD, FAIR, BAD], [BAD])
    for file in metrics.glob("*.json"):
        if file.name != "evaluate.signatures.json":
            found = list(leaves(read_json(file)))
            assert found
            assert all(type(value) in (int, float) and math.isfinite(value) for value in found), file.name


@pytest.mark.parametrize(
    "after",
    [
        pytest.param([prediction("", "x")], id="empty-prediction"),
        pytest.param([prediction("x", "x", reference_nats=0.0)], id="no-loss"),
        pytest.param([prediction("x", "x", reference_nats=500.0, reference_tokens=1)], id="huge-loss"),
        pytest.param([prediction("?", "!")], id="no-words"),
    ],
)
def test_odd_predictions_have_scores_too(tmp_path: Path, after: list[Prediction]) -> None:
    assert all(math.isfinite(value) for value in leaves(read_json(evaluate(tmp_path, after) / "evaluate.json")))


def test_the_stats_of_the_stages_are_copied(tmp_path: Path) -> None:
    metrics = evaluate(tmp_path, [GOOD])
    assert {stage: read_json(metrics / f"{stage}.json") for stage in STATS} == STATS


def test_every_score_has_its_signature(tmp_path: Path) -> None:
    metrics = evaluate(tmp_path, [GOOD, BAD])
    names = {name for name, value in read_json(metrics / "evaluate.json").items() if isinstance(value, float)}
    signatures = read_json(metrics / "evaluate.signatures.json")
    assert set(signatures) == names
    assert all(isinstance(signature, str) and signature for signature in signatures.values())


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    after = [GOOD, FAIR, BAD]
    one, two = (contents(evaluate(tmp_path / name, after, after)) for name in ("one", "two"))
    assert one == two


def test_scores_before_training_are_beside_those_after(tmp_path: Path) -> None:
    scores = read_json(evaluate(tmp_path, [GOOD], [BAD]) / "evaluate.json")
    before = scores.pop("before_training")
    assert set(before) == set(scores)
    assert (scores["rougeL"], before["rougeL"]) == (100.0, 0.0)


def test_without_predictions_of_the_base_model_it_has_no_scores(tmp_path: Path) -> None:
    evaluate(tmp_path, [GOOD], [BAD])
    assert "before_training" not in read_json(evaluate(tmp_path, [GOOD]) / "evaluate.json")


def test_the_worst_predictions_come_before_the_best(tmp_path: Path) -> None:
    text = (evaluate(tmp_path, [FAIR, BAD, GOOD]) / "predictions.md").read_text("utf-8")
    found = tables(text)
    assert list(found) == ["Worst", "Best"]
    assert [row[2] for row in found["Worst"]] == [BAD.prediction, FAIR.prediction]
    assert [row[2] for row in found["Best"]] == [GOOD.prediction, FAIR.prediction]
    assert found["Best"][0] == ["100.0", GOOD.source, GOOD.prediction, GOOD.references[0]]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a|b||c", id="pipes"),
        pytest.param("a\nb\n\nc", id="newlines"),
        pytest.param("a\r\nb\rc", id="carriage-returns"),
        pytest.param("a\\|b", id="backslash-before-pipe"),
        pytest.param("a\\", id="backslash-at-the-end"),
        pytest.param("", id="empty"),
    ],
)
def test_no_text_breaks_the_table(tmp_path: Path, text: str) -> None:
    odd = prediction(text, text or "reference", source=text)
    with (evaluate(tmp_path, [odd, GOOD]) / "predictions.md").open(encoding="utf-8", newline="") as file:
        found = tables(file.read())
    assert [[len(row) for row in rows] for rows in found.values()] == [[4, 4], [4, 4]]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("training_loss", [["step", "loss"], ["1", "2.0"], ["2", "1.12346"]]),
        ("validation_loss", [["step", "loss"], ["2", "1.5"]]),
        ("lengths", [["reference_words", "prediction_words"], ["5", "5"], ["3", "1"]]),
        (
            "trials",
            [["trial", "validation_loss"], ["1: learning_rate 0.001", "1.5"], ["2: learning_rate 0.002", "1.25"]],
        ),
        ("confusion", [["actual", "predicted"]]),
    ],
)
def test_a_plot_has_its_header_and_rows(tmp_path: Path, name: str, rows: list[list[str]]) -> None:
    with (evaluate(tmp_path, [GOOD, BAD]) / f"plots/{name}.csv").open(newline="") as file:
        assert list(csv.reader(file)) == rows


def test_label_tasks_have_a_plot_of_actual_and_predicted_labels(tmp_path: Path) -> None:
    after = [prediction("good", "good"), prediction("good", "bad")]
    metrics = evaluate(tmp_path, after, labels=["bad", "good"], metrics=["accuracy", "macro_f1"])
    assert (metrics / "plots/confusion.csv").read_text() == "actual,predicted\ngood,good\nbad,good\n"
    assert set(read_json(metrics / "evaluate.signatures.json")) == {
        "accuracy",
        "macro_f1",
        "perplexity",
        "bits_per_byte",
    }


def test_the_plot_of_many_predictions_stays_small_enough_for_git(tmp_path: Path) -> None:
    after = [prediction("good", "good"), prediction("bad", "bad")] * 4000
    plots = evaluate(tmp_path, after, metrics=[]) / "plots"
    assert len((plots / "lengths.csv").read_text().splitlines()) == 4001


def test_the_files_are_text_that_git_can_compare(tmp_path: Path) -> None:
    polish = prediction("żółw", "żółw")
    metrics = evaluate(tmp_path, [polish])
    assert "żółw" in (metrics / "predictions.md").read_text("utf-8")
    for file in metrics.glob("*.json"):
        text = file.read_text("utf-8")
        assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
