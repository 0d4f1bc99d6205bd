"""Losses on plain text, as `predict` and `predict-base` write them and `evaluate` reads them."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.lib.core.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class WindowLoss:
    """Of one window of a general text: `nats` is summed over its tokens, which stand for `bytes` bytes of UTF-8.
    `text` is the file that it is of."""

    text: str
    nats: float
    bytes: int


@dataclass(frozen=True)
class Fluency:
    """The loss of a model, to which nobody gave the source, on a prediction and on its first reference, each summed
    over its bytes of UTF-8. Where nobody knows the answers of the test split, the numbers of the reference are 0."""

    id: str
    nats: float
    bytes: int
    reference_nats: float
    reference_bytes: int


def write_window_losses(path: Path, losses: Iterable[WindowLoss]) -> None:
    write_jsonl(path, map(asdict, losses))


def read_window_losses(path: Path) -> Iterator[WindowLoss]:
    """None where there is no such file: nobody has asked for them."""
    return (WindowLoss(**record) for record in (read_jsonl(path) if path.is_file() else ()))


def write_fluency(path: Path, losses: Iterable[Fluency]) -> None:
    write_jsonl(path, map(asdict, losses))


def read_fluency(path: Path) -> Iterator[Fluency]:
    """None where there is no such file: nobody has asked for them."""
    return (Fluency(**record) for record in (read_jsonl(path) if path.is_file() else ()))
