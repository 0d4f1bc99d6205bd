"""The scores of every example, as `evaluate` keeps them in DVC and `compare` reads them: one Parquet file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core.files import atomic_file
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score

_STATISTICS = "{}.statistics"


@dataclass(frozen=True)
class Scored:
    """Scores with the examples that they are of: `ids` and `groups` are (N). `content` is a hash of what each example
    asks and expects: two examples of equal id and content are the same."""

    ids: list[str]
    groups: list[str]
    content: list[str]
    scores: dict[str, Score]

    def chosen(self, rows: Sequence[int]) -> "Scored":
        """Of these examples only, in this order."""
        scores = {
            name: Score(s.statistics[rows], s.formula, s.each[rows], s.signature, s.higher_is_better)
            for name, s in self.scores.items()
        }
        ids, groups, content = ([column[row] for row in rows] for column in (self.ids, self.groups, self.content))
        return Scored(ids, groups, content, scores)


def scored(predictions: Sequence[Prediction], scores: Mapping[str, Score]) -> Scored:
    return Scored(
        [own.id for own in predictions],
        [own.group for own in predictions],
        list(map(_content, predictions)),
        {**scores},
    )


def _content(prediction: Prediction) -> str:
    text = json.dumps([prediction.source, prediction.references])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_scored(path: Path, content: Scored) -> None:
    """Columns: id, group, content; for each score its value for each example, and its statistics."""
    columns: dict[str, Any] = {"id": content.ids, "group": content.groups, "content": content.content}
    for name, score in content.scores.items():
        width = score.statistics.shape[1]
        columns[name] = score.each
        flat = pa.array(score.statistics.reshape(-1), pa.float64())
        columns[_STATISTICS.format(name)] = pa.FixedSizeListArray.from_arrays(flat, width)
    about = {name: [s.formula, s.signature, s.higher_is_better] for name, s in content.scores.items()}
    table = pa.table(columns).replace_schema_metadata({"scores": json.dumps(about)})
    with atomic_file(path) as part:
        pq.write_table(table, part)


def read_scored(file: Path | BinaryIO) -> Scored:
    table = pq.read_table(file)
    scores = {}
    for name, (formula, signature, higher_is_better) in json.loads(table.schema.metadata[b"scores"]).items():
        flat = table[_STATISTICS.format(name)].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        each = table[name].to_numpy()
        scores[name] = Score(flat.reshape(len(each), -1), formula, each, signature, higher_is_better)
    ids, groups, content = (table[name].to_pylist() for name in ("id", "group", "content"))
    return Scored(ids, groups, content, scores)
