"""The report of a search: its tables are complete and repeatable, and DVC can draw and compare them."""

import csv
import json
import math
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.lib.core.files import read_json
from stages.lib.reports.search import read_search, search_section
from stages.lib.tuning.confirmation import Confirmed
from stages.lib.tuning.report import write_report, write_seconds
from stages.lib.tuning.study import Trial
from tests.build import contents
from tests.shell import dvc, run

PLOTS: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(Path("dvc.yaml"))["plots"]
TABLES = "metrics/plots/tune_hyperparameters/"
TEMPLATES = Path(".dvc/plots")

NAMES = ["model", "learning_rate", "dropout", "adapters.rank"]
FIRST = {"model": "model", "learning_rate": 0.001, "dropout": None}


def trial(number: int, value: float | None, settings: Mapping[str, Any] = FIRST, **overrides: Any) -> Trial:
    values: dict[str, Any] = {
        **{"state": "complete", "cost": None, "updates": 10, "seconds": 1.5, "reason": ""},
        "course": {} if value is None else {1: value + 1, 2: value},
    }
    return Trial(number=number, value=value, settings=dict(settings), **(values | overrides))


TRIALS = [
    trial(0, 1.5),
    trial(1, 0.9, {**FIRST, "dropout": 0.1, "learning_rate": 0.02}, state="pruned", updates=5),
    trial(2, None, {**FIRST, "model": "small"}, state="failed", updates=1, reason="loss is not a number, update 1"),
    trial(3, 1.25, {"model": "small", "learning_rate": 0.0000123, "dropout": 0.2, "adapters.rank": 8}),
    trial(4, 1.123456789, {**FIRST, "learning_rate": 0.0005}),
]
CONFIRMED = [
    Confirmed(3, (1.0, 1.1), 1.05, 0.0707107, 0.75),
    Confirmed(4, (1.2,), 1.2, None, 0.2),
    Confirmed(0, (1.3, 1.4), 1.35, 0.0707107, 0.05),
]


def report(
    target: Path, trials: Sequence[Trial] = TRIALS, names: Sequence[str] = NAMES, best: int = 0, **overrides: Any
) -> Path:
    """Returns the folder of the report."""
    values: dict[str, Any] = {"metric": "loss", "cost": None, "confirmed": [], "notes": []}
    write_report(target, trials, names, best, **(values | overrides))
    return target / "report"


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(folder: Path, name: str, key: str) -> list[str]:
    return [row[key] for row in rows(folder, name)]


def test_a_trial_is_a_row_with_a_column_for_each_setting(tmp_path: Path) -> None:
    table = rows(report(tmp_path), "trials")
    assert list(table[0]) == ["trial", "state", "updates", "value", *NAMES, "reason"]
    assert [list(row.values()) for row in table] == [
        ["1", "complete", "10", "1.5", "model", "0.001", "null", "", ""],
        ["2", "pruned", "5", "0.9", "model", "0.02", "0.1", "", ""],
        ["3", "failed", "1", "", "small", "0.001", "null", "", "loss is not a number, update 1"],
        ["4", "complete", "10", "1.25", "small", "1.23e-05", "0.2", "8", ""],
        ["5", "complete", "10", "1.12346", "model", "0.0005", "null", "", ""],
    ]


def test_seconds_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    slow = [replace(own, seconds=77 * own.seconds) for own in TRIALS]
    one, two = (report(tmp_path / name, trials) for name, trials in (("one", TRIALS), ("two", slow)))
    assert contents(one) == contents(two)
    write_seconds(tmp_path / "seconds.csv", TRIALS)
    assert (tmp_path / "seconds.csv").read_text().splitlines()[:2] == ["trial,seconds", "1,1.5"]


def test_without_trials_every_table_has_its_header(tmp_path: Path) -> None:
    empty, full = report(tmp_path / "empty", []), report(tmp_path / "full")
    assert set(contents(empty)) == set(contents(full))
    assert read_json(empty / "stats.json") == {"trials": 0}
    for path in empty.glob("*.csv"):
        assert len(path.read_text().splitlines()) == 1, path
    assert search_section(read_search(empty), read_json(empty / "stats.json")) is None


