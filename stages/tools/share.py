"""Uploads what others need: `python -m stages.tools.share`, or `make share`.

That is what the workspace, the local branches and the tags need of data, models and raw data under DVC, with the
entries of the run cache that restore it. Experiments are shared by `dvc exp push`. If a file is damaged in the cache,
nothing is uploaded: damage must not spread.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stages.lib.core.process import UserError, launch
from stages.tools.objects import Project, commits, files_of, opened_project

_REFS = ("refs/heads/", "refs/tags/")


def main() -> None:
    with opened_project() as project, project.locked():
        share(project)


def share(project: Project) -> None:
    """
    Raises:
        UserError: a file is damaged, or can't be uploaded.
    """
    cache, remote = project.cache, project.remote
    outs = [out for out in project.outs(commits(*_REFS)) if out.shared]
    owners = {name: out.path for out in outs for name in files_of(out, [cache])}
    unshared = remote.lacking(owners)
    nowhere = cache.lacking(unshared)
    sizes = {name: Path(cache.path(name)).stat().st_size for name in unshared - nowhere}
    print("\n".join(_account(remote.name, sizes, owners)), flush=True)
    if damaged := cache.states(sizes, sum(sizes.values())):
        raise UserError(f"{path}: damaged in the cache: see `make verify`" for path in _paths(damaged, owners))
    remote.put(sizes, cache)
    runs = cache.runs() - remote.runs()
    remote.put_runs([run for run in runs if cache.restored_by(run) <= owners.keys() - nowhere], cache)
    for path in _paths(nowhere, owners):
        print(
            f"{path}: neither in the cache nor in {remote.name}, so others can't have it: run `make share` where it is"
        )


def _account(remote: str, sizes: Mapping[str, int], owners: Mapping[str, str]) -> Iterator[str]:
    yield f"{len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB, to {remote}"
    by_out = Counter[str]()
    for name, size in sizes.items():
        by_out[owners[name]] += size
    yield from (f"{size / 1e6:10,.1f} MB  {path}" for path, size in by_out.most_common())


def _paths(objects: Iterable[str], owners: Mapping[str, str]) -> list[str]:
    return sorted({owners[name] for name in objects})


if __name__ == "__main__":
    launch(main)
