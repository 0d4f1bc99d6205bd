"""State of unfinished work, from which a killed stage resumes.

It is not in the stage's outs, but in `.scratch/<stage>/<fingerprint>/` of the main checkout (DVC_ROOT, also when an
experiment runs in a temporary copy). The fingerprint covers everything that dvc.yaml lists for the stage, so no other
inputs find this state.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.lib.core.files import sha256_of
from stages.lib.core.process import UserError
from stages.lib.training.distributed import is_worker

_KEPT_SECONDS = 30 * 24 * 3600
_LIBRARIES = ("torch", "transformers", "accelerate", "peft", "tokenizers", "optuna")


@contextmanager
def resumable_state(stage: str, nodes: int = 1, layout: str = "") -> Iterator[Path]:
    """A folder for the state of this stage with these inputs. It is deleted when the block ends without an error.

    Args:
        nodes: number of machines that do this work together; the stage runs on each.
        layout: of the processes, if the form of the state depends on it.

    Raises:
        UserError: another process uses the folder.
    """
    folder = Path(os.environ.get("DVC_ROOT", ".")) / ".scratch" / stage / _fingerprint(stage, layout)
    if is_worker():  # its parent has locked the folder
        yield folder
        return
    _forget(folder.parent)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if nodes == 1 else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(f"{stage}: process {lock.read().strip()} already does this work; wait or stop it") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield folder
        shutil.rmtree(folder, ignore_errors=nodes > 1)  # another node can be first


def _forget(states: Path) -> None:
    """Deletes states that nobody has resumed for a month, such as those of settings that were only tried."""
    for state in states.glob("*"):
        if time.time() - max(path.stat().st_mtime for path in (state, *state.iterdir())) > _KEPT_SECONDS:
            shutil.rmtree(state)


def _fingerprint(stage: str, layout: str) -> str:
    """A digest of the stage's deps and params as dvc.yaml lists them, and of the versions of the libraries."""
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(Path("params.yaml"))
    declared = yaml.load(Path("dvc.yaml"))["stages"][stage]
    names = [_resolved(name, params) for name in declared["params"]]
    content: dict[str, Any] = {
        "params": {name: _value(name, params) for name in names},
        "files": [_digests(Path(_resolved(dep, params))) for dep in declared["deps"]],
        "libraries": {name: version(name) for name in _LIBRARIES},
        "layout": layout,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


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
