"""Decisions that need all rows at once: duplicates, splits, leaks. In SQL, because DuckDB can sort and join on disk."""

import json
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from stages.lib.core.worker_pool import in_batches
from stages.lib.ingest.minhash import bands_and_rows, jaccard, key, shingles
from stages.lib.ingest.row_cleaner import RANKS, CleanedRows, band_column
from stages.lib.params.prepare import Prepare
from stages.lib.records.chats import Turn
from stages.lib.records.examples import SPLITS, Example, Split

_MEMORY = "128MiB"
_TEST, _VALIDATION, _TRAIN = (RANKS[split] for split in ("test", "validation", "train"))
# a row is compared with the first row of its band, and with this many rows right before it: to compare all rows of a
# large group of similar texts would take quadratic time
_NEIGHBOURS = 2
# at a time; if the references of a source are far apart, each fetch may read all tables
_FETCHED_ROWS, _FETCHED_CHARACTERS = 1 << 14, 16 << 20
_TEXTS = ("source", "targets", "turns")
_CONTENT = (*_TEXTS, "group", "metadata")

Values = tuple[Any, ...]  # of one row in the result of a query


class RowDatabase:
    """The cleaned rows in a folder, and what becomes of each.

    Call the methods in their order here: each one decides about the rows that the earlier ones have left.
    """

    def __init__(self, folder: Path, params: Prepare, threads: int) -> None:
        self._params = params
        self._database = duckdb.connect(
            config={
                "memory_limit": _MEMORY,
                "threads": threads,
                "temp_directory": str(folder / "spilled"),
                "preserve_insertion_order": False,
            }
        )
        place = folder.as_posix().replace("'", "''")
        self._kept, self._unusable = CleanedRows(folder, "kept"), CleanedRows(folder, "unusable")
        for table in ("kept", "unusable"):
            self._run(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{place}/{table}-*.parquet')")
        self._run("CREATE TABLE dropped (row BIGINT, reason VARCHAR, other BIGINT, similarity DOUBLE)")

    def _run(self, query: str) -> duckdb.DuckDBPyConnection:
        return self._database.execute(query)

    def drop_duplicates(self) -> None:
        """Of rows of train that compare as equal, only the first stays."""
        if self._params.duplicates.in_train == "drop":
            self._run(
                f"""INSERT INTO dropped
                    SELECT row, 'duplicate', first, 1.0
                    FROM (SELECT row, min(row) OVER (PARTITION BY compared_key) AS first FROM kept
                          WHERE rank = {_TRAIN})
                    WHERE row <> first"""
            )

    def assign_splits(self) -> None:
        """Creates the table `placed`: a row, the first row of its example, and the rank of their split.

        With `split.by: order`, a border can cut a document. Then it is in two splits, in each with its characters from
        `start` to `stop`.
        """
        first = "min(row) OVER (PARTITION BY rank, example_key)" if self._params.groups else "row"
        self._run(
            f"CREATE TABLE members AS SELECT row, rank, {first} AS example FROM kept ANTI JOIN dropped USING (row)"
        )
        self._run(
            f"""CREATE TABLE placed AS
                SELECT row, example, rank, NULL::BIGINT AS start, NULL::BIGINT AS stop FROM members
                WHERE rank <> {_TRAIN}
                UNION ALL
                SELECT m.row, m.example, s.rank, s.start, s.stop FROM members m JOIN ({self._spans()}) s USING (example)
                WHERE m.rank = {_TRAIN}"""
        )
        self._run(
            f"""CREATE VIEW remaining AS
                SELECT placed.*, compared_key, source_key, target_key FROM placed JOIN kept USING (row)
                WHERE placed.rank <> {_TRAIN} OR row NOT IN (SELECT row FROM dropped)"""
        )

    def _spans(self) -> str:
        """Query for (example, rank, start, stop) of the examples of train. A share of them becomes validation or test,
        if no files are given for these."""
        split = self._params.split
        test = split.test_fraction if self._params.test is None else 0.0
        validation = split.validation_fraction if self._params.validation is None else 0.0
        examples = f"""SELECT row AS example, place, stratum, time, characters
                       FROM kept JOIN members USING (row) WHERE row = example AND members.rank = {_TRAIN}"""
        if split.by == "order":
            return self._ordered_spans(examples, test, validation)
        place = "place"
        if split.by == "stratum":  # equal sources have the same place, and so the same rank()
            among = "OVER (PARTITION BY stratum ORDER BY place)"
            place = f"(rank() {among} - 0.5) / count(*) OVER (PARTITION BY stratum)"
        return f"""SELECT example, NULL::BIGINT AS start, NULL::BIGINT AS stop,
                          CASE WHEN p < {test} THEN {_TEST} WHEN p < {test + validation} THEN {_VALIDATION}
                          ELSE {_TRAIN} END AS rank
                   FROM (SELECT example, {place} AS p FROM ({examples}))"""

    def _ordered_spans(self, examples: str, test: float, validation: float) -> str:
        """The last characters are test, those before them validation. A border cuts only free text."""
        total = self._number(f"SELECT sum(characters) FROM ({examples})")
        borders = [0, int(total * (1 - test - validation)), int(total * (1 - test)), total]
        ranges = ", ".join(f"({RANKS[split]}, {borders[i]}, {borders[i + 1]})" for i, split in enumerate(SPLITS))
        is_free = self._params.source is None and self._params.messages is None
        inside = "begin < high AND begin + characters > low" if is_free else "begin >= low AND begin < high"
        cut = "begin < low OR begin + characters > high" if is_free else "false"
        return f"""SELECT example, rank, CASE WHEN {cut} THEN greatest(low - begin, 0) END AS start,
                          CASE WHEN {cut} THEN least(high - begin, characters) END AS stop
                   FROM (SELECT example, characters, (sum(characters) OVER (ORDER BY time, example
                                ROWS UNBOUNDED PRECEDING) - characters)::BIGINT AS begin FROM ({examples}))
                   JOIN (VALUES {ranges}) border(rank, low, high) ON {inside}"""

    def drop_leaks(self) -> None:
        """Drops rows of train that compare as equal to a row of validation or test: the model must not know them."""
        self._run(
            f"""INSERT INTO dropped
                SELECT remaining.row, CASE held_out.rank WHEN {_TEST} THEN 'in_test' ELSE 'in_validation' END,
                       held_out.row, 1.0
                FROM remaining JOIN (
                    SELECT compared_key, min(rank) AS rank, arg_min(row, [rank, row]) AS row FROM remaining
                    WHERE rank <> {_TRAIN} AND start IS NULL GROUP BY compared_key) held_out USING (compared_key)
                WHERE remaining.rank = {_TRAIN}"""
        )

    def drop_near_duplicates(self) -> None:
        """Drops rows of train that are similar to a row of validation or test, or to an earlier row of train."""
        if (near := self._params.duplicates.near) is not None:
            self._find_candidates(bands_and_rows(near)[0])
            self._database.register("near_duplicates", self._near_duplicates(near))
            self._run("INSERT INTO dropped SELECT * FROM near_duplicates")
            self._database.unregister("near_duplicates")

    def _find_candidates(self, bands: int) -> None:
        """Creates the table `candidates`: a row of train, and a row before it in the same band."""
        self._run("CREATE TABLE shared (row BIGINT, other BIGINT, other_rank TINYINT)")
        before = ["first_value({row: row, rank: rank}) OVER near"]
        before += [f"lag({{row: row, rank: rank}}, {n}) OVER near" for n in range(1, _NEIGHBOURS + 1)]
        for band in tqdm(range(bands), desc="prepare similar rows", unit=" bands"):
            column = band_column(band)
            self._run(
                f"""INSERT INTO shared
                    SELECT row, o.row, o.rank FROM (SELECT row, rank, unnest(others) AS o FROM (
                        SELECT row, rank, [{", ".join(before)}] AS others
                        FROM (SELECT row, remaining.rank, {column} AS band FROM remaining JOIN kept USING (row))
                        SEMI JOIN (SELECT {column} AS band FROM kept GROUP BY {column} HAVING count(*) > 1) USING (band)
                        WINDOW near AS (PARTITION BY band ORDER BY rank, row)))
                    WHERE rank = {_TRAIN} AND o.row <> row"""
            )
        wanted = "true" if self._params.duplicates.in_train == "drop" else f"other_rank <> {_TRAIN}"
        self._run(f"CREATE TABLE candidates AS SELECT DISTINCT row, other, other_rank FROM shared WHERE {wanted}")
        self._run("DROP TABLE shared")

    def _near_duplicates(self, near: float) -> pa.Table:
        """Rows of `dropped`: the later row of each two candidates that are similar enough."""
        total = self._number("SELECT count(*) FROM candidates")
        pairs = self._rows(
            """SELECT c.row, c.other_rank, c.other, a.characters + b.characters
               FROM candidates c JOIN kept a ON a.row = c.row JOIN kept b ON b.row = c.other ORDER BY c.row, c.other"""
        )
        found = [np.empty((0, 4))]
        with tqdm(total=total, desc="prepare similar rows", unit=" pairs") as bar:
            for batch in in_batches(pairs, itemgetter(-1), _FETCHED_ROWS, _FETCHED_CHARACTERS):
                numbers = [number for row, _, other, _ in batch for number in (row, other)]
                texts = self._kept.fetch(numbers, ("near_source", "near_target"))
                compared = [(row, rank, other, _similarity(texts[row], texts[other])) for row, rank, other, _ in batch]
                found.append(np.array([pair for pair in compared if pair[-1] >= near]).reshape(-1, 4))
                bar.update(len(batch))
        return _later_rows(np.concatenate(found))

    def counts(self) -> dict[Split, dict[str, int]]:
        """Rows, examples and references of each split."""
        examples = "count(DISTINCT example)" if self._params.groups else "count(*)"
        found = self._run(
            f"""SELECT remaining.rank, count(*), {examples}, sum("references")
                FROM remaining JOIN kept USING (row) GROUP BY remaining.rank"""
        )
        numbers = {rank: [int(number) for number in rest] for rank, *rest in found.fetchall()}
        names = ("rows", "examples", "references")
        return {split: dict(zip(names, numbers.get(RANKS[split], (0, 0, 0)), strict=True)) for split in SPLITS}

    def rows_kept(self) -> int:
        return self._number("SELECT count(DISTINCT row) FROM remaining ANTI JOIN dropped USING (row)")

    def overlaps(self) -> dict[str, int]:
        """Worth knowing, and not always a mistake: sources with different targets, or in two splits."""
        several = """SELECT source_key, count(*) AS n FROM remaining
                     GROUP BY source_key HAVING count(DISTINCT target_key) > 1"""
        in_test = f"SELECT {{}} FROM remaining WHERE rank = {_TEST} AND start IS NULL"
        counted = "SELECT count(DISTINCT row) FROM remaining WHERE rank = {} AND {} IN ({})"
        numbers = {
            "validation_rows_in_test": counted.format(_VALIDATION, "compared_key", in_test.format("compared_key")),
        }
        if self._params.source is not None or self._params.messages is not None:
            numbers |= {
                "sources_with_several_targets": f"SELECT count(*) FROM ({several})",
                "rows_of_such_sources": f"SELECT sum(n) FROM ({several})",
                "train_rows_with_source_in_test": counted.format(_TRAIN, "source_key", in_test.format("source_key")),
            }
        return {name: self._number(query) for name, query in numbers.items()}

    def _number(self, query: str) -> int:
        [(number,)] = self._run(query).fetchall()
        return int(number or 0)

    def rejected_rows(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """In the order of reading. `names` are those of the origins."""
        rows = self._rows(
            """SELECT row, origin, line, reason, detail, NULL AS other_origin, NULL AS other_line, characters
               FROM unusable
               UNION ALL
               SELECT d.row, k.origin, k.line, d.reason, format('similarity {:.2f}', d.similarity), o.origin, o.line,
                      k.characters
               FROM dropped d JOIN kept k ON k.row = d.row JOIN kept o ON o.row = d.other
               ORDER BY row"""
        )
        for batch in in_batches(rows, itemgetter(-1), _FETCHED_ROWS, _FETCHED_CHARACTERS):
            raw = self._unusable.fetch([row[0] for row in batch if row[5] is None], ("values",))
            texts = self._kept.fetch([row[0] for row in batch if row[5] is not None], _TEXTS)
            for row, origin, line, reason, detail, other_origin, other_line, _ in batch:
                place = {"file": names[origin], "line": line, "reason": reason}
                if other_origin is None:  # JSON has no NaN: it becomes a string
                    yield place | {"detail": detail, "row": json.loads(raw[row]["values"], parse_constant=str)}
                else:
                    other = f"{names[other_origin]} line {other_line}"
                    yield place | {"detail": f"{detail} to {other}", "row": _shown(texts[row])}

    def examples(self, split: Split) -> Iterator[Example]:
        """In the order of their first rows."""
        identity = "1" if self._params.groups else "row_number() OVER (PARTITION BY example_key ORDER BY row)"
        rows = self._rows(
            f"""SELECT row, example, example_key, {identity} AS copy, start, stop, characters
                FROM remaining JOIN (SELECT row, example_key, characters FROM kept) USING (row)
                WHERE rank = {RANKS[split]} ORDER BY example, row"""
        )
        for _, members in groupby(self._with_content(rows), lambda member: member[0][1]):
            yield _example(list(members))

    def _with_content(self, rows: Iterator[Values]) -> Iterator[tuple[Values, dict[str, Any]]]:
        """Adds what the example of each row is made of. The rows begin with their number and end with their
        characters."""
        for batch in in_batches(rows, itemgetter(-1), _FETCHED_ROWS, _FETCHED_CHARACTERS):
            content = self._kept.fetch([row[0] for row in batch], _CONTENT)
            for row in batch:
                yield row, content[row[0]]

    def _rows(self, query: str) -> Iterator[Values]:
        """The result of a query without texts. The new cursor lets other queries run meanwhile."""
        found = self._database.cursor().execute(query)
        while fetched := found.fetchmany(_FETCHED_ROWS):
            yield from fetched


def _shown(texts: dict[str, Any]) -> dict[str, Any]:
    """How a row is reported: a conversation, or a source with its targets."""
    return {name: texts[name] for name in (("turns",) if texts["turns"] else ("source", "targets"))}


def _example(members: list[tuple[Values, dict[str, Any]]]) -> Example:
    """From rows of `RowDatabase.examples`, with their content."""
    (_, _, example_key, copy, first_start, *_), first = members[0]
    name = f"{key(str(example_key), str(copy), str(first_start)):016x}"
    targets: list[str] = []
    for (*_, start, stop, _), own in members:
        targets.extend(own["targets"] if start is None else _between(own["targets"], start, stop))
    turns = [Turn(**turn) for turn in first["turns"]]
    return Example(name, first["source"], targets, turns, first["group"], dict(first["metadata"]))


def _between(texts: list[str], start: int, stop: int) -> Iterator[str]:
    """The characters between two positions in the concatenated texts, text by text."""
    for text in texts:
        if piece := text[max(start, 0) : max(stop, 0)]:
            yield piece
        start, stop = start - len(text), stop - len(text)


def _similarity(first: dict[str, str], second: dict[str, str]) -> float:
    """The lower one of both parts: different questions about the same long text are no duplicates."""
    return min(jaccard(shingles(first[part]), shingles(second[part])) for part in ("near_source", "near_target"))


def _later_rows(pairs: np.ndarray[Any, np.dtype[np.float64]]) -> pa.Table:
    """(row, rank of the other, other, similarity) -> the rows that are similar to one that stays, with the reason."""
    reasons = {_TEST: "near_test", _VALIDATION: "near_validation", _TRAIN: "near_duplicate"}
    left: dict[int, tuple[int, str, int, float]] = {}
    for row, rank, other, similarity in pairs[np.lexsort((pairs[:, 2], pairs[:, 1], pairs[:, 0]))].tolist():
        if row not in left and other not in left:
            left[row] = (int(row), reasons[rank], int(other), similarity)
    columns = list(zip(*left.values(), strict=True)) or [(), (), (), ()]
    names = {"row": pa.int64(), "reason": pa.string(), "other": pa.int64(), "similarity": pa.float64()}
    return pa.table(
        {name: pa.array(column, dtype) for (name, dtype), column in zip(names.items(), columns, strict=True)}
    )
