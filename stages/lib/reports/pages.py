"""Self-contained HTML pages: the report of a run, a comparison of runs, and explanations of predictions.

A page loads nothing, and its content security policy forbids that it does: texts of the data can neither run code nor
reach a network. Equal figures give equal bytes.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.lib.records.examples import SPLITS
from stages.lib.reports.account import account
from stages.lib.reports.charts import Scale, chart, difference_scale, marks_of, results_scale, score_scale
from stages.lib.reports.confidence import LABEL_HEADER, coverage_chart, label_rows, reliability_chart
from stages.lib.reports.numbers import (
    compact,
    decimals,
    finite,
    fixed,
    flattened,
    in_words,
    plain,
    probability,
    signed,
    span,
)
from stages.lib.reports.predictions import embedded, script_json, shortened
from stages.lib.reports.search import search_section
from stages.lib.reports.word_differences import word_differences

_TEMPLATES = Path(__file__).parent / "templates"

Figures = Mapping[str, Any]


def report_page(figures: Figures) -> str:
    """The report of a run.

    `figures`: task, model, examples, groups; scores and diagnostics {name: {score, better: higher or lower, signature,
    and where known low, high, smallest_difference, before_training, ceiling, floors {name: value}}}; properties {name:
    share}; labels, confidence and coverage_curve, as confidence.py makes them; chrf_correlations {name: {rho, says, and
    where known low, high}}; headline [name]; goals {name: {goal, verdict, needs: test examples, or 0}}, also of scores
    that were not measured; notes [line]; breakdowns [{by, value, examples, small, score, result, and where known low,
    high}]; curve {training and validation: [[update, loss]]}; search, as `read_search` gives it; prepare, tokenize,
    tune_hyperparameters and train: the stages' stats; params {stage: {name: value}}, the settings; predictions, the
    worst first [{id, source, references, prediction, faults [line], flags [line], scores {name: value}}].
    """
    scores, diagnostics, goals = figures["scores"], figures["diagnostics"], figures["goals"]
    every = {**scores, **diagnostics}
    data, shown = embedded(figures["predictions"], figures["headline"], every)
    splits = [split for split in SPLITS if split in figures["prepare"].get("examples", {})]
    return _page(
        "report.html.j2",
        script=(_TEMPLATES / "predictions.js").read_text("utf-8"),
        figures=figures,
        every=every,
        headline=[_score_row(name, scores[name], goals.get(name)) for name in figures["headline"]],
        others=[_score_row(name, scores[name], goals.get(name)) for name in scores if name not in figures["headline"]],
        diagnostics=[_score_row(name, diagnostics[name], goals.get(name)) for name in diagnostics],
        goals=[{**_goal_row(name, every.get(name), goal), **goal} for name, goal in goals.items()],
        correlations=[_correlation(name, own) for name, own in figures["chrf_correlations"].items()],
        signatures=[(name, score["signature"]) for name, score in every.items()],
        label_header=LABEL_HEADER,
        labels=list(label_rows(figures["labels"])),
        reliability=reliability_chart(figures["confidence"]),
        coverage=coverage_chart(figures["coverage_curve"]),
        properties=[(in_words(name), value) for name, value in figures["properties"].items()],
        breakdowns=_by_score(figures["breakdowns"]),
        curves=chart(figures["curve"]),
        search=search_section(figures["search"], figures["tune_hyperparameters"]),
        share_scale=Scale(0, 1),
        settings=list(flattened(figures["params"])),
        train=[(in_words(name), value) for name, value in flattened(figures["train"])],
        splits=splits,
        by_split=_by_split(figures["prepare"], figures["tokenize"], splits),
        account=list(account(figures["prepare"])),
        data=data,
        shown=shown,
    )


def comparison_page(figures: Figures) -> str:
    """A comparison of revisions with the first one; each comparison is a section, its verdict first.

    `figures`: revisions [{name, commit, task, model, examples}]; comparisons [{first, second, examples, groups, notes
    [line], refused {name: line}, scores {name: {first, second, difference, low, high, p, p_holm, wins, losses,
    ties, better: higher or lower, smallest_difference, verdict: better, worse or undecided, headline: bool}},
    breakdowns [{by, value, examples, small, score, first, second, difference, low, high}], changed [{source,
    references, first, second, score, first_score, second_score, verdict: better or worse}], params [{name, first,
    second}], data [{what, first, second}], verdict: a sentence}].
    """
    return _page("comparison.html.j2", script="", figures=figures, comparisons=list(map(_pair, figures["comparisons"])))


def explained_page(figures: Figures) -> str:
    """Chosen predictions, and which words of its source each word leans on.

    `figures`: task, model, total: test examples; times: of how many times less likely each mark speaks; examples
    [{number, id, title, why, source, prediction, references, sure: a sentence, flags [line], nearest: {source, target}
    or None, explained: as attribution's `explained` gives it, or None where nothing was written}].
    """
    views = [own["explained"] and own["explained"]["views"] for own in figures["examples"]]
    return _page(
        "explained.html.j2",
        script=(_TEMPLATES / "explained.js").read_text("utf-8"),
        figures=figures,
        times=[f"{factor:g}" for factor in figures["times"]],
        data=script_json({"examples": views}),
    )


def _page(template: str, script: str, **values: Any) -> str:
    """`script` is the only one that the browser will run."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "fixed": fixed,
        "span": span,
        "signed": signed,
        "plain": plain,
        "compact": compact,
        "probability": probability,
        "common_decimals": _common_decimals,
        "results_scale": results_scale,
        "difference_scale": difference_scale,
        "side": _side,
    }
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = f"'sha256-{digest}'" if script else "'none'"
    page = environment.get_template(template).render(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src {sources}",
        style=(_TEMPLATES / "style.css").read_text("utf-8"),
        script=script,
        **values,
    )
    return page.encode("utf-8", "backslashreplace").decode()  # UTF-8 has no lone surrogates


def _score_row(name: str, score: Figures, goal: Figures | None) -> dict[str, Any]:
    score, marks = _with_ends(score), marks_of(score, goal)
    return {
        **score,
        "name": name,
        "places": decimals(score["score"], score["low"], score["high"]),
        "marks": marks,
        "scale": score_scale(score, marks),
    }


def _correlation(name: str, own: Figures) -> tuple[str, str]:
    ends = f" ({own['low']:g} to {own['high']:g})" if "low" in own else ""
    return name, f"{own['says']}: {own['rho']:g}{ends}"


def _goal_row(name: str, score: Figures | None, goal: Figures) -> dict[str, Any]:
    return {"name": name, "score": None} if score is None else _score_row(name, score, goal)


def _with_ends(row: Figures) -> dict[str, Any]:
    """With an entry for what may be unknown."""
    return {**row, **{name: finite(row.get(name)) for name in ("low", "high", "smallest_difference")}}


def _by_score(rows: Iterable[Figures]) -> dict[str, dict[str, list[Figures]]]:
    """Score -> what it is broken down by -> rows, in the given order."""
    grouped: dict[str, dict[str, list[Figures]]] = {}
    for row in rows:
        grouped.setdefault(row["score"], {}).setdefault(row["by"], []).append(_with_ends(row))
    return grouped


def _common_decimals(rows: Sequence[Figures], name: str) -> int:
    """As many as the surest of the rows supports, so that their numbers stand one below the other."""
    return max(decimals(row[name] or row.get("first", 0), row["low"], row["high"]) for row in rows)


def _by_split(prepare: Figures, tokenize: Figures, splits: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Count -> split -> value: those that prepare keeps by split, and all of tokenize."""
    counts: dict[str, dict[str, Any]] = {}
    for name, values in prepare.items():
        is_of_splits = isinstance(values, Mapping) and values and values.keys() <= set(splits)
        if is_of_splits and name != "unread_fields":  # a field can have the name of a split
            counts[in_words(name)] = dict(values)
    for split in splits:
        for name, value in flattened(tokenize.get(split, {})):
            counts.setdefault(in_words(name), {})[split] = value
    return counts


def _pair(comparison: Figures) -> dict[str, Any]:
    rows = [_difference_row(name, score) for name, score in comparison["scores"].items()]
    verdicts = {row["verdict"] for row in rows if row["headline"]}
    return {
        **comparison,
        "headline": [row for row in rows if row["headline"]],
        "others": [row for row in rows if not row["headline"]],
        # the worse news colours the whole
        "kind": next((kind for kind in ("worse", "better") if kind in verdicts), "undecided"),
        "breakdowns": _by_score(comparison["breakdowns"]),
        "changed": {
            word: [_changed(example) for example in comparison["changed"] if example["verdict"] == word]
            for word in ("worse", "better")
        },
    }


def _difference_row(name: str, score: Figures) -> dict[str, Any]:
    score = _with_ends(score)
    scale, smallest = difference_scale([score], score["better"]), score["smallest_difference"]
    return {
        **score,
        "name": name,
        "places": decimals(score["difference"] or score["first"], score["low"], score["high"]),
        "scale": scale,
        "band": smallest / abs(scale.low) if smallest and scale.low else None,
    }


def _side(row: Figures, better: str) -> str:
    """Whether the interval of a difference lies on one side of 0."""
    if row["low"] is None or row["high"] is None or row["low"] <= 0 <= row["high"]:
        return "undecided"
    return "better" if (row["low"] > 0) == (better == "higher") else "worse"


def _changed(example: Figures) -> dict[str, Any]:
    first, second = word_differences(shortened(example["first"]), shortened(example["second"]))
    largest = max(abs(example["first_score"]), abs(example["second_score"]))
    return {
        **example,
        "source": shortened(example["source"]),
        "references": list(map(shortened, example["references"])),
        "first_pieces": first,
        "second_pieces": second,
        "places": 1 if largest >= 10 else 2,
    }
