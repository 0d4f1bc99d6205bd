"""Checkpoints of training that are complete, or else not used. Trainer itself writes their files one by one, and
resumes from whatever it finds."""

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from stages.lib.core.files import read_json, sha256_of, write_json

_MARK = "complete.json"


def mark_complete(checkpoint: Path) -> None:
    """Writes the last file of a checkpoint: the size and digest of all others. All files are then on the disk, and not
    only in memory, which a power cut clears."""
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
    """The checkpoint to resume from. Incomplete ones, left by a kill, are deleted."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    whole = [checkpoint for checkpoint in newest_first if _is_complete(checkpoint)]
    for checkpoint in set(newest_first) - set(whole):
        shutil.rmtree(checkpoint)
    return whole[0] if whole else None


def keep_only(folder: Path, steps: Collection[int]) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        if step_of(checkpoint) not in steps:
            shutil.rmtree(checkpoint)


def mean_weights(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """Name -> mean over the checkpoints, in float32. A checkpoint of adapters holds only these."""
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
    except (OSError, ValueError):  # no mark, or one that a power cut has left empty
        return False
    return all(
        (file := checkpoint / name).is_file()
        and file.stat().st_size == own["bytes"]
        and sha256_of(file) == own["sha256"]
        for name, own in expected.items()
    )
