"""The rows of a split: from a file, a folder, a glob, aligned files, or a data set on the hub."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.lib.core.process import UserError
from stages.lib.core.templates import Template
from stages.lib.ingest.compressed import COMPRESSED
from stages.lib.ingest.formats import FORMATS, READERS, Progress, Row, Source, read_aligned
from stages.lib.params.prepare import Files, Hub, Prepare
from stages.lib.records.examples import SPLITS, Split


@dataclass(frozen=True)
class Origin:
    """One file, aligned files by column, or a split on the hub (`files` is None), and the split that it belongs to."""

    split: Split
    name: str
    files: Path | Mapping[str, Path] | None

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.paths())

    def paths(self) -> list[Path]:
        if self.files is None:
            return []
        return [self.files] if isinstance(self.files, Path) else list(self.files.values())


def origins(params: Prepare, folder: Path) -> list[Origin]:
    """In the order of the splits, then by name, so that `folder` is read in the same order on every machine.

    Raises:
        UserError: no such file, an empty folder or glob, a file of unknown format, or a file in two splits.
    """
    named: dict[Split, Files | None] = {"train": params.train, "validation": params.validation, "test": params.test}
    found = [
        origin
        for split in SPLITS
        if (files := named[split]) is not None
        for origin in ([Origin(split, str(files), None)] if params.hub else _local(split, files, folder))
    ]
    mistakes = [line for origin in found for line in _mistakes(origin, params)] + _shared(found, named)
    if mistakes:
        raise UserError(mistakes)
    return found


def _local(split: Split, files: Files, folder: Path) -> Iterator[Origin]:
    if isinstance(files, dict):
        yield Origin(split, ", ".join(files.values()), {column: folder / name for column, name in files.items()})
        return
    place = folder / files
    if any(character in files for character in "*?["):
        try:
            found = sorted(path for path in folder.glob(files) if path.is_file())
        except (ValueError, NotImplementedError) as error:
            raise UserError(
                f"params.yaml: prepare -> {split} of the scenario: `{files}` is not a valid glob: {error}"
            ) from None
    elif place.is_dir():
        inside = (path for path in place.rglob("*") if path.is_file())
        found = sorted(path for path in inside if not _is_hidden(path.relative_to(place)))
    else:
        found = [place]
    if not found:
        raise UserError(f"{place}: no file there; see prepare -> {split} of the scenario")
    for path in found:
        yield Origin(split, path.relative_to(folder).as_posix(), path)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _mistakes(origin: Origin, params: Prepare) -> Iterator[str]:
    for path in origin.paths():
        if not path.is_file():
            yield f"{path}: no such file; see prepare -> {origin.split} of the scenario"
        elif isinstance(origin.files, Path) and params.reading.format is None and _format_of(path) not in READERS:
            endings = ", ".join(FORMATS)
            yield f"{path}: unknown ending ({endings} are known); set prepare.reading.format, or use a glob"


def _shared(found: Sequence[Origin], named: Mapping[Split, Files | None]) -> list[str]:
    """A message for each file in two splits: every row of one split would be in the other."""
    owner: dict[Path, Split] = {}
    lines = []
    for origin in found:
        for path in origin.paths():
            first = owner.setdefault(path, origin.split)
            if first != origin.split:
                lines.append(f"{path}: read for {first} and for {origin.split}; see prepare -> {first} of the scenario")
    return lines


def _format_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSED]
    return FORMATS.get(suffixes[-1], "") if suffixes else ""


def read_rows(origin: Origin, params: Prepare) -> Iterator[Row]:
    """Streams the rows, with a progress bar.

    Raises:
        UserError: a file can't be read in its format; see `formats`.
    """
    if params.hub is not None:
        yield from tqdm(_read_hub(params.hub, origin.name), desc=f"prepare {origin.name}", unit=" rows")
        return
    with tqdm(total=origin.size(), desc=f"prepare {origin.name}", unit="B", unit_scale=True) as bar:
        if isinstance(origin.files, Mapping):
            sources = {column: _source(path, params, bar.update) for column, path in origin.files.items()}
            _check_aligned(sources, params)
            yield from read_aligned(sources)
        elif origin.files is not None:
            source = _source(origin.files, params, bar.update)
            yield from READERS[params.reading.format or _format_of(origin.files)](source)


def _source(path: Path, params: Prepare, progress: Progress) -> Source:
    return Source(path, params.reading, _columns(params), progress)


def _columns(params: Prepare) -> list[str]:
    """The columns that a table must have, by the params."""
    templates = [Template(text) for text in (params.source, params.target) if text is not None]
    fields = [field for template in templates for field in template.fields]
    named = [name for name in (params.messages, params.split.field) if name is not None]
    return list(dict.fromkeys(fields + named + params.metadata))


def _check_aligned(sources: Mapping[str, Source], params: Prepare) -> None:
    if missing := [name for name in _columns(params) if name not in sources]:
        raise UserError(
            f"params.yaml: prepare of the scenario: no column {', '.join(missing)} among the aligned files "
            f"{', '.join(sources)}"
        )


def _read_hub(hub: Hub, split: str) -> Iterator[Row]:
    # takes seconds to import
    from datasets import ClassLabel, load_dataset

    try:
        data: Any = load_dataset(hub.name, hub.config, split=split, revision=hub.revision)
    except Exception as error:  # `datasets` passes on the errors of a dozen libraries
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"params.yaml: prepare -> hub of the scenario: {hub.name}, split {split}, can't be loaded: {text}"
        ) from None
    labels = {name: feature for name, feature in data.features.items() if isinstance(feature, ClassLabel)}
    for number, values in enumerate(data, start=1):
        for name, feature in labels.items():
            with suppress(ValueError, TypeError):  # -1 and null mean no label, as in many test splits
                values[name] = feature.int2str(values[name])
        yield Row(number, values)
