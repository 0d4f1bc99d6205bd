"""Predictions and every stage's report -> scores, plots and tables in metrics/, small enough for git.

Reads:  predictions.jsonl of data/predict/ and data/predict_base/, data/prepare/labels.json, and report/ of the stages
        before.
Writes: metrics/<stage>.json, metrics/evaluate.signatures.json (how each score was computed), metrics/predictions.md
        (the best and the worst), metrics/{prepare,tokenize}.md (examples of the data) and metrics/plots/*.csv.
Random: nothing.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.lib.core.files import atomic_file, read_json, write_json, write_text
from stages.lib.core.markdown import table, write_page
from stages.lib.core.params import read_section
from stages.lib.core.process import launch
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction, read_predictions
from stages.lib.scores.bleu_chrf_ter import sentence_chrf
from stages.lib.scores.diagnostics import diagnostics
from stages.lib.scores.labels import confusion
from stages.lib.scores.registry import text_scores
from stages.lib.scores.score import Score

SOURCE = Path("data")
TARGET = Path("metrics")

REPORTS = ("prepare", "tokenize", "tune_hyperparameters", "train")
PREVIEWS = ("prepare", "tokenize")

_MOST_POINTS = 5000  # of the plot of lengths, which would have one for each prediction; plots are kept in git


def main() -> None:
    run(read_section(Evaluate), source=SOURCE, target=TARGET)


def run(params: Evaluate, source: Path, target: Path) -> None:
    after = list(read_predictions(source / "predict/predictions.jsonl"))
    before = list(read_predictions(source / "predict_base/predictions.jsonl"))
    texts, model = text_scores(after, params), model_scores(after)
    scores = _numbers(texts, model, after)
    if before:
        scores["before_training"] = _numbers(text_scores(before, params), model_scores(before), before)
    write_json(target / "evaluate.json", scores)
    write_json(target / "evaluate.signatures.json", {name: s.signature for name, s in (texts | model).items()})
    for stage in REPORTS:
        write_json(target / f"{stage}.json", read_json(source / stage / "report/stats.json"))
    for stage in PREVIEWS:
        write_text(target / f"{stage}.md", (source / stage / "report/preview.md").read_text("utf-8"))
    _write_plots(target / "plots", after, source)
    _write_table(target / "predictions.md", after, params.shown_predictions)
    print(_summary(scores, len(after)))


def model_scores(predictions: Sequence[Prediction]) -> dict[str, Score]:
    """Over all references: the summed loss, divided by all tokens or bytes. So no text counts more than its tokens.

    Perplexity depends on the tokenizer. Bits per byte of UTF-8 does not, so it compares any two models.
    """
    nats = sum(prediction.reference_nats for prediction in predictions)
    tokens = sum(prediction.reference_tokens for prediction in predictions)
    size = sum(prediction.reference_bytes for prediction in predictions)
    return {
        "perplexity": Score(math.exp(nats / tokens), "per:target token|loss:summed"),
        "bits_per_byte": Score(nats / math.log(2) / size, "per:UTF-8 byte of the references|loss:summed"),
    }


def _numbers(texts: dict[str, Score], model: dict[str, Score], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Rounded: scores of texts to 2 decimals, of the model to 5 significant digits."""
    return {
        **{name: round(score.value, 2) for name, score in texts.items()},
        **{name: float(f"{score.value:.5g}") for name, score in model.items()},
        "diagnostics": {name: round(value, 4) for name, value in diagnostics(predictions).items()},
    }


def _write_plots(folder: Path, predictions: Sequence[Prediction], source: Path) -> None:
    curve = read_json(source / "train/report/curve.json")
    for name in ("training", "validation"):
        _write_csv(folder / f"{name}_loss.csv", ("step", "loss"), [(s, round(loss, 5)) for s, loss in curve[name]])
    shown = predictions[:: -(-len(predictions) // _MOST_POINTS)]
    lengths = [(len(own.references[0].split()), len(own.prediction.split())) for own in shown]
    _write_csv(folder / "lengths.csv", ("reference_words", "prediction_words"), lengths)
    labels = read_json(source / "prepare/labels.json")["labels"]
    _write_csv(folder / "confusion.csv", ("actual", "predicted"), confusion(predictions) if labels else ())
    trials = _trials(source / "tune_hyperparameters/report/trials.csv")
    _write_csv(folder / "trials.csv", ("trial", "validation_loss"), trials)


def _trials(report: Path) -> Iterator[tuple[str, str]]:
    """A label with the settings of each trial, and its loss. Trials without a finite loss are left out."""
    with report.open(newline="") as file:
        for row in csv.DictReader(file):
            number, loss = row.pop("trial"), row.pop("validation_loss")
            if loss:
                yield f"{number}: {', '.join(f'{name} {value}' for name, value in row.items())}", loss


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_table(path: Path, predictions: Sequence[Prediction], shown: int) -> None:
    ranked = sorted(((sentence_chrf(prediction), prediction) for prediction in predictions), key=lambda entry: entry[0])
    sections = []
    for title, entries in (("Worst", ranked[:shown]), ("Best", ranked[::-1][:shown])):
        rows = [(f"{score:.1f}", p.source, p.prediction, p.references[0]) for score, p in entries]
        sections.append(table(title, ("chrF", "source", "prediction", "first reference"), rows))
    write_page(path, "Predictions, by chrF against their references", sections)


def _summary(scores: dict[str, Any], predictions: int) -> str:
    before = scores.get("before_training", {})
    lines = [f"evaluate: {predictions:,} predictions" + (" (score before training)" if before else "")]
    for name, value in scores.items():
        if isinstance(value, float):
            lines.append(f"  {name:<20}{value:>10g}" + (f"  ({before[name]:g})" if before else ""))
    lines += [f"  {name:<20}{value:>10g}" for name, value in scores["diagnostics"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    launch(main)
