"""How long a search takes: against `Trainer.hyperparameter_search` with the same trials, and with two workers.

Run: `python -m tests.benchmarks.search_speed [ROUNDS]`, on a machine of two cores that does nothing else. All run in
turn, in a process of their own, so that a slow minute of the machine meets all of them; medians are compared.

Ours and Trainer (backend Optuna) train the same small GPT-2 on the same examples of the sample, with the settings of
the same grid, and as many updates and evaluations; neither prunes. The time is that of the whole search, without
imports. At its best, Trainer has batches by length and our memory allocator, and evaluates as many examples at once as
it trains on. Ours keeps the best weights of each trial in a checkpoint; Trainer keeps none.

Two workers with a thread each are compared with one worker that has one thread, or two. This time has the imports, so
trials are longer, as those of a search that needs workers are. The table of trials must be the same, to the byte,
whether one worker or two have made it.
"""

import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, Trainer, TrainingArguments

from stages import tune_hyperparameters
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import read_json
from stages.lib.core.params import read_section
from stages.lib.core.process import keep_freed_memory
from stages.lib.models.families.interface import IGNORED
from stages.lib.models.loading import base_model
from stages.lib.params.model import Model
from stages.lib.records.tokenized_examples import TokenizedDataset
from tests.benchmarks.training_speed import SETUPS
from tests.build import PROJECT, params_of, run_stage

TRAIN, VALIDATION, BATCH, EVALUATIONS = 320, 64, 16, 2
RATES, DECAYS = [0.001, 0.0005, 0.002, 0.004], [0.01, 0.1]  # the first of each are those of the first trial
WORKER_EPOCHS = 3
SEARCH = {"learning_rate": {"choices": RATES}, "weight_decay": {"choices": DECAYS}}
PARAMS: dict[str, Any] = {
    "model__architecture": "small",
    "architectures__small": SETUPS["gpt2-4M"].architecture | {"vocabulary_size": 2048, "pre_tokenizer": "words"},
    "tune_hyperparameters__trials": len(RATES) * len(DECAYS),
    "tune_hyperparameters__sampler": "grid",
    "tune_hyperparameters__pruner": None,
    "tune_hyperparameters__epochs": 1,
    "tune_hyperparameters__max_train_examples": TRAIN,
    "tune_hyperparameters__max_validation_examples": VALIDATION,
    "tune_hyperparameters__confirm": {"trials": 0, "seeds": 1, "epochs": 1},
    "tune_hyperparameters__search": SEARCH,
    "fit__batch_size": BATCH,
    "fit__learning_rate": RATES[0],
    "fit__schedule": "linear",
    "fit__warmup_fraction": 0.0,
    "fit__weight_decay": DECAYS[0],
    "fit__evals_per_run": EVALUATIONS,
    "machine__data_workers": 1,
}


