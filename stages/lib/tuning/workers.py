"""Several processes of this machine that run trials at once, each with its share of the cores or with its own GPU."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import torch

from stages.lib.core.process import termination
from stages.lib.core.worker_pool import available_cores
from stages.lib.training.distributed import STARTED

_LOOK_SECONDS = 0.2


def run_workers(module: str, count: int, fail: Callable[[int, str], bool]) -> None:
    """Runs so many processes of a stage, and waits until they have nothing left to do.

    Args:
        fail: notes the trial of a process (its number, and why it ended) as failed; returns whether it had one. Another
            process then takes its place.

    Raises:
        SystemExit: with the code of a process that failed; it has printed the reason. Or SIGTERM has come, and the
            processes have saved their state.
    """
    with termination() as asked_to_stop:
        running = {place: _started(module, place, count) for place in range(count)}
        while running:
            time.sleep(_LOOK_SECONDS)
            if asked_to_stop():
                _stop(running.values())
                raise SystemExit(128 + signal.SIGTERM)
            for place, process in list(running.items()):
                code = process.poll()
                if code == 0:
                    del running[place]
                elif code is not None and code < 0 and fail(process.pid, f"signal {-code} has ended its process"):
                    running[place] = _started(module, place, count)
                elif code is not None:
                    _stop(running.values())
                    raise SystemExit(code if code > 0 else 128 - code)


def _started(module: str, place: int, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", module], env=share_of_machine(place, count) | {STARTED: module})


def share_of_machine(place: int, count: int) -> dict[str, str]:
    """The environment of one of `count` processes at once, numbered by `place` from 0: its cores or its GPU, and no
    progress bars."""
    share = {"OMP_NUM_THREADS": str(max(1, available_cores() // count)), "TQDM_DISABLE": "1"}
    if torch.cuda.is_available():
        every = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        own = every.split(",")
        share["CUDA_VISIBLE_DEVICES"] = own[place % len(own)]
    return os.environ | share


def _stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """They save their state first."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
