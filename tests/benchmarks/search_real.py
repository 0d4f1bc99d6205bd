"""What searches choose on real tasks, by validation, and what that is worth on test: the test of Liu and Wang (ACL
2021, arXiv 2106.09204), who found that a search loses to a small grid for want of budget and by over-fitting.

Run: `python -m tests.benchmarks.search_real REAL_DATA CHECKPOINTS OUT [SEEDS]`, with REAL_DATA and CHECKPOINTS as in
pretrained_scores.py. Pretrained models learn from a few hundred examples, drawn at random. All points of a space of
four learning rates, three batch sizes and three layer decays are trained once and kept in the file OUT: a killed run
goes on. A small grid, as papers recommend them, has the learning rates, two of the batch sizes and no layer decay. The
searches may make as many updates as it, or three times as many, and are replayed on the points with several seeds.
Means have 95 % intervals over the seeds (Student's t). Scores are accuracy in percent (SST-2), or the loss a token:
decoding all would take too long. The rank correlation of validation and test says how far validation can be trusted.
"""

import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from scipy.stats import spearmanr, t

from stages import prepare, tokenize
from stages.lib.core.params import read_scenario, read_section
from stages.lib.core.process import keep_freed_memory
from stages.lib.models.losses import example_losses
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import OWN, Model
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.examples import read_examples, write_examples
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.fit import fit
from stages.lib.training.selection import make_scorer
from stages.lib.training.trainable import make_trainable
from stages.lib.tuning.space import Settings, Space, listed
from stages.lib.tuning.study import Objective
from stages.lib.tuning.trials import Candidates, settings_of_trial
from stages.tools.recipe import apply
from tests.benchmarks.pretrained_scores import ENCODER
from tests.benchmarks.search_replay import Curve, Evaluation, Method, best_after, computed, replay, space_of
from tests.build import PROJECT, params_of, section

EVALUATIONS, SEED = 4, 1  # the seed draws the examples
LARGE: dict[str, list[Any]] = {"batch_size": [8, 16, 32], "layer_decay": [0.8, 0.9, 1.0]}
SMALL: dict[str, list[Any]] = {"batch_size": [16, 32], "layer_decay": [1.0]}
METHODS = [Method("random"), Method("tpe"), Method("tpe", "successive_halving")]
BUDGETS = (1, 3)  # times the updates of the small grid


class Task(NamedTuple):
    checkpoint: str | None  # None: data/raw/base
    metric: str
    learning_rates: list[float]
    usual: float  # of these, the one of the first trial
    epochs: float
    train: int  # examples
    validation: int
    test: int


class Point(NamedTuple):
    """Settings that were trained."""

    curve: Curve  # updates, and the metric on validation
    test: float  # of the weights that were best on validation

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        return cls([Evaluation(*own) for own in row["curve"]], row["test"])

    def value(self, objective: Objective) -> float:
        return min((own.value for own in self.curve), key=objective.rank)


_MINILM_RATES, _BASE_RATES = [1e-4, 3e-4, 1e-3, 3e-3], [0.001, 0.002, 0.004, 0.008]
TASKS = {
    "sst2": Task(ENCODER, "accuracy", _MINILM_RATES, 3e-4, 2, train=300, validation=150, test=400),
    "e2e": Task(None, "loss", _BASE_RATES, 0.004, 1, train=60, validation=40, test=100),
    "tweetqa": Task(None, "loss", _BASE_RATES, 0.004, 1, train=250, validation=60, test=150),
}


def main(real_data: Path, checkpoints: Path, out: Path, seeds: int) -> None:
    keep_freed_memory()
    for name, task in TASKS.items():
        with tempfile.TemporaryDirectory() as place:
            data = cache(partial(prepared, name, real_data, checkpoints, Path(place)))
            wanted = [{"task": name, "settings": settings} for settings in space(task, LARGE).grid]
            rows = computed(out, wanted, partial(trained, data))
        report(name, {listed(row["settings"]): Point.of(row) for row in rows}, seeds)


def space(task: Task, others: Mapping[str, list[Any]]) -> Space:
    usual = section(Fit, learning_rate=task.usual, batch_size=16, dropout=None, evals_per_run=EVALUATIONS)
    return space_of({"learning_rate": task.learning_rates, **others}, usual)