def main(rounds: int) -> None:
    print(f"{_processor()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    seconds: dict[str, list[float]] = {name: [] for name in [*CONTENDERS, *WORKERS]}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        project(folder)
        for _ in range(rounds):
            found: dict[str, str] = {}
            for name, taken in seconds.items():
                own, found[name] = searched(folder, name) if name in CONTENDERS else worked(folder, name)
                taken.append(own)
                print(f"{name:26} {own:6.1f} s", flush=True)
            print(f"lowest losses: {', '.join(f'{name} {found[name]}' for name in CONTENDERS)}")
            print(f"the table of two workers is that of one: {'yes' if found[ONE] == found[TWO] else 'NO'}", flush=True)
    for other, base in [*((name, "ours") for name in CONTENDERS if name != "ours"), (ONE, TWO), (TWO_THREADS, TWO)]:
        ratios = [them / us for them, us in zip(seconds[other], seconds[base], strict=True)]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{other} / {base}: {statistics.median(ratios):.2f} ({shown})")


def _processor() -> str:
    described = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    names = [line.partition(": ")[2] for line in described.splitlines() if line.startswith("model name")]
    return names[0] if names else sys.platform


def project(folder: Path) -> None:
    """A copy that is ready for the search."""
    shutil.copy(PROJECT / "dvc.yaml", folder)
    for name in ("stages", "data/raw"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    params_of("data_to_text", folder, **PARAMS)
    for stage in ("prepare", "tokenize"):
        run_stage(folder, stage)


def searched(folder: Path, contender: str) -> tuple[float, str]:
    """Seconds of the search, and the lowest loss."""
    params_of("data_to_text", folder, **PARAMS)
    command = [sys.executable, "-m", "tests.benchmarks.search_speed", "worker", contender, str(folder)]
    done = subprocess.run(command, env=os.environ | {"TQDM_DISABLE": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender}: {done.stderr[-2000:]}")
    taken, best = json.loads(done.stdout.splitlines()[-1])
    return taken, f"{best:.4f}"


def worker(contender: str, folder: Path) -> None:
    gc.enable()  # stages/__init__.py has switched it off
    with chdir(folder):
        begun = time.monotonic()
        best = CONTENDERS[contender]()
        print(json.dumps([time.monotonic() - begun, best]))


def ours() -> float:
    keep_freed_memory()
    tune_hyperparameters.main()
    return float(read_json(Path("data/tune_hyperparameters/report/stats.json"))["value"])


def trainer(**options: Any) -> float:
    data, tokenizer = Path("data/tokenize"), load_tokenizer(Path("data/tokenize/tokenizer"))
    train, validation = (
        [
            {
                "input_ids": own.source_ids + own.target_ids,
                "attention_mask": [1] * len(own.source_ids + own.target_ids),
                "labels": [IGNORED] * len(own.source_ids) + own.target_ids,
            }
            for own in TokenizedDataset(data / split, first=first)
        ]
        for split, first in (("train", TRAIN), ("validation", VALIDATION))
    )
    trials = [{"learning_rate": rate, "weight_decay": decay} for rate, decay in product(RATES, DECAYS)]

    def network() -> PreTrainedModel:
        return base_model(read_section(Model), tokenizer, [], None, seed=1)

    updates = TRAIN // BATCH
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            max_steps=updates,
            eval_strategy="steps",
            eval_steps=updates // EVALUATIONS,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            **options,
        )
        own = Trainer(
            args=arguments,
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            train_dataset=train,
            eval_dataset=validation,
            model_init=network,
        )
        best: Any = own.hyperparameter_search(
            lambda trial: trials[trial.number], n_trials=len(trials), direction="minimize", backend="optuna"
        )
    return float(best.objective)


def trainer_at_its_best() -> float:
    keep_freed_memory()
    return trainer(train_sampling_strategy="group_by_length", per_device_eval_batch_size=BATCH)


def worked(folder: Path, name: str) -> tuple[float, str]:
    """Seconds of the stage as a process, and its table of trials."""
    workers, threads = WORKERS[name]
    longer = {"machine__tune_workers": workers, "tune_hyperparameters__epochs": WORKER_EPOCHS}
    params_of("data_to_text", folder, **PARAMS | longer)
    environment = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(threads)}
    begun = time.monotonic()
    command = [sys.executable, "-m", "stages.tune_hyperparameters"]
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    taken = time.monotonic() - begun
    return taken, (folder / "data/tune_hyperparameters/report/trials.csv").read_text()


CONTENDERS: dict[str, Callable[[], float]] = {
    "ours": ours,
    "Trainer as started": trainer,
    "Trainer at its best": trainer_at_its_best,
}
ONE, TWO, TWO_THREADS = "one worker, one thread", "two workers", "one worker, two threads"
WORKERS = {ONE: (1, 1), TWO: (2, 1), TWO_THREADS: (1, 2)}  # and threads of each


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], Path(sys.argv[3]))
    else:
        main(int((sys.argv[1:] or ["3"])[0]))
