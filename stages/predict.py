"""The model -> predictions for the test split, and what it loses on the references.

Reads:  data/prepare/test/ (the texts), data/tokenize/test/ and labels.json (the ids), data/train/model/, and the base
        model for the predictions before training.
Writes: data/predict/after.jsonl and before.jsonl, one prediction a line (before.jsonl is empty where
        `predict.before_training` is off).
Random: nothing but sampling, by `predict.seed` and the source; and the weights of a scratch model, by `fit.seed`.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.decoding import choose, decode
from stages.lib.devices import move_to_own_device
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
        move_to_own_device(network)
        asked = list(self._asked())
        prompts = [prompt for _, prompt, _ in asked]
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
                goes_on=goes_on,
                reference_nats=round(losses[question.id].nats, 4),
                reference_tokens=losses[question.id].tokens,
                reference_bytes=losses[question.id].bytes,
            )
            for (question, _, goes_on), decoded in zip(asked, texts, strict=True)
        ]

    def _asked(self) -> Iterator[tuple[Question, list[int], bool]]:
        """The questions, the ids that generation starts from, and whether a document goes on behind its reference.

        A question whose source or references were all too long has no ids: tokenize's account tells of it.
        """
        pairs = groupby(self.pairs, lambda pair: pair.id)  # those of one question stand together, and in its order
        questions = {question.id: question for question in self.questions}
        for name, own in pairs:
            question, first = questions[name], next(own)
            if question.source:
                yield question, first.source_ids, False
            else:
                yield self._continued(question, first, own)

    def _continued(self, question: Question, first: Pair, others: Iterator[Pair]) -> tuple[Question, list[int], bool]:
        """Free text as a question: its opening asks for what comes next, as much as the model may write."""
        end = min(self.params.opening_tokens, (len(first.target_ids) - 1) // 2)
        opening, wanted = first.target_ids[:end], self.params.max_new_tokens
        following = chain(first.target_ids[end:], chain.from_iterable(pair.target_ids for pair in others))
        rest = list(islice(following, wanted))
        goes_on = next(following, None) is not None
        source, reference = (str(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in (opening, rest))
        return Question(question.id, source, [reference.strip()]), [*first.source_ids, *opening], goes_on

    def _losses(self, network: PreTrainedModel) -> dict[str, _Loss]:
        """Id of a question -> the loss on its references."""
        losses: dict[str, _Loss] = defaultdict(_Loss)
        for index, nats, tokens in pair_losses(network, self.pairs, self.batch_size):
            pair = self.pairs[index]
            losses[pair.id].nats += nats
            losses[pair.id].tokens += tokens
            losses[pair.id].bytes += pair.target_bytes
        return losses


if __name__ == "__main__":
    launch(main)
