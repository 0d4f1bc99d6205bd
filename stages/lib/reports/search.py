"""The search for settings, as the report page and the model card tell it."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from stages.lib.core.files import read_json
from stages.lib.reports.charts import Chart, Point, Scale, chart
from stages.lib.reports.numbers import compact, in_words

_MOST_TRIALS = 50
_FIXED_COLUMNS = {"trial", "state", "updates", "value", "cost", "on_front", "reason"}
_STATES = ("complete", "pruned", "failed")

Figures = Mapping[str, Any]
Row = Mapping[str, str]


def read_search(report: Path) -> dict[str, Any]:
    """From the report of tune-hyperparameters: rows of its tables {column: text}, and its notes [sentence]."""
    tables = {name: _rows(report / f"{name}.csv") for name in ("trials", "history", "importances", "confirmed")}
    return {**tables, **read_json(report / "notes.json")}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summary(stats: Figures) -> Iterator[str]:
    """The search in sentences; none if nothing was searched. `stats` are those of the stage."""
    if not stats["trials"]:
        return
    states = ", ".join(f"{stats[state]:,} {state}" for state in _STATES if stats[state])
    plural = "" if stats["trials"] == 1 else "s"
    yield f"{stats['trials']:,} trial{plural}: {states}. {stats['updates']:,} updates."
    own = ", with the settings of params.yaml," if stats["best_trial"] == 1 else ""
    known = not own and "value_of_params" in stats
    against = f"; with the settings of params.yaml, it is {stats['value_of_params']:g}" if known else ""
    metric = f"validation {in_words(stats['metric'])}"
    yield f"Trial {stats['best_trial']}{own} was chosen: its {metric} is {stats['value']:g}{against}."
    if "cost" in stats:
        front = "one trial is" if stats["on_front"] == 1 else f"{stats['on_front']:,} trials are"
        yield f"Its cost is {compact(stats['cost'])}; {front} on the front: no other one is as good in both."
    if "confirmed" in stats:
        yield from _confirmation(stats)


def _confirmation(stats: Figures) -> Iterator[str]:
    runs = f"over {stats['confirmed_runs']:,} runs" if stats["confirmed_runs"] > 1 else "in one run"
    yield f"At full length it has {_with_sd(stats)} {runs}{_chance(stats, 'chance_best')}."
    if "second_trial" in stats:
        second = f"trial {stats['second_trial']}, {stats['second_confirmed']:g}"
        yield f"The second is {second}{_chance(stats, 'chance_second')}."
    if "rank_agreement" in stats:
        tau = f"{stats['rank_agreement']:g}"
        yield f"The order of the short trials agrees with that at full length by {tau} (Kendall's tau: 1 is the same)."


def _with_sd(stats: Figures) -> str:
    return f"{stats['confirmed']:g}" + (f" ± {stats['confirmed_sd']:g}" if "confirmed_sd" in stats else "")


def _chance(stats: Figures, name: str) -> str:
    return f"; the chance that it is the best one is {_percent(stats[name])}" if name in stats else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def search_section(search: Figures, stats: Figures) -> dict[str, Any] | None:
    """What the section of the page shows; None if nothing was searched. Of the trials, the best 50."""
    if not search["trials"]:
        return None
    trials = sorted(search["trials"], key=lambda own: _rank(own, stats))
    values = [float(own["value"]) for own in trials if own["state"] == "complete"]
    confirmed = [_confirmed_row(own, stats) for own in search["confirmed"]]
    return {
        "told": list(summary(stats)),
        "notes": search["notes"],
        "metric": in_words(stats["metric"]),
        "better": "lower" if stats["metric"] == "loss" else "higher",
        "settings": [name for name in trials[0] if name not in _FIXED_COLUMNS],
        "has_cost": "cost" in trials[0],
        "count": len(trials),
        "rows": [_trial_row(own, stats) for own in trials[:_MOST_TRIALS]],
        "scale": Scale(min(values), max(values)),
        "places": 4 if max(map(abs, values)) < 10 else 2,
        "history": _history(search["history"], stats),
        "front": _front(trials),
        "no_importances": stats.get("importances"),
        "importances": [_importance_row(own) for own in search["importances"]],
        "confirmed": confirmed,
        "confirmed_scale": Scale(
            min((own["low"] for own in confirmed), default=0), max((own["high"] for own in confirmed), default=1)
        ),
    }


def _rank(trial: Row, stats: Figures) -> tuple[int, float, int]:
    """Complete ones first; of equal state, the best first."""
    value = float(trial["value"] or 0)
    return _STATES.index(trial["state"]), value if stats["metric"] == "loss" else -value, int(trial["trial"])


def _trial_row(trial: Row, stats: Figures) -> dict[str, Any]:
    return {
        **trial,
        "number": float(trial["value"]) if trial["value"] else None,
        "cost": compact(float(trial["cost"])) if trial.get("cost") else "",
        "is_chosen": int(trial["trial"]) == stats["best_trial"],
        "on_front": trial.get("on_front") == "yes",
        "settings": {name: value for name, value in trial.items() if name not in _FIXED_COLUMNS},
    }


def _history(rows: Sequence[Row], stats: Figures) -> Chart | None:
    """The value of each trial, and the best so far."""
    best = [(float(row["trial"]), float(row["best_so_far"])) for row in rows if row["best_so_far"]]
    points = [_point(row, "trial", _kind(row, stats)) for row in rows if row["value"]]
    return chart({"best so far": _steps(best)}, points)


def _kind(row: Row, stats: Figures) -> str:
    return "chosen" if int(row["trial"]) == stats["best_trial"] else row["state"]


def _front(trials: Sequence[Row]) -> Chart | None:
    """The value of each complete trial by its cost, and the front; None if no cost was asked for."""
    points = [_point(row, "cost", "front" if row["on_front"] else "off") for row in trials if row.get("cost")]
    front = sorted((point.x, point.y) for point in points if point.kind == "front")
    return chart({"front": _steps(front)}, points)


def _point(row: Row, across: str, kind: str) -> Point:
    return Point(kind, f"trial {row['trial']}: {row['value']}", float(row[across]), float(row["value"]))


def _steps(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line that keeps its height up to the next place."""
    line = list(places[:1])
    for (_, before), (x, y) in pairwise(places):
        line += [(x, before), (x, y)]
    return line


def _importance_row(row: Row) -> dict[str, Any]:
    return {"setting": row["setting"], **{name: float(row[name]) for name in ("importance", "low", "high")}}


def _confirmed_row(row: Row, stats: Figures) -> dict[str, Any]:
    values = [float(value) for name, value in row.items() if name.startswith("run_") and value]
    return {
        **row,
        "runs": values,
        "low": min(values),
        "high": max(values),
        "chance": _percent(float(row["chance_best"])) if row["chance_best"] else "unknown",
        "is_chosen": int(row["trial"]) == stats["best_trial"],
    }
