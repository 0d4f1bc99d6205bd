"""Verifies that data and models are what they were: `python -m stages.tools.verify`, or `make verify`.

DVC hashes a file when it enters the cache, and believes it from then on. This command reads again all that the outs of
the workspace need, in the cache and in the remote, and names what is damaged or missing. With --repair (`make repair`)
it puts a good copy in its place: from the other side, or from the workspace.

Exit code: 0; 1 if something is damaged or missing, and was not repaired; 2 if it can't be verified.
"""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from stages.lib.core.process import launch
from stages.tools.arguments import parser_of
from stages.tools.objects import (
    DAMAGED,
    Copies,
    Out,
    Project,
    Store,
    commits,
    files_of,
    is_whole,
    opened_project,
    workspace,
)

_NAMED = 5  # files in a line


class File(NamedTuple):
    path: str
    out: str  # path of the out that it belongs to


class Checked(NamedTuple):
    store: Store
    files: Mapping[str, File]  # of all objects that it should have
    states: Mapping[str, str]  # of those that it doesn't have intact: DAMAGED or MISSING

    def has(self, name: str) -> bool:
        return name in self.files and name not in self.states


class Fault(NamedTuple):
    file: File
    object: str
    state: str  # DAMAGED or MISSING
    store: Store
    source: Copies | None  # of a good copy


def main() -> None:
    arguments = _parser().parse_args()
    with opened_project() as project:
        found = faults(project, whole=arguments.all, with_remote=project.has_remote and not arguments.cache)
        print("\n".join(report(found)))
        if arguments.repair:
            with project.locked():
                found = list(repaired(project, found))
    if found:
        sys.exit(1)


def _parser() -> ArgumentParser:
    parser = parser_of("verify", __doc__)
    parser.add_argument("--all", action="store_true", help="verify all that is there")
    parser.add_argument("--cache", action="store_true", help="verify the cache only: reading the remote is a download")
    parser.add_argument("--repair", action="store_true", help="replace what is damaged or missing")
    return parser


def faults(project: Project, whole: bool, with_remote: bool) -> list[Fault]:
    """In what the outs of the workspace need; `whole`: in all that the stores have."""
    outs = [out for out in project.outs(commits("refs/") if whole else ()) if out.cached]
    stores = [project.cache, project.remote] if with_remote else [project.cache]
    files = {out: {name: File(path, out.path) for name, path in files_of(out, stores).items()} for out in outs}
    checked = []
    for store in stores:
        wanted = _held(store, files) if whole else (files[out] for out in outs if out.shared or store is project.cache)
        checked.append(_checked(store, _merged(wanted)))
    checked_out = workspace({name: file.path for name, file in _merged(files.values()).items()})
    return [
        Fault(place.files[name], name, state, place.store, _source(name, checked, checked_out, project))
        for place in checked
        for name, state in place.states.items()
    ]


def _held(store: Store, files: Mapping[Out, Mapping[str, File]]) -> Iterator[Mapping[str, File]]:
    """Where the object of a folder is, those of its files should be too."""
    objects = [name for name in store.objects() if is_whole(name)]
    yield {name: File(f"{name} (of no branch, tag or experiment)", "") for name in objects}
    yield from (own for out, own in files.items() if out.object in objects)


def _merged(files: Iterable[Mapping[str, File]]) -> dict[str, File]:
    return {name: file for own in files for name, file in own.items()}


def _checked(store: Store, files: Mapping[str, File]) -> Checked:
    size = sum(store.sizes(files))
    print(f"reading {len(files)} files, {size / 1e6:,.1f} MB, of {store.name}", flush=True)
    return Checked(store, files, store.states(files, size))


def _source(name: str, checked: Sequence[Checked], checked_out: Copies, project: Project) -> Copies | None:
    if known := next((place.store for place in checked if place.has(name)), None):
        return known
    others = [project.remote, checked_out] if project.has_remote and len(checked) == 1 else [checked_out]
    return next((other for other in others if other.state(name) is None), None)


def report(found: Iterable[Fault]) -> Iterator[str]:
    """A line for each kind of fault of an out, and what to do."""
    found = sorted(found, key=lambda fault: (*_kind(fault), fault.file.path))
    for _, group in groupby(found, _kind):
        same = list(group)
        more = f" and {len(same) - _NAMED} more" if len(same) > _NAMED else ""
        first = same[0]
        copy = f"{first.source.name} has a good copy" if first.source else "there is no good copy"
        paths = ", ".join(fault.file.path for fault in same[:_NAMED])
        yield f"{paths}{more}: {first.state} in {first.store.name}; {copy}"
    if any(fault.source for fault in found):
        yield "`make repair` puts the good copies in place"
    if any(fault.source is None for fault in found):
        yield "what has no good copy must be made again: see docs/team.md, Verify and repair"
    if not found:
        yield "all is intact"


def _kind(fault: Fault) -> tuple[str, ...]:
    return *_way(fault), fault.file.out, fault.state


def repaired(project: Project, found: Iterable[Fault]) -> Iterator[Fault]:
    """Puts the good copies in place, and yields what is not intact then. What is damaged in the cache and has no good
    copy is set aside, as DVC would go on believing it."""
    linked = [fault.file.path for fault in found if fault.source and _is_linked(fault)]
    for _, group in groupby(sorted(found, key=_way), _way):
        same = {fault.object: fault for fault in group}
        store, source = next((fault.store, fault.source) for fault in same.values())
        if source:
            store.remove(same.keys() - store.lacking(same))
            store.put(same, source)
            print(f"files put into {store.name} from {source.name}: {len(same)}")
            yield from (same[name] for name in store.states(same))
        else:
            for name in (name for name, fault in same.items() if fault.state == DAMAGED and store is project.cache):
                os.replace(store.path(name), f"{store.path(name)}.damaged")
            yield from same.values()
    for path in linked:
        os.unlink(path)
    if linked:
        project.repo.checkout(targets=linked)


def _way(fault: Fault) -> tuple[str, ...]:
    return fault.store.name, fault.source.name if fault.source else ""


def _is_linked(fault: Fault) -> bool:
    """Whether a hard link makes the damaged file of the cache that of the workspace too."""
    copy = fault.store.path(fault.object)
    return all(map(os.path.isfile, (copy, fault.file.path))) and os.path.samefile(copy, fault.file.path)


if __name__ == "__main__":
    launch(main)
