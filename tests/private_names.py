"""Names of libraries that a minor release can remove or rename, each with the reason why we use it.

test_third_party.py reports which of them an update has broken. Without it, training would fail, or continue without
the function: a hook that is no longer called raises no error.
"""

from collections.abc import Callable
from typing import NamedTuple


class Name(NamedTuple):
    path: str
    reason: str  # why no public name will do
    holder: Callable[[], object] | None = None  # makes the smallest object that has the name, if its class lacks it


def _compiled() -> object:
    import torch

    return torch.compile(torch.nn.Identity())  # nothing is compiled before the first call


PRIVATE = [
    # networks
    Name("transformers.PreTrainedConfig._attn_implementation", "set_attn_implementation is public, its getter is not"),
    Name(
        "transformers.PreTrainedModel._keep_in_fp32_modules",
        "no public name lists the layers that must not be in 4 bits",
    ),
    Name(
        "torch._dynamo.eval_frame.OptimizedModule._orig_mod",
        "no public name gives the network that torch.compile wraps",
        _compiled,
    ),
    Name("torch.library.Library._destroy", "no public function removes a kernel at once"),
    # scores
    Name(
        "sacrebleu.metrics.base.Metric._extract_corpus_statistics",
        "counts of each text; the public functions give their sum alone",
    ),
    # tokenizers with languages: the mode decides how their backend encodes, and `text_target` returns ids alone
    Name("transformers.NllbTokenizer._switch_to_target_mode", "no public function makes the backend encode targets"),
    Name("transformers.NllbTokenizer._switch_to_input_mode", "no public function makes it encode sources again"),
]

_TABLE = "the classes that transformers has for a model_type"
_MODELS = "transformers.models.auto.modeling_auto"

UNDOCUMENTED = [
    Name("peft.tuners.tuners_utils.BaseTunerLayer", "finds the layers with adapters, to merge them in place"),
    Name("transformers.activations.GELUTanh", "one kernel in place of eight"),
    Name("transformers.activations.NewGELUActivation", "GELUTanh replaces it"),
    Name("accelerate.tracking.LOGGER_TYPE_TO_CLASS", "the known trackers"),
    Name("accelerate.tracking.get_available_trackers", "the installed trackers"),
    Name("transformers.integrations.liger.apply_liger_kernel", "the kernels of Liger, for one network"),
    Name("transformers.integrations.sdpa_attention.sdpa_attention_forward", "computes each segment of attention"),
    Name("transformers.masking_utils.sdpa_mask", "the mask of padded examples"),
    Name(f"{_MODELS}.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", _TABLE),
    Name(f"{_MODELS}.MODEL_FOR_MASKED_LM_MAPPING_NAMES", _TABLE),
    Name(f"{_MODELS}.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", _TABLE),
    Name(f"{_MODELS}.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", _TABLE),
    Name("torch.distributed.checkpoint.api.CheckpointException", "a failed write raises it"),
    Name("torch.distributed.checkpoint.state_dict_loader.load", "moments in shards"),
    Name("torch.distributed.checkpoint.state_dict_saver.save", "moments in shards"),
    Name("torch.distributed.elastic.multiprocessing.DefaultLogsSpecs", "passes on what processes print"),
    Name("torch.distributed.elastic.multiprocessing.SignalException", "a launcher that gets SIGTERM raises it"),
    Name(
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError", "holds the exit code of a failed process"
    ),
    Name("torch.distributed.launcher.api.LaunchConfig", "torchrun, without a command line"),
    Name("torch.distributed.launcher.api.elastic_launch", "torchrun, without a command line"),
]
