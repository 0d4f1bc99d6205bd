"""Predictions and every stage's report -> scores, plots, tables and pages.

Reads:  data/predict/ (predictions.jsonl, no_input.json, settings.json), data/predict_base/predictions.jsonl,
        data/prepare/train/ (what training has seen) and labels.json, and report/ of the stages before.
Writes: for git, in metrics/: evaluate.json (the few scores that stand for the run; none if test has no answers),
        scores.json (all, and how each was computed), <stage>.json, predictions.md (the worst and the best),
        {prepare,tokenize}.md (examples of the data) and plots/*.csv. For DVC, in data/evaluate/: scores.parquet (the
        scores of every example, for comparisons), report.html and README.md (the model card).
Random: the resamples that intervals come from; they are the same in every run.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.lib.core.files import atomic_file, read_json, write_json, write_text
from stages.lib.core.markdown import table, write_page
from stages.lib.core.params import read_scenario, read_section
from stages.lib.core.process import UserError, launch
from stages.lib.core.words import count_words
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.examples import read_labels, some_questions
from stages.lib.records.predictions import read_predictions
from stages.lib.reports.model_card import model_card
from stages.lib.reports.pages import report_page
from stages.lib.reports.summary import full, lean, page_figures, rounded, terminal, told
from stages.lib.scores.labels import confusion
from stages.lib.scores.results import MOST_TRAIN_EXAMPLES, NO_ANSWERS, Results, measure
from stages.lib.scores.scored import scored, write_scored

SOURCE = Path("data")
TARGET = Path("metrics")
PAGES = Path("data/evaluate")

REPORTS = ("prepare", "tokenize", "tune_hyperparameters", "train")
PREVIEWS = ("prepare", "tokenize")

_MOST_POINTS = 5000  # of the plot of lengths, which would have one for each prediction; plots are kept in git


def main() -> None:
    run(read_section(Evaluate), read_scenario(), source=SOURCE, target=TARGET, pages=PAGES)


def run(params: Evaluate, scenario: str, source: Path, target: Path, pages: Path) -> None:
    after, before = (
        list(read_predictions(source / stage / "predictions.jsonl")) for stage in ("predict", "predict_base")
    )
    if not after:
        raise UserError(f"evaluate: no predictions in {source / 'predict'}: no example of the test split was tokenized")
    labels = read_labels(source / "prepare/labels.json")
    no_input = read_json(source / "predict/no_input.json")["prediction"]
    train = some_questions(source / "prepare/train", MOST_TRAIN_EXAMPLES)
    results = measure(after, before, train, labels, no_input, params)
    about = {"task": scenario, **_settings(source)}
    stats = {stage: read_json(source / stage / "report/stats.json") for stage in REPORTS}
    write_json(target / "evaluate.json", lean(results, about))
    write_json(target / "scores.json", full(results, about))
    for stage in REPORTS:
        write_json(target / f"{stage}.json", stats[stage])
    for stage in PREVIEWS:
        write_text(target / f"{stage}.md", (source / stage / "report/preview.md").read_text("utf-8"))
    curve, trials = read_json(source / "train/report/curve.json"), _trials(source)
    worst_first = _worst_first(results)
    _write_plots(target / "plots", results, labels, curve, trials)
    _write_table(target / "predictions.md", worst_first, results, params.shown_predictions)
    write_scored(pages / "scores.parquet", scored(results.predictions, results.scores | results.diagnostics))
    figures = page_figures(results, about, stats, curve, trials, worst_first)
    write_text(pages / "report.html", report_page(figures))
    write_text(pages / "README.md", model_card(figures))
    print("\n".join(terminal(results, about)))
    if params.fail_on_missed_goal:
        _fail_on_missed_goals(results)


def _settings(source: Path) -> dict[str, Any]:
    """The model, and under `params` the settings that each stage had."""
    places = {"prepare": "prepare/report", "tokenize": "tokenize/report", "train": "train/report", "predict": "predict"}
    settings = {stage: read_json(source / place / "settings.json") for stage, place in places.items()}
    model = {name: settings["train"].pop(name) for name in ("model", "base_model", "class")}
    return {**model, "params": settings}


def _worst_first(results: Results) -> list[dict[str, Any]]:
    """Those with the most faults first; of equally many, those with the lowest score."""
    return sorted(told(results), key=lambda entry: (-len(entry["faults"]), entry["rank"]))


def _write_plots(
    folder: Path,
    results: Results,
    labels: Sequence[str],
    curve: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
) -> None:
    answered = results.predictions if results.has_answers else []
    for name in ("training", "validation"):
        _write_csv(folder / f"{name}_loss.csv", ("step", "loss"), [(s, round(loss, 5)) for s, loss in curve[name]])
    shown = answered[:: -(-len(answered) // _MOST_POINTS) or 1]
    lengths = [(count_words(own.references[0]), count_words(own.prediction)) for own in shown]
    _write_csv(folder / "lengths.csv", ("reference_words", "prediction_words"), lengths)
    _write_csv(folder / "confusion.csv", ("actual", "predicted"), confusion(answered) if labels else ())
    ended = [(_title(own), own["validation_loss"]) for own in trials if own["validation_loss"] is not None]
    _write_csv(folder / "trials.csv", ("trial", "validation_loss"), ended)
    _write_csv(folder / "breakdowns.csv", ("part", "score"), _parts(results))


def _trials(source: Path) -> list[dict[str, Any]]:
    """Number, loss and settings of each trial. The loss of one that did not end with a finite one is None."""
    with (source / "tune_hyperparameters/report/trials.csv").open(newline="") as file:
        trials = [dict[str, Any](row) for row in csv.DictReader(file)]
    losses = (float(trial["validation_loss"]) if trial["validation_loss"] else None for trial in trials)
    return [trial | {"validation_loss": loss} for trial, loss in zip(trials, losses, strict=True)]


def _title(trial: Mapping[str, Any]) -> str:
    settings = (f"{name} {value}" for name, value in trial.items() if name not in ("trial", "validation_loss"))
    return f"{trial['trial']}: {', '.join(settings)}"


def _parts(results: Results) -> Iterator[tuple[str, float]]:
    """The first headline score of each part of the test split."""
    for part in results.parts:
        if part.score == results.headline[0]:
            few = ", few" if part.is_small else ""
            yield f"{part.by}: {part.value} ({part.examples}{few})", rounded(part.result, part.interval)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_table(path: Path, worst_first: Sequence[Mapping[str, Any]], results: Results, shown: int) -> None:
    if not results.has_answers:
        texts = [(entry["source"], entry["prediction"]) for entry in worst_first[:shown]]
        sentence = ("", f"{NO_ANSWERS.capitalize()}.")
        write_page(path, "Predictions", [sentence, table("The first", ("source", "prediction"), texts)])
        return
    ranking, sections = results.ranking, []
    for title, entries in (("Worst", worst_first[:shown]), ("Best", worst_first[::-1][:shown])):
        rows = [
            (", ".join(e["faults"]), f"{e['rank']:.1f}", e["source"], e["prediction"], e["references"][0])
            for e in entries
        ]
        sections.append(table(title, ("faults", ranking, "source", "prediction", "first reference"), rows))
    write_page(path, f"Predictions, by their faults, then by {ranking}", sections)


def _fail_on_missed_goals(results: Results) -> None:
    """Raises UserError with a line for each goal that is missed, and one for those that can't be checked."""
    lines = [
        f"evaluate -> goals: {name} is {goal.score:.4g}, and its goal is {goal.goal:g}"
        for name, goal in results.goals.items()
        if goal.verdict == "missed"
    ]
    if unknown := [name for name, goal in results.goals.items() if goal.verdict == "not measured"]:
        lines.append(f"evaluate -> goals: {', '.join(unknown)} can't be checked: {NO_ANSWERS}")
    if lines:
        raise UserError(lines)


if __name__ == "__main__":
    launch(main)
