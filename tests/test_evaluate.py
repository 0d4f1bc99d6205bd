"""The evaluate stage: what it writes is complete, repeatable, and readable for DVC and on GitHub."""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stages.evaluate import run
from stages.lib.core.files import read_json, write_json
from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.examples import Example, write_examples
from stages.lib.records.predictions import Prediction, write_predictions
from stages.lib.scores.scored import read_scored
from tests.build import contents, prediction, section

GOOD = prediction("the old mill is open", "the old mill is open", "open is the mill", source="mill", id="good")
FAIR = prediction("the old mill was shut", "the old mill is open", source="mill", id="fair")
BAD = prediction("zzz", "a quiet place", source="place", id="bad", finish_reason="length")

# what tune-hyperparameters writes of a search with two trials
SEARCH = {
    "trials": "trial,state,updates,value,learning_rate,reason\n1,complete,9,1.5,0.001,\n2,complete,9,1.25,0.002,\n",
    "history": "trial,state,value,best_so_far\n1,complete,1.5,1.5\n2,complete,1.25,1.25\n",
    "importances": "setting,importance,low,high\n",
    "confirmed": "trial,mean,sd,chance_best\n",
}
SEARCH_STATS = {
    **{"trials": 2, "complete": 2, "pruned": 0, "failed": 0, "updates": 18, "metric": "loss"},
    **{"best_trial": 2, "value": 1.25, "value_of_params": 1.5, "settings": {"learning_rate": 0.002}},
}
STATS: dict[str, dict[str, Any]] = {
    "prepare": {
        "rows_read": 3,
        "rows_kept": 3,
        "rows_rejected": 0,
        "examples": {"train": 1, "validation": 1, "test": 1},
    },
    "tokenize": {"test": {"tokenized_examples": 3, "target_tokens": {"median": 4.5}}},
    "tune_hyperparameters": SEARCH_STATS,
    "train": {"steps": 10, "validation_loss": {"best": 1.5}},
}
SETTINGS = {"model": "some/model", "alternative": None, "base_model": None, "class": "causal", "learning_rate": 0.001}
PREDICT = {"strategy": "greedy", "max_new_tokens": 9}
TRAIN = [Example("1", "an old mill", ["the old mill is shut"]), Example("2", "a place", ["a quiet place"])]
TEXT_SCORES = {"bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum"}


def evaluate(
    folder: Path,
    after: Sequence[Prediction],
    before: Sequence[Prediction] = (),
    labels: Sequence[str] = (),
    no_input: str | None = None,
    train: Sequence[Example] = TRAIN,
    stats: Mapping[str, Any] = STATS,
    predict: Mapping[str, Any] = PREDICT,
    **overrides: Any,
) -> Path:
    """Runs the stage on data/ as the stages before write it. Returns the folder of metrics."""
    data = folder / "data"
    write_predictions(data / "predict/predictions.jsonl", after)
    write_json(data / "predict/no_input.json", {"prediction": no_input})
    same_examples = [replace(own, id=other.id) for own, other in zip(before, after, strict=False)]
    write_predictions(data / "predict_base/predictions.jsonl", same_examples)
    for stage, counts in stats.items():
        write_json(data / stage / "report/stats.json", counts)
        (data / stage / "report/preview.md").write_text(f"# {stage}\n")
    write_examples(data / "prepare/train", train)
    write_json(data / "prepare/labels.json", {"labels": list(labels)})
    for name, text in SEARCH.items():
        (data / f"tune_hyperparameters/report/{name}.csv").write_text(text)
    write_json(data / "tune_hyperparameters/report/notes.json", {"notes": ["Short trials mislead."]})
    write_json(data / "train/report/curve.json", {"training": [[1, 2.0], [2, 1.123456]], "validation": [[2, 1.5]]})
    write_json(data / "train/report/settings.json", SETTINGS)
    write_json(data / "prepare/report/settings.json", {"source": "{facts}", "messages": None, "labels": None})
    write_json(data / "tokenize/report/settings.json", {"prompt": "{source}", "as_chat": False})
    write_json(data / "predict/settings.json", predict)
    params = section(Evaluate, **{"shown_predictions": 2, **overrides})
    run(params, "task", source=data, target=folder / "metrics", pages=data / "evaluate")
    return folder / "metrics"


