"""Writes a data set whose targets are a model's texts, to train a smaller one on (sequence-level distillation: Kim and
Rush 2016): `python -m stages.tools.teach MODEL_FOLDER OUT_FOLDER`, after the stage prepare.

The model may have another tokenizer and class than the one that will learn. It reads the sources of data/prepare/train
in the prompt of the scenario, and writes by the scenario's `predict`. OUT_FOLDER gets train.jsonl with its texts, and
validation.jsonl and test.jsonl with the texts of people, all with the columns `source` and `target`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import model_family
from stages.lib.checkpoint.chat_template import PLAIN_TEMPLATE
from stages.lib.checkpoint.tokenizers import load_checkpoint_tokenizer
from stages.lib.core.files import write_jsonl
from stages.lib.core.params import CHECKPOINT, read_section
from stages.lib.core.process import UserError, launch
from stages.lib.core.worker_pool import in_batches
from stages.lib.encoding.encoder import Encoder
from stages.lib.generation.decoding import Prompt, decode
from stages.lib.models.devices import configure_gpu, move_to_own_device
from stages.lib.models.loading import base_model
from stages.lib.params.machine import Machine
from stages.lib.params.model import Family, Model
from stages.lib.params.predict import Predict
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.examples import Example, count_examples, read_examples, read_labels

PREPARED = Path("data/prepare")

_BATCH_EXAMPLES = 1024


@dataclass(frozen=True)
class _Prompt:
    source: str
    asked: Prompt


def main() -> None:
    if len(sys.argv) != 3 or any(argument.startswith("-") for argument in sys.argv[1:]):
        raise UserError("usage: python -m stages.tools.teach MODEL_FOLDER OUT_FOLDER")
    configure_gpu()
    sections = read_section(Tokenize), read_section(Predict), read_section(Machine)
    run(Path(sys.argv[1]), *sections, source=PREPARED, target=Path(sys.argv[2]))


def run(folder: Path, tokenize: Tokenize, predict: Predict, machine: Machine, source: Path, target: Path) -> None:
    """Args:
        folder: of the model that writes.
        source: the folder that prepare has written.
        target: a folder for the new data set.

    Raises:
        UserError: the examples have no sources to write for, or the model can't write.
    """
    _check(source)
    model = _checkpoint(folder)
    family = model_family(model)
    tokenizer = load_checkpoint_tokenizer(model, tokenize.languages.source, tokenize.languages.target)
    network = base_model(model, tokenizer, labels=(), dropout=None, seed=0)
    move_to_own_device(network)
    prompts = list(_prompts(source / "train", tokenizer, tokenize, family))
    if not prompts:
        raise UserError("teach: no source of train fits into tokenize.max_source_tokens of the scenario")
    asked = [prompt.asked for prompt in prompts]
    texts = decode(network, tokenizer, asked, predict, machine.generation_batch_tokens, "teach")
    written = [
        {"source": prompt.source, "target": decoded.text}
        for prompt, decoded in zip(prompts, texts, strict=True)
        if decoded.finish_reason == "end" and decoded.text
    ]
    if not written:
        raise UserError("teach: none of the texts is complete; raise max_new_tokens in the scenario's predict")
    write_jsonl(target / "train.jsonl", written)
    for split in ("validation", "test"):
        write_jsonl(target / f"{split}.jsonl", map(_row, read_examples(source / split)))
    print(
        f"teach: {len(written):,} texts; {len(prompts) - len(written):,} more are empty or never ended; "
        f"{count_examples(source / 'train') - len(prompts):,} sources are too long -> {target}"
    )


def _check(prepared: Path) -> None:
    if not (prepared / "train").is_dir():
        raise UserError(f"{prepared / 'train'}: not there; run `dvc repro prepare` first")
    if read_labels(prepared / "labels.json"):
        raise UserError("teach: the targets of this scenario are labels; set train.teacher in place of writing them")
    example = next(read_examples(prepared / "train"))
    if example.turns or not example.source:
        raise UserError("teach: conversations and free text have no source to write for; set train.teacher instead")


def _checkpoint(folder: Path) -> Model:
    return Model(
        name="folder",
        revision="main",
        folder=str(folder),
        family=None,
        trust_remote_code=None,
        architecture=CHECKPOINT,
        alternatives_folder="",
        alternatives={},
        scratch=None,
    )


def _prompts(examples: Path, tokenizer: PreTrainedTokenizerBase, params: Tokenize, family: Family) -> Iterator[_Prompt]:
    """Of the sources that are not too long."""
    if params.as_chat:
        tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE
    encoder = Encoder(tokenizer, params, family)
    questions = (replace(example, targets=[]) for example in read_examples(examples))
    for batch in in_batches(questions, Example.characters, _BATCH_EXAMPLES):
        for encoded in encoder.encoded(batch):
            asked = (Prompt(each.source_ids, each.id) for each in encoded.tokenized)
            yield from (_Prompt(encoded.example.source, each) for each in asked)


def _row(example: Example) -> dict[str, Any]:
    return {"source": example.source, "target": example.targets}


if __name__ == "__main__":
    launch(main)
