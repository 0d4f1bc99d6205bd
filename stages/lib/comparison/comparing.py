"""Two runs compared: each score with the certainty of its difference, parts of the test split, texts, causes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stages.lib.comparison.one_convention import scored_alike
from stages.lib.comparison.pairs import Pairs, paired
from stages.lib.comparison.run import Run
from stages.lib.comparison.verdict import verdict
from stages.lib.core.process import UserError
from stages.lib.scores.breakdowns import SMALL, parts
from stages.lib.scores.formulas import Numbers
from stages.lib.scores.general_text import general_text, same_windows
from stages.lib.scores.resampling import CONFIDENCE, Comparison, compare_scores, holm
from stages.lib.scores.results import NO_ANSWERS, TRUTH

_CHANGED = 10  # examples told, of those that became worse and of those that became better
_MISSING = "not there"
_SEEDS = {"fit.seed", "tune_hyperparameters.seed"}
_KINDS = {
    "data/prepare/train": "training data",
    "data/prepare/validation": "validation data",
    "data/prepare/test": "test data",
}


def describe(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "commit": run.commit,
        "task": run.task,
        "model": run.model,
        "examples": len(run.scored.ids),
        "headline": list(run.headline),
    }


def compare(first: Run, second: Run) -> dict[str, Any]:
    """Figures for people, pages and programs. Differences are those of the second run minus the first; numbers have six
    digits.

    Raises:
        UserError: the two can't be compared.
    """
    if blind := [run.name for run in (first, second) if not any(own.references for own in run.predictions)]:
        raise UserError(f"{' and '.join(blind)}: {NO_ANSWERS}, and there are no scores to compare")
    first, second = scored_alike(first, second)
    pairs = paired(first, second)
    if not pairs.first.scores:
        raise UserError([f"{first.name} and {second.name} have no comparable score", *pairs.refused.values()])
    headline = [name for name in pairs.first.scores if name in first.headline or name in second.headline]
    headline = headline or list(pairs.first.scores)
    scores = dict(_scores(pairs, headline))
    count = len(pairs.first.ids)
    return {
        "first": first.name,
        "second": second.name,
        "examples": count,
        "groups": len(set(pairs.first.groups)),
        "only_in_first": pairs.only_in_first,
        "only_in_second": pairs.only_in_second,
        "refused": pairs.refused,
        "notes": list(_notes(first, second, pairs)),
        "scores": scores,
        "breakdowns": list(_breakdowns(pairs, headline)),
        "changed": _changed(pairs, headline),
        "params": list(_different(first.params, second.params, "name")),
        "data": list(_different(_hashes(first.lock), _hashes(second.lock), "what")),
        "verdict": verdict(first.name, second.name, {name: scores[name] for name in headline}, count) + ".",
    }


def _scores(pairs: Pairs, headline: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Headline scores are chosen before anyone has seen the difference, so their p-values are corrected among
    themselves; those of the others among all. Where no example differs, nothing is tested."""
    found = compare_scores(pairs.first.scores, pairs.second.scores, pairs.first.groups)
    p_values = {name: own.p_value for name, own in found.items() if own.wins or own.losses}
    tested = {name: p_values[name] for name in headline if name in p_values}
    corrected = dict.fromkeys(found, 1.0) | holm(p_values) | holm(tested)
    for name, own in found.items():
        is_higher_better = pairs.first.scores[name].higher_is_better
        yield (
            name,
            {
                **_difference(own),
                "p": _rounded(own.p_value),
                "p_holm": _rounded(corrected[name]),
                "wins": own.wins,
                "losses": own.losses,
                "ties": own.ties,
                "better": "higher" if is_higher_better else "lower",
                "smallest_difference": _rounded(own.interval.smallest_difference),
                "verdict": _word(corrected[name], own.difference, is_higher_better),
                "headline": name in headline,
            },
        )


