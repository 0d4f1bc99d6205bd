"""A published benchmark of search: validation error after each epoch of small networks, on 34 classification tasks.

It is LCBench (Zimmer, Lindauer and Hutter 2021), 2000 random settings a task, as the regression model that YAHPO Gym
(Pfisterer et al. 2022) fitted to it, so any setting has a curve. The functions read a folder that has the data
(Apache-2.0): `git clone --branch v1.0.2 https://github.com/slds-lmu/yahpo_data`. They need onnxruntime, of extra
`bench`. The same settings always give the same curve.
"""

import csv
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

# LCBench counts the network before training as the first epoch, and the last one is unclear. Both go, as YAHPO Gym's
# authors say (its issue 62) and Syne Tune does. What stays are the 50 epochs of training.
_FIRST, _LAST = 2, 51
_TASK, _TARGET = "OpenML_task_id", "val_accuracy"
# what the model reads behind the epoch, in this order, and the column of its output that is read
_INPUTS = ("batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout")
_OUTPUT = 1


def tasks(folder: Path) -> list[str]:
    """OpenML's numbers of the tasks."""
    return _dimensions(folder)[_TASK]["choices"]


def space(folder: Path, task: str) -> dict[str, dict[str, Any]]:
    """The ranges of the settings, in the form of `tune_hyperparameters.search`. Whole numbers have whole ends.

    All tasks have the same.
    """
    dimensions = {name: _dimensions(folder)[name] for name in _INPUTS}
    return {name: {"low": own["lower"], "high": own["upper"], "log": own["log"]} for name, own in dimensions.items()}


def curve(folder: Path, task: str, settings: Mapping[str, float]) -> list[float]:
    """Validation error in percent after each of 50 epochs; lower is better.

    Raises:
        KeyError: one of the settings of `space` is missing, or there is no such task.
    """
    epochs = np.arange(_FIRST, _LAST + 1)
    numbers = np.array([[epoch, *(settings[name] for name in _INPUTS)] for epoch in epochs], np.float32)
    tasks_ = np.full((len(epochs), 1), _codes(folder)[task], np.int32)
    (outputs,) = _model(folder).run(None, {"x_cat": tasks_, "x_cont": numbers})
    return (100 - outputs[:, _OUTPUT].astype(float)).tolist()


def best(folder: Path, task: str) -> float:
    """The lowest error of half a million random settings, as published with the data.

    A search can go below: a regret is against the lower of this and of all that was found.
    """
    return 100 - _highest_accuracies(folder)[task]


@cache
def _dimensions(folder: Path) -> dict[str, dict[str, Any]]:
    space_ = json.loads((folder / "lcbench/config_space.json").read_text())
    return {own["name"]: own for own in space_["hyperparameters"]}


@cache
def _codes(folder: Path) -> dict[str, int]:
    """The number that stands for a task in the model's input."""
    return json.loads((folder / "lcbench/encoding.json").read_text())[_TASK]


@cache
def _model(folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # 50 rows: more threads only wait for each other
    path = str(folder / "lcbench/model.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@cache
def _highest_accuracies(folder: Path) -> dict[str, float]:
    with (folder / "global_statistics/instance_target_statistics.csv").open(newline="") as file:
        wanted = [
            row
            for row in csv.DictReader(file)
            if (row["scenario"], row["metric"], row["statistic"]) == ("lcbench", _TARGET, "max")
        ]
    return {row["instance"]: float(row["value"]) for row in wanted}
