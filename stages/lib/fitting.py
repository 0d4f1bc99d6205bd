"""One fit: a model, its pairs and settings in; the model with the best validation and its curve out.

transformers' Trainer does the work; what is ours is the batches, the loss, when it is validated and what is saved.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.training_args import ParallelMode
from transformers.utils.logging import set_verbosity_error

from stages.lib.checkpoints import mark_complete, mean_weights, newest_complete
from stages.lib.devices import bfloat16_wanted, move_to_own_device, own_device, peak_memory, repeatable
from stages.lib.families import family_of
from stages.lib.families.causal import Causal
from stages.lib.families.family import Batch, Family, on_device
from stages.lib.kernels import check_compiler, check_liger, fuse, quick_chance, use_attention
from stages.lib.loading import BatchOf, BatchSampler, Collator, Load, Loader, batches_an_epoch, divided, pairs_in
from stages.lib.losses import agreeing_loss, losses_of, pair_losses, summed_loss
from stages.lib.models import check_reads_source, check_room
from stages.lib.noise import noisy_embeddings
from stages.lib.pairs import Pairs
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.process import UserError, termination
from stages.lib.reports import check_reports, reporters
from stages.lib.sharding import Sharded, shard, whole
from stages.lib.trainable import Thaw, inner, take
from stages.lib.vocabulary import first_line
from stages.lib.watching import Checkpoints, Patience, Progress, Validations, best_steps, is_exhausted

Judge = Callable[[PreTrainedModel], float]  # gives a score of what a network writes

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_CURVE_POINTS = 100
# tokens that could be computed while the kernels of one more part are started; of a GPU an estimate
_PART_COST = {"cpu": 64, "cuda": 8192}
# tokens beyond which a part of a batch is no faster, and only takes more memory
_PART_TOKENS = {"cpu": 2048, "cuda": None}


class Diverged(UserError):
    """The loss of a fit is no longer a finite number."""


@dataclass(frozen=True)
class Curve:
    """By update step: losses in nats a target token (of training as optimised, label smoothing included), and the
    scores of validation where `fit.choose_by` names one."""

    training: list[tuple[int, float]]
    validation: list[tuple[int, float]]
    scores: list[tuple[int, float]]
    averaged: tuple[int, float] | None  # so many validations whose mean was better than the best, and its loss or score

    def best(self) -> tuple[int, float]:
        """Step of the best validation, and its loss, or its score where scores decide."""
        if self.scores:
            return max(self.scores, key=lambda point: point[1])
        return min(self.validation, key=lambda point: point[1])


def fit(
    network: PreTrainedModel,
    train: Pairs,
    validation: Pairs,
    settings: Fit,
    machine: Machine,
    folder: Path,
    title: str,
    judge: Judge | None = None,
) -> Curve:
    """Trains `network` in place and leaves it with the weights of its best validation, or the mean of several.

    Args:
        judge: scores the network in place of the loss, as `fit.choose_by` asks.
        folder: for checkpoints; one that a killed run of the same work left is gone on from.
        title: of the progress bar.

    Raises:
        UserError: a pair is longer than the model's context, what it predicts does not depend on the source, or a
            checkpoint can't be written.
        Diverged: the loss is no longer a finite number.
        SystemExit: SIGTERM has come; the state is saved.
    """
    with _end_of_memory_told(title), termination() as asked_to_stop:
        _place(network, settings)
        _check(network, train, validation, settings, machine)
        fuse(network)
        use_attention(network, settings)
        arguments = _arguments(settings, update_steps(train, settings), folder, machine, title)
        kind = _ShardedTrainer if settings.sharded else _TargetTrainer
        trainer = kind(network, train, validation, settings, arguments, judge, title)
        set_verbosity_error()  # transformers' remarks on checkpoints mean nothing here
        with trainer.accelerator.main_process_first():
            checkpoint = newest_complete(folder)
        for callback in _callbacks(trainer, settings, machine, asked_to_stop):
            trainer.add_callback(callback)
        with noisy_embeddings(network, settings.neftune_alpha), quick_chance():
            _train(trainer, checkpoint, settings.early_stopping_patience)
        if asked_to_stop():
            print(f"{title}: stopped at step {trainer.state.global_step:,}, which is saved; run it again to go on")
            raise SystemExit(128 + 15)
        averaged = _averaged(trainer, folder, settings.average_best)

    def points(name: str) -> list[tuple[int, float]]:
        return [(int(entry["step"]), entry[name]) for entry in trainer.state.log_history if name in entry]

    return Curve(points("loss"), points("eval_loss"), points("eval_score"), averaged)


def _place(network: PreTrainedModel, settings: Fit) -> None:
    """On the device of this process, or its part of it."""
    if settings.sharded:
        shard(network)
    else:
        move_to_own_device(network)


def _check(network: PreTrainedModel, train: Pairs, validation: Pairs, settings: Fit, machine: Machine) -> None:
    """Raises UserError for what would fail later, or teach nothing."""
    for pairs in (train, validation):
        check_room(family_of(network), network.config, pairs)
    with _precision(settings):  # without it FlashAttention computes nothing
        check_reads_source(network, train)
    if machine.gradient_checkpointing and not network.supports_gradient_checkpointing:
        raise UserError(f"params.yaml: machine -> gradient_checkpointing: {type(network).__name__} can't; write false")
    if settings.liger:
        check_liger(network)
    if settings.compile:
        check_compiler()
    if settings.freeze.thaw_epochs and settings.processes * settings.nodes > 1:
        raise UserError("fit -> freeze -> thaw_epochs: only with one process, since all must know what learns")
    check_reports(machine.report_to)


def _callbacks(
    trainer: "_TargetTrainer", settings: Fit, machine: Machine, asked_to_stop: Callable[[], bool]
) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [
        Validations(trainer.args.max_steps, settings.validations),
        Checkpoints(trainer, machine.checkpoint_seconds, settings.average_best, asked_to_stop),
        Progress(trainer, trainer.title),
    ]
    if settings.early_stopping_patience is not None:
        callbacks.append(Patience(settings.early_stopping_patience))
    if settings.freeze.thaw_epochs:
        callbacks.append(Thaw(trainer.network, settings.freeze.thaw_epochs))
    return [*callbacks, *reporters(machine.report_to)]


def _train(trainer: "_TargetTrainer", checkpoint: Path | None, patience: int | None) -> None:
    """From the start, or on from a checkpoint; one that was the last is opened alone, since Trainer would go on."""
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step >= trainer.args.max_steps or (patience is not None and is_exhausted(state, patience)):
            trainer.state = state
            take(trainer.network, mean_weights([checkpoint.with_name(f"checkpoint-{best_steps(state, 1)[0]}")]))
            return
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _collator(network: PreTrainedModel, train: Pairs, settings: Fit) -> Collator:
    batch_of, pad_id, device = _batch_of(network, train, settings), int(network.config.pad_token_id), own_device().type
    return Collator(batch_of, pad_id, _PART_COST[device], settings.micro_batch_tokens or _PART_TOKENS[device], train[0])


def _batch_of(network: PreTrainedModel, train: Pairs, settings: Fit) -> BatchOf:
    """Without pads where the model can; torch.compile would begin anew with every length of a row, and NEFTune's noise
    is by that length."""
    family, some = family_of(network), [train[0], train[len(train) - 1]]
    goes_by_rows = settings.compile or settings.neftune_alpha > 0
    with _precision(settings):
        if isinstance(family, Causal) and not goes_by_rows and family.lies_flat(network, some):
            return family.flat_batch
    return family.training_batch


def _precision(settings: Fit) -> torch.autocast:
    """As in training, also where Trainer has not wrapped the network: below adapters, or before it trains."""
    return torch.autocast(own_device().type, torch.bfloat16, bfloat16_wanted(settings.precision))


def estimate(
    network: PreTrainedModel, train: Pairs, validation: Pairs, settings: Fit, machine: Machine
) -> tuple[float, int]:
    """Seconds that a fit takes, and bytes of memory at its peak in each process: by computing a process's share of its
    longest batch once, then of a usual one with a watch.

    Raises:
        torch.OutOfMemoryError: the longest batch does not fit as a whole.
        UserError: not even the weights do.
    """
    family, device, processes = family_of(network), own_device(), settings.processes * settings.nodes
    _place(network, settings)
    fuse(network)
    use_attention(network, settings)
    collator, lengths = _collator(network, train, settings), train.lengths()
    network.train()
    if machine.gradient_checkpointing and network.supports_gradient_checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    order = BatchSampler(lengths, settings)
    batches = sorted(order.batches(0), key=lambda batch: int(lengths[batch].sum()))
    with _precision(settings), quick_chance():
        for batch in (batches[-1], batches[len(batches) // 2]):
            begun = _now(device)
            for part in collator([train[index] for index in batch[::processes]])["parts"]:
                _loss(family, network, on_device(part, network), settings).backward()
            network.zero_grad()
    seconds = (_now(device) - begun) * update_steps(train, settings)
    # without gradients a pass takes a third
    seconds += seconds / settings.epochs / 3 * settings.validations * int(validation.lengths().sum()) / lengths.sum()
    # Adam's two of each weight that learns
    moments = 8 * sum(weights.numel() for weights in network.parameters() if weights.requires_grad)
    return seconds, peak_memory() + moments // (processes if settings.sharded else 1)


def _loss(family: Family, network: nn.Module, part: Batch, settings: Fit) -> Tensor:
    """Summed over the targets of a part, as it is optimised but for L1."""
    if settings.r_drop:
        return agreeing_loss(family, network, part, settings.label_smoothing, settings.r_drop)
    return summed_loss(family, network, part, settings.label_smoothing)


def _now(device: torch.device) -> float:
    """Seconds; on a GPU, when what it was told before is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def _averaged(trainer: "_TargetTrainer", folder: Path, most: int) -> tuple[int, float] | None:
    """Gives the network the mean weights of its best validations (Vaswani et al. 2017, section 6.1), where that is
    better than the best of them alone."""
    best = best_steps(trainer.state, most)
    if len(best) < 2:
        return None
    take(trainer.network, mean_weights([folder / f"checkpoint-{step}" for step in best]))
    sign = 1 if trainer.args.greater_is_better else -1
    together = trainer.validation()
    if sign * together > sign * float(trainer.state.best_metric or 0.0):
        return len(best), together
    take(trainer.network, mean_weights([folder / f"checkpoint-{best[0]}"]))
    return None


