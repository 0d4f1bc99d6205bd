"""What predictions and test examples have in common with the training examples. All of these are read, once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stages.lib.core.worker_pool import in_batches
from stages.lib.records.examples import Question
from stages.lib.records.predictions import Prediction
from stages.lib.scores.contaminated import NearDuplicates
from stages.lib.scores.memorised import MemorisedSpans, Span
from stages.lib.scores.score import mean

_CHARACTERS = 1 << 20  # of training text at a time
_MOST_QUESTIONS = 1 << 14


@dataclass(frozen=True)
class SeenInTraining:
    """`spans` are those of each prediction. `references_with_spans` is the share of the first references that have
    some: what people write without having learned the training text by heart. None without references.
    `near_duplicates` says of each test example whether training has nearly the same one."""

    spans: list[list[Span]]
    references_with_spans: float | None
    near_duplicates: list[bool]


def seen_in_training(predictions: Sequence[Prediction], train: Iterable[Question]) -> SeenInTraining:
    sources = [own.source for own in predictions]
    answered = [own for own in predictions if own.references]
    texts = MemorisedSpans([own.prediction for own in predictions], sources)
    references = MemorisedSpans([own.references[0] for own in answered], [own.source for own in answered])
    near_duplicates = NearDuplicates(predictions)
    for some in in_batches(train, _characters, _MOST_QUESTIONS, _CHARACTERS):
        targets = [(own.id, text) for own in some for text in own.references]
        texts.read(targets)
        references.read(targets)
        near_duplicates.read(some)
    with_spans = mean(map(bool, references.spans())) if answered else None
    return SeenInTraining(texts.spans(), with_spans, near_duplicates.found())


def _characters(question: Question) -> int:
    return len(question.source) + sum(map(len, question.references))
