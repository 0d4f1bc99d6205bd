"""Processor seconds of prepare and tokenize for 20,000 rows, against a script with `datasets` that reads the same file,
maps the model's tokenizer over it and saves the result. Run: `python -m tests.benchmarks.data_cost`. Claim: at most 1.1
times as many, with the account of all rows, deduplication and the check for leaks."""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.synthetic import write_csv
from tests.build import PROJECT, params_of

ROWS, ROUNDS = 20_000, 5
BASE = PROJECT / "data/raw/base"
SCRIPT = """
import sys
from datasets import load_dataset
from transformers import AutoTokenizer
rows, tokenizer, folder = sys.argv[1:]
data = load_dataset("csv", data_files=rows, split="train", cache_dir=f"{folder}/cache")
tokenizer = AutoTokenizer.from_pretrained(tokenizer)
def encoded(batch):
    sources = tokenizer([f"{text}\\n" for text in batch["facts"]])
    return {"source_ids": sources["input_ids"], "target_ids": tokenizer(batch["text"])["input_ids"]}
data = data.map(encoded, batched=True, remove_columns=data.column_names)
data.train_test_split(0.1, seed=1).save_to_disk(f"{folder}/saved")
"""


def processor_seconds(folder: Path, *command: str) -> float:
    """Of a Python command and all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "HF_HOME": str(folder / "cache")}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place).resolve()
        params = params_of("data_to_text", folder, model__folder=str(BASE), prepare__folder="raw")
        edits = {"places.csv": "rows.csv", "max_target_tokens: 96": "max_target_tokens: 256"}
        text = params.read_text()
        for old, new in edits.items():
            text = text.replace(old, new)
        params.write_text(text)
        rows = folder / "raw/data_to_text/rows.csv"
        write_csv(rows, ROWS)
        ratios = []
        for _ in range(ROUNDS):  # in turn, so that other load on the machine slows both
            script = processor_seconds(folder, "-c", SCRIPT, str(rows), str(BASE), str(folder))
            ours = sum(processor_seconds(folder, "-m", f"stages.{stage}") for stage in ("prepare", "tokenize"))
            ratios.append(ours / script)
            shutil.rmtree(folder / "cache")
    print(
        f"prepare and tokenize of {ROWS:,} rows: {statistics.median(ratios):.2f} times the processor seconds of a "
        f"script with datasets (from {min(ratios):.2f} to {max(ratios):.2f} in {ROUNDS} rounds)"
    )


if __name__ == "__main__":
    main()
