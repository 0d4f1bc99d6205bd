"""The model -> predictions for the test split, and what it loses on the references.

Reads:  data/prepare/test/ (the texts), data/tokenize/test/ (the ids), data/train/model/, and the base
        model for the predictions before training.
Writes: data/predict/after.jsonl and before.jsonl, one prediction a line (before.jsonl is empty where
        `predict.before_training` is off).
Random: nothing but sampling, by `predict.seed` and the source; and the weights of a scratch model, by `fit.seed`.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.decoding import decode
from stages.lib.examples import Example, read_examples
from stages.lib.losses import pair_losses
from stages.lib.models import base_model, trained_model
from stages.lib.pairs import Pairs
from stages.lib.params import read_section
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.predictions import Prediction, write_predictions
from stages.lib.process import launch
from stages.lib.vocabulary import open_vocabulary

TEXTS = Path("data/prepare/test")
IDS = Path("data/tokenize/test")
MODEL = Path("data/train/model")
TARGET = Path("data/predict")


def main() -> None:
    sections = read_section(Predict), read_section(Model), read_section(Machine)
    run(*sections, seed=read_section(Fit).seed, texts=TEXTS, ids=IDS, trained=MODEL, target=TARGET)


def run(
    params: Predict, model: Model, machine: Machine, seed: int, texts: Path, ids: Path, trained: Path, target: Path
) -> None:
    tokenizer = open_vocabulary(trained)
    work = _Work(params, machine.generation_batch_size, tokenizer, list(read_examples(texts)), Pairs(ids))
    before: list[Prediction] = []
    if params.before_training:
        before = work.predictions(base_model(model, tokenizer, dropout=None, seed=seed), "predict before training")
    after = work.predictions(trained_model(trained), "predict")
    write_predictions(target / "before.jsonl", before)
    write_predictions(target / "after.jsonl", after)
    unended = sum(prediction.stopped == "length" for prediction in after)
    print(f"predict: {len(after):,} predictions, {unended:,} of them never ended -> {target / 'after.jsonl'}")


@dataclass
class _Loss:
    """Summed over the references of one example."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Work:
    """What any model is given to do."""

    params: Predict
    batch_size: int
    tokenizer: PreTrainedTokenizerBase
    examples: list[Example]
    pairs: Pairs

    def predictions(self, network: PreTrainedModel, title: str) -> list[Prediction]:
        device: Any = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device)
        sources: dict[str, list[int]] = {}
        for pair in self.pairs:  # of a split target, only the first pair begins where the text does
            sources.setdefault(pair.id, pair.source_ids)
        # an example whose source or references were all too long has no ids: tokenize's account tells of it
        examples = [example for example in self.examples if example.id in sources]
        prompts = [sources[example.id] for example in examples]
        texts = decode(network, self.tokenizer, prompts, self.params, self.batch_size, title)
        losses = self._losses(network)
        return [
            Prediction(
                id=example.id,
                source=example.source,
                references=example.targets,
                prediction=decoded.text,
                stopped=decoded.stopped,
                reference_nats=round(losses[example.id].nats, 4),
                reference_tokens=losses[example.id].tokens,
                reference_bytes=losses[example.id].bytes,
            )
            for example, decoded in zip(examples, texts, strict=True)
        ]

    def _losses(self, network: PreTrainedModel) -> dict[str, _Loss]:
        """Example id -> the loss on its references."""
        losses: dict[str, _Loss] = defaultdict(_Loss)
        every, pad_id = range(len(self.pairs)), self.tokenizer.pad_token_id
        for index, nats, tokens in pair_losses(network, self.pairs, every, self.batch_size, pad_id):
            pair = self.pairs[index]
            losses[pair.id].nats += nats
            losses[pair.id].tokens += tokens
            losses[pair.id].bytes += pair.target_bytes
        return losses


if __name__ == "__main__":
    launch(main)
