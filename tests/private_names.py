"""Names of libraries that a minor release may remove or rename, each with what we need it for.

test_third_party.py says which one an update has broken, before a fit does, or goes on without it: a hook that is no
longer called fails nowhere.
"""

from collections.abc import Callable
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple


class Name(NamedTuple):
    path: str
    reason: str  # why no public name serves
    holder: Callable[[], object] | None = None  # makes the smallest object that has it, where its class itself has not


@cache
def _trainer() -> Any:
    """Which has trained for one step."""
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

    return torch.compile(torch.nn.Identity())  # which compiles nothing before it is called


PRIVATE = [
    # of what a fit does
    Name("transformers.Trainer._get_num_items_in_batch", "Trainer counts labels; our batches come as lists of parts"),
    Name("transformers.Trainer._move_model_to_device", "place_model_on_device has no setter; a sharded network stays"),
    Name("transformers.TrainingArguments._n_gpu", "n_gpu can't be set; of several GPUs we take one", _arguments),
    # of its checkpoints
    Name("transformers.Trainer._save_checkpoint", "on_save comes too late to gather losses, and sees no failed write"),
    Name("transformers.Trainer._save", "names the weights as the network does; save_model has a private parameter"),
    Name("transformers.Trainer._load_from_checkpoint", "Trainer's can't put whole weights into a sharded network"),
    Name("transformers.Trainer._load_best_model", "Trainer's can't put whole weights into a sharded network"),
    Name("transformers.Trainer._save_optimizer_and_scheduler", "of a sharded fit, the moments are saved in parts"),
    Name("transformers.Trainer._load_optimizer_and_scheduler", "of a sharded fit, the moments are read in parts"),
    Name("transformers.Trainer._tr_loss", "TrainerState lacks the loss since the last log", _trainer),
    Name("transformers.Trainer._globalstep_last_logged", "TrainerState lacks the step of the last log", _trainer),
    # of networks
    Name("transformers.PreTrainedConfig._attn_implementation", "set_attn_implementation is public, reading it is not"),
    Name("transformers.PreTrainedModel._keep_in_fp32_modules", "nothing public says what must not be in 4 bits"),
    Name(
        "torch._dynamo.eval_frame.OptimizedModule._orig_mod", "what torch.compile wraps has no public name", _compiled
    ),
    Name("torch.library.Library._destroy", "nothing public takes a kernel back at once"),
    # of tokenizers with languages: their backend is as the mode says, and `text_target` gives ids alone
    Name("transformers.NllbTokenizer._switch_to_target_mode", "nothing public has the backend encode targets"),
    Name("transformers.NllbTokenizer._switch_to_input_mode", "nothing public has it encode sources again"),
]

_TABLE = "a network's kind by the name of its architecture, with no network built"
_MODELS = "transformers.models.auto.modeling_auto"

UNDOCUMENTED = [
    Name("transformers.Trainer.is_distributed_loading_by_transformers", "keeps wrappers off sharded weights", _trainer),
    Name("transformers.Trainer.loss_is_scaled_for_ga", "the loss is a mean over all targets as it is"),
    Name("transformers.activations.GELUTanh", "one kernel in place of eight"),
    Name("transformers.activations.NewGELUActivation", "what it takes the place of"),
    Name("transformers.integrations.integration_utils.DVCLiveCallback", "has to be told where to draw"),
    Name("transformers.integrations.integration_utils.INTEGRATION_TO_CALLBACK", "the trackers that there are"),
    Name("transformers.integrations.neftune.neftune_post_forward_hook", "noise, for every table of embeddings"),
    Name("transformers.integrations.sdpa_attention.sdpa_attention_forward", "computes each table of pairs"),
    Name("transformers.masking_utils.sdpa_mask", "the mask of what is not flat"),
    Name(f"{_MODELS}.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", _TABLE),
    Name(f"{_MODELS}.MODEL_FOR_MASKED_LM_MAPPING_NAMES", _TABLE),
    Name(f"{_MODELS}.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", _TABLE),
    Name(f"{_MODELS}.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", _TABLE),
    Name("transformers.trainer.SCHEDULER_NAME", "the name of a checkpoint's file"),
    Name("transformers.trainer.TRAINER_STATE_NAME", "the name of a checkpoint's file"),
    Name("transformers.trainer_callback.ExportableState", "lets a callback keep state in checkpoints"),
    Name("transformers.training_args.ParallelMode", "tells one process from several"),
    Name("transformers.utils.SAFE_WEIGHTS_NAME", "the name of a checkpoint's file"),
    Name("torch.distributed.checkpoint.api.CheckpointException", "what a failed write raises"),
    Name("torch.distributed.checkpoint.state_dict_loader.load", "moments in parts"),
    Name("torch.distributed.checkpoint.state_dict_saver.save", "moments in parts"),
    Name("torch.distributed.elastic.multiprocessing.DefaultLogsSpecs", "what processes write comes through"),
    Name("torch.distributed.elastic.multiprocessing.SignalException", "a launcher that is told to stop raises it"),
    Name("torch.distributed.elastic.multiprocessing.errors.ChildFailedError", "a process has failed; its exit code"),
    Name("torch.distributed.launcher.api.LaunchConfig", "torchrun, without a command line"),
    Name("torch.distributed.launcher.api.elastic_launch", "torchrun, without a command line"),
]