def update_steps(train: Pairs, settings: Fit) -> int:
    return max(1, math.ceil(batches_an_epoch(train.lengths(), settings) * settings.epochs))


def _arguments(settings: Fit, steps: int, folder: Path, machine: Machine, title: str) -> TrainingArguments:
    never = steps + 1  # `Validations` and `Checkpoints` choose the steps; Trainer wants a period all the same
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULES[settings.schedule],
        warmup_steps=round(settings.warmup_fraction * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=bfloat16_wanted(settings.precision),
        torch_compile=settings.compile,
        use_liger_kernel=settings.liger,
        liger_kernel_config={"fused_linear_cross_entropy": False},  # our logits are those of targets alone
        use_cpu=not torch.cuda.is_available(),  # else bf16 is refused where there is no GPU
        activation_checkpointing=machine.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        seed=settings.seed,
        eval_strategy="steps",
        eval_steps=never,
        save_strategy="steps",
        save_steps=never,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss" if settings.choose_by == "loss" else "eval_score",
        greater_is_better=settings.choose_by != "loss",
        logging_steps=max(1, steps // _CURVE_POINTS),
        logging_nan_inf_filter=False,
        dataloader_num_workers=machine.loader_workers,
        disable_tqdm=True,
        report_to=[name for name in machine.report_to if name != "dvclive"],
        run_name=title,
    )
    if arguments.parallel_mode is ParallelMode.NOT_DISTRIBUTED:  # several GPUs need several processes
        arguments._n_gpu = 1
    return arguments


class _TargetTrainer(Trainer):
    """Trainer with our batches, and losses that are means over all target tokens, not means of batch means."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        network: PreTrainedModel,
        train: Pairs,
        validation: Pairs,
        settings: Fit,
        arguments: TrainingArguments,
        judge: Judge | None,
        title: str,
    ) -> None:
        super().__init__(network, arguments, train_dataset=train, eval_dataset=validation)
        self.remove_callback(PrinterCallback)
        self._family = family_of(network)
        self.network, self._train, self._validation, self._settings = network, train, validation, settings
        self._judge, self.title = judge, title
        decayed = set(self.get_decay_parameter_names(network))  # what weight decay reaches, L1 does
        self._decayed = [w for name, w in network.named_parameters() if name in decayed and w.requires_grad]
        rank, world = arguments.process_index, arguments.world_size
        self._order = BatchSampler(train.lengths(), settings, rank, world)
        # whether the same sums may come out otherwise; of several processes, none could try again alone
        self._varies = arguments.world_size > 1
        self.halvings = 0  # of every part, since memory ended; a checkpoint holds it
        self.tokens = 0  # read by this process

    def get_train_dataloader(self) -> Loader:
        collator = _collator(self.network, self._train, self._settings)
        return Loader(self._train, self._order, collator, self.args.dataloader_num_workers)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        targets = torch.tensor(sum(load["targets"] for load in batch_samples), device=device)
        return self.accelerator.reduce(targets, "sum") if self.args.world_size > 1 else targets

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # Trainer's estimate reads one batch of the form it knows

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Gradients of all parts of this process's share of a batch, and its share of the mean loss."""
        model.train()
        load: Load = inputs | {"parts": [on_device(part, self.network) for part in inputs["parts"]]}
        self.tokens += load["tokens"]
        while True:
            parts = self.parts_of(load)
            try:
                with nullcontext() if self._varies else repeatable():
                    loss = self._accumulated(model, parts, num_items_in_batch)
                break
            except torch.OutOfMemoryError:
                self._halve(model, parts)
            except RuntimeError as error:
                self._let_vary(model, error)
        self._check_finite(loss)
        return loss

    def parts_of(self, load: Load) -> list[Batch]:
        """What is computed one after the other."""
        return [half for part in load["parts"] for half in divided(part, 2**self.halvings)]

    def _accumulated(self, model: nn.Module, parts: list[Batch], targets: Tensor) -> Tensor:
        total = torch.zeros((), device=self.args.device)
        for place, part in enumerate(parts):
            is_last = place == len(parts) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                loss = _loss(self._family, model, part, self._settings)
                # the gradients of several processes are averaged, so each one's share is scaled up
                loss = loss / targets * self.args.world_size
                if self._settings.l1 and is_last:
                    sizes = torch.stack([weights.abs().sum() for weights in self._decayed])
                    loss = loss + self._settings.l1 * whole(sizes.sum())
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _halve(self, model: nn.Module, parts: list[Batch]) -> None:
        """After memory has ended: smaller parts from now on, and none of the gradients so far."""
        largest = max(map(pairs_in, parts))
        if largest == 1 or self.args.world_size > 1:  # the other processes wait for this one's gradients
            raise UserError(_no_memory(self.title, f" at step {self.state.global_step + 1}"))
        self.halvings += 1
        model.zero_grad()
        torch.cuda.empty_cache()
        print(
            f"{self.title}: memory has ended; batches are computed in parts of at most {math.ceil(largest / 2)} pairs"
        )

    def _let_vary(self, model: nn.Module, error: RuntimeError) -> None:
        """After something that has no repeatable way to be computed: by the usual one from now on."""
        if self._varies or "deterministic" not in str(error):
            raise error
        self._varies = True
        model.zero_grad()
        print(f"{self.title}: sums vary on this GPU; after a kill, the last digits may be others ({first_line(error)})")

    def _check_finite(self, loss: Tensor) -> None:
        """Raises Diverged, in every process, where the loss of the batch at hand is no number in one of them."""
        broken_here = (~torch.isfinite(loss)).float()
        if not (self.accelerator.reduce(broken_here, "sum") if self.args.world_size > 1 else broken_here).item():
            return
        batch = self._order.at(self.state.global_step)
        to_blame = [self._train[index] for index in batch]
        broken = [pair for pair in to_blame if not torch.isfinite(losses_of(self.network, [pair])[0]).all()]
        where = f"{self.title}: the training loss is no finite number at step {self.state.global_step + 1}"
        if 0 < len(broken) < len(to_blame):
            names = _some([pair.id for pair in broken])
            raise Diverged(f"{where}: of {len(batch)} pairs in the batch, on {names} (ids as in data/prepare/train)")
        names = _some([pair.id for pair in to_blame])
        raise Diverged(
            f"{where}, on the whole batch of {names} (ids as in data/prepare/train): lower fit.learning_rate or "
            f"fit.max_grad_norm"
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = {"eval_loss": self._validation_loss()}
        if self._judge is not None:
            metrics["eval_score"] = self._score()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validation(self) -> float:
        """The score of the network as it is, or its loss where no score is asked for."""
        return self._validation_loss() if self._judge is None else self._score()

    def _score(self) -> float:
        assert self._judge is not None
        with _precision(self._settings):
            return self._judge(inner(self.network))

    def _validation_loss(self) -> float:
        size, limit = self._settings.batch_size, self._settings.micro_batch_tokens
        rank, world = self.args.process_index, self.args.world_size
        losses = pair_losses(self.network, self._validation, size, limit, rank, world)
        sums = torch.zeros(2, dtype=torch.float64)
        with _precision(self._settings):
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
        """Weights by the names that the network has for them: by those of the hub, not all would be found again."""
        if isinstance(self.network, PeftModel):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            self.network.save_pretrained(output_dir or str(self.args.output_dir), save_original_format=False)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # of every process, for the first one to save: what is left of each one's losses since the last point
        self.unlogged = self.accelerator.gather(self._tr_loss.reshape(1)).tolist()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each has files of its own in there
            if self.is_world_process_zero():
                mark_complete(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{self.title}: the checkpoint of step {self.state.global_step} can't be written to "
                f"{self.args.output_dir} ({first_line(error)}); make room and run again: it goes on from the last"
            ) from None


class _ShardedTrainer(Sharded, _TargetTrainer):
    """The same, of a network that processes hold together."""


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@contextmanager
def _end_of_memory_told(title: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(_no_memory(title)) from None


def _no_memory(title: str, where: str = "") -> str:
    return (
        f"{title}: memory has ended{where}; lower fit.micro_batch_tokens, the lengths in tokenize or "
        f"machine.generation_batch_size, or set machine.gradient_checkpointing"
    )
