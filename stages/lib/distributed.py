"""Several processes that share every batch of a fit, on one machine or several, started by torchrun's launcher."""

import logging
import os
import sys

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stages.lib.batches import cores
from stages.lib.params.fit import Fit
from stages.lib.process import UserError

_SAVING_SECONDS = 600  # that processes get to save themselves in, after SIGTERM
_STARTED = "TEXTGEN_STARTED"  # in the environment of the processes that share a fit


def is_worker() -> bool:
    """Whether this process is one of several that were started for a fit."""
    return _STARTED in os.environ


def share(module: str, settings: Fit) -> bool:
    """Runs the stage once more, in the processes that `fit.processes` asks for, and waits for them. Where `fit.nodes`
    asks for several machines, the stage is started on each, in a folder that all see, and they meet at
    `fit.rendezvous`.

    Returns:
        False where one process is enough, or this is one of them: the work is to be done here.

    Raises:
        UserError: there are fewer GPUs.
        SystemExit: with the exit code of the first process that failed; it has said why.
    """
    if is_worker() or settings.processes * settings.nodes == 1:
        return False
    if torch.cuda.is_available() and settings.processes > torch.cuda.device_count():
        raise UserError(f"params.yaml: fit -> processes: there are {torch.cuda.device_count()} GPUs, one for each")
    os.environ[_STARTED] = module
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a warning on speed, from every process
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // settings.processes)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # of a failure, the process itself has told
    config = LaunchConfig(
        min_nodes=settings.nodes,
        max_nodes=settings.nodes,
        nproc_per_node=settings.processes,
        run_id="fit",
        rdzv_backend="c10d",
        rdzv_endpoint=settings.rendezvous or "localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
        shutdown_timeout=_SAVING_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except ChildFailedError as error:
        raise SystemExit(error.get_first_failure()[1].exitcode) from None
    except SignalException as error:  # the processes have got it too, and saved themselves
        raise SystemExit(128 + error.sigval) from None
    return True
