"""Are the shipped models a better start than random weights of the same shapes? With the same number of updates and
three seeds each: validation losses during training, and the metric of the task at the end.

    python -m tests.benchmarks.base_start REAL_DATA [TASK ...]

REAL_DATA has the folders of the public data sets that the recipes name. Each start has its best learning rate, by the
validation loss of the first seed: one of three, or of more while the best is the lowest or the highest. Writes
data/base/fine_tuning/TASK.csv, with all rates, and draws all files there.
"""

import csv
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib

from stages import prepare, tokenize
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.params import read_scenario, read_section
from stages.lib.core.process import keep_freed_memory
from stages.lib.models.loading import base_model
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.tokenized_examples import TokenizedDataset, read_label_ids, write_tokenized_examples
from stages.lib.training.fit import fit
from stages.lib.training.selection import make_scorer
from stages.tools.recipe import apply, names
from tests.benchmarks.pretrained_start import architecture_of
from tests.build import fit_settings, params_of, scratch_model, section

SHIPPED = {
    "base": Path("data/raw/base"),
    "seq2seq": Path("data/raw/models/seq2seq"),
    "encoder": Path("data/raw/models/encoder"),
}
RESULTS = Path("data/base/fine_tuning")
STARTS = ("pretrained", "random")
SEEDS = (1, 2, 3)
LEARNING_RATES = (0.00003, 0.00008, 0.00025, 0.0007, 0.002, 0.005, 0.014, 0.04)
FIRST_TRIED = (0.0007, 0.002, 0.005)
COLOURS = ("#1f6fb4", "#d1662a")  # of the starts
COLUMNS = 4  # of panels


Run = tuple[list[tuple[int, float]], float]  # validation losses by step, and the metric of the best


@dataclass(frozen=True)
class Task:
    title: str
    models: tuple[str, ...]  # of SHIPPED
    name: str  # of a recipe, or of a scenario of params.yaml with its sample
    examples: int
    epochs: float
    metric: Literal["bleu", "token_f1", "accuracy"]
    validation: int = 300  # examples: for the losses, and one text each for the metric


BASE, TEXT, LABELS = ("base",), ("base", "seq2seq"), ("base", "encoder")
TASKS = {
    "sample": Task("the sample of data to text", BASE, "data_to_text", 800, 1.5, "bleu"),
    "e2e": Task("E2E, 500 examples", BASE, "e2e", 500, 3.0, "bleu"),
    "style": Task("Shakespeare style, 1,000 examples", BASE, "shakespeare_style", 1000, 1.0, "bleu"),
    "dialogue": Task("the sample of dialogue", BASE, "dialogue", 800, 1.5, "bleu"),
    "writing": Task("the sample of the writing assistant", BASE, "writing_assistant", 800, 1.5, "bleu"),
    "questions": Task("the sample of question answering", BASE, "question_answering", 800, 1.5, "token_f1"),
    "translation": Task("the sample of translation", TEXT, "machine_translation", 800, 1.5, "bleu"),
    "babi": Task("bAbI 5, 400 dialogues", BASE, "babi_task5", 400, 2.0, "accuracy", 100),
    "sst2": Task("SST-2, 2,000 sentences", BASE, "sst2", 2000, 4.0, "accuracy"),
    "sentiment": Task("the sample of sentiment", LABELS, "sentiment_analysis", 800, 1.5, "accuracy"),
}


class Row(NamedTuple):
    """A point of a curve. Only the last point of a run has a `score`, the metric. Loss is in nats per target token."""

    model: str
    start: str
    learning_rate: float
    seed: int
    step: int
    loss: float
    score: float | None


def main(real_data: Path, chosen: list[str]) -> None:
    for name in chosen or TASKS:
        rows = [row for model in TASKS[name].models for row in _rows(TASKS[name], model, real_data)]
        _write(RESULTS / f"{name}.csv", rows)
        print(_summary(TASKS[name], rows), flush=True)
    draw()


def _rows(task: Task, name: str, real_data: Path) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        folder, shipped = Path(place), checkpoint(SHIPPED[name])
        prepared(task, shipped, real_data, folder)
        random = scratch_model(architecture_of(SHIPPED[name]), family="encoder" if name == "encoder" else None)
        for start, model in zip(STARTS, (shipped, random), strict=True):
            tried = _tried(task, model, folder)
            best = _best(tried)
            runs = {(rate, SEEDS[0]): run for rate, run in tried.items()}
            runs |= {(best, seed): _run(task, model, best, seed, folder) for seed in SEEDS[1:]}
            for (rate, seed), (curve, score) in runs.items():
                for step, loss in curve:
                    yield Row(name, start, rate, seed, step, loss, score if step == curve[-1][0] else None)


def checkpoint(folder: Path) -> Model:
    return section(Model, name="folder", folder=str(folder), architecture="checkpoint", scratch=None)


