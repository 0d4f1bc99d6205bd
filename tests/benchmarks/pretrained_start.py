"""Does fine-tuning start from the pretrained weights? Held-out loss after the same number of steps, from a checkpoint
and from random weights of the same architecture and tokenizer, in turn, with three seeds each.

    python -m tests.benchmarks.pretrained_start CHECKPOINT LEARNING_RATE [ROWS [EXAMPLES]]

ROWS is a csv whose first column is the source, and whose last one is the target, or a label if it is called `label`;
without it, the sample of data-to-text is used. EXAMPLES are trained on, and a quarter as many are held out; else all.
"""

import csv
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from stages import prepare, tokenize
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.process import keep_freed_memory
from stages.lib.models.loading import base_model
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset, read_label_ids
from stages.lib.training.fit import fit
from tests.build import fit_settings, scratch_model, section

SEEDS = (1, 2, 3)
SAMPLE = Path("data/raw/data_to_text/places.csv")
EPOCHS = 1.0


def main(checkpoint: Path, learning_rate: float, rows: Path, examples: int | None) -> None:
    pretrained = section(Model, name="folder", folder=str(checkpoint), architecture="checkpoint", scratch=None)
    random = scratch_model(architecture_of(checkpoint), family=_family(checkpoint))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        prepare.run(_reading(rows), None, rows.parent, data / "prepare")
        longest = _positions(checkpoint)
        limits = {
            "max_source_tokens": longest // 2,
            "max_target_tokens": longest // 2 - 16,
            "max_rejected_fraction": 0.2,
        }
        prompt = "{source}\n" if rows == SAMPLE else "{source}"
        settings = section(Tokenize, prompt=prompt, truncation="drop", **limits)
        tokenize.run(settings, pretrained, None, data / "prepare", data / "tokenize")
        losses: dict[str, list[float]] = {"pretrained": [], "random": []}
        for seed in SEEDS:
            for name, model in (("pretrained", pretrained), ("random", random)):
                one = fit_settings(epochs=EPOCHS, evals_per_run=1, learning_rate=learning_rate, seed=seed)
                losses[name].append(_loss_after(model, one, data / "tokenize", examples, data / f"{name}{seed}"))
    for name, values in losses.items():
        shown = "".join(f"{value:8.4f}" for value in values)
        print(f"{name:<12}{shown}   median {statistics.median(values):.4f}")
    ratios = [ours / theirs for ours, theirs in zip(*losses.values(), strict=True)]
    print(f"ratio       {''.join(f'{ratio:8.3f}' for ratio in ratios)}   median {statistics.median(ratios):.3f}")


def _reading(rows: Path) -> Prepare:
    with rows.open(newline="") as file:
        header, *records = csv.reader(file)
    labels = {record[-1]: record[-1] for record in records} if header[-1] == "label" else None
    columns = {"source": f"{{{header[0]}}}", "target": f"{{{header[-1]}}}"}
    return section(Prepare, train=rows.name, validation=None, test=None, labels=labels, **columns)


def _config(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / "config.json").read_text()))


def architecture_of(checkpoint: Path) -> dict[str, Any]:
    """The settings of the checkpoint's configuration that its type knows, except for those that the tokenizer decides:
    vocabulary and special tokens."""
    known = AutoConfig.for_model(_config(checkpoint)["model_type"])
    decided = ("vocab_size", "architectures", "transformers_version", "dtype", "id2label", "label2id", "num_labels")
    return {
        name: value
        for name, value in _config(checkpoint).items()
        if hasattr(known, name)
        and name not in decided
        and not (name.endswith("_token_id") and name != "decoder_start_token_id")
    }


def _family(checkpoint: Path) -> str | None:
    return "encoder" if any("MaskedLM" in name for name in _config(checkpoint).get("architectures", [])) else None


def _positions(checkpoint: Path) -> int:
    return int(_config(checkpoint)["max_position_embeddings"])


def _loss_after(model: Model, settings: FitSettings, data: Path, examples: int | None, folder: Path) -> float:
    labels = [label.word for label in read_label_ids(data / "label_ids.json")]
    network = base_model(model, load_tokenizer(data / "tokenizer"), labels, settings.dropout, settings.seed)
    train = TokenizedDataset(data / "train", first=examples)
    validation = TokenizedDataset(data / "validation", first=examples and examples // 4)
    return fit(network, train, validation, settings, section(Machine), folder, title=folder.name).best()[1]


if __name__ == "__main__":
    keep_freed_memory()
    rows = Path(sys.argv[3]) if len(sys.argv) > 3 else SAMPLE
    main(Path(sys.argv[1]), float(sys.argv[2]), rows, int(sys.argv[4]) if len(sys.argv) > 4 else None)
