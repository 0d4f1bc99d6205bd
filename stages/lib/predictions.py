"""A prediction: one generated text with the example it answers, as `predict` writes it and `evaluate` reads it."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from stages.lib.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class Prediction:
    """`stopped` says why the text ends: by its own end token, or at predict.max_new_tokens. `goes_on` is true of free
    text whose document is longer than what may be written: to be stopped there is no fault.

    `reference_nats` is what the model loses on the references, summed over their `reference_tokens` (end tokens
    included) and `reference_bytes`; all three leave out references that were too long to be tokenized.
    """

    id: str
    source: str
    references: list[str]
    prediction: str
    stopped: Literal["end", "length"]
    goes_on: bool
    reference_nats: float
    reference_tokens: int
    reference_bytes: int


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    write_jsonl(path, map(asdict, predictions))


def read_predictions(path: Path) -> Iterator[Prediction]:
    return (Prediction(**record) for record in read_jsonl(path))
