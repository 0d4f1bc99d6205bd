"""Section `train`: what the final training run has beside the settings of `fit`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from stages.lib.core.params import Section
from stages.lib.core.process import UserError
from stages.lib.params.fit import Count, Fit, Positive
from stages.lib.params.machine import Machine

Metric = Literal["loss", "bleu", "chrf", "exact_match", "token_f1", "accuracy"]  # on validation


class Train(Section):
    epochs: Positive
    max_minutes: Positive | None
    metric_for_best_model: Metric
    generation_eval_examples: Count
    average_checkpoints: Count
    teacher: Annotated[str, Field(min_length=1)] | None
    teacher_revision: str
    teacher_folder: str
    teacher_share: Annotated[float, Field(gt=0, le=1)]
    teacher_temperature: Positive


# of a training run that nobody teaches; what the last four say is then not read
NO_TEACHER: dict[str, Any] = {
    "teacher": None,
    "teacher_revision": "",
    "teacher_folder": "",
    "teacher_share": 1.0,
    "teacher_temperature": 1.0,
}


class FitSettings(Fit, Train):
    """All settings of one training run."""


def check_together(settings: Fit, machine: Machine) -> None:
    """Raises UserError for what the sections allow by themselves but not together."""
    lines = []
    if machine.sharded and settings.adapters is not None and settings.adapters.quantize:
        lines.append("quantized weights can't be sharded; set fit -> adapters -> quantize: false, or write false")
    if machine.sharded and settings.optimizer != "adamw":
        lines.append(f"{settings.optimizer} can't update sharded weights; set fit -> optimizer: adamw, or write false")
    if lines:
        raise UserError(f"params.yaml: machine -> sharded: {line}" for line in lines)