def prepared(name: str, real_data: Path, checkpoints: Path, folder: Path) -> tuple[Candidates, TokenizedDataset]:
    """What trials read, and test."""
    task, params = TASKS[name], params_of("data_to_text", folder)
    apply(name, str(real_data), params)
    prepare.run(read_section(Prepare, params), 1, real_data / read_scenario(params), folder / "prepare")
    for split in ("train", "validation", "test"):
        examples = list(read_examples(folder / "prepare" / split))
        write_examples(folder / "prepare" / split, random.Random(SEED).sample(examples, getattr(task, split)))
    place = PROJECT / "data/raw/base" if task.checkpoint is None else checkpoints / task.checkpoint
    model = section(Model, folder=str(place), architecture="checkpoint", scratch=None)
    tokenize.run(read_section(Tokenize, params), model, 1, folder / "prepare", folder / "tokenize")
    candidates = Candidates({OWN: model}, {OWN: folder / "tokenize"}, None, None)
    return candidates, TokenizedDataset(folder / "tokenize/test")


def trained(data: Callable[[], tuple[Candidates, TokenizedDataset]], task: str, settings: Settings) -> dict[str, Any]:
    """The curve of the metric on validation, and what the best weights have on test."""
    (candidates, test), (metric, epochs) = data(), (TASKS[task].metric, TASKS[task].epochs)
    own, machine = candidates.open(OWN), section(Machine)
    values = space(TASKS[task], LARGE).values(settings)
    run = settings_of_trial(values, epochs, metric, len(own.validation))
    network, new = candidates.network(OWN, run)
    network = make_trainable(network, run, new)
    scorer = make_scorer(run, own.tokenizer, own.labels, own.validation, machine.generation_batch_tokens)
    with tempfile.TemporaryDirectory() as folder:
        curve = fit(network, own.train, own.validation, run, machine, Path(folder), task, scorer)
    on_test = make_scorer(settings_of_trial(values, epochs, metric, len(test)), own.tokenizer, own.labels, test, None)
    losses = list(example_losses(network, test, 16))
    loss = sum(loss for _, loss, _ in losses) / sum(tokens for _, _, tokens in losses)
    return {"curve": curve.scores or curve.validation, "test": loss if on_test is None else on_test(network)}


def report(name: str, points: Mapping[str, Point], seeds: int) -> None:
    task = TASKS[name]
    objective, large = Objective(task.metric), space(task, LARGE)
    small = [listed(settings) for settings in space(task, SMALL).grid]
    updates = sum(points[settings].curve[-1].effort for settings in small)
    rank = spearmanr([own.value(objective) for own in points.values()], [own.test for own in points.values()])
    print(f"{name}, {task.metric}: {len(points)} points; rank correlation of validation and test {rank.statistic:.2f}")
    print(f"{'':42}{'validation':>20}{'test':>20}")
    told = partial(_told, points, objective)
    print(f"{'first trial':42}{told([listed(large.of_params())])}")
    print(f"{'small grid':42}{told([_best(points, small, objective)])}")
    for budget in BUDGETS:
        for method in METHODS:
            chosen = [_chosen(method, large, points, budget * updates, seed, task.metric) for seed in range(seeds)]
            print(f"{f'{method}, {budget} x the updates':42}{told(chosen)}")
    print(f"{f'all {len(points)} points':42}{told([_best(points, points, objective)])}")
    by_test = min(points, key=lambda settings: objective.rank(points[settings].test))
    print(f"{'the best on test':42}{told([by_test])}", flush=True)


def _best(points: Mapping[str, Point], among: Iterable[str], objective: Objective) -> str:
    return min(among, key=lambda settings: objective.rank(points[settings].value(objective)))


def _chosen(method: Method, large: Space, points: Mapping[str, Point], updates: float, seed: int, metric: str) -> str:
    params = method.params(trials=10 * len(points), seed=seed, metric=metric)
    run = list(replay(params, large, EVALUATIONS, lambda settings: points[listed(settings)].curve, updates))
    return listed(best_after(run, updates, metric).settings)


def _told(points: Mapping[str, Point], objective: Objective, chosen: Sequence[str]) -> str:
    columns = [points[own].value(objective) for own in chosen], [points[own].test for own in chosen]
    return "".join(f"{_mean(column, 2 if objective.metric == 'accuracy' else 4):>20}" for column in columns)


def _mean(values: Sequence[float], digits: int) -> str:
    """With its interval, if there are several."""
    told = f"{statistics.mean(values):.{digits}f}"
    if len(values) < 2:
        return told
    error = statistics.stdev(values) / math.sqrt(len(values)) * t.ppf(0.975, len(values) - 1)
    return f"{told} ± {error:.{digits}f}"


if __name__ == "__main__":
    real_data_, checkpoints_, out_, *seeds_ = sys.argv[1:]
    main(Path(real_data_), Path(checkpoints_), Path(out_), int((seeds_ or ["5"])[0]))
