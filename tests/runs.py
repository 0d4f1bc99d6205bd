"""Runs whose model was never trained: all that export and generate read, made in a second and in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages import predict, tokenize
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import write_json, write_text
from stages.lib.models.families import interface_of
from stages.lib.models.loading import base_model
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.examples import Example, write_examples, write_labels
from stages.lib.records.predictions import Prediction, read_predictions
from tests import tiny
from tests.build import params_of, scratch_model, section
from tests.random_weights import widely_drawn

DATA = Path("data")
ADVERBS = ("today", "slowly, and then\nall at once", "um 10 Uhr früh", "日本 🙂", "x" * 9)


def sources(count: int) -> list[str]:
    """Of several lengths, with other letters than those of English."""
    texts = [f"{fact}; when: {adverb}" for fact in tiny.FACTS for adverb in ADVERBS]
    return [text * (1 + number % 3) for number, text in enumerate(texts[:count])]


def untrained_run(
    folder: Path,
    examples: Sequence[Example],
    architecture: str,
    prepare: dict[str, Any] | None = None,
    tokenize_: dict[str, Any] | None = None,
    labels: Sequence[str] = (),
    base: Model | None = None,
    **decoding: Any,
) -> list[Prediction]:
    """Makes data/ and params.yaml in the present folder, which is `folder`. Returns its predictions."""
    own, _ = tiny.ARCHITECTURES[architecture]
    model = base or scratch_model({**own, **_positions(own)})
    for split in ("train", "validation", "test"):
        write_examples(DATA / "prepare" / split, examples)
    write_labels(DATA / "prepare/labels.json", list(labels))
    encoding = section(Tokenize, **({"max_source_tokens": 200} | (tokenize_ or {})))
    tokenize.run(encoding, model, 1, DATA / "prepare", DATA / "tokenize")
    tokens = load_tokenizer(DATA / "tokenize/tokenizer")
    network: Any = widely_drawn(base_model(model, tokens, labels, dropout=0.0, seed=1))
    network.save_pretrained(DATA / "train/model")
    tokens.save_pretrained(DATA / "train/model")
    write_text(DATA / "train/adapter/no_adapters.txt", "None.\n")
    about = {"model": "tiny", "alternative": None, "base_model": None, "class": interface_of(network).name}
    write_json(DATA / "train/report/settings.json", about)
    write_json(DATA / "tune_hyperparameters/model.json", {"alternative": None})
    write_json(DATA / "prepare/report/settings.json", section(Prepare, **(prepare or {})).model_dump(mode="json"))
    write_text(DATA / "evaluate/README.md", "---\nlibrary_name: transformers\n---\n# Card\n")
    params_of("data_to_text", folder, model__architecture="gpt2")
    paths = {"texts": DATA / "prepare/test", "ids": DATA / "tokenize", "trained": DATA / "train"}
    predict.run(
        section(Predict, **decoding),
        model,
        section(Machine),
        **paths,
        target=DATA / "predict",
        folder=folder / ".scratch",
    )
    return list(read_predictions(DATA / "predict/predictions.jsonl"))


def _positions(architecture: dict[str, Any]) -> dict[str, int]:
    """Room for the sources of these tests."""
    names = ("n_positions", "max_position_embeddings")
    return {name: 320 for name in names if name in architecture}
