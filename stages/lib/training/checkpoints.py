"""Checkpoints of training. Only complete ones are used: Trainer itself writes their files one by one, and resumes from
whatever it finds."""

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from stages.lib.core.files import read_json, sha256_of, write_json

_MARK = "complete.json"


def mark_complete(checkpoint: Path) -> None:
    """Writes the last file of a checkpoint: size and digest of all others. All files are flushed to the disk, so that a
    power cut loses none."""
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.name != _MARK)
    content = {
        str(file.relative_to(checkpoint)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files
    }
    write_json(checkpoint / _MARK, content)
    for path in (*files, checkpoint / _MARK, checkpoint, checkpoint.parent):
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint to resume from. Deletes incomplete ones, which a killed run has left."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    complete = [checkpoint for checkpoint in newest_first if _is_complete(checkpoint)]
    for checkpoint in set(newest_first) - set(complete):
        shutil.rmtree(checkpoint)
    return complete[0] if complete else None


def keep_only(folder: Path, steps: Collection[int]) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        if step_of(checkpoint) not in steps:
            shutil.rmtree(checkpoint)


def mean_weights(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """Name -> mean over the checkpoints, in float32. A checkpoint of adapters has no other weights."""
    sums: dict[str, Tensor] = {}
    for file in (file for checkpoint in checkpoints for file in sorted(checkpoint.glob("*.safetensors"))):
        for name, weights in load_file(file).items():
            sums[name] = sums.get(name, 0) + weights.float()
    return {name: total / len(checkpoints) for name, total in sums.items()}


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _is_complete(checkpoint: Path) -> bool:
    try:
        expected = read_json(checkpoint / _MARK)
    except (OSError, ValueError):  # no mark, or an empty one after a power cut
        return False
    return all(
        (file := checkpoint / name).is_file()
        and file.stat().st_size == entry["bytes"]
        and sha256_of(file) == entry["sha256"]
        for name, entry in expected.items()
    )