def prepared(task: Task, model: Model, real_data: Path, folder: Path) -> None:
    """Evenly spaced examples of the task, as token ids of the model."""
    params = Path(shutil.copy("params.yaml", folder))
    if task.name in names():
        apply(task.name, str(real_data), params)
    else:
        params_of(task.name, folder)
    settings = read_section(Prepare, params)
    prepare.run(settings, None, Path(settings.folder) / read_scenario(params), folder / "prepare")
    limits = {"max_rejected_fraction": 0.5, "max_truncated_fraction": 1.0, "untrainable": "drop"}
    tokenization = read_section(Tokenize, params).model_copy(update=limits)
    tokenize.run(tokenization, model, None, folder / "prepare", folder / "tokenize")
    for split, most in (("train", task.examples), ("validation", task.validation)):
        every = list(TokenizedDataset(folder / "tokenize" / split))
        kept = min(most, len(every))
        write_tokenized_examples(folder / split, [[every[len(every) * at // kept] for at in range(kept)]])


def _tried(task: Task, model: Model, folder: Path) -> dict[float, Run]:
    tried = {rate: _run(task, model, rate, SEEDS[0], folder) for rate in FIRST_TRIED}
    while beside := _untried_beside(_best(tried), tried):
        tried[beside] = _run(task, model, beside, SEEDS[0], folder)
    return tried


def _best(tried: dict[float, Run]) -> float:
    return min(tried, key=lambda rate: min(loss for _, loss in tried[rate][0]))


def _untried_beside(best: float, tried: dict[float, Run]) -> float | None:
    at = LEARNING_RATES.index(best)
    return next((rate for rate in LEARNING_RATES[max(0, at - 1) : at + 2] if rate not in tried), None)


def _run(task: Task, model: Model, rate: float, seed: int, folder: Path) -> Run:
    """The validation losses by step, and the metric of the best of them."""
    tokenizer = load_tokenizer(folder / "tokenize/tokenizer")
    labels = read_label_ids(folder / "tokenize/label_ids.json")
    train, validation = TokenizedDataset(folder / "train"), TokenizedDataset(folder / "validation")
    settings = fit_settings(
        epochs=task.epochs, batch_size=16, evals_per_run=5, dropout=None, learning_rate=rate, seed=seed
    )
    network = base_model(model, tokenizer, [label.word for label in labels], settings.dropout, seed)
    curve = fit(network, train, validation, settings, section(Machine), folder / "fit", task.title)
    shutil.rmtree(folder / "fit")
    scored = settings.model_copy(
        update={"metric_for_best_model": task.metric, "generation_eval_examples": task.validation}
    )
    scorer = make_scorer(scored, tokenizer, labels, validation, None)
    assert scorer is not None
    return curve.validation, scorer(network.eval())


def _write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Row._fields)
        table.writerows(row._replace(loss=round(row.loss, 5)) for row in rows)


def _read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return [
            Row(
                model=record["model"],
                start=record["start"],
                learning_rate=float(record["learning_rate"]),
                seed=int(record["seed"]),
                step=int(record["step"]),
                loss=float(record["loss"]),
                score=float(record["score"]) if record["score"] else None,
            )
            for record in csv.DictReader(file)
        ]


def _summary(task: Task, rows: list[Row]) -> str:
    """The median over the seeds, and the value of each seed."""
    lines = [task.title]
    for model in task.models:
        for start in STARTS:
            own = _of(model, start, rows)
            losses = [min(row.loss for row in own if row.seed == seed) for seed in SEEDS]
            scores = [row.score for row in own if row.score is not None]
            shown = [
                f"{statistics.median(values):8.3f} ({', '.join(f'{value:.3f}' for value in values)})"
                for values in (losses, scores)
            ]
            rate = f"learning rate {own[0].learning_rate:g}"
            lines.append(f"  {model:<8} {start:<11} {rate}  loss {shown[0]}  {task.metric} {shown[1]}")
    return "\n".join(lines)


def _of(model: str, start: str, rows: list[Row]) -> list[Row]:
    """The rows of its best learning rate, the only one with all seeds."""
    own = [row for row in rows if (row.model, row.start) == (model, start)]
    best = next(row.learning_rate for row in own if row.seed == SEEDS[-1])
    return [row for row in own if row.learning_rate == best]


def draw() -> None:
    """Validation loss over updates, one panel for each measured task."""
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "0", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    from matplotlib import pyplot  # its import chooses the backend

    measured = [name for name in TASKS if (RESULTS / f"{name}.csv").is_file()]
    lines_of_panels = -(-len(measured) // COLUMNS)
    size = (3 * COLUMNS, 2.8 * lines_of_panels)
    figure, grid = pyplot.subplots(lines_of_panels, COLUMNS, figsize=size, squeeze=False)
    for panel in grid.flat[len(measured) :]:
        panel.remove()
    for name, panel in zip(measured, grid.flat, strict=False):
        rows = _read(RESULTS / f"{name}.csv")
        models = dict.fromkeys(row.model for row in rows)
        lines, colours = zip(models, ("-", ":"), strict=False), zip(STARTS, COLOURS, strict=True)
        for (model, line), (start, colour) in product(lines, colours):
            for seed in SEEDS:
                points = [(row.step, row.loss) for row in _of(model, start, rows) if row.seed == seed]
                label = f"{model}, {start}" if seed == 1 else None
                panel.plot(*zip(*points, strict=True), line, color=colour, label=label)
        panel.legend(frameon=False)
        panel.set_title(TASKS[name].title, fontsize=9)
        panel.set_xlabel("updates")
    for line in grid:
        line[0].set_ylabel("validation loss, nats a token")
    figure.tight_layout()
    figure.savefig(RESULTS / "start.svg", metadata={"Date": None})


if __name__ == "__main__":
    if not sys.argv[1:] or set(sys.argv[2:]) - TASKS.keys():
        raise SystemExit(f"usage: python -m tests.benchmarks.base_start REAL_DATA [TASK ...], of {', '.join(TASKS)}")
    keep_freed_memory()
    main(Path(sys.argv[1]), sys.argv[2:])
