"""The steps of training: transformers' Trainer with our batches, and losses that are means over all target tokens."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.training_args import ParallelMode
from transformers.utils.logging import set_verbosity_error

from stages.lib.core.process import UserError, first_line
from stages.lib.models.devices import deterministic, own_device, uses_bfloat16
from stages.lib.models.families import interface_of
from stages.lib.models.families.causal import Causal
from stages.lib.models.families.interface import Batch, on_device
from stages.lib.models.losses import example_losses, losses_of, summed_loss
from stages.lib.params.machine import Machine
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.callbacks import best_steps, patience_is_over
from stages.lib.training.checkpoints import mark_complete, mean_weights, newest_complete
from stages.lib.training.micro_batches import BatchOf, Collator, UpdateBatch, example_count, split_evenly
from stages.lib.training.sampler import BatchSampler, UpdateLoader
from stages.lib.training.trainable import has_adapters, load_weights, without_adapters

Scorer = Callable[[PreTrainedModel], float]  # a network -> the score of the texts that it generates

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_CURVE_POINTS = 100
# tokens that could be computed while the kernels of one more micro-batch are started; an estimate for a GPU
_MICRO_BATCH_COST = {"cpu": 64, "cuda": 8192}
# a micro-batch of more tokens is no faster, and takes more memory
_MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": None}


class Diverged(UserError):
    """The loss is no longer a finite number."""


def training_arguments(
    settings: FitSettings, steps: int, folder: Path, machine: Machine, title: str
) -> TrainingArguments:
    never = steps + 1  # callbacks choose the steps of evaluation and saving, but Trainer requires a period
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULES[settings.schedule],
        warmup_steps=round(settings.warmup_fraction * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=uses_bfloat16(settings.precision),
        torch_compile=settings.compile,
        use_liger_kernel=settings.liger,
        liger_kernel_config={"fused_linear_cross_entropy": False},  # logits are computed at targets only
        use_cpu=not torch.cuda.is_available(),  # else bf16 is refused without a GPU
        activation_checkpointing=machine.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        seed=settings.seed,
        eval_strategy="steps",
        eval_steps=never,
        save_strategy="steps",
        save_steps=never,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss" if settings.metric_for_best_model == "loss" else "eval_score",
        greater_is_better=settings.metric_for_best_model != "loss",
        logging_steps=max(1, steps // _CURVE_POINTS),
        logging_nan_inf_filter=False,
        dataloader_num_workers=machine.loader_workers,
        disable_tqdm=True,
        report_to=[name for name in machine.report_to if name != "dvclive"],
        run_name=title,
    )
    if arguments.parallel_mode is ParallelMode.NOT_DISTRIBUTED:  # one process computes on one GPU
        arguments._n_gpu = 1
    return arguments


def autocast(settings: FitSettings) -> torch.autocast:
    """The precision of training, for passes that Trainer does not wrap: below adapters, and before training."""
    return torch.autocast(own_device().type, torch.bfloat16, uses_bfloat16(settings.precision))


def make_collator(network: PreTrainedModel, train: TokenizedDataset, settings: FitSettings) -> Collator:
    device, pad_id = own_device().type, int(network.config.pad_token_id)
    max_tokens = settings.micro_batch_tokens or _MICRO_BATCH_TOKENS[device]
    return Collator(_batch_of(network, train, settings), pad_id, _MICRO_BATCH_COST[device], max_tokens, train[0])


def _batch_of(network: PreTrainedModel, train: TokenizedDataset, settings: FitSettings) -> BatchOf:
    """Packed batches if the model supports them. Compiled models need padded ones, since torch.compile would compile
    for every length of a packed row. NEFTune needs them too: its noise depends on the length of a row."""
    interface, examples = interface_of(network), [train[0], train[len(train) - 1]]
    needs_rows = settings.compile or settings.neftune_alpha > 0
    with autocast(settings):
        if isinstance(interface, Causal) and not needs_rows and interface.supports_packing(network, examples):
            return interface.packed_batch
    return interface.training_batch


class TargetTrainer(Trainer):
    """Computes each update in micro-batches, and halves them when memory ends."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        network: PreTrainedModel,
        train: TokenizedDataset,
        validation: TokenizedDataset,
        settings: FitSettings,
        arguments: TrainingArguments,
        scorer: Scorer | None,
        title: str,
    ) -> None:
        super().__init__(network, arguments, train_dataset=train, eval_dataset=validation)
        self.remove_callback(PrinterCallback)
        self._interface = interface_of(network)
        self.network, self._train, self._validation, self._settings = network, train, validation, settings
        self._scorer, self.title = scorer, title
        decayed = set(self.get_decay_parameter_names(network))  # L1 applies where weight decay does
        self._decayed = [w for name, w in network.named_parameters() if name in decayed and w.requires_grad]
        rank, world_size = arguments.process_index, arguments.world_size
        self._order = BatchSampler(train.lengths(), settings, rank, world_size)
        # whether sums can differ from run to run; one of several processes could not compute an update again alone
        self._varies = arguments.world_size > 1
        self.halvings = 0  # how often micro-batches were halved; part of every checkpoint
        self.tokens = 0  # read by this process

    def run(self, patience: int | None) -> None:
        """Trains, from the newest complete checkpoint if there is one. Afterwards the network has its best weights.

        If the run was finished before, only these are loaded: Trainer would continue.
        """
        set_verbosity_error()  # transformers' warnings about checkpoints don't apply here
        with self.accelerator.main_process_first():
            checkpoint = newest_complete(Path(str(self.args.output_dir)))
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            if state.global_step >= self.args.max_steps or (patience is not None and patience_is_over(state, patience)):
                self.state = state
                best = checkpoint.with_name(f"checkpoint-{best_steps(state, 1)[0]}")
                load_weights(self.network, mean_weights([best]))
                return
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def points(self, name: str) -> list[tuple[int, float]]:
        """Update steps, and what was logged there under this name."""
        return [(int(entry["step"]), entry[name]) for entry in self.state.log_history if name in entry]

    def get_train_dataloader(self) -> UpdateLoader:
        collate = make_collator(self.network, self._train, self._settings)
        return UpdateLoader(self._train, self._order, collate, self.args.dataloader_num_workers)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        targets = torch.tensor(sum(update["targets"] for update in batch_samples), device=device)
        return self.accelerator.reduce(targets, "sum") if self.args.world_size > 1 else targets

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # Trainer's own estimate does not know our batches

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Computes the gradients of this process's share of an update. Returns its share of the mean loss."""
        model.train()
        micro_batches = [on_device(batch, self.network) for batch in inputs["micro_batches"]]
        update: UpdateBatch = inputs | {"micro_batches": micro_batches}
        self.tokens += update["tokens"]
        while True:
            micro_batches = self.micro_batches(update)
            try:
                with nullcontext() if self._varies else deterministic():
                    loss = self._accumulated(model, micro_batches, num_items_in_batch)
                break
            except torch.OutOfMemoryError:
                self._halve(model, micro_batches)
            except RuntimeError as error:
                self._let_vary(model, error)
        self._check_finite(loss)
        return loss

    def micro_batches(self, update: UpdateBatch) -> list[Batch]:
        """Those of the update, halved as often as memory has ended."""
        return [half for batch in update["micro_batches"] for half in split_evenly(batch, 2**self.halvings)]

    def _accumulated(self, model: nn.Module, micro_batches: list[Batch], targets: Tensor) -> Tensor:
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(micro_batches, start=1):
            is_last = number == len(micro_batches)
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                loss = summed_loss(self._interface, model, batch, self._settings.label_smoothing)
                # the gradients of several processes are averaged, so each share is scaled up
                loss = loss / targets * self.args.world_size
                if self._settings.l1 and is_last:
                    loss = loss + self._settings.l1 * self.l1_norm(self._decayed)
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def l1_norm(self, weights: list[nn.Parameter]) -> Tensor:
        return torch.stack([each.abs().sum() for each in weights]).sum()

    def _halve(self, model: nn.Module, micro_batches: list[Batch]) -> None:
        """When memory has ended: smaller micro-batches from now on; the gradients so far don't count."""
        largest = max(map(example_count, micro_batches))
        if largest == 1 or self.args.world_size > 1:  # the other processes wait for this one's gradients
            raise UserError(no_memory_line(self.title, f" at step {self.state.global_step + 1}"))
        self.halvings += 1
        model.zero_grad()
        torch.cuda.empty_cache()
        print(f"{self.title}: memory has ended; micro-batches now have at most {math.ceil(largest / 2)} examples")

    def _let_vary(self, model: nn.Module, error: RuntimeError) -> None:
        """When an operation has no deterministic implementation: the usual ones from now on."""
        if self._varies or "deterministic" not in str(error):
            raise error
        self._varies = True
        model.zero_grad()
        print(f"{self.title}: sums vary on this GPU; after a kill, the last digits may differ ({first_line(error)})")

    def _check_finite(self, loss: Tensor) -> None:
        """Raises Diverged, in every process, if the loss of this batch is not finite in one of them."""
        broken_here = (~torch.isfinite(loss)).float()
        if not (self.accelerator.reduce(broken_here, "sum") if self.args.world_size > 1 else broken_here).item():
            return
        batch = [self._train[index] for index in self._order.at(self.state.global_step)]
        broken = [each for each in batch if not torch.isfinite(losses_of(self.network, [each])[0]).all()]
        where = f"{self.title}: the training loss is no finite number at step {self.state.global_step + 1}"
        if 0 < len(broken) < len(batch):
            names = _some([each.id for each in broken])
            raise Diverged(f"{where}: of {len(batch)} examples in the batch, on {names} (ids as in data/prepare/train)")
        names = _some([each.id for each in batch])
        raise Diverged(
            f"{where}, on the whole batch of {names} (ids as in data/prepare/train): lower fit.learning_rate or "
            f"fit.max_grad_norm"
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = {"eval_loss": self._validation_loss()}
        if self._scorer is not None:
            metrics["eval_score"] = self._score()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluate_metric(self) -> float:
        """The value of the present weights that decides between checkpoints: the score, or else the loss."""
        return self._validation_loss() if self._scorer is None else self._score()

    def _score(self) -> float:
        assert self._scorer is not None
        with autocast(self._settings):
            return self._scorer(without_adapters(self.network))

    def _validation_loss(self) -> float:
        size, limit = self._settings.batch_size, self._settings.micro_batch_tokens
        rank, world_size = self.args.process_index, self.args.world_size
        losses = example_losses(self.network, self._validation, size, limit, rank, world_size)
        sums = torch.zeros(2, dtype=torch.float64)
        with autocast(self._settings):
            for _, loss, tokens in losses:
                sums += torch.tensor([loss, tokens], dtype=torch.float64)
        total_loss, total_tokens = self.accelerator.reduce(sums.to(self.args.device), "sum").tolist()
        if not math.isfinite(total_loss):
            raise Diverged(
                f"{self.title}: the validation loss is {total_loss} at step {self.state.global_step}; lower "
                f"fit.learning_rate or fit.max_grad_norm"
            )
        return float(total_loss / total_tokens)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights keep the names that the network has for them: with those of the hub, not all would be found."""
        if has_adapters(self.network):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            self.network.save_pretrained(output_dir or str(self.args.output_dir), save_original_format=False)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # the main process saves, for each process, the loss since the last point of the curve
        self.unlogged = self.accelerator.gather(self._tr_loss.reshape(1)).tolist()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each writes files of its own
            if self.is_world_process_zero():
                mark_complete(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{self.title}: the checkpoint of step {self.state.global_step} can't be written to "
                f"{self.args.output_dir} ({first_line(error)}); make room and run again: it continues from the last"
            ) from None


def no_memory_line(title: str, where: str = "") -> str:
    return (
        f"{title}: memory has ended{where}; lower fit.micro_batch_tokens, the lengths in tokenize or "
        f"machine.generation_batch_size, or set machine.gradient_checkpointing"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
