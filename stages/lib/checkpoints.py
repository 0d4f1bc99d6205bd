"""Checkpoints that are whole or not used: Trainer writes its files one by one and resumes from whatever it finds."""

import shutil
from pathlib import Path

from stages.lib.files import read_json, sha256_of, write_json

_MARK = "complete.json"


def mark_complete(checkpoint: Path) -> None:
    """Writes, as the last file of a checkpoint, the size and digest of all others."""
    files = sorted(file for file in checkpoint.iterdir() if file.name != _MARK)
    content = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files}
    write_json(checkpoint / _MARK, content)


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint to go on from; broken ones, left by a kill in mid-write, are removed."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    whole = [checkpoint for checkpoint in newest_first if _is_complete(checkpoint)]
    for checkpoint in set(newest_first) - set(whole):
        shutil.rmtree(checkpoint)
    return whole[0] if whole else None


def _is_complete(checkpoint: Path) -> bool:
    mark = checkpoint / _MARK
    if not mark.is_file():
        return False
    return all(
        (file := checkpoint / name).is_file()
        and file.stat().st_size == expected["bytes"]
        and sha256_of(file) == expected["sha256"]
        for name, expected in read_json(mark).items()
    )