def apart(*predictions: Prediction) -> list[Prediction]:
    """The same, each in a group of its own."""
    return [replace(own, id=str(number), group=str(number)) for number, own in enumerate(predictions)]


def scores_of(metrics: Path) -> dict[str, Any]:
    return read_json(metrics / "scores.json")


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
        "scores.json",
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
        "plots/reliability.csv",
        "plots/selective.csv",
        *(f"plots/tune_hyperparameters/{name}.csv" for name in SEARCH),
        "plots/breakdowns.csv",
    }
    assert set(contents(tmp_path / "data/evaluate")) == {"scores.parquet", "report.html", "README.md"}


def test_the_metrics_of_dvc_are_few_with_an_interval_beside_each_score(tmp_path: Path) -> None:
    """`dvc metrics diff` and `dvc exp show` list all that they find: it has to fit a screen."""
    found = read_json(evaluate(tmp_path, apart(*[GOOD, FAIR, BAD] * 10), [BAD] * 30) / "evaluate.json")
    assert (found.pop("task"), found.pop("model"), found.pop("examples")) == ("task", "some/model", 30)
    scores = {name: value for name, value in found.items() if not name.endswith("_95")}
    assert {"bleu", "chrf", "bits_per_byte"} <= set(scores)
    assert len(scores) <= 4
    assert all(type(value) is float and math.isfinite(value) for value in scores.values())
    for name, value in scores.items():
        low, high = map(float, found[f"{name}_95"].split("\u2013"))
        assert low <= value <= high
    # path, metric, both values and their difference, with two blanks between
    widths = [
        len("metrics/evaluate.json"),
        max(map(len, found)),
        *[max(len(str(value)) for value in found.values())] * 2,
    ]
    assert sum(widths) + len("Change") + 2 * 4 <= 80


def test_every_score_has_its_interval_direction_and_convention(tmp_path: Path) -> None:
    found = scores_of(evaluate(tmp_path, apart(*[GOOD, FAIR, BAD] * 10), [BAD] * 30))
    assert {"bleu", "chrf", "rouge1", "rougeL", "perplexity", "bits_per_byte"} <= set(found["scores"])
    for name, score in (found["scores"] | found["diagnostics"]).items():
        assert score["low"] <= score["score"] <= score["high"], name
        assert score["better"] == ("higher" if name in TEXT_SCORES else "lower"), name
        assert score["signature"]
    assert found["scores"]["rougeL"]["before_training"] == 0.0


def test_examples_of_one_group_count_as_one(tmp_path: Path) -> None:
    """Ten copies of a conversation tell no more than one."""
    alone = apart(*[GOOD, FAIR, BAD] * 10)
    together = [replace(own, group=str(n % 3)) for n, own in enumerate(alone)]
    widths = []
    for name, after in (("alone", alone), ("together", together)):
        score = scores_of(evaluate(tmp_path / name, after))["scores"]["chrf"]
        widths.append(score["high"] - score["low"])
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param([prediction("", "x")], id="empty-prediction"),
        pytest.param([prediction("x", "x", reference_nats=0.0)], id="no-loss"),
        pytest.param([prediction("x", "x", reference_nats=500.0, reference_tokens=1)], id="huge-loss"),
        pytest.param([prediction("x", "x", reference_nats=1e6, reference_tokens=1)], id="perplexity-beyond-floats"),
        pytest.param([prediction("?", "!")], id="no-words"),
        pytest.param([prediction("x", " ")], id="blank-reference"),
    ],
)
def test_odd_predictions_have_scores_too(tmp_path: Path, after: list[Prediction]) -> None:
    found = scores_of(evaluate(tmp_path, after))["scores"]
    assert all(math.isfinite(score["score"]) for score in found.values())


def test_predictions_before_training_for_other_examples_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="predict and predict-base have predictions for other examples"):
        evaluate(tmp_path, [GOOD, FAIR], [BAD])


def test_no_predictions_are_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluate: no predictions in .*predict"):
        evaluate(tmp_path, [])


