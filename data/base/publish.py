"""Writes the trained base as the project ships it: `python publish.py`, in this folder, after `dvc repro`.

Reads:  data/train/model/, metrics/ and NOTICE.
Writes: ../raw/base/: weights in bfloat16, tokenizer, model card (README.md) and NOTICE.
"""

import json
import shutil
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

MODEL = Path("data/train/model")
TARGET = Path("../raw/base")

_HEADER = """---
language: en
library_name: transformers
pipeline_tag: text-generation
---
# A small English base model to fine-tune
"""


def main() -> None:
    disable_progress_bar()
    if not MODEL.is_dir():
        raise SystemExit(f"no model in {MODEL}: run `dvc repro` first")
    network = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    tokenizer, text = AutoTokenizer.from_pretrained(MODEL), card()
    shutil.rmtree(TARGET, ignore_errors=True)
    network.save_pretrained(TARGET)
    tokenizer.save_pretrained(TARGET)
    shutil.copy("NOTICE", TARGET)
    (TARGET / "README.md").write_text(text)
    size = sum(file.stat().st_size for file in TARGET.iterdir())
    print(f"{TARGET}: {size / 1e6:.1f} MB")


def card() -> str:
    values = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    fit, shape = values["fit"], values["architectures"]["llama"]
    train, tokens, scores = (_metrics(name) for name in ("train", "tokenize", "evaluate"))
    seen = train["updates"] * fit["batch_tokens"]
    read = values["prepare"]["train_share"] * values["train"]["epochs"]
    held_out = tokens["test"]["tokenized_examples"]
    paragraphs = [
        f"A causal model of {train['parameters']:,} parameters in the shape of Llama, so that the first fine-tuning "
        f"needs no network: {shape['num_hidden_layers']} layers of width {shape['hidden_size']}, tied embeddings, "
        f"{shape['vocabulary_size']:,} tokens of byte-level BPE, {shape['max_position_embeddings']:,} "
        f"positions. Weights are bfloat16.",
        f"**Data**: {100 * read:.0f} % of 80 MB of English: novels of 1813 to 1929 and children's stories of today "
        "(two thirds), textbooks, health answers and essays (a quarter), how-to pages of US agencies and conversations "
        "(the rest). `NOTICE` names each source with its licence: public domain, CC0 and CC BY; none is share-alike.",
        "Beside it, examples that need copying, made by `facts.py` of the recipe: fields with made-up names, and "
        "sentences that tell them.",
        f"**Training**: {train['updates']:,} updates of {fit['batch_tokens']:,} tokens, {seen / 1e6:.1f} million in "
        f"all, from random weights among which `start.py` had set heads that copy; Muon, peak learning rate "
        f"{fit['learning_rate']:g}, cosine schedule. Made by this project's own stages: `data/base/` holds the recipe, "
        "but not the corpus.",
        f"**Held-out loss**: {scores['bits_per_byte']:.4g} bits a byte on {held_out:,} pieces of documents that were "
        f"never trained on; pieces of the same books were.",
        "**Limits**: it knows how English runs, and next to nothing else. What it writes by itself is grammatical in "
        "short stretches and untrue; period attitudes of its novels remain in it; nothing about health may be "
        "believed. It is a start for fine-tuning on a narrow task, no assistant.",
    ]
    body = "\n\n".join(fill(paragraph, 100, break_on_hyphens=False) for paragraph in paragraphs)
    return f"{_HEADER}\n{body}\n"


def _metrics(name: str) -> dict[str, Any]:
    return dict(json.loads(Path(f"metrics/{name}.json").read_text()))


if __name__ == "__main__":
    main()
