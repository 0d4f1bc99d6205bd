"""The classes of models, one module each, and the choice among them for a configuration or a network."""

from transformers import PreTrainedConfig, PreTrainedModel

from stages.lib.checkpoint.architecture import ModelClass, model_class, saved_class
from stages.lib.models.families import bert2bert, causal, classifier, seq2seq
from stages.lib.models.families.interface import ModelInterface, unwrap
from stages.lib.params.model import Family

_INTERFACES: dict[ModelClass, ModelInterface] = {
    module.INTERFACE.name: module.INTERFACE for module in (causal, seq2seq, bert2bert, classifier)
}


def interface_for(config: PreTrainedConfig, family: Family | None, is_label_task: bool) -> ModelInterface:
    """For a new model of this configuration. Raises ValueError like `model_class`."""
    return _INTERFACES[model_class(config, family, is_label_task)]


def interface_of(network: PreTrainedModel) -> ModelInterface:
    """For a network that this project has made."""
    plain = unwrap(network)
    return _INTERFACES[saved_class(type(plain).__name__, plain.config)]


def interface_of_saved(config: PreTrainedConfig) -> ModelInterface:
    """For the configuration of a network that this project has saved."""
    return _INTERFACES[saved_class((config.architectures or [""])[0], config)]
