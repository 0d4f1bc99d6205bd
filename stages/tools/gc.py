"""Says what nobody needs in the cache, and deletes it with --delete: `python -m stages.tools.gc`, or `make gc`.

Needed is what belongs to the workspace, or to the commit of a git ref: branch, branch of a git remote, tag, experiment,
queued experiment, stash. With the rest go the entries of the run cache that it was for. (`dvc gc --workspace` deletes
the models of all experiments.)

--remote looks at the remote instead, which is everybody's. All that the git remotes have must have been fetched; what
others have not pushed to git can't be known: ask them first.
"""

import subprocess
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence

from stages.lib.core.process import UserError, launch
from stages.tools.arguments import parser_of
from stages.tools.objects import DAMAGED, Out, Project, Store, commits, files_of, git, opened_project

_PUBLISHED = ("refs/heads/*", "refs/tags/*", "refs/exps/*")  # of git remotes; a forge adds refs that no one works on


def main() -> None:
    arguments = _parser().parse_args()
    with opened_project() as project, project.locked():
        if arguments.remote:
            collect_garbage(project, [project.cache, project.remote], published(), arguments.delete)
        else:
            if project.cache_folder:
                raise UserError(
                    f"cache -> dir: {project.cache_folder}: what other clones need there can't be known; "
                    "see `dvc gc --projects`"
                )
            collect_garbage(project, [project.cache], [], arguments.delete)


def _parser() -> ArgumentParser:
    parser = parser_of("gc", __doc__)
    parser.add_argument("--remote", action="store_true", help="in the remote, not in the cache")
    parser.add_argument("--delete", action="store_true", help="delete it")
    return parser


def collect_garbage(project: Project, stores: Sequence[Store], others: Iterable[str], delete: bool) -> None:
    """In the last of the stores; the others help to know what is needed. `others`: commits beside those of git refs.

    Raises:
        UserError: what is needed can't be known.
    """
    outs = project.outs([*commits("refs/"), *others])
    needed = {name for out in outs for name in _files(out, stores)}
    store = stores[-1]
    objects = store.objects()
    unneeded = objects - needed
    runs = [run for run in store.runs() if not store.restored_by(run) <= needed]
    print(
        f"{store.name}: nobody needs {_amount(store, unneeded)} of {_amount(store, objects)}, "
        f"and {len(runs)} entries of the run cache"
    )
    if not unneeded and not runs:
        return
    if delete:
        store.remove(unneeded)
        store.remove_runs(runs)
        print("deleted")
    else:
        print(f"to delete that: python -m stages.tools.gc{' --remote' * (len(stores) > 1)} --delete")


def _files(out: Out, stores: Sequence[Store]) -> Iterable[str]:
    files = files_of(out, stores)
    if files.keys() == {out.object} and any(store.state(out.object) == DAMAGED for store in stores):
        raise UserError(f"{out.path}: which files it has can't be known, its list is damaged: run `make repair` first")
    return files


def _amount(store: Store, objects: Iterable[str]) -> str:
    sizes = store.sizes(objects)
    return f"{len(sizes)} files ({sum(sizes) / 1e6:,.1f} MB)"


def published() -> Iterator[str]:
    """Commits of the git remotes.

    Raises:
        UserError: one has not been fetched.
    """
    for remote in git("remote"):
        for line in git("ls-remote", remote, *_PUBLISHED):
            commit, ref = line.split()
            if subprocess.run(["git", "cat-file", "-e", commit], capture_output=True).returncode:
                how = (
                    f"dvc exp pull {remote} {ref.split('/')[-1]}"
                    if ref.startswith("refs/exps")
                    else f"git fetch {remote}"
                )
                raise UserError(f"{remote} has {ref}, which is unknown here, and so is what it needs: `{how}`")
            yield commit


if __name__ == "__main__":
    launch(main)
