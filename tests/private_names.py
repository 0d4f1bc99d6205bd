"""Names of libraries that a minor release can remove or rename, each with the reason why we use it.

test_third_party.py reports which of them an update has broken. Without it, training would fail, or continue without
the function: a hook that is no longer called raises no error.
"""

from collections.abc import Callable
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple


class Name(NamedTuple):
    path: str
    reason: str  # why no public name will do
    holder: Callable[[], object] | None = None  # makes the smallest object that has the name, if its class lacks it


@cache
def _trainer() -> Any:
    """A Trainer after one step."""
    from torch import Tensor, nn
    from transformers import Trainer, TrainingArguments

    class Halves(nn.Linear):
        def forward(self, input: Tensor) -> Any:  # noqa: A002
            return {"loss": super().forward(input).sum()}

    rows: Any = [{"input": [0.5]}]
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=1, use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True
        )
        trainer = Trainer(Halves(1, 1), arguments, train_dataset=rows)
        trainer.train()
    return trainer


def _arguments() -> object:
    from transformers import TrainingArguments

    return TrainingArguments(use_cpu=True)


def _compiled() -> object:
    import torch

    return torch.compile(torch.nn.Identity())  # nothing is compiled before the first call


PRIVATE = [
    # steps of training
    Name(
        "transformers.Trainer._get_num_items_in_batch", "Trainer counts labels; our updates are lists of micro-batches"
    ),
    Name(
        "transformers.Trainer._move_model_to_device",
        "place_model_on_device has no setter; a sharded network must not be moved",
    ),
    Name(
        "transformers.TrainingArguments._n_gpu", "n_gpu has no setter; a process uses one of several GPUs", _arguments
    ),
    # checkpoints of training
    Name(
        "transformers.Trainer._save_checkpoint", "on_save is too late to gather losses, and can't report a failed write"
    ),
    Name("transformers.Trainer._save", "weights keep the names of the network; save_model has a private parameter"),
    Name("transformers.Trainer._load_from_checkpoint", "Trainer's can't load full weights into a sharded network"),
    Name("transformers.Trainer._load_best_model", "Trainer's can't load full weights into a sharded network"),
    Name("transformers.Trainer._save_optimizer_and_scheduler", "each process saves its shard of the moments"),
    Name("transformers.Trainer._load_optimizer_and_scheduler", "each process reads its shard of the moments"),
    Name("transformers.Trainer._tr_loss", "TrainerState does not hold the loss since the last log", _trainer),
    Name(
        "transformers.Trainer._globalstep_last_logged", "TrainerState does not hold the step of the last log", _trainer
    ),
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
    Name(
        "transformers.Trainer.is_distributed_loading_by_transformers",
        "Trainer then puts no wrapper around a sharded network",
        _trainer,
    ),
    Name("transformers.Trainer.loss_is_scaled_for_ga", "our loss is already a mean over all targets"),
    Name("transformers.activations.GELUTanh", "one kernel in place of eight"),
    Name("transformers.activations.NewGELUActivation", "GELUTanh replaces it"),
    Name("transformers.integrations.integration_utils.DVCLiveCallback", "DVCLive needs settings that suit a stage"),
    Name("transformers.integrations.integration_utils.INTEGRATION_TO_CALLBACK", "the known trackers"),
    Name("transformers.integrations.neftune.neftune_post_forward_hook", "noise for every embedding table"),
    Name("transformers.integrations.sdpa_attention.sdpa_attention_forward", "computes each segment of attention"),
    Name("transformers.masking_utils.sdpa_mask", "the mask of padded examples"),
    Name(f"{_MODELS}.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", _TABLE),
    Name(f"{_MODELS}.MODEL_FOR_MASKED_LM_MAPPING_NAMES", _TABLE),
    Name(f"{_MODELS}.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", _TABLE),
    Name(f"{_MODELS}.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", _TABLE),
    Name("transformers.trainer.SCHEDULER_NAME", "name of a file in a checkpoint"),
    Name("transformers.trainer.TRAINER_STATE_NAME", "name of a file in a checkpoint"),
    Name("transformers.trainer_callback.ExportableState", "lets a callback keep state in checkpoints"),
    Name("transformers.training_args.ParallelMode", "whether several processes train"),
    Name("transformers.utils.SAFE_WEIGHTS_NAME", "name of a file in a checkpoint"),
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
