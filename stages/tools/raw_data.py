"""Whether git and DVC keep raw data and checkpoints as they should: a part of `stages.tools.check_params`."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from stages.lib.core.process import UserError
from stages.lib.ingest.tracking import POINTER, git_list, pointers_to, top_folder

_LARGE = 10_000_000  # bytes
_SHOWN = 3  # files that are named


def other_than_dvc_keeps(folders: Iterable[Path]) -> Iterator[str]:
    """A line for each file or folder that is not what its .dvc file says. `dvc repro` takes that for an edit: where git
    has brought another version, as a pull does, it would go back to the one before.

    Raises:
        UserError: a .dvc file can't be read.
    """
    kept = list(dict.fromkeys(str(pointer) for folder in folders for pointer in pointers(folder)))
    for pointer, changes in _status(kept).items() if kept else ():
        outs = [change["changed outs"] for change in changes if "changed outs" in change]
        for path, how in chain.from_iterable(out.items() for out in outs):
            if how == "modified":
                yield (
                    f"{path}: is not what {pointer} says: `dvc checkout {pointer}` if git has brought another version, "
                    f"`dvc add {path}` if you have changed it"
                )
            else:
                yield f"{path}: {how}: `dvc pull {pointer}` brings it"


def pointers(folder: Path) -> list[Path]:
    """The .dvc files that stand for the folder, or for something in it."""
    return [path for path in (*pointers_to(folder), *sorted(folder.rglob(f"*{POINTER}"))) if path.is_file()]


def _status(targets: Sequence[str]) -> dict[str, list[Any]]:
    """What differs from these .dvc files, as `dvc status --json` has it."""
    command = [sys.executable, "-m", "dvc", "status", "--json", *targets]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise UserError(result.stderr.strip().partition("\n")[0] or "dvc status failed")
    changes: dict[str, list[Any]] = json.loads(result.stdout)
    return changes


def too_large_for_git(folders: Iterable[Path]) -> Iterator[str]:
    """A line for each file or folder that `git add .` would put into git, where it stays for good."""
    sizes = {path: size for folder in dict.fromkeys(folders) for path, size in _addable(folder).items()}
    for path, size in sizes.items():
        if size > _LARGE:
            yield f"{path}: {size / 1e6:,.0f} MB are too much for git, where `git add .` puts it: run `dvc add {path}`"


def _addable(folder: Path) -> dict[Path, int]:
    """What `git add .` would put into git below the folder, new or changed: path from the top folder -> bytes. A folder
    of which git keeps nothing yet is one entry."""
    if (top := top_folder()) is None or not folder.resolve().is_relative_to(top):
        return {}
    listing = ("ls-files", "-z", "--others", "--modified", "--exclude-standard")
    files, entries = (
        dict.fromkeys(map(Path, git_list(*listing, *more, "--", str(folder.resolve()), cwd=top)), 0)
        for more in ((), ("--directory",))
    )
    for file in files:
        with suppress(FileNotFoundError):  # git lists what is deleted, too
            entries[next(each for each in (file, *file.parents) if each in entries)] += (top / file).lstat().st_size
    return entries


def note_on(untracked: Sequence[Path]) -> str:
    """A run here needs neither git nor DVC. But colleagues do, and experiments that run in a copy."""
    names = " ".join(map(str, untracked[:_SHOWN])) + (" ..." if len(untracked) > _SHOWN else "")
    return f"note: colleagues, and experiments in a copy, will lack raw files until you `git add {names}`"
