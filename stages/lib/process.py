"""How a stage lives as a process: one line for a user's mistake, no orphans, an allocator that keeps its memory."""

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 << 20  # bytes: the most that glibc takes
_FIRST_TELLS = 30  # seconds: processes that share a fit mostly fail alike, and the first one's end is that of all


class UserError(Exception):
    """A mistake that its user can mend: each line names the place and says what to do."""

    def __init__(self, lines: str | Iterable[str]) -> None:
        # names of files and columns may hold line ends of their own
        self.lines = [" ".join(line.splitlines())[:2000] for line in ([lines] if isinstance(lines, str) else lines)]
        super().__init__("\n".join(self.lines))


def launch(main: Callable[[], None]) -> None:
    """Runs a stage's `main`; on UserError prints its lines to stderr and exits with code 2."""
    die_with_parent()
    keep_freed_memory()
    if not is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        main()
    except UserError as error:
        if not is_first():
            time.sleep(_FIRST_TELLS)
        for line in error.lines:
            print(line, file=sys.stderr)
        sys.exit(2)


def is_first() -> bool:
    """Of several processes that share a fit, whether this is the one that tells, and writes what the stage leaves."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's search for cycles is off: where lists are made by the million, and no cycles, it takes a third of the
    time. What is no longer referred to is freed all the same."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Yields what says whether SIGTERM has come: from a scheduler, or because DVC has died. Work may then be saved
    before it ends; a second one ends it at once."""
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)


def die_with_parent() -> None:
    """A killed `dvc repro` leaves its stage running, which the next one would race: ask Linux to end us with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def keep_freed_memory() -> None:
    """Tells glibc to reuse freed blocks: torch frees and asks again for the same tensors at every step, and giving
    them back to the kernel each time costs more than the arithmetic of a small model. Larger ones do go back: kept,
    blocks of many sizes would leave holes that fill the memory."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
            libc.mallopt(_M_TRIM_THRESHOLD, -1)
