"""Decisions that need all rows at once: duplicates, splits, leaks. In SQL, since DuckDB sorts and joins on disk where
memory ends."""

import json
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from stages.lib.batches import in_batches
from stages.lib.chats import Turn
from stages.lib.examples import SPLITS, Example, Split
from stages.lib.params.prepare import Prepare
from stages.lib.similarity import bands_and_rows, jaccard, key, shingles
from stages.lib.staging import RANKS, Staged, band_column

_MEMORY = "128MiB"
_TEST, _VALIDATION, _TRAIN = (RANKS[split] for split in ("test", "validation", "train"))
# a row is compared with the first row that shares a band with it and with this many right before it: all pairs of a
# large group of similar texts would be quadratic
_NEIGHBOURS = 2
# at a time; where references of one source lie far apart, each time may read all tables again
_FETCHED_ROWS, _FETCHED_CHARACTERS = 1 << 14, 16 << 20
_TEXTS = ("source", "targets", "turns")


class Ledger:
    """The staged rows of a folder, and what becomes of each.

    Its methods are to be called in their order here: each decides about the rows that those before have left.
    """

    def __init__(self, staged: Path, params: Prepare, threads: int) -> None:
        self._params = params
        self._database = duckdb.connect(
            config={
                "memory_limit": _MEMORY,
                "threads": threads,
                "temp_directory": str(staged / "spilled"),
                "preserve_insertion_order": False,
            }
        )
        place = staged.as_posix().replace("'", "''")
        self._kept, self._aside = Staged(staged, "kept"), Staged(staged, "aside")
        for table in ("kept", "aside"):
            self._run(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{place}/{table}-*.parquet')")
        self._run("CREATE TABLE dropped (row BIGINT, reason VARCHAR, other BIGINT, similarity DOUBLE)")

    def _run(self, query: str) -> duckdb.DuckDBPyConnection:
        return self._database.execute(query)

    def set_aside_duplicates(self) -> None:
        """All rows of train but the first of those that compare as equal."""
        if self._params.duplicates.in_train == "set_aside":
            self._run(
                f"""INSERT INTO dropped
                    SELECT row, 'duplicate', first, 1.0
                    FROM (SELECT row, min(row) OVER (PARTITION BY pair_key) AS first FROM kept WHERE rank = {_TRAIN})
                    WHERE row <> first"""
            )

    def assign_splits(self) -> None:
        """Makes the table `placed`: a row, the first row of its example, and the split of both.

        A document that a border of `split.by: order` runs through stands in two splits, from `start` to `stop` each.
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
            f"""CREATE VIEW alive AS
                SELECT placed.*, pair_key, source_key, target_key FROM placed JOIN kept USING (row)
                WHERE placed.rank <> {_TRAIN} OR row NOT IN (SELECT row FROM dropped)"""
        )

    def _spans(self) -> str:
        """Query for (example, rank, start, stop) of the examples of train: a share of them becomes validation and
        test where no files are given for these."""
        split = self._params.split
        test = split.test_fraction if self._params.test is None else 0.0
        validation = split.validation_fraction if self._params.validation is None else 0.0
        examples = f"""SELECT row AS example, place, stratum, time, characters
                       FROM kept JOIN members USING (row) WHERE row = example AND members.rank = {_TRAIN}"""
        if split.by == "order":
            return self._ordered_spans(examples, test, validation)
        place = "place"
        if split.by == "stratum":  # equal sources have equal places, and so one rank
            among = "OVER (PARTITION BY stratum ORDER BY place)"
            place = f"(rank() {among} - 0.5) / count(*) OVER (PARTITION BY stratum)"
        return f"""SELECT example, NULL::BIGINT AS start, NULL::BIGINT AS stop,
                          CASE WHEN p < {test} THEN {_TEST} WHEN p < {test + validation} THEN {_VALIDATION}
                          ELSE {_TRAIN} END AS rank
                   FROM (SELECT example, {place} AS p FROM ({examples}))"""

    def _ordered_spans(self, examples: str, test: float, validation: float) -> str:
        """The last characters are test, those before them validation. Only free text is cut at a border."""
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

    def set_aside_leaks(self) -> None:
        """Rows of train that compare as equal to one of validation or test leave train: scores stay comparable."""
        self._run(
            f"""INSERT INTO dropped
                SELECT alive.row, CASE held.rank WHEN {_TEST} THEN 'in_test' ELSE 'in_validation' END, held.row, 1.0
                FROM alive JOIN (
                    SELECT pair_key, min(rank) AS rank, arg_min(row, [rank, row]) AS row FROM alive
                    WHERE rank <> {_TRAIN} AND start IS NULL GROUP BY pair_key) held USING (pair_key)
                WHERE alive.rank = {_TRAIN}"""
        )

    def set_aside_similar(self) -> None:
        """The same for rows that are similar in all that is compared; and of similar rows of train, the first stays."""
        if (near := self._params.duplicates.near) is not None:
            self._find_candidates(bands_and_rows(near)[0])
            leaving = self._similar_pairs(near)
            self._database.register("leaving", leaving)
            self._run("INSERT INTO dropped SELECT * FROM leaving")
            self._database.unregister("leaving")

    def _find_candidates(self, bands: int) -> None:
        """Makes the table `candidates` of a row of train and one that comes before it and shares a band with it."""
        self._run("CREATE TABLE shared (row BIGINT, other BIGINT, other_rank TINYINT)")
        before = ["first_value({row: row, rank: rank}) OVER near"]
        before += [f"lag({{row: row, rank: rank}}, {n}) OVER near" for n in range(1, _NEIGHBOURS + 1)]
        for band in tqdm(range(bands), desc="prepare similar rows", unit=" bands"):
            column = band_column(band)
            self._run(
                f"""INSERT INTO shared
                    SELECT row, o.row, o.rank FROM (SELECT row, rank, unnest(others) AS o FROM (
                        SELECT row, rank, [{", ".join(before)}] AS others
                        FROM (SELECT row, alive.rank, {column} AS band FROM alive JOIN kept USING (row))
                        SEMI JOIN (SELECT {column} AS band FROM kept GROUP BY {column} HAVING count(*) > 1) USING (band)
                        WINDOW near AS (PARTITION BY band ORDER BY rank, row)))
                    WHERE rank = {_TRAIN} AND o.row <> row"""
            )
        wanted = "true" if self._params.duplicates.in_train == "set_aside" else f"other_rank <> {_TRAIN}"
        self._run(f"CREATE TABLE candidates AS SELECT DISTINCT row, other, other_rank FROM shared WHERE {wanted}")
        self._run("DROP TABLE shared")

    def _similar_pairs(self, near: float) -> pa.Table:
        """The candidates that are similar indeed, of which the later row leaves, as rows of `dropped`."""
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
        return _leaving(np.concatenate(found))

    def counts(self) -> dict[Split, dict[str, int]]:
        """Rows, examples and references of each split."""
        examples = "count(DISTINCT example)" if self._params.groups else "count(*)"
        found = self._run(
            f"""SELECT alive.rank, count(*), {examples}, sum("references")
                FROM alive JOIN kept USING (row) GROUP BY alive.rank"""
        )
        numbers = {rank: [int(number) for number in rest] for rank, *rest in found.fetchall()}
        names = ("rows", "examples", "references")
        return {split: dict(zip(names, numbers.get(RANKS[split], (0, 0, 0)), strict=True)) for split in SPLITS}

    def rows_kept(self) -> int:
        return self._number("SELECT count(DISTINCT row) FROM alive ANTI JOIN dropped USING (row)")

    def overlaps(self) -> dict[str, int]:
        """What is no mistake by itself but worth knowing: one source with different targets, or in two splits."""
        several = """SELECT source_key, count(*) AS n FROM alive
                     GROUP BY source_key HAVING count(DISTINCT target_key) > 1"""
        in_test = f"SELECT {{}} FROM alive WHERE rank = {_TEST} AND start IS NULL"
        counted = "SELECT count(DISTINCT row) FROM alive WHERE rank = {} AND {} IN ({})"
        numbers = {
            "validation_rows_in_test": counted.format(_VALIDATION, "pair_key", in_test.format("pair_key")),
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

    def set_aside_rows(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """In the order in which they were read, `names` being those of the origins."""
        rows = self._rows(
            """SELECT row, origin, line, reason, detail, NULL AS other_origin, NULL AS other_line, characters FROM aside
               UNION ALL
               SELECT d.row, k.origin, k.line, d.reason, format('similarity {:.2f}', d.similarity), o.origin, o.line,
                      k.characters
               FROM dropped d JOIN kept k ON k.row = d.row JOIN kept o ON o.row = d.other
               ORDER BY row"""
        )
        for batch in in_batches(rows, itemgetter(-1), _FETCHED_ROWS, _FETCHED_CHARACTERS):
            raw = self._aside.fetch([row[0] for row in batch if row[5] is None], ("values",))
            texts = self._kept.fetch([row[0] for row in batch if row[5] is not None], _TEXTS)
            for row, origin, line, reason, detail, other_origin, other_line, _ in batch:
                place = {"file": names[origin], "line": line, "reason": reason}
                if other_origin is None:  # NaN has no JSON: it is written as the word
                    yield place | {"detail": detail, "row": json.loads(raw[row]["values"], parse_constant=str)}
                else:
                    other = f"{names[other_origin]} line {other_line}"
                    yield place | {"detail": f"{detail} to {other}", "row": _shown(texts[row])}

    def examples(self, split: Split) -> Iterator[Example]:
        """In the order of their first rows."""
        identity = "1" if self._params.groups else "row_number() OVER (PARTITION BY example_key ORDER BY row)"
        rows = self._rows(
            f"""SELECT example, row, example_key, {identity} AS copy, start, stop, characters
                FROM alive JOIN (SELECT row, example_key, characters FROM kept) USING (row)
                WHERE rank = {RANKS[split]} ORDER BY example, row"""
        )
        gathered: Example | None = None
        current = None
        for batch in in_batches(rows, itemgetter(-1), _FETCHED_ROWS, _FETCHED_CHARACTERS):
            fetched = self._kept.fetch([row[1] for row in batch], _TEXTS)
            for example, row, identity_key, copy, start, stop, _ in batch:
                if gathered is None or example != current:
                    if gathered is not None:
                        yield gathered
                    name = f"{key(str(identity_key), str(copy), str(start)):016x}"
                    turns = [Turn(**turn) for turn in fetched[row]["turns"]]
                    gathered, current = Example(name, fetched[row]["source"], [], turns), example
                texts = fetched[row]["targets"]
                gathered.targets.extend(texts if start is None else _between(texts, start, stop))
        if gathered is not None:
            yield gathered

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Of a query without texts. On a cursor of its own, so that other queries may run meanwhile."""
        found = self._database.cursor().execute(query)
        while fetched := found.fetchmany(_FETCHED_ROWS):
            yield from fetched


def _shown(texts: dict[str, Any]) -> dict[str, Any]:
    """What a row is: a conversation, or a source with its targets."""
    return {name: texts[name] for name in (("turns",) if texts["turns"] else ("source", "targets"))}


def _between(texts: list[str], start: int, stop: int) -> Iterator[str]:
    """What lies between two positions in the characters of all texts."""
    for text in texts:
        if piece := text[max(start, 0) : max(stop, 0)]:
            yield piece
        start, stop = start - len(text), stop - len(text)


def _similarity(first: dict[str, str], second: dict[str, str]) -> float:
    """Both parts must be similar: questions about one long text are no duplicates of each other."""
    return min(jaccard(shingles(first[part]), shingles(second[part])) for part in ("near_source", "near_target"))


def _leaving(pairs: np.ndarray[Any, np.dtype[np.float64]]) -> pa.Table:
    """Of (row, rank of the other, other, similarity): each row that is similar to one that stays, with the reason."""
    reasons = {_TEST: "near_test", _VALIDATION: "near_validation", _TRAIN: "near_duplicate"}
    left: dict[int, tuple[int, str, int, float]] = {}
    for row, rank, other, similarity in pairs[np.lexsort((pairs[:, 2], pairs[:, 1], pairs[:, 0]))].tolist():
        if row not in left and other not in left:
            left[row] = (int(row), reasons[rank], int(other), similarity)
    columns = list(zip(*left.values(), strict=True)) or [(), (), (), ()]
    names = {"row": pa.int64(), "reason": pa.string(), "other": pa.int64(), "similarity": pa.float64()}
    return pa.table({name: pa.array(column, kind) for (name, kind), column in zip(names.items(), columns, strict=True)})
