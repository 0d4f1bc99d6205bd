"""Section `train`: what the final training run has beside the settings of `fit`."""

from typing import Literal

from stages.lib.core.params import Section
from stages.lib.params.fit import Count, Fit, Positive


class Train(Section):
    epochs: Positive
    metric_for_best_model: Literal["loss", "bleu", "chrf", "exact_match", "token_f1", "accuracy"]
    generation_eval_examples: Count
    average_checkpoints: Count


class FitSettings(Fit, Train):
    """All settings of one training run."""
