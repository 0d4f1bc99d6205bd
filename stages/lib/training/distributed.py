"""Several processes that share every batch of training, on one machine or several, or the texts to predict. torchrun's
launcher starts them."""

import logging
import os
import sys

from stages.lib.core.process import UserError
from stages.lib.core.worker_pool import available_cores

_SAVING_SECONDS = 600  # after SIGTERM, until a process is killed
STARTED = "TEXTGEN_STARTED"  # environment variable of the processes that work together


def is_worker() -> bool:
    """Whether this process is one of several that were started to work together."""
    return STARTED in os.environ


def launch_distributed(
    module: str, setting: str, processes: int, nodes: int = 1, rendezvous: str | None = None
) -> bool:
    """Runs the stage in so many processes, and waits for them.

    With several nodes, a person starts the stage on each, in a folder that all nodes share.

    Args:
        setting: of section `machine`, which the number of processes comes from.
        rendezvous: where the nodes meet, host:port.

    Returns:
        False if this process has to do the work: it is the only one, or one of several.

    Raises:
        UserError: there are fewer GPUs.
        SystemExit: with the exit code of the first process that failed; it has printed the reason.
    """
    if is_worker() or processes * nodes == 1:
        return False

    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        raise UserError(f"params.yaml: machine -> {setting}: there are {gpus} GPUs, one for each")
    os.environ[STARTED] = module
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else every process warns about speed
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // processes)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # a process that fails prints the reason itself
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id="textgen",
        rdzv_backend="c10d",
        rdzv_endpoint=rendezvous or "localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
        shutdown_timeout=_SAVING_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module)
    except ChildFailedError as error:
        raise SystemExit(error.get_first_failure()[1].exitcode) from None
    except SignalException as error:  # the processes have got the signal too, and saved
        raise SystemExit(128 + error.sigval) from None
    return True
