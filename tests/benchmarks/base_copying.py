"""Does a base learn soon to copy what it is told? The share of right names after 100 updates of fine-tuning on the
sample, for names that nobody has seen.

    python -m tests.benchmarks.base_copying FOLDER [FOLDER ...]

Each FOLDER holds a model, such as data/raw/base, or that of an earlier revision. All are fine-tuned on the same
examples in the same order, with three seeds. The 500 prompts tell facts of the sample's kind about places with made-up
names of one to three words. A name is right if the text has it as it was told.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.samples.data_to_text import EATING_NAMES, LANDMARKS, STAYING_NAMES, draw_facts
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.process import keep_freed_memory
from stages.lib.generation.decoding import Prompt, decode
from stages.lib.models.loading import base_model
from stages.lib.params.machine import Machine
from stages.lib.params.predict import Predict
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.fit import fit
from tests.benchmarks.base_start import SEEDS, TASKS, checkpoint, prepared
from tests.build import fit_settings, section

UPDATES, BATCH = 100, 16
LEARNING_RATE = 0.001  # that of params.yaml
PROMPTS = 500
SYLLABLES = (
    "bo",
    "dra",
    "fen",
    "gul",
    "hob",
    "ka",
    "lim",
    "mor",
    "nix",
    "pel",
    "quo",
    "rus",
    "sti",
    "tav",
    "vy",
    "zan",
)
KNOWN = {word for name in (*EATING_NAMES, *STAYING_NAMES, *LANDMARKS) for word in name.split()}


def main(folders: Sequence[Path]) -> None:
    for folder in folders:
        shares = [right_names(folder, seed) for seed in SEEDS]
        print(
            f"{folder}: {100 * statistics.median(shares):.1f} % of {PROMPTS} names right "
            f"({', '.join(f'{100 * share:.1f}' for share in shares)})",
            flush=True,
        )


def right_names(folder: Path, seed: int) -> float:
    model = checkpoint(folder)
    with tempfile.TemporaryDirectory() as place:
        prepared(TASKS["sample"], model, Path(), Path(place))
        tokenizer = load_tokenizer(Path(place) / "tokenize/tokenizer")
        train, validation = (TokenizedDataset(Path(place) / split) for split in ("train", "validation"))
        length = {"epochs": UPDATES * BATCH / len(train), "batch_size": BATCH, "evals_per_run": 1}
        settings = fit_settings(**length, dropout=None, learning_rate=LEARNING_RATE, seed=seed)
        network = base_model(model, tokenizer, [], None, seed)
        fit(network, train, validation, settings, section(Machine), Path(place) / "fit", folder.name)
    return share_of_right_names(network.eval(), tokenizer)


def share_of_right_names(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    random = Random(1)
    told = [draw_facts(random) | {"name": made_up_name(random)} for _ in range(PROMPTS)]
    sources = ["; ".join(f"{key}: {value}" for key, value in facts.items()) + "\n" for facts in told]
    prompts = [Prompt(list(tokenizer(source)["input_ids"]), "") for source in sources]
    texts = decode(network, tokenizer, prompts, section(Predict, max_new_tokens=96), None, None)
    return statistics.mean(facts["name"] in text.text for facts, text in zip(told, texts, strict=True))


def made_up_name(random: Random) -> str:
    words = ["".join(random.sample(SYLLABLES, random.choice((2, 3)))).title() for _ in range(random.choice((1, 2, 3)))]
    assert KNOWN.isdisjoint(words)
    return " ".join(words)


if __name__ == "__main__":
    keep_freed_memory()
    main([Path(folder) for folder in sys.argv[1:]])
