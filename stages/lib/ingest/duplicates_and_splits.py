"""Decisions that need all rows at once: duplicates, splits, leaks. In SQL, because DuckDB can sort and join on disk."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from stages.lib.core.worker_pool import in_batches
from stages.lib.ingest.cleaned_rows import (
    ANSWERS,
    KEPT,
    RANKS,
    UNUSABLE,
    CleanRow,
    KeptRows,
    UnusableRows,
    compared_parts,
    keys_of,
    normalised_pair,
)
from stages.lib.ingest.near_duplicates import Flags, candidates
from stages.lib.ingest.row_texts import Texts
from stages.lib.overlap.minhash import Hashes, jaccard, key, shingles
from stages.lib.params.prepare import Prepare
from stages.lib.records.chats import answer_places
from stages.lib.records.examples import SPLITS, Example, Split

# MiB of DuckDB: enough for few rows, for each thread, and for each million rows
_FEWEST_MIB, _MIB_OF_A_THREAD, _MIB_OF_A_MILLION = 128, 32, 32
_TEST, _VALIDATION, _TRAIN = (RANKS[split] for split in ("test", "validation", "train"))
_HELD_OUT = f"rank <> {_TRAIN}"
_MOST_THREADS = 8  # the queries are short
# an answer behind the same turns in so many talks, and in this share of them, is how talks of this kind begin
_COMMON_TALKS, _COMMON_SHARE = 3, 0.01
_FETCHED_ROWS, _FETCHED_CHARACTERS = 1 << 14, 16 << 20
_SORTED_ROWS = 1 << 20
_COMPARED_CHARACTERS = 4 << 20  # each takes 8 bytes

_SIMILAR = pa.schema({"row": pa.int64(), "rank": pa.uint8(), "other": pa.int64(), "similarity": pa.float64()})

Values = tuple[Any, ...]  # of one row in the result of a query


class RowDatabase:
    """The cleaned rows in a folder, and what becomes of each.

    Call the methods in their order here: each one decides about the rows that the earlier ones have left.

    Args:
        mixed: name in `prepare.mix` -> the numbers of its origins, which are the last.
    """

    def __init__(
        self, folder: Path, params: Prepare, threads: int, mixed: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self._params, self._folder, threads = params, folder, min(threads, _MOST_THREADS)
        self._mixed = mixed or {}
        first = min((origin for own in self._mixed.values() for origin in own), default=None)
        self._is_mixed = "false" if first is None else f"origin >= {first}"  # of a row of `kept`
        self._are_conversations = bool(params.message_fields)
        self._database = duckdb.connect(
            folder / "decisions.duckdb",  # in memory, large tables would not fit
            config={
                "memory_limit": f"{_mebibytes(0, threads)}MiB",
                "threads": threads,
                "temp_directory": str(folder / "spilled"),
                "preserve_insertion_order": False,
            },
        )
        self._load("kept", KEPT)
        self._load("unusable", UNUSABLE)
        self._end = self._number("SELECT max(row) + 1 FROM (SELECT row FROM kept UNION ALL SELECT row FROM unusable)")
        self._run(f"SET memory_limit = '{_mebibytes(self._end, threads)}MiB'")
        self._run("CREATE TABLE dropped (row BIGINT, reason VARCHAR, other BIGINT, similarity DOUBLE)")
        self._run("CREATE TABLE unused (row BIGINT)")
        self._run(
            """CREATE TABLE drawn (number BIGINT, copy BIGINT, row BIGINT, origin INTEGER, group_key UBIGINT,
                                   example_key UBIGINT, characters BIGINT, target_count BIGINT)"""
        )
        self._kept, self._unusable = KeptRows(folder, params), UnusableRows(folder)

    def _load(self, table: str, schema: pa.Schema) -> None:
        with keys_of(self._folder, table, schema) as tables:
            self._database.register("tables", tables)
            self._run(f"CREATE TABLE {table} AS SELECT * FROM tables")
            self._database.unregister("tables")

    def _run(self, query: str) -> duckdb.DuckDBPyConnection:
        return self._database.execute(query)

    def _number(self, query: str) -> int:
        [(number,)] = self._run(query).fetchall()
        return int(number or 0)

    def drop_duplicates(self) -> None:
        """Of rows of train that compare as equal, only the first stays; of conversations, the first with most loss."""
        first = "arg_min(row, [-target_count, row])" if self._are_conversations else "min(row)"
        if self._params.duplicates.in_train == "drop":
            self._run(
                f"""INSERT INTO dropped
                    SELECT row, 'duplicate', first, 1.0
                    FROM kept JOIN (SELECT compared_key, {first} AS first FROM kept WHERE rank = {_TRAIN}
                                    GROUP BY compared_key HAVING count(*) > 1) USING (compared_key)
                    WHERE rank = {_TRAIN} AND row <> first"""
            )

    def assign_splits(self) -> None:
        """Creates the table `remaining`: a row, the first row of its example, and the rank of their split.

        With `split.by: order`, a border can cut a document. Then it is in two splits, in each with its characters from
        `start` to `stop`.
        """
        if self._are_conversations:
            self._find_talks()
        self._run(f"CREATE TABLE members AS {self._members()} ANTI JOIN dropped USING (row)")
        self._run(
            f"""CREATE TABLE remaining AS
                SELECT row, example, placed.rank, start, stop, placed.group_key, compared_key, source_key, target_key,
                       example_key, characters, target_count
                FROM (SELECT row, example, rank, group_key, NULL::BIGINT AS start, NULL::BIGINT AS stop FROM members
                      WHERE {_HELD_OUT}
                      UNION ALL
                      SELECT row, example, s.rank, group_key, start, stop
                      FROM members JOIN ({self._spans()}) s USING (example) WHERE members.rank = {_TRAIN}
                      UNION ALL
                      SELECT row, row, {_TRAIN}, members.group_key, NULL, NULL
                      FROM members JOIN kept USING (row) WHERE {self._is_mixed}) placed
                JOIN kept USING (row)"""
        )
        self._run("DROP TABLE members")

    def _members(self) -> str:
        """Query for (row, rank, example, place, group_key) of all rows. A growing talk has one place, unless a field
        divides the rows into groups."""
        if self._are_conversations and self._params.group_field is None:
            return """SELECT own.row, own.rank, own.row AS example, talk.place, talk.group_key
                      FROM kept own JOIN talks USING (row) JOIN kept talk ON talk.row = talks.talk"""
        first = "min(row) OVER (PARTITION BY rank, example_key)" if self._params.groups else "row"
        return f"SELECT row, rank, {first} AS example, place, group_key FROM kept"

    def _find_talks(self) -> None:
        """Creates the tables `answers` and `talks`. `talks` gives each row the shortest row that its turns begin with:
        one talk may grow over several rows. A beginning that many different talks share doesn't count."""
        self._load("answers", ANSWERS)
        self._run(
            f"""CREATE TABLE talks AS
                WITH whole AS (
                    SELECT file_rank, key, min(row) AS row FROM answers WHERE is_last GROUP BY file_rank, key),
                longest AS (
                    SELECT file_rank, row FROM whole
                    ANTI JOIN (SELECT file_rank, key FROM answers WHERE NOT is_last) USING (file_rank, key)),
                begun AS (
                    SELECT file_rank, key, count(*) AS talks FROM answers SEMI JOIN longest USING (row)
                    GROUP BY file_rank, key),
                growing AS (
                    SELECT file_rank, key, whole.row FROM whole JOIN begun USING (file_rank, key)
                    JOIN (SELECT file_rank, count(*) AS total FROM longest GROUP BY file_rank) USING (file_rank)
                    WHERE NOT {_is_common("talks", "total")})
                SELECT answers.row, coalesce(arg_min(growing.row, number), answers.row) AS talk
                FROM answers LEFT JOIN growing USING (file_rank, key) GROUP BY answers.row"""
        )

    def _spans(self) -> str:
        """Query for (example, rank, start, stop) of the examples of train. A share of them becomes validation or test,
        if no files are given for these."""
        split = self._params.split
        test = split.test_fraction if self._params.test is None else 0.0
        validation = split.validation_fraction if self._params.validation is None else 0.0
        examples = f"""SELECT row AS example, members.place, stratum, time, characters
                       FROM kept JOIN members USING (row)
                       WHERE row = example AND members.rank = {_TRAIN} AND NOT {self._is_mixed}"""
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
        is_free = self._params.source is None and not self._are_conversations
        inside = "begin < high AND begin + characters > low" if is_free else "begin >= low AND begin < high"
        cut = "begin < low OR begin + characters > high" if is_free else "false"
        return f"""SELECT example, rank, CASE WHEN {cut} THEN greatest(low - begin, 0) END AS start,
                          CASE WHEN {cut} THEN least(high - begin, characters) END AS stop
                   FROM (SELECT example, characters, (sum(characters) OVER (ORDER BY time, example
                                ROWS UNBOUNDED PRECEDING) - characters)::BIGINT AS begin FROM ({examples}))
                   JOIN (VALUES {ranges}) border(rank, low, high) ON {inside}"""

    def drop_leaks(self) -> None:
        """Drops rows of train that compare as equal to a row of validation or test: the model must not know them. Of
        conversations, it also takes the loss from answers that are learned or asked for there behind the same turns; a
        row without any other answer is dropped."""
        self._drop(
            f"""SELECT row, {_reason("in", "held_out.rank")}, other, 1.0
                FROM remaining JOIN (
                    SELECT compared_key, min(rank) AS rank, arg_min(row, [rank, row]) AS other FROM remaining
                    WHERE {_HELD_OUT} AND start IS NULL GROUP BY compared_key) held_out USING (compared_key)
                WHERE remaining.rank = {_TRAIN}"""
        )
        if self._are_conversations:
            self._find_leaked_answers()
            self._drop(
                f"""SELECT row, {_reason("in", "min(leaked.rank)")}, arg_min(other, [leaked.rank, other]), 1.0
                    FROM leaked JOIN remaining USING (row) WHERE NOT is_common
                    GROUP BY row, target_count HAVING count(*) = target_count"""
            )

    def _find_leaked_answers(self) -> None:
        """Creates the table `leaked`: answers with loss of train, and the first row of validation or test that asks for
        the same. Common ones are how talks begin; they keep their loss."""
        total = f"(SELECT count(DISTINCT talk) FROM remaining JOIN talks USING (row) WHERE {_HELD_OUT})"
        self._run(
            f"""CREATE TABLE leaked AS
                SELECT answers.row, number, asked.rank, other, {_is_common("talks", total)} AS is_common
                FROM answers SEMI JOIN (SELECT row FROM remaining WHERE rank = {_TRAIN}) USING (row)
                JOIN (SELECT key, count(DISTINCT talk) AS talks, min(rank) AS rank, arg_min(row, [rank, row]) AS other
                      FROM answers JOIN remaining USING (row) JOIN talks USING (row)
                      WHERE has_loss AND {_HELD_OUT} GROUP BY key) asked USING (key)
                WHERE has_loss"""
        )

    def drop_beginnings(self) -> None:
        """Drops conversations of the files of train that are the first turns of another one in the same split, which
        has loss on the same answers."""
        if not (self._are_conversations and self._params.duplicates.in_train == "drop"):
            return
        self._run(
            f"""INSERT INTO dropped
                WITH learned AS (
                    SELECT row, rank, learned_key, is_last FROM answers JOIN remaining USING (row)
                    WHERE file_rank = {_TRAIN}),
                beginnings AS (
                    SELECT row, rank, learned_key FROM learned
                    SEMI JOIN (SELECT rank, learned_key FROM learned WHERE NOT is_last) USING (rank, learned_key)
                    WHERE is_last)
                SELECT row, 'prefix', other, NULL
                FROM beginnings JOIN (
                    SELECT rank, learned_key, min(row) AS other FROM learned ANTI JOIN beginnings USING (row)
                    GROUP BY rank, learned_key) USING (rank, learned_key)"""
        )
        self._run("DELETE FROM remaining WHERE row IN (SELECT row FROM dropped WHERE reason = 'prefix')")

    def _drop(self, query: str) -> None:
        """Drops rows of train, given as rows of `dropped`. A cut document stays in the other split."""
        self._run(f"INSERT INTO dropped {query}")
        self._run(f"DELETE FROM remaining WHERE rank = {_TRAIN} AND row IN (SELECT row FROM dropped)")

    def drop_near_duplicates(self) -> None:
        """Drops rows of train that are similar to a row of validation or test, or to an earlier row of train."""
        if (near := self._params.duplicates.near) is None:
            return
        self._run("CREATE TABLE candidates (row BIGINT, other BIGINT, rank UTINYINT)")
        in_train = self._params.duplicates.in_train == "drop"
        for pairs in candidates(self._folder, self._flags(), near, in_train):
            self._insert("candidates", pa.table(list(pairs), ["row", "other", "rank"]))
        self._run("CREATE TABLE similar_rows (row BIGINT, rank UTINYINT, other BIGINT, similarity DOUBLE)")
        for found in self._similar(near):
            self._insert("similar_rows", found)
        self._drop(f"SELECT row, {_reason('near', 'rank')}, other, similarity FROM similar_rows")
        self._run("DROP TABLE candidates")

    def _insert(self, table: str, rows: pa.Table) -> None:
        if len(rows):
            self._database.register("inserted", rows)
            self._run(f"INSERT INTO {table} SELECT * FROM inserted")
            self._database.unregister("inserted")

    def _flags(self) -> Flags:
        """For each row, the bit 1 << rank for each split that it is in."""
        flags = np.zeros(self._end, np.uint8)
        for batch in self._database.sql("SELECT row, 1 << rank AS bit FROM remaining").to_arrow_reader():
            np.bitwise_or.at(flags, batch["row"].to_numpy(), batch["bit"].to_numpy().astype(np.uint8))
        return flags

    def _similar(self, near: float) -> Iterator[pa.Table]:
        """(row, rank of the other, other, similarity) of rows that are similar to one that stays."""
        pairs = self._sorted_rows(
            """SELECT DISTINCT s.row, s.rank, s.other, a.characters + b.characters
               FROM candidates s JOIN kept a ON a.row = s.row JOIN kept b ON b.row = s.other
               WHERE s.row BETWEEN $first AND $last ORDER BY ALL""",
            self._end,
        )
        is_dropped = np.zeros(self._end, bool)
        with tqdm(desc="prepare similar rows", unit=" pairs") as bar:
            for batch in in_batches(pairs, itemgetter(-1), _FETCHED_ROWS, _COMPARED_CHARACTERS):
                left = [pair for pair in batch if not is_dropped[pair[0]] and not is_dropped[pair[2]]]
                pieces = self._pieces(row for pair in left for row in (pair[0], pair[2]))
                found = []
                for row, rank, other, _ in left:
                    if is_dropped[row] or is_dropped[other]:
                        continue
                    # the lower one of both parts: different questions about the same long text are no duplicates
                    similarity = min(map(jaccard, pieces[row], pieces[other]))
                    if similarity >= near:
                        is_dropped[row] = True
                        found.append({"row": row, "rank": rank, "other": other, "similarity": similarity})
                bar.update(len(batch))
                yield pa.Table.from_pylist(found, _SIMILAR)

    def _pieces(self, rows: Iterable[int]) -> dict[int, list[Hashes]]:
        found = self._kept.fetch(rows)
        parts = [compared_parts(normalised_pair(clean.texts), self._params) for clean in found.values()]
        return dict(zip(found, shingles(parts), strict=True))

    def draw_share(self) -> None:
        """Leaves `prepare.train_share` of the examples of train. Validation and test stay as they are, and so does the
        share of `prepare.mix`.

        Of the groups in the order of their keys, which are hashes, the first ones stay: so no conversation is cut, the
        order of the rows does not matter, and a smaller share is a part of a larger one. Each stratum leaves its share.
        """
        if self._params.train_share == 1:
            return
        self._run(
            f"""INSERT INTO unused
                WITH own AS (
                    SELECT example, min(remaining.group_key) AS group_key, min(stratum) AS stratum
                    FROM remaining JOIN kept USING (row)
                    WHERE remaining.rank = {_TRAIN} AND NOT {self._is_mixed} GROUP BY example),
                ordered AS (
                    SELECT example, (rank() OVER (PARTITION BY stratum ORDER BY group_key) - 0.5)
                                    / count(*) OVER (PARTITION BY stratum) AS position
                    FROM own)
                SELECT row FROM remaining JOIN ordered USING (example)
                WHERE rank = {_TRAIN} AND position >= {self._params.train_share}"""
        )
        self._run(f"DELETE FROM remaining WHERE rank = {_TRAIN} AND row IN (SELECT row FROM unused)")
        self._run("DELETE FROM unused WHERE row IN (SELECT row FROM remaining)")  # a cut document is in two splits

    def draw_mixed(self) -> None:
        """Draws the rows of `prepare.mix` whose shares of train these are, from those that are left. They are taken
        from `remaining` into the table `drawn`, each as often as its `copy` says, numbered in the order of train.

        Rows are drawn by their place, which the seed decides. Where an entry has fewer rows than its share, each is
        taken several times, and some one time more than others.
        """
        if not self._mixed:
            return
        self._run(
            f"""CREATE TABLE mixed AS
                SELECT row, origin, remaining.group_key, remaining.example_key, remaining.target_count,
                       remaining.characters, kept.place
                FROM remaining JOIN kept USING (row) WHERE {self._is_mixed}"""
        )
        self._run("DELETE FROM remaining WHERE row IN (SELECT row FROM mixed)")
        own = self.counts()["train"]["examples"]
        rest = 1 - sum(mixed.share for mixed in self._params.mix.values())
        self._run("CREATE TABLE chosen (row BIGINT, position DOUBLE)")
        for name, origins in self._mixed.items():
            wanted = round(own * self._params.mix[name].share / rest)
            self._run(
                f"""INSERT INTO chosen
                    WITH ordered AS (
                        SELECT row, row_number() OVER (ORDER BY place, row) - 1 AS number, count(*) OVER () AS rows
                        FROM mixed WHERE origin BETWEEN {origins[0]} AND {origins[-1]})
                    SELECT row, (rows * copy + number) / {self._params.mix[name].share}
                    FROM ordered, range(ceil({wanted} / rows)::BIGINT) copies(copy)
                    WHERE rows * copy + number < {wanted}"""
            )
        self._run(
            """INSERT INTO drawn
               SELECT row_number() OVER (ORDER BY position, row) - 1,
                      row_number() OVER (PARTITION BY example_key ORDER BY position, row),
                      row, origin, group_key, example_key, characters, target_count
               FROM chosen JOIN mixed USING (row)"""
        )

    def mixed(self) -> dict[str, dict[str, int]]:
        """Name in `prepare.mix` -> its rows that could be drawn, its examples in train, and the rows not drawn."""
        return {name: self._mixed_counts(origins) for name, origins in self._mixed.items()}

    def _mixed_counts(self, origins: Sequence[int]) -> dict[str, int]:
        place = f"origin BETWEEN {origins[0]} AND {origins[-1]}"
        rows = self._number(f"SELECT count(*) FROM mixed WHERE {place}")
        [(examples, drawn)] = self._run(f"SELECT count(*), count(DISTINCT row) FROM drawn WHERE {place}").fetchall()
        return {"rows": rows, "examples": examples, "rows_not_drawn": rows - drawn}

    def counts(self) -> dict[Split, dict[str, int]]:
        """Rows, examples and references of each split, as `examples` gives them."""
        examples = "count(DISTINCT example)" if self._params.groups else "count(*)"
        found = self._run(
            f"""SELECT rank, count(*), {examples}, coalesce(sum(target_count) FILTER (start IS NULL), 0)
                FROM remaining GROUP BY rank"""
        )
        numbers = {rank: [0, 0, 0] for rank in RANKS.values()}
        numbers |= {rank: [int(number) for number in rest] for rank, *rest in found.fetchall()}
        [(rows, drawn, references)] = self._run(
            "SELECT count(DISTINCT row), count(*), coalesce(sum(target_count), 0) FROM drawn"
        ).fetchall()
        train = numbers[_TRAIN]
        numbers[_TRAIN] = [train[0] + rows, train[1] + drawn, train[2] + int(references)]
        for rank, more in self._changed_references():
            numbers[rank][-1] += more
        names = ("rows", "examples", "references")
        return {split: dict(zip(names, numbers[RANKS[split]], strict=True)) for split in SPLITS}

    def _changed_references(self) -> Iterator[tuple[int, int]]:
        """(rank, references) that the parts of cut documents add, and that answers without their loss take away."""
        cut = self._run("SELECT rank, row, start, stop FROM remaining WHERE start IS NOT NULL").fetchall()
        texts = self._kept.fetch(row for _, row, *_ in cut)
        yield from ((rank, len(list(_between(texts[row].texts.targets, *place)))) for rank, row, *place in cut)
        if self._are_conversations:
            for rows in ("remaining", "drawn"):
                yield _TRAIN, -self._number(f"SELECT count(*) FROM leaked JOIN {rows} USING (row) WHERE NOT is_common")

    def rows_kept(self) -> int:
        not_drawn = sum(counts["rows_not_drawn"] for counts in self.mixed().values()) + self.rows_unused()
        return self._number("SELECT (SELECT count(*) FROM kept) - (SELECT count(*) FROM dropped)") - not_drawn

    def rows_unused(self) -> int:
        """Those that `prepare.train_share` leaves out."""
        return self._number("SELECT count(*) FROM unused")

    def lines(self) -> tuple[int, int]:
        """The lines of the rows that are kept, and of those that are rejected."""
        kept, dropped, unusable = (
            self._number(f"SELECT sum(lines) FROM {rows}")
            for rows in ("kept", "kept SEMI JOIN dropped USING (row)", "unusable")
        )
        return kept - dropped - self.lines_not_drawn(), dropped + unusable

    def lines_not_drawn(self) -> int:
        """The lines of the rows that `prepare.train_share` leaves out, and of those of `prepare.mix` that train has no
        use for."""
        unused = self._number("SELECT sum(lines) FROM kept SEMI JOIN unused USING (row)")
        if not self._mixed:
            return unused
        mixed = "SELECT sum(lines) FROM kept SEMI JOIN mixed USING (row) ANTI JOIN drawn USING (row)"
        return unused + self._number(mixed)

    def overlaps(self) -> dict[str, int]:
        """Worth knowing, and not always a mistake: sources with different targets, or in two splits."""
        in_test = f"SEMI JOIN (SELECT {{0}} FROM remaining WHERE rank = {_TEST} AND start IS NULL) USING ({{0}})"
        counted = f"SELECT count(*) FROM remaining {in_test} WHERE rank = {{1}}"
        numbers = {"validation_rows_in_test": self._number(counted.format("compared_key", _VALIDATION))}
        if self._params.source is not None or self._are_conversations:
            [(several, rows)] = self._run(
                """SELECT count(*), sum(n) FROM (SELECT count(*) AS n FROM remaining GROUP BY source_key
                                                 HAVING min(target_key) <> max(target_key))"""
            ).fetchall()
            numbers |= {
                "sources_with_several_targets": several,
                "rows_of_such_sources": int(rows or 0),
                "train_rows_with_source_in_test": self._number(counted.format("source_key", _TRAIN)),
            }
        return numbers | (self._shared_answers() if self._are_conversations else {})

    def _shared_answers(self) -> dict[str, int]:
        """Answers with loss behind the same turns. Those of train have lost it, but for common ones."""
        asked = "SELECT key FROM answers JOIN remaining USING (row) WHERE has_loss AND rank = {}"
        leaked = "SELECT count(*) FROM leaked WHERE rank = {} AND {} is_common"
        queries = {
            "train_answers_in_test": leaked.format(_TEST, "NOT"),
            "train_answers_in_validation": leaked.format(_VALIDATION, "NOT"),
            "commonplace_answers_in_test": leaked.format(_TEST, ""),
            "commonplace_answers_in_validation": leaked.format(_VALIDATION, ""),
            "validation_answers_in_test": f"""SELECT count(*) FROM ({asked.format(_VALIDATION)})
                                              SEMI JOIN ({asked.format(_TEST)}) USING (key)""",
        }
        return {name: self._number(query) for name, query in queries.items()}

    def rejected_rows(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """In the order of reading. `names` are those of the origins."""
        rows = self._sorted_rows(
            """SELECT row, origin, line, reason, detail, NULL AS other_origin, NULL AS other_line, characters
               FROM unusable WHERE row BETWEEN $first AND $last
               UNION ALL
               SELECT d.row, k.origin, k.line, d.reason,
                      CASE reason WHEN 'prefix' THEN 'begins' ELSE format('similarity {:.2f} to', d.similarity) END,
                      o.origin, o.line, k.characters
               FROM dropped d JOIN kept k ON k.row = d.row JOIN kept o ON o.row = d.other
               WHERE d.row BETWEEN $first AND $last
               ORDER BY row""",
            self._end,
        )
        for batch in in_batches(rows, itemgetter(-1), _FETCHED_ROWS, _FETCHED_CHARACTERS):
            raw = self._unusable.values(row[0] for row in batch if row[5] is None)
            texts = self._kept.fetch(row[0] for row in batch if row[5] is not None)
            for row, origin, line, reason, detail, other_origin, other_line, _ in batch:
                place = {"file": names[origin], "line": line, "reason": reason}
                if other_origin is None:  # JSON has no NaN: it becomes a string
                    yield place | {"detail": detail, "row": json.loads(raw[row], parse_constant=str)}
                else:
                    other = f"{names[other_origin]} line {other_line}"
                    yield place | {"detail": f"{detail} {other}", "row": _shown(texts[row].texts)}

    def examples(self, split: Split) -> Iterator[Example]:
        """In the order of their first rows. Those of `prepare.mix` are evenly spread over train."""
        own = self._own_examples(split)
        return self._interspersed(own) if split == "train" and self._mixed else own

    def _own_examples(self, split: Split) -> Iterator[Example]:
        self._number_copies(split)
        taken, leaked = self._taken(split)
        rows = self._sorted_rows(
            f"""SELECT row, example, example_key, coalesce(copy, 1), group_key, start, stop, {taken}, characters
                FROM remaining LEFT JOIN copies USING (row) {leaked}
                WHERE rank = {RANKS[split]} AND example BETWEEN $first AND $last ORDER BY example, row""",
            self._end,
        )
        for _, members in groupby(self._with_content(rows), lambda member: member[0][1]):
            yield _example(list(members))

    def _taken(self, split: Split) -> tuple[str, str]:
        """The column with the answers of a conversation that lose their loss, and what to join for it."""
        if not (self._are_conversations and split == "train"):
            return "NULL", ""
        lists = "SELECT row, list(number) AS taken FROM leaked WHERE NOT is_common GROUP BY row"
        return "taken", f"LEFT JOIN ({lists}) taken_answers USING (row)"

    def _interspersed(self, own: Iterator[Example]) -> Iterator[Example]:
        """By their share alone, not by their number: so a row at the end of a file moves none before it."""
        share = sum(mixed.share for mixed in self._params.mix.values())
        ratio = share / (1 - share)
        drawn = self._drawn_examples()
        for number, example in enumerate(own):
            yield example
            yield from islice(drawn, int(ratio * (number + 1)) - int(ratio * number))
        yield from drawn  # the last ones, where their number was rounded up

    def _drawn_examples(self, condition: str = "true") -> Iterator[Example]:
        taken, leaked = self._taken("train")
        rows = self._sorted_rows(
            f"""SELECT row, number, example_key, copy, group_key, NULL, NULL, {taken}, characters
                FROM drawn {leaked}
                WHERE number BETWEEN $first AND $last AND {condition} ORDER BY number""",
            self._number("SELECT count(*) FROM drawn"),
        )
        return (_example([member]) for member in self._with_content(rows))

    def some_mixed(self, most: int) -> dict[str, list[Example]]:
        """Name in `prepare.mix` -> the first of its examples in train."""
        return {
            name: list(islice(self._drawn_examples(f"origin BETWEEN {origins[0]} AND {origins[-1]}"), most))
            for name, origins in self._mixed.items()
        }

    def _number_copies(self, split: Split) -> None:
        """Creates the table `copies`: the rows of equal examples that are not one, numbered from 1 on."""
        repeated = f"""SELECT example_key FROM remaining WHERE rank = {RANKS[split]} AND {not self._params.groups}
                       GROUP BY example_key HAVING count(*) > 1"""
        self._run(
            f"""CREATE OR REPLACE TABLE copies AS
                SELECT row, row_number() OVER (PARTITION BY example_key ORDER BY row) AS copy
                FROM remaining SEMI JOIN ({repeated}) USING (example_key) WHERE rank = {RANKS[split]}"""
        )

    def _with_content(self, rows: Iterator[Values]) -> Iterator[tuple[Values, CleanRow]]:
        """Adds what the example of each row is made of. The rows begin with their number and end with their
        characters."""
        for batch in in_batches(rows, itemgetter(-1), _FETCHED_ROWS, _FETCHED_CHARACTERS):
            content = self._kept.fetch(row[0] for row in batch)
            for row in batch:
                yield row, content[row[0]]

    def _sorted_rows(self, query: str, end: int) -> Iterator[Values]:
        """The results of a query for rows from `first` to `last`, one range after another up to `end`: to sort all at
        once would take memory that grows with the rows."""
        for first in range(0, end, _SORTED_ROWS):
            yield from self._rows(query, {"first": first, "last": first + _SORTED_ROWS - 1})

    def _rows(self, query: str, values: Mapping[str, int] | None = None) -> Iterator[Values]:
        """The result of a query without texts. The new cursor lets other queries run meanwhile."""
        found = self._database.cursor().execute(query, values)
        while fetched := found.fetchmany(_FETCHED_ROWS):
            yield from fetched


def _mebibytes(rows: int, threads: int) -> int:
    """For DuckDB. It writes what is more to disk, but each thread needs some, and so does the sorting of many rows."""
    return max(_FEWEST_MIB, _MIB_OF_A_THREAD * threads, _MIB_OF_A_MILLION * rows // 1_000_000)


def _is_common(talks: str, total: str) -> str:
    return f"({talks} >= {_COMMON_TALKS} AND {talks} >= {_COMMON_SHARE} * {total})"


def _reason(how: str, rank: str) -> str:
    """The word for a row that is `how` (in, near) one of this rank."""
    return f"'{how}_' || CASE {rank} WHEN {_TEST} THEN 'test' WHEN {_VALIDATION} THEN 'validation' ELSE 'duplicate' END"


def _shown(texts: Texts) -> dict[str, Any]:
    """How a row is reported: a conversation, or a source with its targets."""
    if texts.turns:
        return {"turns": [asdict(turn) for turn in texts.turns]}
    return {"source": texts.source, "targets": texts.targets}


def _example(members: list[tuple[Values, CleanRow]]) -> Example:
    """From rows of `RowDatabase.examples`, with their content."""
    (_, _, example_key, copy, group_key, first_start, _, taken, _), first = members[0]
    name = f"{key(str(example_key), str(copy), str(first_start)):016x}"
    turns = [
        replace(turn, has_loss=turn.has_loss and number not in (taken or ()))
        for number, turn in enumerate(first.texts.turns)
    ]
    targets = [turns[place].written() for place in answer_places(turns)]
    for (*_, start, stop, _, _), own in members if not turns else ():
        targets.extend(own.texts.targets if start is None else _between(own.texts.targets, start, stop))
    return Example(name, first.texts.source, targets, turns, f"{group_key:016x}", first.metadata, first.texts.tools)


def _between(texts: list[str], start: int, stop: int) -> Iterator[str]:
    """The characters between two positions in the concatenated texts, text by text."""
    for text in texts:
        if piece := text[max(start, 0) : max(stop, 0)]:
            yield piece
        start, stop = start - len(text), stop - len(text)