def test_the_stats_of_the_stages_are_copied(tmp_path: Path) -> None:
    metrics = evaluate(tmp_path, [GOOD])
    assert {stage: read_json(metrics / f"{stage}.json") for stage in STATS} == STATS


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    after = [GOOD, FAIR, BAD]
    for name in ("one", "two"):
        evaluate(tmp_path / name, after, after)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_without_predictions_of_the_base_model_it_has_no_scores(tmp_path: Path) -> None:
    evaluate(tmp_path, [GOOD], [BAD])
    found = scores_of(evaluate(tmp_path, [GOOD]))["scores"]
    assert not any("before_training" in score for score in found.values())


def test_the_scores_of_every_example_are_kept(tmp_path: Path) -> None:
    evaluate(tmp_path, [GOOD, FAIR, BAD])
    kept = read_scored(tmp_path / "data/evaluate/scores.parquet")
    assert kept.ids == ["good", "fair", "bad"]
    rouge = kept.scores["rouge1"]
    assert rouge.each.tolist() == [100.0, pytest.approx(60.0), 0.0]
    assert rouge.value == pytest.approx(160 / 3)


def test_ceiling_and_floors_stand_beside_a_score(tmp_path: Path) -> None:
    """`round_trip` lacks a word, the first training example is most alike, and without a source `zzz` is written."""
    own = replace(GOOD, source="mill", round_trip="the old mill is")
    score = scores_of(evaluate(tmp_path, [own], no_input="zzz", metrics=["rouge"]))["scores"]["rougeL"]
    assert score["ceiling"] == pytest.approx(100 * 8 / 9, abs=0.01)
    assert score["floors"] == {
        "nearest_example": 80.0,
        "no_input": 0.0,
        "source_copied": pytest.approx(40.0),
    }


def test_a_label_has_the_majority_as_its_floor_and_a_score_near_it_is_said(tmp_path: Path) -> None:
    train = [Example(str(n), f"text {n}", ["good" if n else "bad"]) for n in range(5)]
    after = apart(*[prediction("good", "good" if n % 4 else "bad", source=f"t {n}") for n in range(40)])
    metrics = evaluate(tmp_path, after, labels=["bad", "good"], train=train, metrics=["accuracy", "macro_f1"])
    found = scores_of(metrics)
    assert found["scores"]["accuracy"]["floors"]["majority_label"] == 75.0
    assert any("accuracy: 75 is near its floor, 75 of majority_label" in note for note in found["notes"])
    assert set(found["scores"]) == {"accuracy", "macro_f1"}  # losses and faithfulness mean nothing for labels


def test_training_without_a_gain_is_said(tmp_path: Path) -> None:
    notes = scores_of(evaluate(tmp_path, apart(*[FAIR] * 30), [FAIR] * 30, metrics=["chrf"]))["notes"]
    assert any(note.startswith("chrf: no gain over the model before training is shown") for note in notes)
    notes = scores_of(evaluate(tmp_path, apart(*[GOOD] * 30), [BAD] * 30, metrics=["chrf"]))["notes"]
    assert not any(note.startswith("chrf: no gain") for note in notes)


def test_bleu_of_texts_without_four_words_is_0_and_the_reason_is_said(tmp_path: Path) -> None:
    found = scores_of(evaluate(tmp_path, [prediction("two words", "two words", id=str(n)) for n in range(50)]))
    assert found["scores"]["bleu"]["score"] == 0.0
    assert any("bleu: no prediction has four words" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [({"accuracy": 50.0}, "reached"), ({"accuracy": 99.0}, "missed"), ({"accuracy": 76}, "undecided")],
)
def test_a_goal_is_reached_missed_or_undecided(tmp_path: Path, goal: dict[str, float], verdict: str) -> None:
    after = apart(*[prediction("a" if n % 4 else "b", "a") for n in range(100)])
    metrics = evaluate(tmp_path, after, metrics=["accuracy"], goals=goal)
    found = scores_of(metrics)["goals"]["accuracy"]
    assert found["verdict"] == verdict
    # +-8.5 at 100 examples is +-1 at 72 times as many
    assert (found["needs"] == 0) if verdict != "undecided" else (6000 < found["needs"] < 8000)


