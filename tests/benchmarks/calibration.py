"""What confidence is worth on SST-2 and bAbI 5: calibration, and coverage at an accuracy that the user asks for.

    python -m tests.benchmarks.calibration REAL_DATA CHECKPOINTS FOLDER [TASK ...]

REAL_DATA and CHECKPOINTS are those of pretrained_scores. What the stages make is left in FOLDER/TASK; a run that is
there is trained no more. sst2 and babi_task5 start from random weights, as their recipes say, the others from the
checkpoint and the settings of pretrained_scores, but with all of validation.

For each accuracy: test where everything is answered, above a probability of as much, above the lowest threshold that
does it on validation, and above the threshold that `evaluate` chooses. Then validation and test are pooled and divided
anew, and the examples that choose nothing tell how often the answers are surely, or by chance, less accurate.
"""

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

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
from stages.lib.records.examples import read_examples, read_labels, write_examples
from stages.lib.records.predictions import read_predictions, write_predictions
from stages.lib.scores.calibration import Judged, judged
from stages.lib.scores.resampling import share_interval
from stages.lib.scores.selective import log_threshold
from stages.tools.recipe import apply
from tests.benchmarks.pretrained_scores import TASKS as PRETRAINED
from tests.benchmarks.pretrained_scores import params_of_task
from tests.test_scenarios import run_training

RECIPES = ("sst2", "babi_task5")
FROM_CHECKPOINTS = {"sst2_minilm": "sst2_minilm", "sst2_smollm2": "sst2"}
WANTED = (85.0, 90.0, 95.0, 98.0)
MOST_EXAMPLES = 2000  # of validation and of test; of bAbI 5, examples are dialogues
MOST_DIALOGUES = 300
DIVISIONS = 100
SEED = 1


def main(real_data: Path, checkpoints: Path, folder: Path, names: list[str]) -> None:
    for name in names or (*RECIPES, *FROM_CHECKPOINTS):
        data = folder / name
        data.mkdir(parents=True, exist_ok=True)
        params = _params(name, real_data, checkpoints, data)
        _run(params, data)
        _tell(name, params, data)


def _params(name: str, real_data: Path, checkpoints: Path, data: Path) -> Path:
    if name in FROM_CHECKPOINTS:
        return params_of_task(PRETRAINED[FROM_CHECKPOINTS[name]], real_data, checkpoints, data)
    params = Path(shutil.copy("params.yaml", data))
    apply(name, str(real_data), params)
    return params


def _run(params: Path, data: Path) -> None:
    """All stages, except those that have run."""
    settings, machine, scenario = read_section(Prepare, params), read_section(Machine, params), read_scenario(params)
    model, ids = read_section(Model, params), data / "tokenize"
    if not (data / "train/report/settings.json").is_file():
        prepare.run(settings, None, Path(settings.folder) / scenario, data / "prepare")
        for split in ("validation", "test"):
            _keep_some(data / "prepare" / split)
        tokenize.run(read_section(Tokenize, params), model, None, data / "prepare", ids)
        (data / "scratch").mkdir(exist_ok=True)
        run_training(params, data, data / "scratch")
    if not (data / "predict/validation.jsonl").is_file():
        texts, validation = data / "prepare/test", data / "prepare/validation"
        paths = texts, ids, data / "train", data / "predict", data / "scratch/predict", validation
        predict.run(read_section(Predict, params), model, machine, *paths)
    write_predictions(data / "predict_base/predictions.jsonl", [])
    asked = read_section(Evaluate, params).model_copy(update={"selective_accuracy": WANTED[2]})
    evaluate.run(asked, scenario, data, data / "metrics", data / "evaluate")


def _keep_some(folder: Path) -> None:
    examples = list(read_examples(folder))
    most = MOST_DIALOGUES if examples[0].turns else MOST_EXAMPLES
    write_examples(folder, random.Random(SEED).sample(examples, min(most, len(examples))))


