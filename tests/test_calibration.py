"""Scores of each label, calibration, and abstaining below a threshold that validation has chosen."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib.core.files import read_json
from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction, write_predictions
from stages.lib.scores.calibration import (
    Judged,
    Scaling,
    calibration_scores,
    ece_by_chance,
    judged,
    scaling_of,
)
from stages.lib.scores.resampling import intervals
from stages.lib.scores.selective import aurc, coverage_curve, log_threshold
from tests.build import prediction, section
from tests.test_evaluate import evaluate, scores_of, tables

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def drawn(count: int, seed: int, excess: float = 0.0, per_group: int = 1) -> tuple[Judged, Numbers]:
    """Predictions that are right less often than their probability says, by a part `excess` of what it has over a
    half; and how often they are. All of a group are right or wrong together."""
    random = np.random.default_rng(seed)
    probabilities = np.clip(random.beta(4, 1, count), 0.5, 0.9999)
    chances = probabilities - excess * (probabilities - 0.5)
    luck = np.repeat(random.random(-(-count // per_group)), per_group)[:count]
    groups = [str(number // per_group) for number in range(count)]
    return Judged("accuracy", np.log(probabilities), (luck < chances).astype(float), groups), chances


def test_ece_and_brier_are_those_of_their_definitions() -> None:
    """Two bins of 50: at 0.6 half are right, at 0.9 all are."""
    log_probabilities = np.log(np.repeat([0.6, 0.9], 50))
    right = np.array([*[1.0, 0.0] * 25, *[1.0] * 50])
    scores = calibration_scores(Judged("accuracy", log_probabilities, right, list(map(str, range(100)))))
    assert scores["ece"].value == pytest.approx((0.1 + 0.1) / 2)
    assert scores["brier"].value == pytest.approx((0.4**2 + 0.6**2) / 4 + 0.1**2 / 2)
    assert not any(score.higher_is_better for score in scores.values())


@pytest.mark.parametrize(("excess", "per_group"), [(0.0, 1), (0.4, 1), (0.0, 10)])
def test_the_interval_of_the_ece_holds_the_true_one(excess: float, per_group: int) -> None:
    """Also of calibrated models, whose ECE is far from 0 by chance, and of examples in groups."""
    own, chances = drawn(200_000, 0, excess)
    truth = float((np.exp(own.log_probabilities) - chances).mean())  # a model that is everywhere as much too sure
    held = 0
    for seed in range(1, 31):
        judged_, _ = drawn(600, seed, excess, per_group)
        ece = calibration_scores(judged_)["ece"]
        found = intervals({"ece": ece}, judged_.groups, resamples=200)["ece"]
        assert found.low <= ece.value <= found.high
        held += found.low <= truth <= found.high
    assert held >= 26


def test_chance_alone_makes_as_much_ece_as_a_calibrated_model_shows() -> None:
    found = [calibration_scores(drawn(300, seed)[0])["ece"].value for seed in range(40)]
    assert ece_by_chance(drawn(300, 0)[0]) == pytest.approx(np.mean(found), rel=0.2)


def test_scaling_on_validation_calibrates_test() -> None:
    truth = Scaling(slope=0.5, offset=-0.3)
    validation, test = (distorted(drawn(4000, seed)[0], truth, seed) for seed in (1, 2))
    scaling = scaling_of(validation)
    assert [scaling.slope, scaling.offset] == pytest.approx([0.5, -0.3], abs=0.15)
    scaled = test.with_log_probabilities(scaling(test.log_probabilities))
    before, after = (calibration_scores(own)["ece"].value for own in (test, scaled))
    assert before > 0.1
    assert after < 0.03


def distorted(own: Judged, truth: Scaling, seed: int) -> Judged:
    """The same probabilities, right as often as the scaled ones say."""
    luck = np.random.default_rng(100 + seed).random(len(own.right))
    right = (np.log(luck) < truth(own.log_probabilities)).astype(np.float64)
    return Judged(own.judge, own.log_probabilities, right, own.groups)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_scaling_is_finite_where_all_are_right_or_none(right: float) -> None:
    own = Judged("accuracy", np.array([0.0, -0.1, -700.0]), np.full(3, right), ["1", "2", "3"])
    assert np.isfinite(scaling_of(own)(own.log_probabilities)).all()


def largest_coverage(own: Judged, accuracy: float) -> float:
    """Where nobody asks how sure that is."""
    order = np.argsort(-own.log_probabilities)
    accuracies = np.cumsum(own.right[order]) / np.arange(1, len(order) + 1)
    return float(own.log_probabilities[order][np.flatnonzero(accuracies >= accuracy)[-1]])


@pytest.mark.parametrize("per_group", [1, 10])
def test_the_threshold_of_validation_holds_for_other_examples(per_group: int) -> None:
    """The lowest threshold that does it on validation does not."""
    every, chances = drawn(100_000, 0)
    failed, plainly_failed, coverages = 0, 0, []
    for seed in range(1, 26):
        validation, _ = drawn(2000, seed, per_group=per_group)
        threshold = log_threshold(validation, 0.9)
        above = every.log_probabilities >= (0 if threshold is None else threshold)
        failed += threshold is not None and chances[above].mean() < 0.9
        coverages.append(above.mean())
        above = every.log_probabilities >= largest_coverage(validation, 0.9)
        plainly_failed += chances[above].mean() < 0.9
    assert failed <= 3  # 5 % of 25 are 1 or 2
    assert plainly_failed > 6
    assert np.mean(coverages) > (0.25 if per_group == 1 else 0.01)


def test_no_threshold_is_found_where_none_is_shown_to_do_it() -> None:
    few, _ = drawn(40, 1)
    assert log_threshold(few, 0.95) is None
    assert log_threshold(drawn(2000, 1, excess=1.0)[0], 0.9) is None


def test_examples_of_equal_probability_are_answered_together() -> None:
    right = np.array([1.0] * 300 + [1.0, 0.0] * 150)
    own = Judged("accuracy", np.log(np.repeat([0.9, 0.8], 300)), right, list(map(str, range(600))))
    assert log_threshold(own, 0.9) == pytest.approx(math.log(0.9))
    assert dict(coverage_curve(own))[50.0] == 100.0
    backwards = Judged("accuracy", own.log_probabilities[::-1], right[::-1], own.groups)
    assert aurc(own)[0] == pytest.approx(aurc(backwards)[0])
    assert aurc(own)[0] < 0.25 / 2


@pytest.mark.parametrize("per_group", [1, 5])
def test_the_interval_of_the_area_covers_that_of_all_examples(per_group: int) -> None:
    truth = aurc(drawn(20_000, 0)[0])[0]
    intervals = [aurc(drawn(400, seed, per_group=per_group)[0])[1] for seed in range(1, 31)]
    assert sum(own.low <= truth <= own.high for own in intervals) >= 26
    assert np.mean([own.high - own.low for own in intervals]) < 2 * truth


def labelled(count: int, seed: int, wrong: str = "bad") -> list[Prediction]:
    """Predictions of `good`, right as often as their probability says; sometimes `wrong` is right."""
    random = np.random.default_rng(seed)
    probabilities = np.clip(random.beta(3, 0.5, count), 0.5, 0.9999)
    return [
        prediction(
            "good",
            "good" if random.random() < probability else wrong,
            source=f"text {number}",
            id=f"{seed}-{number}",
            confidence=round(math.log(probability), 4),
            prediction_tokens=1,
        )
        for number, probability in enumerate(probabilities)
    ]


def evaluated(folder: Path, after: Sequence[Prediction], validation: Sequence[Prediction], **settings: Any) -> Path:
    write_predictions(folder / "data/predict/validation.jsonl", validation)
    return evaluate(folder, after, **{"labels": ["bad", "good"], "metrics": ["accuracy", "macro_f1"], **settings})


def test_a_run_says_what_abstaining_gains_on_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = labelled(1200, 1)
    metrics = evaluated(tmp_path, test, labelled(1200, 2), selective_accuracy=95.0)
    found = scores_of(metrics)
    own = found["confidence"]["selective"]
    answered = [p for p in test if math.exp(p.confidence or 0.0) >= own["threshold"]]
    right = sum(p.prediction in p.references for p in answered)
    assert own["coverage"] == pytest.approx(100 * len(answered) / len(test), abs=0.01)
    assert own["accuracy"] == pytest.approx(100 * right / len(answered), abs=0.01)
    assert own["accuracy_low"] < own["accuracy"] < own["accuracy_high"]
    assert own["coverage_low"] < own["coverage"] < own["coverage_high"]
    assert own["accuracy"] > found["scores"]["accuracy"]["score"] + 5
    assert own["verdict"] in ("reached", "undecided")
    said = re.compile(r"abstaining below 0\.\d+ \(chosen on validation\) answers [\d.]+ % \(.*\) of test, of which .*")
    assert [note for note in found["notes"] if said.fullmatch(note)]
    assert said.search(capsys.readouterr().out)
    assert "chosen on validation" in (tmp_path / "data/evaluate/report.html").read_text()


def test_test_examples_choose_nothing(tmp_path: Path) -> None:
    """Another test split leaves the threshold and the scaling as they are."""
    found = [
        scores_of(evaluated(tmp_path / str(seed), labelled(300, seed), labelled(1200, 2), selective_accuracy=95.0))
        for seed in (3, 4)
    ]
    thresholds = {own["confidence"]["selective"]["threshold"] for own in found}
    slopes = {own["confidence"]["scaled"]["slope"] for own in found}
    assert len(thresholds) == len(slopes) == 1


def test_a_threshold_without_predictions_for_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluate -> selective_accuracy: validation chooses the threshold"):
        evaluated(tmp_path, labelled(100, 1), [], selective_accuracy=95.0)


def test_a_threshold_needs_a_score_that_says_right_or_wrong() -> None:
    with pytest.raises(ValueError, match="selective_accuracy: needs `accuracy` or `exact_match`"):
        section(Evaluate, metrics=["bleu"], selective_accuracy=95.0)


def test_where_no_threshold_does_it_nothing_is_answered_and_that_is_said(tmp_path: Path) -> None:
    found = scores_of(evaluated(tmp_path, labelled(100, 1), labelled(30, 2), selective_accuracy=99.0))
    assert found["confidence"]["selective"] == {
        "wanted": 99.0,
        "validation_examples": 30,
        "coverage": 0.0,
        "coverage_low": 0.0,
        "coverage_high": pytest.approx(3.7, abs=0.1),
        "verdict": "no threshold",
    }
    assert any(note.startswith("selective_accuracy: no threshold") for note in found["notes"])


def test_the_plots_of_dvc_are_the_bins_and_the_curve(tmp_path: Path) -> None:
    metrics = evaluated(tmp_path, labelled(600, 1), [])
    bins = list(csv.DictReader((metrics / "plots/reliability.csv").open()))
    assert len(bins) == 12
    assert all(0 <= float(row["right"]) <= 1 and 0.5 <= float(row["probability"]) <= 1 for row in bins)
    curve = list(csv.DictReader((metrics / "plots/selective.csv").open()))
    accuracy = scores_of(metrics)["scores"]["accuracy"]["score"]
    assert [float(curve[-1]["coverage"]), float(curve[-1]["accuracy"])] == pytest.approx([100, accuracy], abs=0.01)
    assert len(curve) == 200


def test_a_model_that_is_too_sure_is_said_to_be(tmp_path: Path) -> None:
    sure = [
        prediction("a", "a" if n % 3 else "b", id=str(n), confidence=-0.01, prediction_tokens=1) for n in range(300)
    ]
    found = scores_of(evaluated(tmp_path, sure, sure, labels=["a", "b"]))
    assert found["scores"]["ece"]["score"] == pytest.approx(math.exp(-0.01) - 2 / 3, abs=1e-4)
    assert found["scores"]["ece"]["ceiling"] < 0.01
    assert any(note.startswith("ece: the model is too sure of itself") for note in found["notes"])
    assert found["confidence"]["scaled"]["ece"] < 0.01


def test_each_label_has_its_scores_and_the_worst_comes_first(tmp_path: Path) -> None:
    pairs = [("good", "good")] * 60 + [("good", "bad")] * 30 + [("bad", "bad")] * 10 + [("huh", "rare")] * 2
    after = [prediction(text, truth, id=str(n)) for n, (text, truth) in enumerate(pairs)]
    metrics = evaluated(tmp_path, after, [], labels=["bad", "good", "rare", "unused"])
    found = scores_of(metrics)
    labels = {own["label"]: own for own in found["labels"]}
    assert list(labels) == ["rare", "unused", "(no label)", "bad", "good"]
    bad = labels["bad"]
    assert (bad["support"], bad["predicted"], bad["right"]) == (40, 10, 10)
    assert (bad["precision"], bad["recall"], bad["f1"]) == (100.0, 25.0, 40.0)
    assert bad["recall_low"] == pytest.approx(14.2, abs=0.1)  # Wilson, by hand
    assert bad["recall_high"] == pytest.approx(40.2, abs=0.1)
    assert (labels["(no label)"]["predicted"], labels["rare"]["support"], labels["rare"]["recall"]) == (2, 2, 0.0)
    assert "label bad: 25 % (14.2 to 40.2) of its 40 examples are found, of all 68.6 %" in found["notes"]
    assert "2 predictions are no label, and count as wrong" in found["notes"]
    shown = tables((metrics / "predictions.md").read_text())["Labels, the worst first"]
    assert [row[0] for row in shown] == list(labels)
    assert "Labels, the worst first" in (tmp_path / "data/evaluate/report.html").read_text()


def test_the_probability_of_a_text_is_that_of_all_its_tokens() -> None:
    texts = [prediction("The mill", "the mill!", confidence=-0.25, prediction_tokens=4)]
    own = judged(texts, section(Evaluate, metrics=["exact_match"]), [])
    assert own is not None
    assert own.judge == "exact_match"
    assert (own.log_probabilities.tolist(), own.right.tolist()) == ([-1.0], [1.0])


@pytest.mark.parametrize(
    ("metrics", "known"),
    [(["bleu"], {"confidence": -0.1, "prediction_tokens": 2}), (["accuracy"], {}), (["accuracy"], {"confidence": -1})],
)
def test_without_right_and_wrong_or_probabilities_there_is_no_calibration(
    tmp_path: Path, metrics: list[str], known: dict[str, Any]
) -> None:
    metrics_folder = evaluate(tmp_path, [prediction("x", "x", **known)] * 3, metrics=metrics)
    found = read_json(metrics_folder / "scores.json")
    assert not {"ece", "brier"} & set(found["scores"])
    assert (found["confidence"], found["labels"]) == ({}, [])