def test_a_goal_of_a_score_where_less_is_better_is_reached_from_below(tmp_path: Path) -> None:
    after = apart(*[GOOD] * 100)
    goals = scores_of(evaluate(tmp_path, after, goals={"never_ended": 0.2, "empty": 0.001}))["goals"]
    assert {name: goal["verdict"] for name, goal in goals.items()} == {"never_ended": "reached", "empty": "undecided"}


def test_a_goal_of_perfection_is_not_missed_by_perfect_texts(tmp_path: Path) -> None:
    after = apart(*[GOOD] * 100)
    goals = scores_of(evaluate(tmp_path, after, metrics=["accuracy"], goals={"accuracy": 100, "empty": 0}))["goals"]
    assert {goal["verdict"] for goal in goals.values()} == {"undecided"}


def test_a_missed_goal_fails_the_stage_only_where_the_user_says_so(tmp_path: Path) -> None:
    after = apart(*[BAD] * 50)
    evaluate(tmp_path, after, metrics=["chrf"], goals={"chrf": 50})
    with pytest.raises(UserError, match=r"evaluate -> goals: chrf is .*, and its goal is 50"):
        evaluate(tmp_path, after, metrics=["chrf"], goals={"chrf": 50}, fail_on_missed_goal=True)
    assert (tmp_path / "metrics/evaluate.json").is_file()


def unanswered(text: str, name: str, **overrides: Any) -> Prediction:
    """As `predict` writes it for a test split without answers."""
    losses = {"reference_nats": 0.0, "reference_tokens": 0, "reference_bytes": 0}
    return prediction(text, id=name, source=f"the place {name}", **losses, **overrides)


TEXTS = [
    unanswered("the old mill is open, the old mill is open", "1"),
    unanswered("", "2", finish_reason="length"),
    unanswered("a quiet place", "3"),
]
LABELS = [unanswered("good", "1"), unanswered("bad", "2"), unanswered("good", "3")]
ONE_TEXT = TEXTS[:1]
NOT_SCORED = "test has no answers, so nothing was scored"


@pytest.mark.parametrize(
    ("after", "labels", "metrics", "signs", "properties"),
    [
        pytest.param(
            TEXTS,
            (),
            ["bleu", "rouge", "token_f1"],
            {"empty": 0.33333, "never_ended": 0.33333},
            {"distinct_1", "distinct_2"},
            id="texts",
        ),
        pytest.param(
            LABELS, ("bad", "good"), ["accuracy", "macro_f1"], {"empty": 0, "never_ended": 0}, set(), id="labels"
        ),
        pytest.param(ONE_TEXT, (), ["parent"], {"empty": 0}, {"distinct_1", "distinct_2"}, id="one-text"),
    ],
)
def test_without_answers_only_what_needs_none_is_measured(
    tmp_path: Path,
    after: list[Prediction],
    labels: Sequence[str],
    metrics: list[str],
    signs: dict[str, float],
    properties: set[str],
) -> None:
    metrics_folder = evaluate(tmp_path, after, after, labels, no_input="zzz", metrics=metrics)
    assert read_json(metrics_folder / "evaluate.json") == {
        "task": "task",
        "model": "some/model",
        "examples": len(after),
    }
    found = scores_of(metrics_folder)
    assert (found["scores"], found["headline"], found["breakdowns"], found["goals"]) == ({}, [], [], {})
    assert found["notes"] == [NOT_SCORED]
    assert signs.items() <= {name: sign["score"] for name, sign in found["diagnostics"].items()}.items()
    assert found["properties"].keys() == properties
    for name in ("lengths", "confusion", "breakdowns"):
        assert len((metrics_folder / f"plots/{name}.csv").read_text().splitlines()) == 1
    kept = read_scored(tmp_path / "data/evaluate/scores.parquet")
    assert kept.ids == [own.id for own in after]
    assert kept.scores.keys() == found["diagnostics"].keys()