def _difference(own: Comparison) -> dict[str, float]:
    return {
        "first": _rounded(own.first),
        "second": _rounded(own.second),
        "difference": _rounded(own.difference),
        "low": _rounded(own.interval.low),
        "high": _rounded(own.interval.high),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _word(p_value: float, difference: float, is_higher_better: bool) -> str:
    if p_value >= 1 - CONFIDENCE:
        return "undecided"
    return "better" if (difference > 0) == is_higher_better else "worse"


def _notes(first: Run, second: Run, pairs: Pairs) -> Iterator[str]:
    """What a reader of the numbers would overlook."""
    if _model(first) != _model(second):
        changed = {own["name"] for own in _different(first.params, second.params, "name")}
        if changed <= _SEEDS:
            yield "only seeds differ: the difference is the luck of training, and a change of settings has to exceed it"
        else:
            yield "two trained models are compared: with another fit.seed, the same settings give other scores too"
    for run, only in ((first, pairs.only_in_first), (second, pairs.only_in_second)):
        if only:
            yield f"{only} test examples are only in {run.name}: the {len(pairs.first.ids)} common ones are compared"
        if run.edited:
            more = f" and {len(run.edited) - 3} more" if len(run.edited) > 3 else ""
            edited = ", ".join(run.edited[:3]) + more
            yield f"{run.name}: params.yaml was edited after this run ({edited}); the scores are those from before"
    if first.general_text and second.general_text:
        yield _on_general_text(first, second)


def _on_general_text(first: Run, second: Run) -> str:
    if not same_windows(first.general_text, second.general_text):
        return "general text: the two runs have read other texts, or in other tokens, and are not compared there"
    found = general_text(second.general_text, first.general_text)
    assert found
    assert found.change
    own, interval = found.change, found.change.interval
    ends = f"({interval.low:.2g} to {interval.high:.2g})" if math.isfinite(interval.error) else "(interval unknown)"
    if not math.isfinite(interval.error) or interval.low <= 0 <= interval.high:
        return f"general text: no difference is shown, {own.difference:+.2g} bits a byte {ends}"
    less = "less" if own.difference < 0 else "more"
    return f"general text: {second.name} needs {own.difference:+.2g} bits a byte {ends}, {less} than {first.name}"


def _breakdowns(pairs: Pairs, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The headline scores of the parts that `evaluate` tells too, except where a part is a single group."""
    first, second = (
        replace(side, scores={name: side.scores[name] for name in names}) for side in (pairs.first, pairs.second)
    )
    for by, value, rows in parts([one for one, _ in pairs.predictions], ()):
        part, other = first.chosen(rows), second.chosen(rows)
        if len(set(part.groups)) == 1:
            continue
        about = {"by": by, "value": value, "examples": len(rows), "small": len(set(part.groups)) < SMALL}
        for name, own in compare_scores(part.scores, other.scores, part.groups).items():
            if own.wins or own.losses:
                yield {**about, "score": name, **_difference(own)}


def _changed(pairs: Pairs, headline: Sequence[str]) -> list[dict[str, Any]]:
    """The examples that became much worse, the worst first, then those that became much better, the best first. By the
    first headline score, but a text that became less true is not called better, nor one that became truer worse."""
    name, truth = headline[0], next((score for score in headline if score in TRUTH), headline[0])
    first, second = pairs.first.scores[name], pairs.second.scores[name]
    gains, truer = _gains(pairs, name), _gains(pairs, truth)
    order = sorted(range(len(gains)), key=lambda row: (gains[row], pairs.first.ids[row]))
    chosen = {
        "worse": [row for row in order if gains[row] < 0 and truer[row] <= 0][:_CHANGED],
        "better": [row for row in reversed(order) if gains[row] > 0 and truer[row] >= 0][:_CHANGED],
    }
    return [
        {
            "id": pairs.first.ids[row],
            "source": pairs.predictions[row][0].source,
            "references": pairs.predictions[row][0].references,
            "first": pairs.predictions[row][0].prediction,
            "second": pairs.predictions[row][1].prediction,
            "score": name,
            "first_score": _rounded(float(first.each[row])),
            "second_score": _rounded(float(second.each[row])),
            "verdict": word,
        }
        for word, rows in chosen.items()
        for row in rows
    ]


def _gains(pairs: Pairs, name: str) -> Numbers:
    """By how much each example became better, (N)."""
    first, second = pairs.first.scores[name], pairs.second.scores[name]
    return (second.each - first.each) * (1 if first.higher_is_better else -1)


def _model(run: Run) -> str | None:
    """A hash of the trained model."""
    outs = run.lock.get("train", {}).get("outs", ())
    return next((str(out["md5"]) for out in outs if out["path"] == "data/train/model"), None)


def _hashes(lock: Mapping[str, Any]) -> dict[str, str]:
    """What each stage has read and written -> a hash. The outs of `evaluate` are what is compared."""
    made = {out["path"]: stage for stage, entry in lock.items() for out in entry.get("outs", ())}
    entries = [own for entry in lock.values() for own in (*entry.get("deps", ()), *entry.get("outs", ()))]
    return {
        f"{_kind(own['path'], made.get(own['path']))}: {own['path']}": own["md5"][:8]
        for own in entries
        if made.get(own["path"]) != "evaluate"
    }


def _kind(path: str, stage: str | None) -> str:
    if path.startswith("stages/"):
        return "code"
    return _KINDS.get(path) or (f"result of {stage}" if stage else "input")


def _different(first: Mapping[str, Any], second: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    for name in sorted({*first, *second}):
        one, other = first.get(name, _MISSING), second.get(name, _MISSING)
        if one != other:
            yield {key: name, "first": one, "second": other}
