"""What a search leaves for people: tables of its trials, plots of them, and a few numbers for `dvc metrics diff`.

No table holds seconds: these differ from run to run, and have a file of their own, which is no out of the stage.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.lib.core.files import write_csv, write_json
from stages.lib.tuning.confirmation import Confirmed
from stages.lib.tuning.importances import FEWEST_COMPLETE, Importance, importances
from stages.lib.tuning.scales import is_logarithmic, is_number, label, places
from stages.lib.tuning.study import Objective, Trial

_FEWEST_RANKED = 3  # confirmed trials: the order of two says nothing
_MOST_TICKS = 6  # of an axis of numbers; of more, its ends are named

Row = Sequence[object]


def write_report(
    target: Path,
    trials: Sequence[Trial],
    names: Sequence[str],
    best: int,
    metric: str,
    cost: str | None,
    confirmed: Sequence[Confirmed],
    notes: Sequence[str],
) -> None:
    """Writes `target`/report/. Without trials, the tables have their headers alone.

    trials.csv has one column a searched setting, empty where a trial does not read it. The other tables are made for
    plots: history.csv (the best value so far), courses.csv (values during a trial), slices.csv (values by setting),
    parallel.csv (trials as lines across the settings), front.csv (values by cost), importances.csv and confirmed.csv.
    stats.json is what the metrics show of the stage, and notes.json holds the sentences of `notes`.

    Args:
        names: of the searched settings.
        best: number of the chosen trial.
    """
    report, objective = target / "report", Objective(metric, cost)
    front, found = _front(trials, objective), importances(trials, names, objective)
    costs, marks = (["cost"], ["on_front"]) if cost else ([], [])
    tables: dict[str, tuple[Row, Iterable[Row]]] = {
        "trials": (
            ["trial", "state", "updates", "value", *costs, *names, *marks, "reason"],
            ([*_trial_row(trial, names, cost, front)] for trial in trials),
        ),
        "history": (("trial", "state", "value", "best_so_far"), _history(trials, objective)),
        "courses": (("trial", "state", "evaluation", "value"), _courses(trials)),
        "slices": (("trial", "state", "setting", "scale", "at", "value"), _slices(trials, names)),
        "parallel": (
            ("trial", "state", "value", "axis", "position", "label", "tick"),
            _parallel(trials, names, metric),
        ),
        "front": (("trial", "cost", "value", "on_front"), _costs(trials, front)),
        "importances": (
            ("setting", "importance", "low", "high"),
            ((own.setting, *(round(share, 3) for share in own[1:])) for own in found),
        ),
        "confirmed": _confirmed_table(confirmed),
    }
    for name, (header, rows) in tables.items():
        write_csv(report / f"{name}.csv", header, rows)
    write_json(report / "stats.json", _stats(trials, best, objective, front, found, confirmed))
    write_json(report / "notes.json", {"notes": list(notes)})


def write_seconds(path: Path, trials: Sequence[Trial]) -> None:
    """How long each trial took."""
    write_csv(path, ("trial", "seconds"), ((_shown(own), round(own.seconds, 1)) for own in trials))


def _front(trials: Sequence[Trial], objective: Objective) -> set[int]:
    """Numbers of the complete trials that no other one beats in value and cost; none if no cost is asked for."""
    points = [
        (own.number, objective.rank(own.value), own.cost)
        for own in trials
        if own.state == "complete" and own.value is not None and own.cost is not None
    ]
    return {
        number
        for number, rank, cost in points
        if not any(r <= rank and c <= cost and (r, c) != (rank, cost) for _, r, c in points)
    }


def _shown(trial: Trial) -> int:
    """The number that people see."""
    return trial.number + 1


def _trial_row(trial: Trial, names: Sequence[str], cost: str | None, front: set[int]) -> Iterator[object]:
    yield from (_shown(trial), trial.state, trial.updates, _rounded(trial.value))
    if cost:
        yield "" if trial.cost is None else round(trial.cost)
    yield from (label(trial.settings[name]) if name in trial.settings else "" for name in names)
    if cost:
        yield "yes" if trial.number in front else ""
    yield trial.reason


def _history(trials: Sequence[Trial], objective: Objective) -> Iterator[Row]:
    best: float | None = None
    for trial in trials:
        if trial.state == "complete" and trial.value is not None:
            best = min((own for own in (best, trial.value) if own is not None), key=objective.rank)
        yield _shown(trial), trial.state, _rounded(trial.value), _rounded(best)


def _courses(trials: Sequence[Trial]) -> Iterator[Row]:
    for trial in trials:
        for evaluation, value in sorted(trial.course.items()):
            yield _shown(trial), trial.state, evaluation, _rounded(value)


def _slices(trials: Sequence[Trial], names: Sequence[str]) -> Iterator[Row]:
    """A word among numbers, such as null, stands on the axis of words."""
    for name in names:
        readers = [trial for trial in trials if name in trial.settings]
        numbers = [trial.settings[name] for trial in readers if is_number(trial.settings[name])]
        scale = "logarithmic" if numbers and is_logarithmic(numbers) else "linear"
        for trial in readers:
            value = trial.settings[name]
            yield (
                _shown(trial),
                trial.state,
                name,
                scale if is_number(value) else "words",
                label(value),
                _rounded(trial.value),
            )


def _parallel(trials: Sequence[Trial], names: Sequence[str], metric: str) -> Iterator[Row]:
    """The last axis is that of the metric. `tick` names the places of an axis, once each."""
    for name in names:
        readers = [trial for trial in trials if name in trial.settings]
        yield from _axis(name, readers, [trial.settings[name] for trial in readers])
    valued = [(trial, value) for trial in trials if (value := _rounded(trial.value)) != ""]
    yield from _axis(metric, [trial for trial, _ in valued], [value for _, value in valued])


def _axis(name: str, trials: Sequence[Trial], values: Sequence[Any]) -> Iterator[Row]:
    positions, named = places(values), set[str]()
    few = len(set(map(label, values))) <= _MOST_TICKS
    for trial, value, position in zip(trials, values, positions, strict=True):
        tick = "" if label(value) in named else label(value)
        if not few and is_number(value) and position not in (0, 1):
            tick = ""
        named.add(tick)
        yield _shown(trial), trial.state, _rounded(trial.value), name, round(position, 4), label(value), tick


def _costs(trials: Sequence[Trial], front: set[int]) -> Iterator[Row]:
    for trial in trials:
        if trial.state == "complete" and trial.cost is not None:
            mark = "yes" if trial.number in front else "no"
            yield _shown(trial), round(trial.cost), _rounded(trial.value), mark


def _confirmed_table(confirmed: Sequence[Confirmed]) -> tuple[Row, Iterable[Row]]:
    runs = max((len(own.values) for own in confirmed), default=0)
    header = ["trial", *(f"run_{number}" for number in range(1, runs + 1)), "mean", "sd", "chance_best"]
    return header, (
        (
            own.number + 1,
            *(_rounded(own.values[place] if place < len(own.values) else None) for place in range(runs)),
            _rounded(own.mean),
            _rounded(own.sd, 2),
            _rounded(own.chance_best, 2),
        )
        for own in confirmed
    )


def _stats(
    trials: Sequence[Trial],
    best: int,
    objective: Objective,
    front: set[int],
    found: Sequence[Importance],
    confirmed: Sequence[Confirmed],
) -> dict[str, Any]:
    """DVC shows no null and no list, so these are words."""
    if not trials:
        return {"trials": 0}
    by_number, states = {trial.number: trial for trial in trials}, Counter(trial.state for trial in trials)
    chosen = by_number[best]
    stats = {
        "trials": len(trials),
        **{state: states[state] for state in ("complete", "pruned", "failed")},
        "updates": sum(trial.updates for trial in trials),
        "metric": objective.metric,
        "best_trial": _shown(chosen),
        "value": _rounded(chosen.value),
        "value_of_params": _rounded(by_number[0].value) if 0 in by_number else "",
        "settings": {name: _as_metric(own) for name, own in chosen.settings.items()},
        **_cost_stats(chosen, front),
        **_confirmed_stats(by_number, best, objective, confirmed),
    }
    if not found:
        stats["importances"] = f"need {FEWEST_COMPLETE} complete trials"
    return {name: value for name, value in stats.items() if value != ""}


def _as_metric(value: Any) -> float | str:
    """A number of more than five decimals becomes a word: DVC would show it rounded to five."""
    return value if is_number(value) and value == round(value, 5) else label(value)


def _cost_stats(chosen: Trial, front: set[int]) -> dict[str, Any]:
    return {"cost": round(chosen.cost), "on_front": len(front)} if chosen.cost is not None else {}


def _confirmed_stats(
    trials: Mapping[int, Trial], best: int, objective: Objective, confirmed: Sequence[Confirmed]
) -> dict[str, Any]:
    """Of the chosen trial and the second; and whether short trials rank as those of full length do (Kendall's tau,
    from -1 to 1)."""
    ranked = sorted(confirmed, key=lambda own: (own.number != best, objective.rank(own.mean)))
    if not ranked:
        return {}
    stats = {
        "confirmed": _rounded(ranked[0].mean),
        "confirmed_sd": _rounded(ranked[0].sd, 2),
        "confirmed_runs": len(ranked[0].values),
        "chance_best": _rounded(ranked[0].chance_best, 2),
    }
    if len(ranked) > 1:
        stats |= {"second_trial": ranked[1].number + 1, "second_confirmed": _rounded(ranked[1].mean)}
        stats["chance_second"] = _rounded(ranked[1].chance_best, 2)
    if len(ranked) >= _FEWEST_RANKED:
        from scipy.stats import kendalltau

        short = [trials[own.number].value for own in ranked]
        stats["rank_agreement"] = _rounded(float(kendalltau(short, [own.mean for own in ranked]).statistic), 2)
    return stats


def _rounded(value: float | None, digits: int = 6) -> float | str:
    """To significant digits; nothing where there is no finite number."""
    return "" if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")
