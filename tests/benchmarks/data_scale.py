"""Time, memory and disk of prepare with everything switched on, and of tokenize, at 200 thousand and 2 million rows.
Run: `python -m tests.benchmarks.data_scale [rows rows]`. Claims: at most 12 times the time, and 1.3 times the memory.

The rows are independent of each other, but for one in twenty, which is similar to an earlier one.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import psutil

from tests.benchmarks.synthetic import write_csv
from tests.build import scratch_model, section

ARCHITECTURE = {"model_type": "gpt2", "vocabulary_size": 2048}
SIMILAR = 0.05


# each process of a stage imports this module again: it must not import what only the other stage needs
def prepared(folder: Path) -> None:
    from stages import prepare
    from stages.lib.params.prepare import Prepare

    raw = section(Prepare, train="rows.csv", validation=None, test=None).model_dump()
    raw["clean"]["whitespace"] = "collapse"
    raw["mask"] |= {"emails": True, "phones": True, "phone_region": "US", "cards": True}
    raw["duplicates"]["near"] = 0.8
    prepare.run(Prepare.model_validate(raw), None, folder, folder / "prepare")


def tokenized(folder: Path) -> None:
    from stages import tokenize
    from stages.lib.params.tokenize import Tokenize

    tokenize.run(
        section(Tokenize),
        scratch_model(ARCHITECTURE),
        workers=None,
        source=folder / "prepare",
        target=folder / "tokenize",
    )


def measured(stage: Callable[[Path], None], folder: Path) -> tuple[float, float, float]:
    """(seconds, peak memory in MiB, peak size of the folder in MiB) of a stage and its processes. Shared pages count
    once."""
    process = multiprocessing.get_context("spawn").Process(target=stage, args=(folder,))
    started = time.monotonic()
    process.start()
    done, peaks = Event(), [0.0, 0.0]
    watcher = Thread(target=watch, args=(psutil.Process(process.pid), folder, done, peaks))
    watcher.start()
    process.join()
    done.set()
    watcher.join()
    assert process.exitcode == 0
    return time.monotonic() - started, peaks[0], peaks[1]


def watch(process: psutil.Process, folder: Path, done: Event, peaks: list[float]) -> None:
    next_look = 0.0
    while not done.wait(0.1):
        with suppress(psutil.Error):  # the process has ended
            size = sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True)))
            peaks[0] = max(peaks[0], size / 2**20)
        if time.monotonic() > next_look:
            peaks[1] = max(peaks[1], disk_size(folder) / 2**20)
            next_look = time.monotonic() + 2


def disk_size(folder: Path) -> int:
    """Without the holes of files."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_blocks * 512
    return size


def main(few: int = 200_000, many: int = 2_000_000) -> None:
    found: dict[tuple[str, int], tuple[float, float, float]] = {}
    with tempfile.TemporaryDirectory(dir=".") as place:
        for count in (few, many):
            folder = Path(place) / str(count)
            write_csv(folder / "rows.csv", count, SIMILAR)
            for name, stage in (("prepare", prepared), ("tokenize", tokenized)):
                found[name, count] = measured(stage, folder)
    for name in ("prepare", "tokenize"):
        (seconds, size, _), (more_seconds, more_size, disk) = found[name, few], found[name, many]
        times = f"{seconds:.0f} -> {more_seconds:.0f} s, {more_seconds / seconds:.1f} times"
        sizes = f"{size:.0f} -> {more_size:.0f} MiB, {more_size / size:.2f} times"
        print(f"{name}, {few:,} -> {many:,} rows ({many / few:.0f} times): {times}; memory {sizes}")
        print(f"{name}: {disk * 2**20 / many:.0f} bytes of disk a row, input included")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
