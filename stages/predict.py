"""The model -> predictions for the test split, and what it loses on the references.

Reads:  data/prepare/test/ (the texts), data/tokenize/test/ and labels.json (the ids), data/train/model/, and the base
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

from stages.lib.decoding import choose, decode
from stages.lib.examples import Question, read_examples
from stages.lib.losses import pair_losses
from stages.lib.models import base_model, trained_model
from stages.lib.pairs import Label, Pair, Pairs, read_labels
from stages.lib.params import read_section
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.predictions import Prediction, write_predictions
from stages.lib.process import launch
from stages.lib.vocabulary import open_vocabulary

TEXTS = Path("data/prepare/test")
IDS = Path("data/tokenize")
MODEL = Path("data/train/model")
TARGET = Path("data/predict")


def main() -> None:
    sections = read_section(Predict), read_section(Model), read_section(Machine)
    run(*sections, seed=read_section(Fit).seed, texts=TEXTS, ids=IDS, trained=MODEL, target=TARGET)


def run(
    params: Predict, model: Model, machine: Machine, seed: int, texts: Path, ids: Path, trained: Path, target: Path
) -> None:
    tokenizer = open_vocabulary(trained)
    questions = [question for example in read_examples(texts) for question in example.questions()]
    pairs, labels = Pairs(ids / "test"), read_labels(ids / "labels.json")
    work = _Work(params, machine.generation_batch_size, tokenizer, questions, pairs, labels)
    before: list[Prediction] = []
    if params.before_training:
        base = base_model(model, tokenizer, [label.word for label in labels], dropout=None, seed=seed)
        before = work.predictions(base, "predict before training")
    after = work.predictions(trained_model(trained, model), "predict")
    write_predictions(target / "before.jsonl", before)
    write_predictions(target / "after.jsonl", after)
    unended = sum(prediction.stopped == "length" for prediction in after)
    print(f"predict: {len(after):,} predictions, {unended:,} of them never ended -> {target / 'after.jsonl'}")


@dataclass
class _Loss:
    """Summed over the references of one question."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Work:
    """What any model is given to do."""

    params: Predict
    batch_size: int
    tokenizer: PreTrainedTokenizerBase
    questions: list[Question]
    pairs: Pairs
    labels: list[Label]

    def predictions(self, network: PreTrainedModel, title: str) -> list[Prediction]:
        device: Any = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device)
        questions, prompts = self._asked()
        if self.labels:
            texts = choose(network, prompts, self.labels, self.batch_size, title)
        else:
            texts = decode(network, self.tokenizer, prompts, self.params, self.batch_size, title)
        losses = self._losses(network)
        return [
            Prediction(
                id=question.id,
                source=question.source,
                references=question.references,
                prediction=decoded.text,
                stopped=decoded.stopped,
                reference_nats=round(losses[question.id].nats, 4),
                reference_tokens=losses[question.id].tokens,
                reference_bytes=losses[question.id].bytes,
            )
            for question, decoded in zip(questions, texts, strict=True)
        ]

    def _asked(self) -> tuple[list[Question], list[list[int]]]:
        """The questions, and the ids that generation starts from."""
        first: dict[str, Pair] = {}
        for pair in self.pairs:  # of a split target, only the first pair begins where the text does
            first.setdefault(pair.id, pair)
        # a question whose source or references were all too long has no ids: tokenize's account tells of it
        questions, prompts = [], []
        for question in self.questions:
            if question.id in first:
                pair = first[question.id]
                is_free_text = not question.source
                questions.append(self._continued(question, pair) if is_free_text else question)
                prompts.append([*pair.source_ids, *(self._opening(pair) if is_free_text else ())])
        return questions, prompts

    def _opening(self, pair: Pair) -> list[int]:
        """Of free text: its first tokens, at most half of them."""
        return pair.target_ids[: min(self.params.opening_tokens, (len(pair.target_ids) - 1) // 2)]

    def _continued(self, question: Question, pair: Pair) -> Question:
        """Free text as a question: its opening asks for what comes next, as much as the model may write."""
        opening = self._opening(pair)
        rest = pair.target_ids[len(opening) : len(opening) + self.params.max_new_tokens]
        source, reference = (str(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in (opening, rest))
        return Question(question.id, source, [reference.strip()])

    def _losses(self, network: PreTrainedModel) -> dict[str, _Loss]:
        """Id of a question -> the loss on its references."""
        losses: dict[str, _Loss] = defaultdict(_Loss)
        for index, nats, tokens in pair_losses(network, self.pairs, range(len(self.pairs)), self.batch_size):
            pair = self.pairs[index]
            losses[pair.id].nats += nats
            losses[pair.id].tokens += tokens
            losses[pair.id].bytes += pair.target_bytes
        return losses


if __name__ == "__main__":
    launch(main)
