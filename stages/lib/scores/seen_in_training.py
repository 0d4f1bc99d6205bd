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
    answered = [own for own in predictions if own.references]
    texts = [own.prediction for own in predictions] + [own.references[0] for own in answered]
    # together, so that the training text is read once
    memorised = MemorisedSpans(texts, [own.source for own in (*predictions, *answered)])
    near_duplicates = NearDuplicates(predictions)
    for some in in_batches(train, _characters, _MOST_QUESTIONS, _CHARACTERS):
        memorised.read([(own.id, text) for own in some for text in own.references])
        near_duplicates.read(some)
    spans = memorised.spans()
    with_spans = mean(map(bool, spans[len(predictions) :])) if answered else None
    return SeenInTraining(spans[: len(predictions)], with_spans, near_duplicates.found())


def _characters(question: Question) -> int:
    return len(question.source) + sum(map(len, question.references))
