"""What a run is told as: the lean metrics of git, all scores, the figures of the pages, the lines of the terminal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages.lib.reports.confidence import confidence_figures, coverage_curve, label_figures
from stages.lib.scores.bounds import CEILING
from stages.lib.scores.general_text import GENERAL
from stages.lib.scores.resampling import Interval
from stages.lib.scores.results import Results
from stages.lib.scores.score import Score

_MOST_LABELS = 5
_DIGITS = 5  # significant ones, of a number whose error is unknown

About = Mapping[str, Any]  # the task, the model, and the settings of the stages


def lean(results: Results, about: About) -> dict[str, Any]:
    """For `dvc metrics diff` and `dvc exp show`, which list every number that they find: the headline scores alone."""
    found: dict[str, Any] = {"task": about["task"], "model": about["model"], "examples": results.examples}
    for name in results.headline:
        interval = results.intervals[name]
        found[name] = rounded(results.scores[name].value, interval)
        found[f"{name}_95"] = span(interval)
    if general := results.general_text:
        found[GENERAL] = rounded(general.score.value, general.interval)
        found[f"{GENERAL}_95"] = span(general.interval)
    return found


def full(results: Results, about: About) -> dict[str, Any]:
    """All that was measured."""
    return {
        "task": about["task"],
        "model": about["model"],
        "examples": results.examples,
        "groups": results.groups,
        "headline": results.headline,
        "scores": {name: _described(name, score, results) for name, score in results.scores.items()}
        | _general_text(results),
        "diagnostics": {name: _described(name, score, results) for name, score in results.diagnostics.items()},
        "chrf_correlations": {
            name: {"rho": rounded(own.rho, own.interval), **_ends(own.interval), "says": own.says}
            for name, own in results.correlations.items()
        },
        "labels": label_figures(results),
        "confidence": confidence_figures(results),
        "properties": {name: _significant(value, 3) for name, value in results.properties.items()},
        "goals": {name: asdict(goal) for name, goal in results.goals.items()},
        "breakdowns": [
            {
                "by": part.by,
                "value": part.value,
                "examples": part.examples,
                "small": part.is_small,
                "score": part.score,
                "result": rounded(part.result, part.interval),
                **_ends(part.interval),
            }
            for part in results.parts
        ],
        "notes": results.notes,
    }


def _described(name: str, score: Score, results: Results) -> dict[str, Any]:
    interval = results.intervals[name]
    found = _with_interval(score, interval)
    if math.isfinite(interval.error):
        found["smallest_difference"] = _significant(interval.smallest_difference, 2)
    if name in results.before:
        found["before_training"] = _significant(results.before[name])
    if bounds := {bound: _significant(value) for bound, value in results.bounds.get(name, {}).items()}:
        found["ceiling"] = bounds.pop(CEILING)
        found["floors"] = bounds
    if name in results.ceilings:
        found |= {f"ceiling_{end}": value for end, value in _ends(results.ceilings[name]).items()}
    return found


def _with_interval(score: Score, interval: Interval) -> dict[str, Any]:
    return {
        "score": _significant(score.value),
        **_ends(interval),
        "better": "higher" if score.higher_is_better else "lower",
        "signature": score.signature,
    }


def _general_text(results: Results) -> dict[str, Any]:
    """The loss on general text, with what training has changed."""
    general = results.general_text
    if general is None:
        return {}
    found = _with_interval(general.score, general.interval)
    if change := general.change:
        ends = {f"change_{end}": value for end, value in _ends(change.interval).items()}
        found |= {"before_training": _significant(change.first), "change": _significant(change.difference), **ends}
    return {GENERAL: found}


def _ends(interval: Interval) -> dict[str, float]:
    """Of one group of examples there is no interval."""
    if not math.isfinite(interval.error):
        return {}
    return {"low": rounded(interval.low, interval), "high": rounded(interval.high, interval)}


def page_figures(
    results: Results, about: About, stats: Mapping[str, Any], curve: Any, search: Any, shown: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What the pages show. `stats` holds those of each stage; `shown` the predictions, worst first."""
    drawn = {"curve": curve, "coverage_curve": coverage_curve(results), "search": search}
    return {**about, **full(results, about), **stats, **drawn, "predictions": shown}


def told(results: Results) -> Iterator[dict[str, Any]]:
    """Each prediction with its faults, its scores, and the one that it is ranked by."""
    for row, own in enumerate(results.predictions):
        yield {
            "id": own.id,
            "source": own.source,
            "references": own.references,
            "prediction": own.prediction,
            "faults": results.faults[row],
            "flags": results.flags[row],
            "rank": results.ranks[row],
            "scores": {name: _significant(float(score.each[row])) for name, score in results.scores.items()},
        }


def terminal(results: Results, about: About) -> Iterator[str]:
    """The scores as a table of 80 columns, then what a reader would overlook."""
    many = f" in {results.groups:,} groups" if results.groups < results.examples else ""
    yield f"evaluate: {about['task']}, {about['model']}: {results.examples:,} predictions{many}"
    yield f"  {'score':<24}{'':>10}  {'95 % interval':<20}{'before training':>16}"
    for name, score in (results.scores | results.diagnostics).items():
        interval = results.intervals[name]
        before = f"{_significant(results.before[name], 4):g}" if name in results.before else ""
        sign = "+" if score.higher_is_better else "-"
        yield f"{sign} {name:<24}{_fixed(score.value, interval):>10}  {span(interval):<20}{before:>16}".rstrip()
    if general := results.general_text:
        before = f"{_significant(general.change.first, 4):g}" if general.change else ""
        value, ends = _fixed(general.score.value, general.interval), span(general.interval)
        yield f"- {GENERAL:<24}{value:>10}  {ends:<20}{before:>16}".rstrip()
    yield "  + higher is better, - lower is better"
    if worst := results.labels[:_MOST_LABELS]:
        yield f"  F1 of labels, the worst first: {', '.join(f'{own.label} {own.f1:.1f}' for own in worst)}"
    for name, goal in results.goals.items():
        needs = f"; about {goal.needs:,} test examples would decide it" if goal.needs else ""
        yield f"  goal: {name} {goal.goal:g} is {goal.verdict}{needs}"
    yield from (f"  note: {note}" for note in results.notes)


def span(interval: Interval) -> str:
    """Its ends, with an en dash between them: `dvc metrics diff` shows two of them in 80 columns."""
    if not math.isfinite(interval.error):
        return "unknown"
    return f"{_fixed(interval.low, interval)}\u2013{_fixed(interval.high, interval)}"


def rounded(value: float, interval: Interval) -> float:
    """To the digits that mean something: two of the standard error."""
    return float(_fixed(value, interval))


def _fixed(value: float, interval: Interval) -> str:
    if not math.isfinite(interval.error) or interval.error <= 1e-9 * abs(value):
        return f"{_significant(value):g}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(interval.error)))}f}"


def _significant(value: float, digits: int = _DIGITS) -> float:
    return float(f"{value:.{digits}g}")