@pytest.mark.parametrize(
    ("metric", "best"), [("loss", ["1.5", "1.5", "1.5", "1.25", "1.12346"]), ("bleu", ["1.5"] * 5)]
)
def test_the_best_so_far_is_that_of_complete_trials(tmp_path: Path, metric: str, best: list[str]) -> None:
    folder = report(tmp_path, metric=metric)
    assert column(folder, "history", "best_so_far") == best
    assert column(folder, "history", "value") == ["1.5", "0.9", "", "1.25", "1.12346"]


def test_the_courses_show_where_a_trial_was_pruned(tmp_path: Path) -> None:
    trials = [trial(0, 1.5), trial(1, 3.0, state="pruned", course={1: 3.0})]
    found = [tuple(row.values()) for row in rows(report(tmp_path, trials), "courses")]
    assert found == [("1", "complete", "1", "2.5"), ("1", "complete", "2", "1.5"), ("2", "pruned", "1", "3.0")]


def test_a_slice_has_an_axis_of_numbers_or_of_words(tmp_path: Path) -> None:
    found = rows(report(tmp_path), "slices")
    assert {(own["setting"], own["scale"], own["at"]) for own in found} == {
        *(("model", "words", word) for word in ("model", "small")),
        *(("learning_rate", "logarithmic", rate) for rate in ("0.001", "0.02", "1.23e-05", "0.0005")),
        *(("dropout", "linear", rate) for rate in ("0.1", "0.2")),
        ("dropout", "words", "null"),
        ("adapters.rank", "linear", "8"),
    }
    assert len(found) == 3 * len(TRIALS) + 1


def test_parallel_axes_reach_from_the_lowest_to_the_highest_value_and_end_with_the_metric(tmp_path: Path) -> None:
    found = rows(report(tmp_path), "parallel")
    assert list(dict.fromkeys(own["axis"] for own in found)) == [*NAMES, "loss"]
    places = {(own["axis"], own["label"]): float(own["position"]) for own in found}
    assert places["learning_rate", "1.23e-05"] == 0
    assert places["learning_rate", "0.02"] == 1
    middle = (math.log(0.001) - math.log(0.0000123)) / (math.log(0.02) - math.log(0.0000123))
    assert places["learning_rate", "0.001"] == pytest.approx(middle, abs=1e-4)
    assert (places["model", "model"], places["model", "small"]) == (0, 1)
    assert places["adapters.rank", "8"] == 0.5
    assert places["dropout", "null"] < 0
    assert (places["loss", "0.9"], places["loss", "1.5"]) == (0, 1)
    ticks = [(own["axis"], own["tick"]) for own in found if own["tick"]]
    assert len(ticks) == len(set(ticks)) == len(places)


def test_of_many_values_only_the_ends_of_an_axis_are_named(tmp_path: Path) -> None:
    trials = [trial(number, 1.0, {"learning_rate": 1 + number / 20}) for number in range(20)]
    found = rows(report(tmp_path, trials, ["learning_rate"]), "parallel")
    assert [own["tick"] for own in found if own["axis"] == "learning_rate" and own["tick"]] == ["1.0", "1.95"]


def test_the_front_has_the_trials_that_no_other_beats_in_value_and_cost(tmp_path: Path) -> None:
    costs = [(1.5, 10), (1.2, 20), (1.3, 30), (1.2, 20), (1.1, 40), (0.5, None)]
    states = ["complete"] * 5 + ["pruned"]
    trials = [
        trial(number, value, cost=cost, state=state)
        for number, ((value, cost), state) in enumerate(zip(costs, states, strict=True))
    ]
    folder = report(tmp_path, trials, cost="parameters")
    assert column(folder, "trials", "on_front") == ["yes", "yes", "", "yes", "yes", ""]
    assert column(folder, "trials", "cost") == ["10", "20", "30", "20", "40", ""]
    assert column(folder, "front", "on_front") == ["yes", "yes", "no", "yes", "yes"]
    stats = read_json(folder / "stats.json")
    assert (stats["cost"], stats["on_front"]) == (10, 4)
    higher = report(tmp_path / "higher", trials, cost="parameters", metric="bleu")
    assert column(higher, "front", "on_front") == ["yes", "no", "no", "no", "no"]


