"""What `predict.precision: bfloat16` gains, and what it changes: time, equal texts, BLEU.

Run: `python -m tests.benchmarks.decoding_precision FOLDER [ROUNDS]`. FOLDER is a task's of
`tests.benchmarks.pretrained_scores`: its params.yaml, data of prepare and tokenize, and trained model. Both precisions
predict the test split in turn; medians of processor time are compared. Claim: bfloat16 is twice as fast on a processor
with instructions for it.
"""

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch

from stages import predict
from stages.lib.core.params import read_section
from stages.lib.core.process import keep_freed_memory
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.records.predictions import Prediction, read_predictions
from stages.lib.scores.bleu_chrf_ter import bleu
from stages.lib.scores.resampling import compare_scores

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, Precision] = ("float32", "bfloat16")


def main(run: Path, rounds: int) -> None:
    times: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
    texts: dict[Precision, list[Prediction]] = {}
    for number in range(rounds):
        for precision in PRECISIONS:
            started = time.process_time()
            texts[precision] = _predicted(run, precision)
            times[precision].append(time.process_time() - started)
            print(f"round {number + 1}: {precision}: {times[precision][-1]:.1f} s", flush=True)
    exact, rounded = (texts[precision] for precision in PRECISIONS)
    equal = sum(one.prediction == other.prediction for one, other in zip(exact, rounded, strict=True))
    params = read_section(Evaluate, run / "params.yaml")
    found = compare_scores(bleu(exact, params), bleu(rounded, params), [own.group for own in exact])["bleu"]
    ratio = statistics.median(times["float32"]) / statistics.median(times["bfloat16"])
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {len(exact)} texts")
    print(f"float32 / bfloat16: {ratio:.2f} times; {equal} of {len(exact)} texts are equal")
    print(
        f"BLEU {found.first:.2f} in float32, {found.second:.2f} in bfloat16: {found.difference:+.2f} "
        f"({found.interval.low:+.2f} to {found.interval.high:+.2f})"
    )


def _predicted(run: Path, precision: Precision) -> list[Prediction]:
    params = run / "params.yaml"
    settings = read_section(Predict, params).model_copy(update={"precision": precision})
    sections = settings, read_section(Model, params), read_section(Machine, params)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        predict.run(
            *sections, run / "prepare/test", run / "tokenize", run / "train", folder / "predict", folder / "state"
        )
        return list(read_predictions(folder / "predict/predictions.jsonl"))


if __name__ == "__main__":
    keep_freed_memory()
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
