"""A stage as a process: a user's mistake is printed in one line, the stage ends with its parent, memory is reused."""

import ctypes
import errno
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from stages.lib.core.finished import settle

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# seconds; the processes of a fit usually fail together, and the first that exits ends the others. So the
# main one gets this long to print
_MAIN_PROCESS_LEAD = 30
# libraries put it into errors of their own, without its number
_FULL = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)]


class UserError(Exception):
    """A mistake that the user can correct. Each line names the place and says what to do."""

    def __init__(self, lines: str | Iterable[str]) -> None:
        # names of files and columns may contain line ends
        self.lines = [" ".join(line.splitlines())[:2000] for line in ([lines] if isinstance(lines, str) else lines)]
        super().__init__("\n".join(self.lines))


def launch(main: Callable[[], None]) -> None:
    """Runs a stage's `main`. On UserError or a full disk, prints the lines to stderr and exits with code 2."""
    die_with_parent()
    keep_freed_memory()
    gc.enable()  # stages/__init__.py has switched it off
    if not is_main_process():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        if lines := settle():
            raise UserError(lines)
        main()
    except Exception as error:
        lines = _told(error)
        if not lines:
            raise
        if not is_main_process():
            time.sleep(_MAIN_PROCESS_LEAD)
        for line in lines:
            print(line, file=sys.stderr)
        sys.exit(2)


def _told(error: Exception) -> list[str]:
    """What the user can do about it. Nothing about a mistake of the code."""
    if isinstance(error, UserError):
        return error.lines
    if any(reason in str(error) for reason in _FULL):
        return [f"{first_line(error)}: make room and run again"]
    return []


def die_with_parent() -> None:
    """Linux sends this process SIGTERM when its parent ends. A killed `dvc repro` would otherwise leave its stage
    running, next to the stage of the next run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def keep_freed_memory() -> None:
    """Makes glibc reuse freed blocks. torch frees and allocates the same tensors at every step; returning them to the
    kernel each time costs more than the arithmetic of a small model."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, -1)


def is_main_process() -> bool:
    """Whether this process prints and writes the results. Of a distributed fit, only rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def first_line(error: Exception) -> str:
    """The error message of a library, without the details that follow."""
    return str(error).strip().partition("\n")[0]


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Turns off Python's search for reference cycles. Where millions of lists are made, and no cycles, the search takes
    a third of the time. Objects without references are still freed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether SIGTERM has arrived: from a scheduler, or because DVC has died. The block
    can then save its work. A second SIGTERM ends the process at once."""
    received = False

    def note(number: int, frame: object) -> None:
        nonlocal received
        received = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: received
    finally:
        signal.signal(signal.SIGTERM, before)
