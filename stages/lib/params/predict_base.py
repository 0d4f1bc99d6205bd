"""Section `predict_base`: the predictions of the model before training."""

from stages.lib.core.params import Section


class PredictBase(Section):
    enabled: bool