def searched(count: int, prune_above: float = math.inf) -> Iterator[Trial]:
    """The learning rate decides, the rank of adapters a little, the schedule nothing."""
    draw = random.Random(7)
    for number in range(count):
        rate = 10 ** draw.uniform(-4, -2)
        settings = {"learning_rate": rate, "schedule": draw.choice(["cosine", "linear"]), "adapters": None}
        if draw.random() < 0.5:
            settings |= {"adapters": {"type": "lora"}, "adapters.rank": draw.choice([4, 8, 16, 32])}
        value = 1 + (math.log10(rate) + 3) ** 2 + draw.gauss(0, 0.01)
        yield trial(number, value, settings, state="complete" if value < prune_above else "pruned")


SEARCHED = ["schedule", "learning_rate", "adapters", "adapters.rank"]


@pytest.mark.parametrize("prune_above", [math.inf, 1.3], ids=["complete", "most-pruned"])
def test_importances_find_the_setting_that_decides_and_say_how_sure_they_are(
    tmp_path: Path, prune_above: float
) -> None:
    trials = list(searched(60, prune_above))
    found = rows(report(tmp_path, trials, SEARCHED), "importances")
    shares = {own["setting"]: float(own["importance"]) for own in found}
    assert next(iter(shares)) == "learning_rate"
    assert set(shares) == set(SEARCHED)
    assert shares["learning_rate"] > 0.5
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)
    for own in found:
        low, share, high = (float(own[name]) for name in ("low", "importance", "high"))
        assert 0 <= low <= share <= high <= 1
        assert high - low > 0.02


def test_importances_are_the_same_each_time_and_turn_with_the_metric(tmp_path: Path) -> None:
    trials = list(searched(30))
    first, second = (report(tmp_path / name, trials, SEARCHED) for name in ("first", "second"))
    assert rows(first, "importances") == rows(second, "importances")
    negated = [replace(own, value=-own.value) for own in trials if own.value is not None]
    assert rows(report(tmp_path / "bleu", negated, SEARCHED, metric="bleu"), "importances") == rows(
        first, "importances"
    )


def test_few_trials_have_no_importances_and_the_stats_say_why(tmp_path: Path) -> None:
    trials = list(searched(12))
    few = [replace(own, state="pruned") if own.number > 8 else own for own in trials]
    assert "importances" not in read_json(report(tmp_path / "some", trials, SEARCHED) / "stats.json")
    folder = report(tmp_path / "few", few, SEARCHED)
    assert rows(folder, "importances") == []
    assert read_json(folder / "stats.json")["importances"] == "need 10 complete trials"


def test_a_confirmation_tells_every_run_and_whether_short_trials_rank_alike(tmp_path: Path) -> None:
    folder = report(tmp_path, best=3, confirmed=CONFIRMED)
    assert [list(row.values()) for row in rows(folder, "confirmed")] == [
        ["4", "1.0", "1.1", "1.05", "0.071", "0.75"],
        ["5", "1.2", "", "1.2", "", "0.2"],
        ["1", "1.3", "1.4", "1.35", "0.071", "0.05"],
    ]
    stats = read_json(folder / "stats.json")
    assert {name: stats[name] for name in stats if "confirmed" in name or "chance" in name or "second" in name} == {
        **{"confirmed": 1.05, "confirmed_sd": 0.071, "confirmed_runs": 2, "chance_best": 0.75},
        **{"second_trial": 5, "second_confirmed": 1.2, "chance_second": 0.2},
    }
    # when short, trial 5 is before trial 4: of three pairs, one has changed its order
    assert stats["rank_agreement"] == 0.33