def test_every_page_says_that_test_has_no_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = evaluate(tmp_path, TEXTS, goals={"bleu": 30.0})
    page, card = ((tmp_path / "data/evaluate" / name).read_text("utf-8") for name in ("report.html", "README.md"))
    assert f"note: {NOT_SCORED}" in capsys.readouterr().out
    assert NOT_SCORED in page
    assert "Headline scores" not in page
    assert TEXTS[0].prediction in page
    assert "test has no answers" in card
    assert "model-index" not in card
    assert "| score | better | result | 95 % interval | before" not in card
    text = (metrics / "predictions.md").read_text("utf-8")
    assert f"{NOT_SCORED.capitalize()}." in text
    assert tables(text)["The first"] == [[own.source, own.prediction] for own in TEXTS[:2]]


@pytest.mark.parametrize(
    ("goals", "verdicts", "line"),
    [
        ({"bleu": 0.0}, ["not measured"], "bleu can't be checked"),
        ({"slot_error": 1.0}, ["not measured"], "slot_error can't be checked"),
        ({"bleu": 30.0, "chrf": 40.0}, ["not measured"] * 2, "bleu, chrf can't be checked"),
        ({"empty": 1.0, "chrf": 40.0}, ["reached", "not measured"], "chrf can't be checked"),
    ],
)
def test_a_goal_that_needs_answers_is_not_reached_without_them(
    tmp_path: Path, goals: dict[str, float], verdicts: list[str], line: str
) -> None:
    found = scores_of(evaluate(tmp_path, TEXTS, goals=goals))["goals"]
    assert {name: goal["verdict"] for name, goal in found.items()} == dict(zip(goals, verdicts, strict=True))
    assert all(goal["score"] is None for goal in found.values() if goal["verdict"] == "not measured")
    assert "not measured" in (tmp_path / "data/evaluate/report.html").read_text("utf-8")
    with pytest.raises(UserError) as error:
        evaluate(tmp_path, TEXTS, goals=goals, fail_on_missed_goal=True)
    assert error.value.lines == [f"evaluate -> goals: {line}: {NOT_SCORED}"]


def test_the_report_tells_what_became_of_lines_fields_and_messages(tmp_path: Path) -> None:
    told = {
        "lines": {"read": 12_345, "kept": 12_300, "rejected": 40, "header": 5, "blank": 0, "of_another_kind": 7},
        "notes": {"empty_references": 3, "greetings": 0, "answers_without_weight": 2, "unread_message_fields.a_b.c": 4},
        "unread_fields": {"test": 11, "<script>": 1, **{f"column {n}": 5 for n in range(30)}},
    }
    evaluate(tmp_path, [GOOD], stats=STATS | {"prepare": STATS["prepare"] | told})
    page = (tmp_path / "data/evaluate/report.html").read_text("utf-8")
    rows = dict(re.findall(r'<tr><th scope="row">(.*?)</th><td dir="auto">(.*?)</td></tr>', page))
    assert (
        rows.items()
        >= {
            "rows read": "3",
            "rows rejected": "0",
            "lines in the files": "12,345",
            "lines of rejected rows": "40",
            "lines of headers": "5",
            "lines, of another kind": "7",
            "empty references, left out": "3",
            "answers of weight 0, not learned": "2",
            "messages with the field `a_b.c`, which nothing reads": "4",
            "rows with the field `test`, which nothing reads": "11",
            "other fields that nothing reads": "12",
        }.items()
    )
    assert not {"blank lines", "answers before any question, not learned"} & rows.keys()
    assert "unread fields" not in page


def test_scores_are_broken_down_by_metadata_and_small_parts_are_marked(tmp_path: Path) -> None:
    after = [replace(GOOD, id=str(n), group=str(n), metadata={"author": "Ann"}) for n in range(30)]
    after += [replace(BAD, id=str(n), group=str(n), metadata={"author": "Bob"}) for n in range(30, 35)]
    metrics = evaluate(tmp_path, after, metrics=["chrf"])
    parts = {p["value"]: p for p in scores_of(metrics)["breakdowns"] if (p["by"], p["score"]) == ("author", "chrf")}
    assert {value: (part["examples"], part["small"]) for value, part in parts.items()} == {
        "Ann": (30, False),
        "Bob": (5, True),
    }
    assert parts["Ann"]["result"] > parts["Bob"]["result"]
    assert "author: Bob (5, few)" in (metrics / "plots/breakdowns.csv").read_text()


