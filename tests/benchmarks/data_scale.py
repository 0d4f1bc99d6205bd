"""Memory and time of prepare and tokenize at 200 thousand and at 2 million rows. Run: `python -m
tests.benchmarks.data_scale [rows rows]`. Claims: memory grows by less than 1.3 times, time linearly."""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import psutil

from tests.benchmarks.synthetic import write_csv
from tests.build import scratch_model, section

ARCHITECTURE = {"model_type": "gpt2", "vocabulary_size": 2048}


# each process of a stage imports this module again: it must not import what only the other stage needs
def prepared(folder: Path) -> None:
    from stages import prepare
    from stages.lib.params.prepare import Prepare

    raw = section(Prepare, train="rows.csv", validation=None, test=None)
    prepare.run(raw, None, folder, folder / "prepare")


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


def measured(stage: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """(seconds, peak memory in MiB) of a stage and its processes. Shared pages count once."""
    process = multiprocessing.get_context("spawn").Process(target=stage, args=(folder,))
    started = time.monotonic()
    process.start()
    done, peak = Event(), [0.0]
    watcher = Thread(target=watch, args=(psutil.Process(process.pid), done, peak))
    watcher.start()
    process.join()
    done.set()
    watcher.join()
    assert process.exitcode == 0
    return time.monotonic() - started, peak[0]


def watch(process: psutil.Process, done: Event, peak: list[float]) -> None:
    while not done.wait(0.1):
        size = 0
        try:
            for each in (process, *process.children(recursive=True)):
                size += each.memory_full_info().pss
        except psutil.Error:  # the process has ended
            continue
        peak[0] = max(peak[0], size / 2**20)


def main(few: int = 200_000, many: int = 2_000_000) -> None:
    found: dict[tuple[str, int], tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(dir=".") as place:
        for count in (few, many):
            folder = Path(place) / str(count)
            write_csv(folder / "rows.csv", count)
            for name, stage in (("prepare", prepared), ("tokenize", tokenized)):
                found[name, count] = measured(stage, folder)
    for name in ("prepare", "tokenize"):
        (seconds, size), (more_seconds, more_size) = found[name, few], found[name, many]
        print(
            f"{name}, {few:,} -> {many:,} rows: memory {size:.0f} -> {more_size:.0f} MiB, "
            f"ratio {more_size / size:.2f}; time ratio {more_seconds / seconds:.1f} for {many / few:.0f} times the rows"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