def test_the_stats_are_what_dvc_can_show(tmp_path: Path) -> None:
    """DVC leaves out null and lists, and rounds to five decimals."""
    settings = {
        **{"schedule": "linear", "dropout": None, "batch_size": 16, "learning_rate": 0.004, "freeze.embeddings": True},
        **{"adapters": {"type": "lora"}, "freeze.names": ["*.attn.*"], "weight_decay": 0.0000123},
    }
    stats = read_json(
        report(tmp_path, [trial(0, 1.5), trial(1, 1.25, settings)], list(settings), best=1) / "stats.json"
    )
    assert stats == {
        **{"trials": 2, "complete": 2, "pruned": 0, "failed": 0, "updates": 20, "metric": "loss"},
        **{"best_trial": 2, "value": 1.25, "value_of_params": 1.5, "importances": "need 10 complete trials"},
        "settings": {
            **{"schedule": "linear", "dropout": "null", "batch_size": 16, "learning_rate": 0.004},
            **{"freeze.embeddings": "true", "adapters": '{"type": "lora"}', "freeze.names": '["*.attn.*"]'},
            "weight_decay": "1.23e-05",
        },
    }


def test_the_page_shows_what_the_report_holds(tmp_path: Path) -> None:
    folder = report(tmp_path, best=3, confirmed=CONFIRMED, notes=["trial 5 was best when short"])
    section = search_section(read_search(folder), read_json(folder / "stats.json"))
    assert section is not None
    assert [row["trial"] for row in section["rows"]] == ["5", "4", "1", "2", "3"]
    assert [row["trial"] for row in section["rows"] if row["is_chosen"]] == ["4"]
    assert section["settings"] == NAMES
    assert section["notes"] == ["trial 5 was best when short"]
    assert [row["runs"] for row in section["confirmed"]] == [[1.0, 1.1], [1.2], [1.3, 1.4]]


def of_search() -> Iterator[tuple[str, dict[str, Any], str, str]]:
    """Plots of the search: name, definition, table, column."""
    for entry in PLOTS:
        ((name, plot),) = entry.items()
        ((path, y),) = plot["y"].items()
        if path.startswith(TABLES):
            yield name, plot, path.removeprefix(TABLES).removesuffix(".csv"), y


def fields(template: Any) -> Iterator[str]:
    """Columns that a template names."""
    if isinstance(template, list):
        for own in template:
            yield from fields(own)
    elif isinstance(template, dict):
        for name, value in template.items():
            if name == "parse":
                yield from value
            elif name == "field" and isinstance(value, str):
                yield value
            else:
                yield from fields(value)


def test_every_plot_of_the_search_draws_columns_that_its_table_has(tmp_path: Path) -> None:
    folder = report(tmp_path)
    drawn = set()
    for name, plot, table, y in of_search():
        header = (folder / f"{table}.csv").read_text().splitlines()[0].split(",")
        template = json.loads((TEMPLATES / f"{plot['template']}.json").read_text())
        assert {plot["x"], y, *fields(template)} <= {*header, "rev"}, name
        drawn.add(table)
    assert drawn == {"history", "courses", "slices", "parallel", "importances", "front"}
    assert {plot["template"] for _, plot, *_ in of_search()} == {file.stem for file in TEMPLATES.iterdir()}


@pytest.mark.pipeline
def test_dvc_compares_the_searches_of_two_revisions(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    run(project, "git init -q")
    dvc(project, "init -q")
    shutil.copytree(TEMPLATES, project / TEMPLATES)
    with (project / "dvc.yaml").open("w") as file:
        YAML().dump({"plots": [{name: plot} for name, plot, *_ in of_search()]}, file)
    metrics = "metrics/tune_hyperparameters.json"
    for best in (0, 3):
        folder = report(tmp_path / str(best), list(searched(20))[best:], SEARCHED, best)
        shutil.copytree(folder, project / TABLES, dirs_exist_ok=True)
        shutil.copy(folder / "stats.json", project / metrics)
        run(project, "git add .")
        run(project, f"git commit -q -m 'trial {best + 1}'")
    for command in ("metrics", "params"):
        told = run(project, f"dvc {command} diff HEAD~1 --targets {metrics}")
        assert "settings.learning_rate" in told
        assert "best_trial" in told
    shown = json.loads(run(project, "dvc plots diff HEAD~1 HEAD --json"))["data"]
    for name, _, table, _ in of_search():
        if table != "front":  # no cost was asked for
            (plot,) = shown[name]
            assert plot["revisions"] == ["HEAD~1", "HEAD"], name
            assert "<DVC_METRIC_" not in json.dumps(plot["content"]), name
