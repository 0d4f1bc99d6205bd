"""A prediction: a generated text with its example, as `predict` writes it and `evaluate` reads it."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from stages.lib.core.files import read_jsonl, write_jsonl


class Candidate(TypedDict):
    """One of several texts for a source, with its confidence as in a prediction."""

    text: str
    confidence: float


@dataclass(frozen=True)
class Prediction:
    """`finish_reason` says why the text ends: at its end token, or at predict.max_new_tokens. `reference_truncated` is
    true for free text whose document is longer than its reference: a text without an end is no fault there.

    Predictions of one `group` share a conversation, a context, an author or a document: they are not independent, so a
    resample takes or leaves them together. `metadata` is what prepare.metadata names: column -> its value as text.

    `references` is empty where nobody knows the answers of the test split; then `round_trip` is empty too, and the
    numbers of `reference_nats` and so on are 0.

    `round_trip` is the first reference that was tokenized, as token ids and back: what a perfect model would write. It
    differs from the reference where the tokenizer can't express all of it.

    `reference_nats` is the loss on the references, summed over their `reference_tokens` (end tokens included) and
    `reference_bytes`. All three leave out references that were too long to be tokenized.

    `confidence` is the mean log-probability of the prediction's tokens (natural logarithm, by the model's own
    distribution, end token included), or the log-probability of its label among all labels; None where it is not known.
    Times `prediction_tokens` (1 for a label; 0 where they are not known), it is that of the whole text.
    `candidates` are all texts where predict.candidates asks for several, the prediction first.
    """

    id: str
    group: str
    metadata: dict[str, str]
    source: str
    references: list[str]
    round_trip: str
    prediction: str
    finish_reason: Literal["end", "length"]
    reference_truncated: bool
    reference_nats: float
    reference_tokens: int
    reference_bytes: int
    confidence: float | None = None
    prediction_tokens: int = 0
    candidates: list[Candidate] = field(default_factory=list)


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    write_jsonl(path, map(asdict, predictions))


def read_predictions(path: Path) -> Iterator[Prediction]:
    return (Prediction(**record) for record in read_jsonl(path))