def test_training_text_and_listed_words_are_flagged_and_near_duplicates_are_a_part(tmp_path: Path) -> None:
    known = " ".join(f"word{number}" for number in range(20))
    (tmp_path / "words.txt").write_text("zzz\n")
    after = apart(prediction(known, "a quiet place", source="a place"), BAD, FAIR, *[GOOD] * 30)
    train = [*TRAIN, Example("3", "other", [known])]
    metrics = evaluate(tmp_path, after, train=train, screen_words=True, screen_folder=str(tmp_path))
    shares = scores_of(metrics)["diagnostics"]
    assert [shares[name]["score"] for name in ("memorised", "screened")] == [pytest.approx(1 / 33, abs=1e-4)] * 2
    assert shares["memorised"]["ceiling"] == 0
    found = tables((metrics / "predictions.md").read_text("utf-8"))["Flagged: 2 of 33"]
    assert {(row[0], row[2]) for row in found} == {
        (f"as in training example 3: “{known}”", known),
        ("listed word: zzz", BAD.prediction),
    }
    parts = {part["value"]: part["examples"] for part in scores_of(metrics)["breakdowns"] if "near-dup" in part["by"]}
    assert parts == {"yes": 1, "no": 32}
    assert any("1 of 33 test examples are nearly the same" in note for note in scores_of(metrics)["notes"])
    assert "listed word: zzz" in (tmp_path / "data/evaluate/report.html").read_text("utf-8")


def test_without_looking_for_training_text_there_is_no_such_score(tmp_path: Path) -> None:
    assert "memorised" not in scores_of(evaluate(tmp_path, [GOOD], seen_in_training=False))["diagnostics"]


def test_the_worst_predictions_come_before_the_best(tmp_path: Path) -> None:
    text = (evaluate(tmp_path, [FAIR, BAD, GOOD]) / "predictions.md").read_text("utf-8")
    found = tables(text)
    assert list(found) == ["Worst", "Best"]
    assert [row[3] for row in found["Worst"]] == [BAD.prediction, FAIR.prediction]
    assert [row[3] for row in found["Best"]] == [GOOD.prediction, FAIR.prediction]
    assert found["Best"][0] == ["", "100.0", GOOD.source, GOOD.prediction, GOOD.references[0]]


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
    assert [[len(row) for row in rows] for rows in found.values()] == [[5, 5], [5, 5]]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("training_loss", [["step", "loss"], ["1", "2.0"], ["2", "1.12346"]]),
        ("validation_loss", [["step", "loss"], ["2", "1.5"]]),
        ("lengths", [["reference_words", "prediction_words"], ["5", "5"], ["3", "1"]]),
        ("tune_hyperparameters/history", [line.split(",") for line in SEARCH["history"].splitlines()]),
        ("confusion", [["actual", "predicted"]]),
    ],
)
def test_a_plot_has_its_header_and_rows(tmp_path: Path, name: str, rows: list[list[str]]) -> None:
    with (evaluate(tmp_path, [GOOD, BAD]) / f"plots/{name}.csv").open(newline="") as file:
        assert list(csv.reader(file)) == rows


def test_the_search_stands_on_the_page_and_in_the_card(tmp_path: Path) -> None:
    evaluate(tmp_path, [GOOD])
    pages = tmp_path / "data/evaluate"
    assert "Short trials mislead." in (pages / "report.html").read_text("utf-8")
    sentence = "Trial 2 was chosen: its validation loss is 1.25; with the settings of params.yaml, it is 1.5."
    assert all(sentence in (pages / name).read_text("utf-8") for name in ("report.html", "README.md"))


def test_label_tasks_have_a_plot_of_actual_and_predicted_labels(tmp_path: Path) -> None:
    after = [prediction("good", "good"), prediction("good", "bad")]
    metrics = evaluate(tmp_path, after, labels=["bad", "good"], metrics=["accuracy", "macro_f1"])
    assert (metrics / "plots/confusion.csv").read_text() == "actual,predicted\ngood,good\nbad,good\n"


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
