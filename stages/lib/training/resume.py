"""State of unfinished work, from which a killed stage resumes.

It is not in the stage's outs, but in `.scratch/<stage>/<fingerprint>/` of the main checkout. The fingerprint covers
everything that dvc.yaml lists for the stage, so no other inputs find this state, and an experiment continues from that
of another one only where both do the same work.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from ruamel.yaml import YAML

from stages.lib.core.files import sha256_of
from stages.lib.core.finished import LOCK, finish, states
from stages.lib.training.distributed import is_worker

_KEPT_SECONDS = 30 * 24 * 3600
_LIBRARIES = ("torch", "transformers", "accelerate", "peft", "tokenizers", "optuna")


@contextmanager
def resumable_state(stage: str, nodes: int = 1, layout: str = "") -> Iterator[Path]:
    """A folder for the state of this stage with these inputs. While another process does the same work, such as that of
    another experiment, this one waits, and then continues from what the other has left.

    Args:
        nodes: number of machines that do this work together; the stage runs on each.
        layout: of the processes, if the form of the state depends on it.
    """
    declared = _declared(stage)
    folder = states() / stage / _fingerprint(declared, layout)
    if is_worker():  # its parent has locked the folder
        yield folder
        return
    _forget(folder.parent)
    with _locked(folder, stage, fcntl.LOCK_EX if nodes == 1 else fcntl.LOCK_SH):
        yield folder
        finish(folder, [Path(out if isinstance(out, str) else next(iter(out))) for out in declared["outs"]])


@contextmanager
def _locked(folder: Path, stage: str, kind: int) -> Iterator[None]:
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                print(f"{stage}: process {lock.read().strip()} does this work; waiting for its end", flush=True)
                fcntl.flock(lock, kind)
            if not _is_same(lock, path):  # the folder was deleted meanwhile
                continue
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield
            return


def _is_same(file: TextIO, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _forget(folder: Path) -> None:
    """Deletes states that nobody has resumed for a month, such as those of settings that were only tried."""
    for state in folder.glob("*"):
        with suppress(FileNotFoundError):  # another process has just deleted it
            if time.time() - max(path.stat().st_mtime for path in (state, *state.iterdir())) > _KEPT_SECONDS:
                shutil.rmtree(state)


def _declared(stage: str) -> dict[str, Any]:
    """The stage as dvc.yaml declares it."""
    declared: dict[str, Any] = _yaml(Path("dvc.yaml"))["stages"][stage]
    return declared


def _fingerprint(declared: dict[str, Any], layout: str) -> str:
    """A digest of the stage's deps and params, and of the versions of the libraries."""
    params = _yaml(Path("params.yaml"))
    names = [_resolved(name, params) for name in declared["params"]]
    content: dict[str, Any] = {
        "params": {name: _value(name, params) for name in names},
        "files": [_digests(Path(_resolved(dep, params))) for dep in declared["deps"]],
        "libraries": {name: version(name) for name in _LIBRARIES},
        "layout": layout,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _yaml(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(path)
    return values


def _resolved(entry: str, params: dict[str, Any]) -> str:
    """`${section.name}` in dvc.yaml -> the value in params.yaml."""
    return re.sub(r"\$\{(.+?)\}", lambda found: str(_value(found[1], params)), entry)


def _value(name: str, params: dict[str, Any]) -> Any:
    """The value of a section, or of `section.parameter`."""
    for part in name.split("."):
        params = params[part]
    return params


def _digests(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {str(file): sha256_of(file) for file in files if not _is_ignored(file)}


def _is_ignored(file: Path) -> bool:
    """Files in a folder of code or weights that .dvcignore excludes too. Python writes bytecode while a stage runs."""
    return file.suffix in (".pyc", ".md")
