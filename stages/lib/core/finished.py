"""Finished work whose outs DVC has not yet copied into its cache.

DVC copies them after the stage has ended. Where that fails, as on a full disk, it prints an error and goes on, and its
next run deletes the outs and makes them again. So a stage leaves its resumable state at its end, with a note on the
outs. A later process of the project deletes it when the cache has them all; until then, a rerun of the stage continues
from there and ends at once.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from stages.lib.core.files import read_json, write_json

LOCK = "lock"  # the file of a state that its process has locked

_NOTE = "finished.json"


def states() -> Path:
    """Folder of the resumable states, `STAGE/FINGERPRINT/`. It is in the main checkout (DVC_ROOT) also when an
    experiment runs in a temporary copy."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".scratch"


def finish(state: Path, outs: Iterable[Path]) -> None:
    """At the end of the work. Without DVC, nobody will copy the outs, and the state is deleted here.

    Args:
        outs: files and folders that the stage has written.
    """
    if "DVC_STAGE" not in os.environ:
        shutil.rmtree(state, ignore_errors=True)  # another machine that trains with this one can be first
        return
    files = [file for out in outs for file in ([out] if out.is_file() else out.rglob("*")) if file.is_file()]
    if files:  # of several machines, one has written them
        noted = {str(file): {"bytes": file.stat().st_size, "md5": _md5(file)} for file in files}
        write_json(state / _NOTE, {"dvc": os.getppid(), "outs": noted})


def _md5(file: Path) -> str:
    """As DVC names the file in its cache."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()


def settle() -> list[str]:
    """Deletes the states of finished work whose outs are all in DVC's cache. Returns a line for each stage whose outs
    the DVC that has started this process could not copy, for want of room."""
    notes = list(states().glob(f"*/*/{_NOTE}"))
    if not notes or (cache := _cache()) is None:
        return []
    lines = []
    for note in notes:
        # another process may delete it at this moment, or continue from it
        with suppress(FileNotFoundError, BlockingIOError):
            content = read_json(note)
            missing = list(_missing(content["outs"], cache))
            if not missing:
                _delete(note.parent)
            elif content["dvc"] == os.getppid() and sum(missing) > shutil.disk_usage(cache).free:
                lines.append(
                    f"DVC's cache {cache} has no room for what {note.parts[-3]} has made: make room and run again; "
                    f"it is not computed again"
                )
    return lines


def _cache() -> Path | None:
    """None outside of a DVC project."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    result = subprocess.run(command, cwd=states().parent, capture_output=True, text=True)
    return None if result.returncode else Path(result.stdout.strip())


def _missing(outs: Mapping[str, Mapping[str, str | int]], cache: Path) -> Iterator[int]:
    """Bytes of each file that the cache lacks."""
    for file in outs.values():
        digest = str(file["md5"])
        if not (cache / "files/md5" / digest[:2] / digest[2:]).is_file():
            yield int(file["bytes"])


def _delete(state: Path) -> None:
    with (state / LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(state, ignore_errors=True)
