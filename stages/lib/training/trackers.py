"""Trackers that follow training while it runs: those of transformers, and live plots of DVC."""

import os
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, DVCLiveCallback

from stages.lib.core.params import suggestion
from stages.lib.core.process import UserError

REPORTS = Path("reports")  # in the checkout; git and DVC ignore it, and no stage reads it


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError for a tracker that does not exist or is not installed."""
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(REPORTS / "tensorboard"))
    place, lines = "params.yaml: machine -> report_to", []
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            lines.append(f"{place}: no tracker `{name}`{suggestion(name, INTEGRATION_TO_CALLBACK)}")
            continue
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError):
            lines.append(f"{place}: {name} is not installed here (pip install {name})")
    if lines:
        raise UserError(lines)


def tracker_callbacks(names: Sequence[str]) -> list[TrainerCallback]:
    """Trackers that transformers can't start with the right settings: the usual ones of DVCLive would edit dvc.yaml."""
    if "dvclive" not in names:
        return []
    from dvclive.live import Live  # takes two seconds to import

    live = Live(dir=str(REPORTS / "dvclive"), dvcyaml=None, save_dvc_exp=False, report="html")
    return [DVCLiveCallback(live=live)]
