"""A file of rows -> a file of predictions. A run that was killed goes on, and writes the same bytes."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stages.lib.core.files import write_jsonl
from stages.lib.core.process import UserError
from stages.lib.core.templates import RejectedRow
from stages.lib.core.worker_pool import in_batches
from stages.lib.generation.decoding import Decoded, Decoder, Prompt
from stages.lib.generation.parts import Parts, Record
from stages.lib.inference.prompts import Prompts
from stages.lib.inference.settings import Settings
from stages.lib.inference.trained import Trained
from stages.lib.ingest.formats import FORMATS, READERS
from stages.lib.ingest.rows import Source
from stages.lib.models.devices import place_network
from stages.lib.params.prepare import Reading
from stages.lib.records.examples import Example

_MOST_LINES = 50  # of rows that can't be used
_BATCH_EXAMPLES = 1024


class _Row(NamedTuple):
    line: int
    source: str
    ids: list[int]


def answer_file(model: Trained, source: Path, target: Path) -> int:
    """Returns the number of predictions. They stand in the order of the rows.

    Raises:
        UserError: the file can't be read, a row can't be asked, or the target is there already.
    """
    if target.exists():
        raise UserError(f"{target}: is there already; name a new file, or delete it")
    if target.suffix != ".jsonl":
        raise UserError(f"{target}: predictions are written as JSON, one a line; name the file {target.stem}.jsonl")
    rows = _asked(Prompts(model.tokenizer, model.settings), source)
    unfinished = target.with_name(f"{target.name}.unfinished")
    folder = unfinished / _fingerprint(model, rows)
    place_network(model.network, "generate")
    answers = _parts(model, rows, folder, source.name).results()
    write_jsonl(target, ({"line": row.line, "source": row.source} | answers[place] for place, row in enumerate(rows)))
    shutil.rmtree(unfinished)
    return len(rows)


def _parts(model: Trained, rows: Sequence[_Row], folder: Path, title: str) -> Parts:
    # a sample differs with its row, also where two rows are equal
    prompts = [Prompt(row.ids, str(place)) for place, row in enumerate(rows)]
    labels, params = model.settings.labels, model.settings.predict
    decoder = Decoder(model.network, model.tokenizer, prompts, labels, params, batch_tokens=None)

    def told(part: Sequence[int]) -> list[Record]:
        return [_told(each, model.settings) for each in decoder.decode(part)]

    return Parts(folder, title, "texts", decoder.parts, [len(row.ids) for row in rows], told)


def _asked(prompts: Prompts, source: Path) -> list[_Row]:
    """Raises UserError with a line for each row that can't be used."""
    examples, problems = list[tuple[int, Example]](), list[tuple[int, RejectedRow]]()
    for line, values in _rows(prompts, source):
        if isinstance(values, RejectedRow):
            problems.append((line, values))
            continue
        try:
            examples.append((line, prompts.example(values)))
        except RejectedRow as problem:
            problems.append((line, problem))
    rows = []
    for batch in in_batches(examples, lambda pair: pair[1].characters(), _BATCH_EXAMPLES):
        for (line, _), asked in zip(batch, prompts.ask([example for _, example in batch]), strict=True):
            if isinstance(asked, RejectedRow):
                problems.append((line, asked))
            else:
                rows.append(_Row(line, *asked))
    if problems:
        problems.sort(key=lambda found: found[0])
        lines = [f"{source}: line {line}: {problem.detail}" for line, problem in problems]
        more = len(lines) - _MOST_LINES
        raise UserError(lines[:_MOST_LINES] + ([f"{source}: {more:,} more rows can't be used"] if more > 0 else []))
    if not rows:
        raise UserError(f"{source}: no rows")
    return rows


def _rows(prompts: Prompts, path: Path) -> Iterator[tuple[int, Mapping[str, Any] | RejectedRow]]:
    """Line and fields of each row."""
    name = FORMATS.get(path.suffix.lower(), "")
    if not path.is_file() or not name:
        what = f"unknown ending; there are {', '.join(FORMATS)}" if path.is_file() else "no such file"
        raise UserError(f"{path}: {what}")
    if name == "text":
        yield from _lines(prompts, path)
        return
    reading = prompts.params.reading.model_copy(update={"thread": None})
    for row in READERS[name](Source(path, reading, prompts.required)):
        yield row.line, row.values if row.problem is None else row.problem


def _lines(prompts: Prompts, path: Path) -> Iterator[tuple[int, Mapping[str, Any] | RejectedRow]]:
    """A line is the only field of a source, or all that a user says."""
    if len(prompts.fields) > 1:
        raise UserError(
            f"{path}: a line of text is one field, and the source has {', '.join(prompts.fields)}: use .csv"
        )
    for row in READERS["text"](Source(path, Reading(), [])):
        yield row.line, row.problem or prompts.row([row.values["text"]])


def _told(decoded: Decoded, settings: Settings) -> Record:
    """The probability is that of the label among all labels, or of the whole text."""
    told: Record = {"prediction": decoded.text, "probability": float(f"{math.exp(decoded.log_probability):.6g}")}
    if settings.labels:
        return told
    told["finish_reason"] = decoded.finish_reason
    return told | ({"candidates": [own.text for own in decoded.candidates]} if decoded.candidates else {})


def _fingerprint(model: Trained, rows: Sequence[_Row]) -> str:
    """Of all that the predictions depend on. The weights are still where they were loaded."""
    content = json.dumps([model.settings.as_json(), rows], sort_keys=True)
    digest = hashlib.sha256(content.encode())
    for weights in model.network.state_dict().values():
        digest.update(weights.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
