"""What a person sees of training while it runs: a bar, and the trackers that `machine.report_to` names."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from tqdm import tqdm

from stages.lib.core.params import suggestion
from stages.lib.core.process import UserError

REPORTS = Path("reports")  # in the checkout; git and DVC ignore it, and no stage reads it

# DVCLive would otherwise edit dvc.yaml and make an experiment
_OPTIONS = {"dvclive": {"dir": str(REPORTS / "dvclive"), "dvcyaml": None, "save_dvc_exp": False, "report": "html"}}


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError for a tracker that does not exist or is not installed."""
    place, lines = "params.yaml: machine -> report_to", []
    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            lines.append(f"{place}: no tracker `{name}`{suggestion(name, LOGGER_TYPE_TO_CLASS)}")
        elif name not in installed:
            lines.append(f"{place}: {name} is not installed here (pip install {name})")
    if lines:
        raise UserError(lines)


class Progress:
    """A bar with the newest losses and the tokens read per second. Only the main process shows and tracks.

    Args:
        accelerator: made with `log_with` for the trackers.
        steps: updates of the whole run, of which `done` were made before this start.
    """

    def __init__(self, accelerator: Accelerator, title: str, steps: int, done: int) -> None:
        self._accelerator = accelerator
        self._shown: dict[str, str] = {}
        self._begun, self._tokens = time.monotonic(), 0
        hidden = not accelerator.is_main_process
        self._bar = tqdm(total=steps, initial=done, desc=title, unit=" steps", disable=hidden)
        accelerator.init_trackers(title, init_kwargs=_OPTIONS)

    def advance(self, tokens: int) -> None:
        """After an update for which this process has read so many tokens."""
        self._tokens += tokens * self._accelerator.num_processes
        self._shown["tokens/s"] = f"{self._tokens / (time.monotonic() - self._begun):,.0f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

    def log(self, step: int, **values: float) -> None:
        """Newest values of the curve: train_loss, eval_loss, eval_score."""
        labels = {"train_loss": "train", "eval_loss": "validation", "eval_score": "score"}
        self._shown |= {labels[name]: f"{value:.3f}" for name, value in values.items()}
        metrics: dict[str, Any] = {name.replace("_", "/"): value for name, value in values.items()}
        self._accelerator.log(metrics, step=step)

    def close(self) -> None:
        self._bar.close()
        for tracker in self._accelerator.trackers:  # `end_training` would also disconnect the processes
            tracker.finish()
