"""What fine-tuning makes a model forget: the loss on general text before and after, and the score of the task.

    python -m tests.benchmarks.forgetting CHECKPOINT HELD_OUT REPLAY FOLDER [ROW ...]

CHECKPOINT is the folder of a causal model. HELD_OUT and REPLAY are JSON lines (.xz or not) with documents in the field
`text`: of the first the loss is measured, and paragraphs of the second are mixed into train by the row `replay`. All
rows train on the sample of data_to_text, with as many updates of as many examples; nothing has tuned their learning
rates. What the stages make is left in FOLDER/ROW; a killed training run continues there, and a row that is done is only
printed.
"""

import json
import lzma
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages import evaluate, predict, prepare, tokenize
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import read_json, write_jsonl
from stages.lib.core.params import read_scenario, read_section
from stages.lib.core.process import keep_freed_memory
from stages.lib.generation.plain_texts import general_text_losses
from stages.lib.models.loading import base_model
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.examples import read_examples, write_examples
from stages.lib.records.predictions import write_predictions
from stages.lib.records.text_losses import read_window_losses, write_window_losses
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.scores.general_text import GENERAL
from tests.test_scenarios import run_training

SAMPLE = Path("data/raw/data_to_text/places.csv")
UPDATES, BATCH = 20, 16
HELD_OUT, VALIDATION, TEST = 8, 20, 60  # documents; examples
SEED = 1  # of these
PARAGRAPHS, SHORTEST, LONGEST = 2000, 150, 350  # for replay; characters, so that they are as long as the task's texts
# of all texts a quarter: an example of the sample has two references
MIX = {"general": {"files": "replay.jsonl", "target": "{text}", "share": 0.4}}
FULL = {"fit.learning_rate": 5e-4}
LORA = {"type": "lora", "rank": 8, "alpha": 16, "dropout": 0.0}
ROWS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "lora": {"fit.learning_rate": 2e-3, "fit.adapters": LORA},
    "replay": FULL | {"scenarios.data_to_text.prepare.mix": MIX},
    "frozen": FULL | {"fit.freeze.first_layers": 20},
}
COMMON = {
    **{"scenario": "data_to_text", "model.name": "folder", "model.architecture": "checkpoint"},
    **{"tune_hyperparameters.trials": 0, "predict_base.enabled": False, "predict.general_text": True},
    **{"fit.batch_size": BATCH, "fit.precision": "auto", "fit.freeze.embeddings": True, "fit.evals_per_run": 1},
}
SHOWN = (GENERAL, "bleu", "chrf", "slot_error")


def main(checkpoint: Path, held_out: Path, replay: Path, folder: Path, names: Sequence[str]) -> None:
    texts = folder / "held_out"
    texts.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(random.Random(SEED).sample(list(_documents(held_out)), HELD_OUT)):
        (texts / f"{number}.txt").write_text(text, "utf-8")
    print(f"| training | {' | '.join(SHOWN)} | change on general text | minutes |", flush=True)
    for name in names or ROWS:
        data = folder / name
        settings = COMMON | ROWS[name] | {"model.folder": str(checkpoint), "predict.general_text_folder": str(texts)}
        started = time.monotonic()
        if not (data / "metrics/scores.json").is_file():
            _run(settings, replay, data, folder / "before.jsonl")
        print(_row(name, read_json(data / "metrics/scores.json"), (time.monotonic() - started) / 60), flush=True)


def _documents(path: Path) -> Iterator[str]:
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        yield from (json.loads(line)["text"] for line in lines)


def _run(settings: dict[str, Any], replay: Path, data: Path, before: Path) -> None:
    """All stages."""
    raw = data / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    shutil.copy(SAMPLE, raw)
    paragraphs = (part for text in _documents(replay) for part in text.split("\n") if SHORTEST < len(part) < LONGEST)
    write_jsonl(raw / "replay.jsonl", ({"text": part} for part, _ in zip(paragraphs, range(PARAGRAPHS), strict=False)))
    params = _params(settings, data / "params.yaml")
    prepare.run(read_section(Prepare, params), None, raw, data / "prepare")
    for split, most in (("validation", VALIDATION), ("test", TEST)):
        _keep_some(data / "prepare" / split, most)
    model = read_section(Model, params)
    tokenize.run(read_section(Tokenize, params), model, None, data / "prepare", data / "tokenize")
    epochs = (UPDATES - 0.5) * BATCH / len(TokenizedDataset(data / "tokenize/train"))  # a begun update is made
    params = _params(settings | {"train.epochs": epochs}, data / "params.yaml")
    (data / "scratch").mkdir(exist_ok=True)
    run_training(params, data, data / "scratch")
    decoding, machine = read_section(Predict, params), read_section(Machine, params)
    if not before.is_file():
        tokenizer = load_tokenizer(data / "tokenize/tokenizer")
        network = base_model(model, tokenizer, (), dropout=None, seed=SEED)
        state = data / "scratch/before"
        write_window_losses(before, general_text_losses(network, tokenizer, model, decoding, None, state, "before"))
    write_predictions(data / "predict_base/predictions.jsonl", [])
    write_window_losses(data / "predict_base/general_text.jsonl", read_window_losses(before))
    paths = data / "prepare/test", data / "tokenize", data / "train", data / "predict", data / "scratch/predict"
    predict.run(decoding, model, machine, *paths)
    evaluate.run(read_section(Evaluate, params), read_scenario(params), data, data / "metrics", data / "evaluate")


def _params(settings: dict[str, Any], path: Path) -> Path:
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load(Path("params.yaml"))
    for place, value in settings.items():
        *sections, name = place.split(".")
        reduce(getitem, sections, values)[name] = value
    yaml.dump(values, path)
    return path


def _keep_some(folder: Path, most: int) -> None:
    write_examples(folder, random.Random(SEED).sample(list(read_examples(folder)), most))


def _row(name: str, found: dict[str, Any], minutes: float) -> str:
    scores = [found["scores"][score] for score in SHOWN]
    cells = [f"{own['score']:.4g} ({own['low']:.4g} to {own['high']:.4g})" for own in scores]
    general = scores[0]
    change = f"{general['change']:+.3f} ({general['change_low']:+.3f} to {general['change_high']:+.3f})"
    return f"| {name} | {' | '.join(cells)} | {change} from {general['before_training']:.4g} | {minutes:.0f} |"


if __name__ == "__main__":
    keep_freed_memory()
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
