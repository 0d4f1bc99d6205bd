"""Writes the trained model as the project ships it: `python publish.py`, in this folder, after `dvc repro`.

Reads:  data/train/model/, metrics/ and NOTICE.
Writes: ../raw/base/, or ../raw/models/seq2seq/ for an encoder-decoder: weights in bfloat16, tokenizer, model card
(README.md) and NOTICE.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from ruamel.yaml import YAML
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

MODEL = Path("data/train/model")
BASE = Path("../raw/base")
SISTERS = Path("../raw/models")

SOURCES = (
    "novels of 1813 to 1929 and children's stories of today (two thirds), textbooks, health answers and essays (a "
    "quarter), how-to pages of US agencies and conversations (the rest). `NOTICE` names each source with its licence: "
    "public domain, CC0 and CC BY; none is share-alike."
)
COPYING = (
    "examples that need copying, made by `facts.py` of the recipe: fields with made-up names, and sentences that tell "
    "them."
)
LIMITS = (
    "period attitudes of its novels remain in it; nothing about health may be believed. It is a start for fine-tuning "
    "on a narrow task, no assistant."
)


def main() -> None:
    disable_progress_bar()
    if not MODEL.is_dir():
        raise SystemExit(f"no model in {MODEL}: run `dvc repro` first")
    is_seq2seq = json.loads((MODEL / "config.json").read_text()).get("is_encoder_decoder", False)
    network = (AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM).from_pretrained(MODEL)
    values = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    paragraphs = (seq2seq_card if is_seq2seq else causal_card)(values, network.config)
    folder, task = (SISTERS / "seq2seq", "text2text-generation") if is_seq2seq else (BASE, "text-generation")
    publish(network, AutoTokenizer.from_pretrained(MODEL), folder, task, paragraphs)


def publish(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, task: str, paragraphs: Sequence[str]
) -> None:
    """The first paragraph is the title of the card; `task` is the name of the hub for what the model does."""
    title, *rest = paragraphs
    header = f"---\nlanguage: en\nlibrary_name: transformers\npipeline_tag: {task}\n---\n# {title}\n\n"
    shutil.rmtree(folder, ignore_errors=True)
    network.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copy("NOTICE", folder)
    body = "\n\n".join(fill(paragraph, 100, break_on_hyphens=False) for paragraph in rest)
    (folder / "README.md").write_text(f"{header}{body}\n")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB")


def causal_card(values: dict[str, Any], config: Any) -> list[str]:
    train, scores, held_out = _metrics("train"), _metrics("evaluate"), _metrics("tokenize")["test"]
    read = values["prepare"]["train_share"] * values["train"]["epochs"]
    return [
        "A small English base model to fine-tune",
        f"A causal model of {train['parameters']:,} parameters in the shape of Llama, so that the first fine-tuning "
        f"needs no network: {config.num_hidden_layers} layers of width {config.hidden_size}, tied embeddings, "
        f"{config.vocab_size:,} tokens of byte-level BPE, {config.max_position_embeddings:,} positions. Weights are "
        f"bfloat16.",
        f"**Data**: {100 * read:.0f} % of 80 MB of English: {SOURCES}",
        f"Beside it, {COPYING}",
        f"**Training**: {_updates(values)}, from random weights among which `start.py` had set heads that copy; "
        f"{_schedule(values)}",
        f"**Held-out loss**: {scores['bits_per_byte']:.4g} bits a byte on {held_out['tokenized_examples']:,} pieces of "
        f"documents that were never trained on; pieces of the same books were.",
        "**Limits**: it knows how English runs, and next to nothing else. What it writes by itself is grammatical in "
        f"short stretches and untrue; {LIMITS}",
    ]


def seq2seq_card(values: dict[str, Any], config: Any) -> list[str]:
    train, scores, held_out = _metrics("train"), _metrics("evaluate"), _metrics("tokenize")["test"]
    return [
        "A small English encoder-decoder to fine-tune",
        f"An encoder-decoder of {train['parameters']:,} parameters in the shape of T5, the sister of the causal base: "
        f"{config.num_layers} layers of width {config.d_model} in each half, its tokenizer of {config.vocab_size:,} "
        f"tokens, and at the start its token embeddings. Weights are bfloat16.",
        "**Data**: pieces of English text in which spans of words, 30 % of all, are replaced by `_`; the target is the "
        f"whole piece. The text: {SOURCES}",
        f"As many {COPYING}",
        f"**Training**: {_updates(values)}, from random weights among which `start_seq2seq.py` had set heads that "
        f"copy; {_schedule(values)}",
        f"**Held-out loss**: {scores['bits_per_byte']:.4g} bits a byte of {held_out['tokenized_examples']:,} pieces "
        "with hidden words, of documents that were never trained on.",
        f"**Limits**: it fills gaps with the usual words, and knows next to nothing; {LIMITS}",
    ]


def _updates(values: dict[str, Any]) -> str:
    updates, tokens = _metrics("train")["updates"], values["fit"]["batch_tokens"]
    return f"{updates:,} updates of {tokens:,} tokens, {updates * tokens / 1e6:.1f} million in all"


def _schedule(values: dict[str, Any]) -> str:
    return (
        f"Muon, peak learning rate {values['fit']['learning_rate']:g}, cosine schedule. Made by this project's own "
        f"stages: `data/base/` holds the recipe, but not the corpus."
    )


def _metrics(name: str) -> dict[str, Any]:
    return dict(json.loads(Path(f"metrics/{name}.json").read_text()))


if __name__ == "__main__":
    main()
