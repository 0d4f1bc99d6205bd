"""The rows of a split: from a file, a folder, a glob, a zip archive, aligned files, or a data set on the hub."""

import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from os.path import commonpath
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from tqdm import tqdm

from stages.lib.core.process import UserError
from stages.lib.ingest.arrow_files import changes_of
from stages.lib.ingest.compressed import COMPRESSED, full_name, members
from stages.lib.ingest.formats import FORMATS, READERS
from stages.lib.ingest.row_texts import advice_on_answers, columns
from stages.lib.ingest.rows import Row, Source, advice_on, listed, missing_columns, one_line, readable
from stages.lib.ingest.text_files import read_aligned
from stages.lib.ingest.threads import conversations_of
from stages.lib.ingest.tracking import POINTER
from stages.lib.params.prepare import Files, Hub, Prepare
from stages.lib.records.examples import SPLITS, Split

_WITH_HEADER = ("csv", "tsv", "parquet", "arrow", "xlsx")
_MEMBERS_SHOWN = 3
_LAST_ENDING = re.compile(rf"\.[^.]+({'|'.join(map(re.escape, COMPRESSED))})?$")
_ROWS_WITH_ALL_FIELDS = 100  # each field must be in one of so many first rows


@dataclass(frozen=True)
class File:
    """A file, or a member of a zip archive."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        return str(full_name(self.path, self.member))

    def size(self) -> int:
        return members(self.path)[self.member] if self.member else self.path.stat().st_size

    def format(self) -> str:
        """By the ending before that of a compression; empty if it is unknown."""
        suffixes = [suffix.lower() for suffix in PurePosixPath(self.name).suffixes]
        return FORMATS.get(next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED), ""), "")


@dataclass(frozen=True)
class Origin:
    """One file, aligned files by column, or a split on the hub (`files` is None), and the split that it belongs to.
    `mix` is the entry of `prepare.mix` that it is a file of, if any."""

    split: Split
    name: str
    files: File | Mapping[str, File] | None
    mix: str | None = None

    def all_files(self) -> list[File]:
        if self.files is None:
            return []
        return [self.files] if isinstance(self.files, File) else list(self.files.values())


def origins(params: Prepare, folder: Path) -> list[Origin]:
    """In the order of the splits, then by name, so that `folder` is read in the same order on every machine. Those of
    `prepare.mix` are the last.

    Raises:
        UserError: no such file, an empty folder or glob, a file of unknown format, a broken archive, or a file in two
            splits.
    """
    found, lines = list[Origin](), list[str]()
    for name in (None, *params.mix):
        try:
            found += [replace(origin, mix=name) for origin in _origins(params.mixed(name), folder)]
        except UserError as error:
            place = f"prepare -> mix -> {name}" if name else "prepare -> train"
            lines += [line.replace("prepare -> train", place) for line in error.lines]
    if lines:
        raise UserError(lines)
    return found


def raw_files(params: Prepare, folder: Path) -> Iterator[Path]:
    """All files that are there of those that the scenario names."""
    with suppress(UserError):
        for origin in origins(params, folder):
            yield from (file.path for file in origin.all_files())
    if params.known_ngrams is not None and (folder / params.known_ngrams).is_file():
        yield folder / params.known_ngrams


def _origins(params: Prepare, folder: Path) -> list[Origin]:
    named: dict[Split, Files | None] = {"train": params.train, "validation": params.validation, "test": params.test}
    found = [
        origin
        for split in SPLITS
        if (files := named[split]) is not None
        for origin in ([Origin(split, str(files), None)] if params.hub else _local(split, files, folder))
    ]
    mistakes = [line for origin in found for line in _mistakes(origin, params, found, folder)] + _shared(found, named)
    if mistakes:
        raise UserError(mistakes)
    return found


def _local(split: Split, files: Files, folder: Path) -> Iterator[Origin]:
    if isinstance(files, dict):
        yield Origin(split, ", ".join(files.values()), {column: _file(name, folder) for column, name in files.items()})
        return
    found = _files(split, files, folder)
    if not found:
        archive, _ = _divided(files, folder)
        held = [] if archive is None else [str(file.member) for file in _members(archive)]
        advice = f"; the archive holds {listed(held[:_MEMBERS_SHOWN])}" if held else ""
        raise UserError(f"{folder / files}: no file there; see prepare -> {split} of the scenario{advice}")
    for file in found:
        yield Origin(split, PurePosixPath(file.name).relative_to(folder).as_posix(), file)


def _file(name: str, folder: Path) -> File:
    archive, inside = _divided(name, folder)
    if archive is None:
        return File(folder / name)
    found = _members(archive, inside)
    if len(found) != 1:
        raise UserError(f"{folder / name}: {len(found)} files fit; name one of the archive, as in {archive}/NAME")
    return found[0]


def _files(split: Split, files: str, folder: Path) -> list[File]:
    archive, inside = _divided(files, folder)
    if archive is not None:
        return _members(archive, inside)
    place = folder / files
    if any(character in files for character in "*?["):
        try:
            found = sorted(path for path in folder.glob(files) if path.is_file() and path.suffix != POINTER)
        except (ValueError, NotImplementedError) as error:
            raise UserError(
                f"params.yaml: prepare -> {split} of the scenario: `{files}` is not a valid glob: {error}"
            ) from None
    elif (place / "dataset_dict.json").is_file():
        raise UserError(f"{place}: has splits of their own; name one of its folders, such as {files}/{split}")
    elif place.is_dir():
        inner = (path for path in place.rglob("*") if path.is_file() and not _is_beside_rows(path))
        found = sorted(path for path in inner if not _is_hidden(path.relative_to(place)))
    else:
        found = [place]
    return [file for path in found for file in (_members(path) if _is_archive(path) else [File(path)])]


def _divided(name: str, folder: Path) -> tuple[Path | None, str]:
    """The archive in a path such as data.zip/part-*.csv, and what is named inside of it: nothing if it is the whole."""
    path = PurePosixPath(name)
    for outer in (path, *path.parents):
        if _is_archive(folder / outer):
            return folder / outer, "" if outer == path else path.relative_to(outer).as_posix()
    return None, name


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def _members(archive: Path, inside: str = "") -> list[File]:
    """Those with a name, in a folder, or of a glob inside of the archive."""
    found = []
    for name in sorted(members(archive)):
        path = PurePosixPath("/", name)
        fits = path.match(f"/{inside}") or PurePosixPath("/", inside) in path.parents
        if fits and not _is_hidden(PurePosixPath(name)):
            found.append(File(archive, name))
    return found


def _is_hidden(path: PurePath) -> bool:
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)


def _is_beside_rows(path: Path) -> bool:
    """Whether a file is what `datasets` saves or caches beside the rows of a data set, or what `dvc add` writes."""
    is_saved = (path.parent / "state.json").is_file() and (path.parent / "dataset_info.json").is_file()
    return path.suffix == POINTER or (is_saved and (path.suffix == ".json" or path.name.startswith("cache-")))


def _mistakes(origin: Origin, params: Prepare, found: Sequence[Origin], folder: Path) -> Iterator[str]:
    for file in origin.all_files():
        if not file.path.is_file():
            yield f"{file.name}: no such file; see prepare -> {origin.split} of the scenario"
        elif isinstance(origin.files, File) and params.reading.format is None and not file.format():
            glob = _glob_beside(file, [other for other in found if other.split == origin.split], folder)
            advice = f", or leave it out by a glob, such as {origin.split}: '{glob}'" if glob else ""
            yield (
                f"{file.name}: unknown ending ({', '.join(FORMATS)} are known, also with {', '.join(COMPRESSED)} "
                f"behind them or in a .zip); set prepare.reading.format{advice}"
            )


def _glob_beside(unknown: File, found: Sequence[Origin], folder: Path) -> str:
    """A glob for the files of a known format, as far as they end like the first one. Empty if there are none."""
    known = [origin.files for origin in found if isinstance(origin.files, File) and origin.files.format()]
    if unknown.member:
        paths = [PurePosixPath(file.name) for file in known if file.path == unknown.path]
    else:
        paths = [PurePosixPath(file.path) for file in known]
    ending = _LAST_ENDING.search(paths[0].name) if paths else None
    if ending is None:
        return ""
    parents = {path.parent for path in paths if path.name.endswith(ending[0])}
    common = PurePosixPath(commonpath(parents))
    levels = len(paths[0].parent.parts) - len(common.parts)
    # inside of an archive, `**` is one level
    between = "" if len(parents) == 1 else "*/" * levels if unknown.member else "**/"
    return f"{(common.relative_to(folder) / between).as_posix()}/*{ending[0]}".removeprefix("./")


def _shared(found: Sequence[Origin], named: Mapping[Split, Files | None]) -> list[str]:
    """A message for each file in two splits: every row of one split would be in the other."""
    owner: dict[File, Split] = {}
    lines = []
    for origin in found:
        for file in origin.all_files():
            first = owner.setdefault(file, origin.split)
            if first != origin.split:
                lines.append(
                    f"{file.name}: read for {first} and for {origin.split}; see prepare -> {first} of the scenario"
                )
    return lines


def read_rows(origin: Origin, params: Prepare, skipped: Counter[str]) -> Iterator[Row]:
    """Streams the rows, with a progress bar. `skipped` counts the lines that belong to none, as in Source.

    Raises:
        UserError: a file can't be read in its format, or lacks a column; see the module of the format.
    """
    rows, thread = _raw_rows(origin, params, skipped, has_bar=True), params.reading.thread
    yield from map(_writable, rows if thread is None else conversations_of(rows, thread))


def check_first_rows(origin: Origin, params: Prepare) -> None:
    """Reads as many rows as it takes to know the columns; of a data set on the hub, none. Raises UserError as
    `read_rows` does, which says it only after all files before this one."""
    if origin.files is not None:
        with closing(_raw_rows(origin, params, Counter(), has_bar=False)) as rows:
            for _ in islice(rows, _ROWS_WITH_ALL_FIELDS):
                pass


def _raw_rows(origin: Origin, params: Prepare, skipped: Counter[str], has_bar: bool) -> Generator[Row]:
    """The rows before threads of messages become conversations."""
    thread = params.reading.thread
    needed = columns(params, origin.split)
    if thread is not None:
        of_rows = [name for name in needed if name not in params.message_fields]
        needed = [thread.id, thread.parent, thread.role, thread.text, *of_rows]
    advice = advice_on_answers(params, origin.split)
    if params.hub is None:
        return _file_rows(origin, params, needed, skipped, advice, has_bar)
    return _hub_rows(origin, params.hub, needed, advice)


def _writable(row: Row) -> Row:
    """A bad row may hold bytes that could not be decoded."""
    if row.problem is None:
        return row
    texts = {name: readable(value) if isinstance(value, str) else value for name, value in row.values.items()}
    return replace(row, values=texts)


def _file_rows(
    origin: Origin,
    params: Prepare,
    needed: Sequence[str],
    skipped: Counter[str],
    advice: Mapping[str, str],
    has_bar: bool,
) -> Generator[Row]:
    size = sum(file.size() for file in origin.all_files())
    with tqdm(total=size, desc=f"prepare {origin.name}", unit="B", unit_scale=True, disable=not has_bar) as bar:

        def source(file: File) -> Source:
            return Source(file.path, params.reading, needed, bar.update, file.member, skipped, advice)

        if isinstance(origin.files, Mapping):
            _check_aligned(list(origin.files), needed, advice)
            yield from read_aligned({column: source(file) for column, file in origin.files.items()})
        elif origin.files is not None:
            name = params.reading.format or origin.files.format()
            rows = READERS[name](source(origin.files))
            yield from rows if name in _WITH_HEADER else _with_fields(rows, needed, origin.files.name, advice)


def _check_aligned(names: Sequence[str], needed: Sequence[str], advice: Mapping[str, str]) -> None:
    if missing := [name for name in needed if name not in names]:
        raise UserError(
            f"params.yaml: prepare of the scenario: no column {', '.join(missing)} among the aligned files "
            f"{', '.join(names)}{advice_on(missing, advice)}"
        )


def _with_fields(rows: Iterator[Row], needed: Sequence[str], name: str, advice: Mapping[str, str]) -> Iterator[Row]:
    """Passes the rows on. Raises UserError if a field is in none of the first rows: a wrong name is told once, not row
    by row."""
    missing, found, read = list(needed), dict[str, None](), 0
    for row in rows:
        if missing and row.problem is None:
            read += 1
            found.update(dict.fromkeys(row.values))
            missing = missing_columns(missing, found)
            if missing and read == _ROWS_WITH_ALL_FIELDS:
                break
        yield row
    if missing and read:
        place = "only row" if read == 1 else f"first {read} rows"
        raise UserError(
            f"{name}: no field {listed(missing)} in its {place}; there are {listed(found)}{advice_on(missing, advice)}"
        )


def _hub_rows(origin: Origin, hub: Hub, needed: Sequence[str], advice: Mapping[str, str]) -> Generator[Row]:
    rows = _read_hub(hub, origin.name)
    yield from tqdm(_with_fields(rows, needed, hub.name, advice), desc=f"prepare {origin.name}", unit=" rows")


def _read_hub(hub: Hub, split: str) -> Iterator[Row]:
    # takes seconds to import
    from datasets import ClassLabel, load_dataset

    try:
        data: Any = load_dataset(hub.name, hub.config, split=split, revision=hub.revision)
    except Exception as error:  # `datasets` passes on the errors of a dozen libraries
        raise UserError(
            f"params.yaml: prepare -> hub of the scenario: {hub.name}, split {split}, can't be loaded: "
            f"{one_line(error)}"
        ) from None
    labels = {name: feature for name, feature in data.features.items() if isinstance(feature, ClassLabel)}
    changes = changes_of(data.features.arrow_schema)
    for number, values in enumerate(data, start=1):
        for name, feature in labels.items():
            with suppress(ValueError, TypeError):  # -1 and null mean no label, as in many test splits
                values[name] = feature.int2str(values[name])
        for name, change in changes.items():
            values[name] = change(values[name])
        yield Row(number, values)
