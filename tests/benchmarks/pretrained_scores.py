"""What real checkpoints reach on the sample and on public data: a pretrained model and other parameters, all stages.

    python -m tests.benchmarks.pretrained_scores REAL_DATA CHECKPOINTS FOLDER [TASK ...]

REAL_DATA has the folders of the data sets that the recipes name, CHECKPOINTS those that stages.tools.fetch_checkpoint
lays out, by name. What the stages make is left in FOLDER/TASK; a killed training run continues there. Each task trains
on its train split or a part of it, and is chosen by, and some are scored on, examples drawn at random: one core needs
two and a half hours at most.
"""

import random
import shutil
import sys
import time
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from stages import evaluate, predict, prepare, tokenize
from stages.lib.core.files import read_json
from stages.lib.core.params import read_scenario, read_section
from stages.lib.core.process import keep_freed_memory
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.params.train import Train
from stages.lib.records.examples import read_examples, write_examples
from stages.lib.records.predictions import write_predictions
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.tools.recipe import apply
from tests.test_scenarios import run_training

SEED = 1  # of the parts of validation and test
CAUSAL, ENCODER = "smollm2-135m-instruct", "minilm-l6"
WHOLE = {"fit.dropout": None, "fit.weight_decay": 0.01, "fit.label_smoothing": 0.0, "predict_base.enabled": False}
# the embeddings and the lower 20 of 30 layers stay as they are: nearly twice as fast
UPPER = WHOLE | {"fit.batch_size": 16, "fit.evals_per_run": 2, "fit.freeze": {"embeddings": True, "first_layers": 20}}
UPPER |= {"fit.precision": "auto"}


class Task(NamedTuple):
    recipe: str | None  # None: the scenario of params.yaml
    checkpoint: str
    settings: dict[str, Any]  # of params.yaml, over those of the recipe
    validation: int | None  # examples, None: all
    test: int | None


TASKS = {
    "sample": Task(
        None,
        CAUSAL,
        UPPER | {"fit.learning_rate": 3e-4, "tune_hyperparameters.trials": 0, "train.epochs": 1},
        None,
        None,
    ),
    "sst2_minilm": Task(
        "sst2",
        ENCODER,
        WHOLE | {"fit.batch_size": 32, "fit.learning_rate": 8e-5, "fit.evals_per_run": 6, "train.epochs": 3},
        None,
        None,
    ),
    "sst2": Task(
        "sst2",
        CAUSAL,
        UPPER
        | {"fit.learning_rate": 3e-4, "train.epochs": 2}
        | {"scenarios.sst2.tokenize.prompt": "Review: {source}\nSentiment:\n"},
        200,
        None,
    ),
    "e2e": Task(
        "e2e", CAUSAL, UPPER | {"fit.learning_rate": 5e-4, "fit.label_smoothing": 0.1, "train.epochs": 0.6}, 10, None
    ),
    "tweetqa": Task(
        "tweetqa",
        CAUSAL,
        UPPER
        | {"fit.learning_rate": 3e-4, "train.epochs": 0.6}
        | {"scenarios.tweetqa.prepare.source": "Tweet: {Tweet}\nQuestion: {Question}\nAnswer:"},
        100,
        400,
    ),
    "shakespeare_style": Task(
        "shakespeare_style",
        CAUSAL,
        UPPER
        | {"fit.freeze": {"embeddings": True, "first_layers": 10}, "fit.learning_rate": 3e-4, "train.epochs": 1}
        | {"scenarios.shakespeare_style.tokenize.prompt": "Modern: {source}\nShakespeare:\n"},
        100,
        None,
    ),
    "babi_task6": Task("babi_task6", CAUSAL, UPPER | {"fit.learning_rate": 3e-4, "train.epochs": 1}, 20, 100),
}


def main(real_data: Path, checkpoints: Path, folder: Path, names: list[str]) -> None:
    for name in names or TASKS:
        data = folder / name
        data.mkdir(parents=True, exist_ok=True)
        params = params_of_task(TASKS[name], real_data, checkpoints, data)
        print(f"{name}: {_run(TASKS[name], params, data)}", flush=True)


def params_of_task(task: Task, real_data: Path, checkpoints: Path, data: Path) -> Path:
    params = Path(shutil.copy("params.yaml", data))
    if task.recipe:
        apply(task.recipe, str(real_data), params)
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load(params)
    model = {"model.name": "folder", "model.folder": str(checkpoints / task.checkpoint)}
    for place, value in (task.settings | model | {"model.architecture": "checkpoint"}).items():
        *sections, name = place.split(".")
        reduce(getitem, sections, values)[name] = value
    yaml.dump(values, params)
    return params


def _run(task: Task, params: Path, data: Path) -> str:
    """All stages; the headline scores, and what they have cost."""
    settings, machine, scenario = read_section(Prepare, params), read_section(Machine, params), read_scenario(params)
    prepare.run(settings, None, Path(settings.folder) / scenario, data / "prepare")
    for split, most in (("validation", task.validation), ("test", task.test)):
        _keep_some(data / "prepare" / split, most)
    tokenize.run(read_section(Tokenize, params), read_section(Model, params), None, data / "prepare", data / "tokenize")
    started = time.monotonic()
    (data / "scratch").mkdir(exist_ok=True)
    run_training(params, data, data / "scratch")
    predicting = time.monotonic()
    texts, ids, trained = data / "prepare/test", data / "tokenize", data / "train"
    sections = read_section(Predict, params), read_section(Model, params), machine
    predict.run(*sections, texts, ids, trained, data / "predict", data / "scratch/predict")
    write_predictions(data / "predict_base/predictions.jsonl", [])
    evaluate.run(read_section(Evaluate, params), scenario, data, data / "metrics", data / "evaluate")
    minutes = (predicting - started) / 60, (time.monotonic() - predicting) / 60
    tokens = int(TokenizedDataset(data / "tokenize/train").lengths().sum() * read_section(Train, params).epochs)
    scores = read_json(data / "metrics/evaluate.json")
    return f"{scores}; {tokens:,} tokens trained in {minutes[0]:.0f} min, predicted in {minutes[1]:.0f} min"


def _keep_some(folder: Path, most: int | None) -> None:
    examples = list(read_examples(folder))
    if most is not None:
        write_examples(folder, random.Random(SEED).sample(examples, most))


if __name__ == "__main__":
    keep_freed_memory()
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
