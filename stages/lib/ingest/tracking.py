"""Which files git and DVC keep. Without either, colleagues lack a raw file, and so does the copy of the project that an
experiment of DVC runs in."""

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir
from pathlib import Path

from stages.lib.core.process import UserError

POINTER = ".dvc"  # ending of the file that stands for a file or folder in DVC's cache


def check_copy(raw_files: Callable[[], Iterable[Path]]) -> None:
    """Compares the raw files with those of the main checkout, where an experiment runs in a copy of the project: it
    would take fewer rows without a word.

    Args:
        raw_files: those that are there, as paths from the present folder.

    Raises:
        UserError: the copy lacks a file that neither git nor DVC keeps.
    """
    top, dvc_folder = top_folder(), os.environ.get("DVC_ROOT")
    main = top_folder(Path(dvc_folder)) if dvc_folder else None  # DVC's own may lie deeper, as that of data/base
    if top is None or main is None or top == main:
        return
    with chdir(main / Path.cwd().resolve().relative_to(top)):
        lost = untracked(raw_files())
    if lines := [_advice(path) for path in lost if not (top / path).exists()]:
        raise UserError(lines)


def _advice(path: Path) -> str:
    return (
        f"{path}: this experiment runs in a copy of the project, and lacks the file, as neither git nor DVC keeps it: "
        f"`git add` it, or if it is large `dvc add` it and `git add` what that writes; then run again"
    )


def untracked(files: Iterable[Path]) -> list[Path]:
    """Those of the files that git does not keep, and DVC neither, as themselves or in a folder. Without git, none.

    Returns:
        paths from the top folder of the git repository: of the .dvc file, where only that has to be added to git. Files
        outside of the repository are left out: each copy reads the same.
    """
    if (top := top_folder()) is None:
        return []
    kept = set(map(Path, git_list("ls-files", "-z", cwd=top)))
    found = [file.parent.resolve() / file.name for file in files]  # DVC may link a file into its cache
    inside = [file.relative_to(top) for file in found if file.is_relative_to(top)]
    lost = [path for path in inside if kept.isdisjoint([path, *pointers_to(path)])]
    made = [next((pointer for pointer in pointers_to(path) if (top / pointer).exists()), path) for path in lost]
    return list(dict.fromkeys(made))


def pointers_to(path: Path) -> list[Path]:
    """The .dvc files that can stand for a file or folder: its own, and those of the folders that it is in."""
    return [each.with_name(each.name + POINTER) for each in (path, *path.parents) if each.name]


def top_folder(folder: Path | None = None) -> Path | None:
    """Top folder of the git repository of a folder, by default the present one; None outside of one."""
    try:
        return Path(next(git_list("rev-parse", "--show-toplevel", cwd=folder or Path.cwd())).rstrip("\n")).resolve()
    except (OSError, subprocess.CalledProcessError):
        return None


def git_list(*arguments: str, cwd: Path) -> Iterator[str]:
    """What git lists, with -z."""
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True, errors="surrogateescape"
    )
    return (name for name in done.stdout.split("\0") if name)
