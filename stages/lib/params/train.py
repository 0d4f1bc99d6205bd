"""Section `train`: what the final training run has beside the settings of `fit`."""

from typing import Literal

from stages.lib.core.params import Section
from stages.lib.core.process import UserError
from stages.lib.params.fit import Count, Fit, Positive
from stages.lib.params.machine import Machine


class Train(Section):
    epochs: Positive
    metric_for_best_model: Literal["loss", "bleu", "chrf", "exact_match", "token_f1", "accuracy"]
    generation_eval_examples: Count
    average_checkpoints: Count


class FitSettings(Fit, Train):
    """All settings of one training run."""


def check_sharding(settings: Fit, machine: Machine) -> None:
    """Raises UserError for what the sections allow by themselves but not together."""
    if machine.sharded and settings.adapters is not None and settings.adapters.quantize:
        raise UserError(
            "params.yaml: machine -> sharded: quantized weights can't be sharded; set fit -> adapters -> quantize: "
            "false, or write false"
        )
