"""Several processes that share every batch of a fit, started by torchrun or accelerate."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stages.lib.batches import cores
from stages.lib.params.fit import Fit
from stages.lib.process import UserError, die_with_parent

_SAVING_SECONDS = 600  # that processes get to save themselves in, after SIGTERM
_STARTED = "TEXTGEN_STARTED"  # in the environment of the processes that share a fit


def is_worker() -> bool:
    """Whether this process is one of several that were started for a fit."""
    return _STARTED in os.environ


def share(module: str, settings: Fit) -> bool:
    """Runs the stage once more, in the processes that `fit.processes` or `fit.accelerate` ask for, and waits for them.

    Returns:
        False where one process is enough, or this is one of them: the work is to be done here.

    Raises:
        UserError: there are fewer GPUs.
        SystemExit: with the exit code of the first process that failed; it has said why.
    """
    if is_worker() or (settings.processes == 1 and settings.accelerate is None):
        return False
    if torch.cuda.is_available() and settings.accelerate is None and settings.processes > torch.cuda.device_count():
        raise UserError(f"params.yaml: fit -> processes: there are {torch.cuda.device_count()} GPUs, one for each")
    os.environ[_STARTED] = module
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a warning on speed, from every process
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // settings.processes)))
    code = _torchrun(module, settings.processes) if settings.accelerate is None else _accelerate(module, settings)
    if code:
        raise SystemExit(code)
    return True


def _torchrun(module: str, processes: int) -> int:
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # of a failure, the process itself has told
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
        shutdown_timeout=_SAVING_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException as error:  # the processes have got it too, and saved themselves
        return 128 + error.sigval
    return 0


def _accelerate(module: str, settings: Fit) -> int:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "accelerate.json"  # its reader takes YAML's `no`, a precision, for false
        config.write_text(json.dumps(settings.accelerate))
        command = ["-m", "accelerate.commands.launch", "--config_file", str(config), "-m", module]
        with subprocess.Popen([sys.executable, *command], preexec_fn=die_with_parent) as process:
            signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
            code = process.wait()
        return code if code >= 0 else 128 - code