def _tell(name: str, params: Path, data: Path) -> None:
    found = read_json(data / "metrics/scores.json")
    ece, trusted = found["scores"]["ece"], found["confidence"]
    scaled = trusted["scaled"]
    print(
        f"{name}: ECE {ece['score']:.4f} ({ece['low']:.4f} to {ece['high']:.4f}; {ece['ceiling']:.4f} by chance), "
        f"scaled on validation {scaled['ece']:.4f} ({scaled['low']:.4f} to {scaled['high']:.4f}), "
        f"Brier {found['scores']['brier']['score']:.4f}, AURC {trusted['aurc']:.4f}"
    )
    labels, settings = read_labels(data / "prepare/labels.json"), read_section(Evaluate, params)
    test, validation = (
        judged(list(read_predictions(data / f"predict/{split}.jsonl")), settings, labels)
        for split in ("predictions", "validation")
    )
    assert test is not None
    assert validation is not None
    for wanted in WANTED:
        print(f"  {wanted:g} % asked; {len(validation.right):,} of validation, {len(test.right):,} of test")
        for how, choose in _CHOICES.items():
            print(f"    {how}: {_result(test, choose(validation, wanted / 100))}")
        for how, choose in list(_CHOICES.items())[1:]:
            below, surely, coverage = _divided_anew(validation, test, choose, wanted)
            print(
                f"    {DIVISIONS} divisions, {how}: less accurate {below:.0%}, surely so {surely:.0%}, "
                f"answered {coverage:.1%}"
            )


def _plainly(validation: Judged, accuracy: float) -> float | None:
    """The lowest threshold above which the accuracy on validation is reached."""
    order = np.argsort(-validation.log_probabilities, kind="stable")
    accuracies = np.cumsum(validation.right[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(accuracies >= accuracy)
    return float(validation.log_probabilities[order][reached[-1]]) if len(reached) else None


_CHOICES: dict[str, Callable[[Judged, float], float | None]] = {
    "everything answered": lambda validation, accuracy: -np.inf,
    "above a probability of as much": lambda validation, accuracy: float(np.log(accuracy)),
    "lowest threshold of validation": _plainly,
    "threshold of evaluate": log_threshold,
}


def _result(test: Judged, threshold: float | None) -> str:
    answered = test.log_probabilities >= (np.inf if threshold is None else threshold)
    if threshold is None or not answered.any():
        return "no threshold" if threshold is None else "nothing is answered"
    groups = [group for group, is_answered in zip(test.groups, answered, strict=True) if is_answered]
    accuracy = share_interval((test.right[answered] > 0).tolist(), groups).scaled(100)
    coverage = share_interval(answered.tolist(), test.groups).scaled(100)
    return (
        f"probability {np.exp(threshold):.4g}, answered {100 * answered.mean():.1f} % ({coverage.low:.1f} to "
        f"{coverage.high:.1f}), right {100 * test.right[answered].mean():.2f} % ({accuracy.low:.2f} to "
        f"{accuracy.high:.2f})"
    )


def _divided_anew(
    validation: Judged, test: Judged, choose: Callable[[Judged, float], float | None], wanted: float
) -> tuple[float, float, float]:
    """Shares of the divisions in which the answers to the second part are less accurate than wanted, and in which their
    interval is; and the mean coverage."""
    below, surely, coverage = 0, 0, 0.0
    for chosen, other in _divisions(validation, test):
        threshold = choose(chosen, wanted / 100)
        if threshold is None:
            continue
        answered = other.log_probabilities >= threshold
        coverage += float(answered.mean()) / DIVISIONS
        if answered.any():
            groups = [group for group, is_answered in zip(other.groups, answered, strict=True) if is_answered]
            below += bool(100 * other.right[answered].mean() < wanted)
            surely += bool(share_interval((other.right[answered] > 0).tolist(), groups).scaled(100).high < wanted)
    return below / DIVISIONS, surely / DIVISIONS, coverage


def _divisions(validation: Judged, test: Judged) -> Iterator[tuple[Judged, Judged]]:
    """Two parts, of as many groups as validation and test. Groups stay whole."""
    logs = np.concatenate([validation.log_probabilities, test.log_probabilities])
    right = np.concatenate([validation.right, test.right])
    groups = np.array([*validation.groups, *test.groups])
    names, count = sorted(set(groups.tolist())), len(set(validation.groups))
    for seed in range(DIVISIONS):
        first = np.isin(groups, random.Random(seed).sample(names, count))
        one, other = (Judged(test.judge, logs[part], right[part], groups[part].tolist()) for part in (first, ~first))
        yield one, other


if __name__ == "__main__":
    keep_freed_memory()
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
