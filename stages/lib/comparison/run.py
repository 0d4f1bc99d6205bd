"""What one revision of the project holds: the scores and texts of its test examples, and what they were made from."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from stages.lib.core.process import UserError
from stages.lib.records.examples import Question, some_questions
from stages.lib.records.predictions import Prediction
from stages.lib.records.text_losses import WindowLoss
from stages.lib.scores.results import MOST_TRAIN_EXAMPLES
from stages.lib.scores.scored import Scored, read_scored

_SCORES = "data/evaluate/scores.parquet"
_PREDICTIONS = "data/predict/predictions.jsonl"
_GENERAL_TEXT = "data/predict/general_text.jsonl"
_TRAIN = "data/prepare/train"
HEADLINE = "metrics/evaluate.json"
_FIELDS = frozenset(field.name for field in fields(Prediction))

Read = Callable[[str], bytes]
Fetch = Callable[[str, Path], None]


@dataclass(frozen=True)
class Run:
    """The last run of a revision. `lock` holds for each stage what dvc.lock says of it: so params and data are those
    that the scores come from, also if params.yaml has been edited since (`edited` names these params). `headline`
    names the scores that stand for the run."""

    name: str
    commit: str  # a short hash, or `workspace`
    lock: Mapping[str, Any]
    edited: Sequence[str]
    model: str
    headline: Sequence[str]
    scored: Scored
    predictions: Sequence[Prediction]  # of the examples of `scored`, in their order
    train: Callable[[], Sequence[Question]]  # training examples, or a sample of them
    general_text: Sequence[WindowLoss] = ()  # none where nobody has asked for them

    @property
    def task(self) -> str:
        return _task(self.lock)

    @property
    def params(self) -> dict[str, Any]:
        """Dotted name -> value, of all that some stage has read."""
        return _params(self.lock)


def read_run(name: str, commit: str, read: Read, fetch: Fetch) -> Run:
    """`read` takes a path inside the project, `fetch` copies a folder to another place. Both raise FileNotFoundError
    where this revision has no such path.

    Raises:
        UserError: the revision has no finished run, or its files are not at hand.
    """
    lock = _lock(name, read)
    headline = json.loads(_content(name, HEADLINE, read))
    scored = read_scored(BytesIO(_content(name, _SCORES, read)))
    predictions = {own.id: own for own in _predictions(_content(name, _PREDICTIONS, read))}
    if missing := sum(example not in predictions for example in scored.ids):
        raise UserError(f"{name}: {missing} examples of {_SCORES} are not in {_PREDICTIONS}: run `make repro` there")
    return Run(
        name=name,
        commit=commit,
        lock=lock,
        edited=_edited(lock, _yaml(_content(name, "params.yaml", read))),
        model=str(headline.get("model", "")),
        headline=[score for score in scored.scores if score in headline],
        scored=scored,
        predictions=[predictions[example] for example in scored.ids],
        train=lambda: _train(name, fetch),
        general_text=list(_general_text(read)),
    )


def _lock(name: str, read: Read) -> Mapping[str, Any]:
    try:
        lock: Mapping[str, Any] = _yaml(read("dvc.lock"))["stages"]
    except FileNotFoundError:
        raise UserError(f"{name}: no dvc.lock, so the pipeline has never run: run `make repro` there") from None
    outs = [out["path"] for out in lock.get("evaluate", {}).get("outs", ())]
    if not any(_SCORES.startswith(path) for path in outs):
        raise UserError(
            f"{name}: its run has kept no scores of examples ({_SCORES}), as it is older than these: "
            "merge the present version of the project, run `make repro` and commit dvc.lock"
        )
    return lock


def _content(name: str, path: str, read: Read) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:
        raise UserError(_not_at_hand(name, path)) from None


def _train(name: str, fetch: Fetch) -> list[Question]:
    with TemporaryDirectory() as folder:
        try:
            fetch(_TRAIN, Path(folder) / "train")
        except FileNotFoundError:
            raise UserError(_not_at_hand(name, _TRAIN)) from None
        return some_questions(Path(folder) / "train", MOST_TRAIN_EXAMPLES)


def _not_at_hand(name: str, path: str) -> str:
    return (
        f"{name}: {path} is neither in DVC's cache nor in its remote: run `dvc push` where it was made, "
        "or `make repro` on that revision again"
    )


def _yaml(content: bytes) -> Any:
    return YAML(typ="safe", pure=True).load(content)


def _predictions(content: bytes) -> Iterator[Prediction]:
    """Fields that only a newer version of the project knows are left out."""
    for line in content.decode().split("\n"):
        if line:
            yield Prediction(**{name: value for name, value in json.loads(line).items() if name in _FIELDS})


def _general_text(read: Read) -> Iterator[WindowLoss]:
    with suppress(FileNotFoundError):
        for line in read(_GENERAL_TEXT).decode().splitlines():
            yield WindowLoss(**json.loads(line))


def _task(lock: Mapping[str, Any]) -> str:
    names = lock["evaluate"]["params"]["params.yaml"]
    return next(name.split(".")[1] for name in names if name.startswith("scenarios."))


def _params(lock: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for stage in lock.values() for name, value in flat(stage.get("params", {}).get("params.yaml", {}))
    }


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each param; `above` is what their names begin with."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _edited(lock: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """Params whose value in params.yaml is not that of the run."""
    present = dict(flat(params))
    wanted = {"scenario": _task(lock), **_params(lock)}
    return sorted(name for name, value in wanted.items() if present.get(name) != value)
