"""Predictions and every stage's report -> scores, plots, tables and pages.

Reads:  data/predict/ (predictions.jsonl, validation.jsonl, no_input.json, settings.json),
        data/predict_base/predictions.jsonl, data/prepare/train/ (what training has seen) and labels.json, and report/
        of the stages before; where they are, general_text.jsonl of both predict stages and fluency.jsonl.
Writes: for git, in metrics/: evaluate.json (the few scores that stand for the run; none if test has no answers),
        scores.json (all, and how each was computed), <stage>.json, predictions.md (labels, the worst and the best),
        {prepare,tokenize}.md (examples of the data), plots/*.csv, and plots/tune_hyperparameters/*.csv (tables of the
        search). For DVC, in data/evaluate/: scores.parquet (the scores of every example, for comparisons), report.html
        and README.md (the model card).
Random: the resamples that intervals come from; they are the same in every run.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.lib.core.files import atomic_file, read_json, write_csv, write_json, write_text
from stages.lib.core.markdown import table, write_page
from stages.lib.core.params import read_scenario, read_section
from stages.lib.core.process import UserError, launch
from stages.lib.core.words import count_words
from stages.lib.params.evaluate import Evaluate, check_selective
from stages.lib.records.examples import count_examples, read_examples, read_labels, some_questions
from stages.lib.records.predictions import Prediction, read_predictions
from stages.lib.records.text_losses import read_fluency, read_window_losses
from stages.lib.reports.confidence import LABEL_HEADER, coverage_curve, label_figures, label_rows
from stages.lib.reports.model_card import model_card
from stages.lib.reports.pages import report_page
from stages.lib.reports.search import read_search
from stages.lib.reports.summary import full, lean, page_figures, rounded, terminal, told
from stages.lib.scores.fluency import NOT_ASKED, FluencyScores, fluency_scores
from stages.lib.scores.general_text import general_text
from stages.lib.scores.labels import confusion
from stages.lib.scores.results import MOST_TRAIN_EXAMPLES, NO_ANSWERS, Results, measure
from stages.lib.scores.scored import scored, write_scored
from stages.lib.scores.seen_in_training import SeenInTraining, seen_in_training

SOURCE = Path("data")
TARGET = Path("metrics")
PAGES = Path("data/evaluate")

REPORTS = ("prepare", "tokenize", "tune_hyperparameters", "train")
PREVIEWS = ("prepare", "tokenize")

_SHOWN_AFTER = 5  # seconds: quick work needs no progress bar
_MOST_POINTS = 5000  # of the plot of lengths, which would have one for each prediction; plots are kept in git


def main() -> None:
    run(read_section(Evaluate), read_scenario(), source=SOURCE, target=TARGET, pages=PAGES)


def run(params: Evaluate, scenario: str, source: Path, target: Path, pages: Path) -> None:
    after, before = (
        list(read_predictions(source / stage / "predictions.jsonl")) for stage in ("predict", "predict_base")
    )
    if not after:
        raise UserError(f"evaluate: no predictions in {source / 'predict'}: no example of the test split was tokenized")
    of_validation = source / "predict/validation.jsonl"  # where it is asked for
    validation = list(read_predictions(of_validation)) if of_validation.is_file() else []
    check_selective(params, bool(validation))
    labels = read_labels(source / "prepare/labels.json")
    no_input = read_json(source / "predict/no_input.json")["prediction"]
    train = some_questions(source / "prepare/train", MOST_TRAIN_EXAMPLES)
    seen = _seen(after, source / "prepare/train") if params.seen_in_training else None
    reports = _reports(source)
    about = {"task": scenario, **_settings(reports, source / "predict")}
    losses = (list(read_window_losses(source / stage / "general_text.jsonl")) for stage in ("predict", "predict_base"))
    fluent, general = _fluency(source / "predict/fluency.jsonl", about), general_text(*losses)
    results = measure(after, before, train, labels, no_input, params, seen, fluent, general, validation)
    stats = {stage: read_json(report / "stats.json") for stage, report in reports.items()}
    write_json(target / "evaluate.json", lean(results, about))
    write_json(target / "scores.json", full(results, about))
    for stage in REPORTS:
        write_json(target / f"{stage}.json", stats[stage])
    for stage in PREVIEWS:
        write_text(target / f"{stage}.md", (reports[stage] / "preview.md").read_text("utf-8"))
    curve, searched = read_json(source / "train/report/curve.json"), source / "tune_hyperparameters/report"
    worst_first = _worst_first(results)
    _write_plots(target / "plots", results, labels, curve)
    _copy_tables(searched, target / "plots/tune_hyperparameters")
    _write_table(target / "predictions.md", worst_first, results, params.shown_predictions)
    write_scored(pages / "scores.parquet", scored(results.predictions, results.scores | results.diagnostics))
    figures = page_figures(results, about, stats, curve, read_search(searched), worst_first)
    write_text(pages / "report.html", report_page(figures))
    write_text(pages / "README.md", model_card(figures))
    print("\n".join(terminal(results, about)))
    if params.fail_on_missed_goal:
        _fail_on_missed_goals(results)


def _seen(predictions: Sequence[Prediction], train: Path) -> SeenInTraining:
    bar = tqdm(read_examples(train), "evaluate train", count_examples(train), delay=_SHOWN_AFTER, unit=" examples")
    return seen_in_training(predictions, (question for example in bar for question in example.questions()))


def _fluency(path: Path, about: Mapping[str, Any]) -> FluencyScores:
    losses = list(read_fluency(path))
    if not losses:
        return NOT_ASKED
    settings = about["params"]["predict"]
    is_base = settings["fluency_model"] == "base"
    return fluency_scores(losses, about["model"] if is_base else Path(settings["fluency_model_folder"]).name)


def _reports(source: Path) -> dict[str, Path]:
    """The folder of each stage's report. Where tuning has chosen another model, that of `tokenize` is about its ids."""
    folders = {stage: source / stage / "report" for stage in REPORTS}
    if alternative := read_json(folders["train"] / "settings.json")["alternative"]:
        folders["tokenize"] /= f"alternatives/{alternative}"
    return folders


def _settings(reports: Mapping[str, Path], predict: Path) -> dict[str, Any]:
    """The model, and under `params` the settings that each stage had."""
    places = {**{stage: reports[stage] for stage in ("prepare", "tokenize", "train")}, "predict": predict}
    settings = {stage: read_json(place / "settings.json") for stage, place in places.items()}
    del settings["train"]["alternative"]
    model = {name: settings["train"].pop(name) for name in ("model", "base_model", "class")}
    return {**model, "params": settings}


def _worst_first(results: Results) -> list[dict[str, Any]]:
    """Those with the most faults first; of equally many, those with the lowest score."""
    return sorted(told(results), key=lambda entry: (-len(entry["faults"]), entry["rank"]))


def _write_plots(folder: Path, results: Results, labels: Sequence[str], curve: Mapping[str, Any]) -> None:
    answered = results.predictions if results.has_answers else []
    for name in ("training", "validation"):
        write_csv(folder / f"{name}_loss.csv", ("step", "loss"), [(s, round(loss, 5)) for s, loss in curve[name]])
    shown = answered[:: -(-len(answered) // _MOST_POINTS) or 1]
    lengths = [(count_words(own.references[0]), count_words(own.prediction)) for own in shown]
    write_csv(folder / "lengths.csv", ("reference_words", "prediction_words"), lengths)
    write_csv(folder / "confusion.csv", ("actual", "predicted"), confusion(answered) if labels else ())
    trusted = results.confidence
    bins = [(round(own.probability, 4), round(own.right, 4)) for own in (trusted.bins if trusted else ())]
    write_csv(folder / "reliability.csv", ("probability", "right"), bins)
    write_csv(folder / "selective.csv", ("coverage", "accuracy"), coverage_curve(results))
    write_csv(folder / "breakdowns.csv", ("part", "score"), _parts(results))


def _parts(results: Results) -> Iterator[tuple[str, float]]:
    """The first headline score of each part of the test split."""
    for part in results.parts:
        if part.score == results.headline[0]:
            few = ", few" if part.is_small else ""
            yield f"{part.by}: {part.value} ({part.examples}{few})", rounded(part.result, part.interval)


def _copy_tables(report: Path, folder: Path) -> None:
    for path in sorted(report.glob("*.csv")):
        with atomic_file(folder / path.name) as part:
            shutil.copyfile(path, part)


def _write_table(path: Path, worst_first: Sequence[Mapping[str, Any]], results: Results, shown: int) -> None:
    if not results.has_answers:
        texts = [(entry["source"], entry["prediction"]) for entry in worst_first[:shown]]
        sentence, first = ("", f"{NO_ANSWERS.capitalize()}."), table("The first", ("source", "prediction"), texts)
        write_page(path, "Predictions", [sentence, first, *_flagged(worst_first, shown)])
        return
    ranking, sections = results.ranking, []
    if results.labels:
        sections.append(table("Labels, the worst first", LABEL_HEADER, label_rows(label_figures(results))))
    for title, entries in (("Worst", worst_first[:shown]), ("Best", worst_first[::-1][:shown])):
        rows = [
            (", ".join(e["faults"]), f"{e['rank']:.1f}", e["source"], e["prediction"], e["references"][0])
            for e in entries
        ]
        sections.append(table(title, ("faults", ranking, "source", "prediction", "first reference"), rows))
    sections += _flagged(worst_first, shown)
    write_page(path, f"Predictions, by their faults, then by {ranking}", sections)


def _flagged(entries: Sequence[Mapping[str, Any]], shown: int) -> Iterator[Iterator[str]]:
    if flagged := [entry for entry in entries if entry["flags"]]:
        rows = [(", ".join(entry["flags"]), entry["source"], entry["prediction"]) for entry in flagged[:shown]]
        yield table(f"Flagged: {len(flagged):,} of {len(entries):,}", ("flags", "source", "prediction"), rows)


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
