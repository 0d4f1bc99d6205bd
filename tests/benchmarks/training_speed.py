"""Training speed against transformers' Trainer and TRL's SFTTrainer (extra `bench`), on the sample.

Run: `python -m tests.benchmarks.training_speed [SETUP ...]`, on a machine that does nothing else. All have the same
model, weights, examples, examples in an update, optimiser, schedule and number of updates. The precision is float32; on
a GPU it is bfloat16, except for Trainer as started, which keeps float32. Each contender runs in a process of its own,
in turn, so that a slow minute of the machine meets all of them; medians are compared. Tokens are counted without pads.
A callback times each step, and the first steps do not count.

The loss on the same validation examples, by the same code, shows what all have learned: at the end, and for `curves`
also on the way. Each round has its own seed; losses are means and standard deviations.

At their best, the others have length grouping, our allocator, and no checkpointing of activations. Grouping makes them
faster, but an update teaches less. Our batches are random, as those of the others as started. docs/training.md has the
results.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from stages import prepare, tokenize
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.process import keep_freed_memory
from stages.lib.models.devices import own_device, peak_memory, uses_bfloat16
from stages.lib.models.families import causal, interface_of
from stages.lib.models.families.interface import IGNORED
from stages.lib.models.loading import base_model, parameter_count
from stages.lib.models.losses import example_losses
from stages.lib.params.machine import Machine
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample, write_tokenized_examples
from stages.lib.training import fit as training
from stages.lib.training import trainer
from stages.lib.training.callbacks import Progress
from tests.build import PROJECT, fit_settings, scratch_model, section

LEARNING_RATE = 1e-3
HAS_GPU = torch.cuda.is_available()
NOT_COUNTED = 15 if HAS_GPU else 2  # steps; compilers are done by then

_SMALL = {"model_type": "gpt2", "n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 1024}
_BASE = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024}
_T5 = {"model_type": "t5", "num_layers": 6, "num_decoder_layers": 6, "d_model": 512, "d_ff": 2048, "num_heads": 8}
_T5_BASE = _T5 | {"num_layers": 12, "num_decoder_layers": 12, "d_model": 768, "d_ff": 3072, "num_heads": 12}
_QWEN = {"model_type": "qwen2", "num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864}
_QWEN |= {"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}


@dataclass(frozen=True)
class Setup:
    architecture: dict[str, Any]
    facts: int  # descriptions of places in a source, of which the last is asked for
    batch: int
    steps: int
    rounds: int
    vocabulary: int = 2048  # embeddings of the model; the sample has fewer tokens
    points: int = 1  # of the loss curve; the last one is at the end
    is_for_speed: bool = True
    wants_gpu: bool = False


SETUPS = {
    "gpt2-4M": Setup(_SMALL, facts=1, batch=64, steps=12, rounds=2),
    "gpt2-4M-long": Setup(_SMALL, facts=8, batch=16, steps=12, rounds=2),
    "gpt2-124M": Setup(_BASE, facts=1, batch=16, steps=6, rounds=1, vocabulary=50_257),
    "t5-small": Setup(_T5, facts=1, batch=32, steps=8, rounds=2),
    "gpu-gpt2-124M": Setup(_BASE, facts=8, batch=64, steps=45, rounds=1, vocabulary=50_257, wants_gpu=True),
    "gpu-qwen-0.5B": Setup(_QWEN, facts=8, batch=32, steps=45, rounds=1, vocabulary=151_936, wants_gpu=True),
    "gpu-t5-base": Setup(_T5_BASE, facts=8, batch=64, steps=45, rounds=1, wants_gpu=True),
    "curves": Setup(_SMALL, facts=1, batch=32, steps=120, rounds=3, points=6, is_for_speed=False),
}


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        figures = worker(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(figures))
        return
    for name in sys.argv[1:] or [name for name, setup in SETUPS.items() if setup.wants_gpu == HAS_GPU]:
        with tempfile.TemporaryDirectory() as place:
            _prepared(SETUPS[name], Path(place))
            _compare(name, Path(place))


def _prepared(setup: Setup, folder: Path) -> None:
    files = {"train": "places.csv", "source": "{facts}", "target": "{text}", "validation": None, "test": None}
    prepare.run(section(Prepare, **files), 1, PROJECT / "data/raw/data_to_text", folder / "prepare")
    model = scratch_model({"vocabulary_size": setup.vocabulary, "model_type": "gpt2"})
    tokenize.run(section(Tokenize), model, workers=1, source=folder / "prepare", target=folder / "tokenize")
    for split in ("train", "validation"):
        examples = list(TokenizedDataset(folder / "tokenize" / split))
        long = [_longer(examples, at, setup.facts) for at in range(len(examples))]
        write_tokenized_examples(folder / split, [long])


def _longer(examples: list[TokenizedExample], at: int, facts: int) -> TokenizedExample:
    others = [examples[(at + step * 37) % len(examples)].source_ids for step in range(at % (2 * facts - 1))]
    return examples[at]._replace(source_ids=[*(i for own in others for i in own), *examples[at].source_ids])


def _compare(name: str, folder: Path) -> None:
    setup, results = SETUPS[name], dict[str, list[dict[str, Any]]]()
    contenders = [own for own in CONTENDERS if _takes_part(own, setup)]
    for seed in range(1, setup.rounds + 1):
        for contender in contenders:
            results.setdefault(contender, []).append(_run(name, contender, folder, seed))
    first = results["ours"][0]
    size = f"{first['parameters'] / 1e6:.1f} M parameters"
    print(f"\n{name}: {size}, {setup.batch} examples an update, {setup.steps} updates")
    ours = statistics.median(own["tokens_a_second"] for own in results["ours"])
    print(f"{setup.rounds} rounds{'':25} tokens/s  ours is  peak GiB  loss on the way")
    for contender, runs in results.items():
        speed = statistics.median(own["tokens_a_second"] for own in runs)
        losses = " ".join(map(_mean_and_spread, zip(*(own["losses"] for own in runs), strict=True)))
        memory = max(own["memory"] for own in runs) / 2**30
        print(f"{contender:34} {speed:7,.0f}  {ours / speed:6.2f}x  {memory:8.1f}  {losses}", flush=True)
    if setup.is_for_speed and setup.architecture["model_type"] != "t5":  # its two stacks multiply different tokens
        peak = _matmul_peak()
        use = 6 * first["multiplied"] * ours / peak
        print(f"ours: {100 * use:.0f} % of the {peak / 1e9:.0f} GFLOP/s that a matrix product reaches here", flush=True)


def _mean_and_spread(losses: tuple[float, ...]) -> str:
    return f"{statistics.mean(losses):.3f}" + (f"±{statistics.stdev(losses):.3f}" if len(losses) > 1 else "")


def _takes_part(contender: str, setup: Setup) -> bool:
    model = setup.architecture["model_type"]
    if not setup.is_for_speed:
        return contender in ("ours", "Trainer as started", "Trainer at its best")
    if "SFTTrainer" in contender and model == "t5":  # it trains causal models
        return False
    if "Liger" in contender:
        return setup.wants_gpu and model == "qwen2"
    if contender.endswith("compiled"):
        return setup.wants_gpu
    if contender.endswith("2 processes"):
        return not setup.wants_gpu
    return not contender.startswith(PARTS) or setup is SETUPS["gpt2-4M"]


def _run(setup: str, contender: str, folder: Path, seed: int) -> dict[str, Any]:
    command = ["-m", "tests.benchmarks.training_speed", "worker", setup, contender, str(folder), str(seed)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *command]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    if contender.endswith("2 processes"):
        command, environment = launcher, environment | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{contender}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {setup} {contender}: {result['tokens_a_second']:,.0f} tokens/s", flush=True)
    return result


def _matmul_peak() -> float:
    """FLOP/s of large products, in the precision of training, the best of several."""
    size, dtype = 8192 if HAS_GPU else 2048, torch.bfloat16 if uses_bfloat16("auto") else torch.float32
    one, other = (torch.randn(size, size, dtype=dtype, device=own_device()) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        begun = _now()
        one @ other
        best = min(best, _now() - begun)
    return 2 * size**3 / best


def _now() -> float:
    """Seconds, when the GPU has done its work."""
    if HAS_GPU:
        torch.cuda.synchronize()
    return time.monotonic()


class Stopwatch(TrainerCallback):
    def __init__(self, every: int, loss: Callable[[], float]) -> None:
        self.begun = self.seconds = 0.0
        self.tokens = 0
        self.losses: list[float] = []
        self._every, self._loss = every, loss

    def follow(self, trainer: Trainer) -> None:
        """Counts the tokens of every batch that is timed."""
        step = trainer.training_step

        def counted(model: Any, inputs: Any, *rest: Any) -> torch.Tensor:
            if self.begun:
                self.tokens += _tokens(inputs)
            return step(model, inputs, *rest)

        vars(trainer)["training_step"] = counted

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == NOT_COUNTED:
            self.begun = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.begun and state.global_step <= args.max_steps:
            self.seconds = _now() - self.begun
        if state.global_step % self._every == 0:
            self.losses.append(self._loss())


def _tokens(inputs: Any) -> int:
    """Tokens of sources and targets without pads, in our batches or in those of the others."""
    if "tokens" in inputs:
        return int(inputs["tokens"])
    read = int(inputs["attention_mask"].sum())
    is_seq2seq = inputs["labels"].shape != inputs["input_ids"].shape or "decoder_input_ids" in inputs
    return read + (int(inputs["labels"].ne(IGNORED).sum()) if is_seq2seq else 0)


@dataclass(frozen=True)
class Task:
    setup: Setup
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train: TokenizedDataset
    validation: TokenizedDataset
    folder: Path
    seed: int
    watch: Stopwatch


def worker(setup_name: str, contender: str, folder: Path, seed: int) -> dict[str, Any]:
    """One contender, in this process."""
    torch.manual_seed(seed)
    setup, tokenizer = SETUPS[setup_name], load_tokenizer(folder / "tokenize/tokenizer")
    network = base_model(scratch_model(setup.architecture), tokenizer, [], dropout=0.1, seed=seed)
    network.resize_token_embeddings(setup.vocabulary)
    train, validation = TokenizedDataset(folder / "train"), TokenizedDataset(folder / "validation", first=64)

    def loss() -> float:
        losses = list(example_losses(network, validation, 16))
        return sum(own for _, own, _ in losses) / sum(tokens for _, _, tokens in losses)

    watch = Stopwatch(setup.steps // setup.points, loss)
    with tempfile.TemporaryDirectory() as place:
        task = Task(setup, network, tokenizer, train, validation, Path(place), seed, watch)
        CONTENDERS[contender](task)
    return {
        "parameters": parameter_count(network),
        "multiplied": _multiplied(network),
        "tokens_a_second": watch.tokens * int(os.environ.get("WORLD_SIZE", "1")) / watch.seconds,
        "losses": watch.losses,
        "memory": peak_memory(),
    }


def _multiplied(network: PreTrainedModel) -> int:
    """The number of weights that every token is multiplied by: all except embeddings, which are looked up."""
    tables = {id(m.weight): m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Embedding)}
    return parameter_count(network) - sum(tables.values())


def ours(task: Task, **options: Any) -> None:
    keep_freed_memory()
    _fit(task, **options)


def compiled(task: Task) -> None:
    ours(task, compile=True)


def with_liger(task: Task) -> None:
    ours(task, liger=True)


def _fit(task: Task, **options: Any) -> None:
    setup = task.setup
    settings = fit_settings(
        epochs=(setup.steps - 0.5) / math.ceil(len(task.train) / setup.batch),
        batch_size=setup.batch,
        learning_rate=LEARNING_RATE,
        schedule="linear",
        warmup_fraction=0.0,
        evals_per_run=1,
        weight_decay=0.0,
        precision="auto",
        seed=task.seed,
        **options,
    )

    class Watched(Progress):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            task.watch.follow(self._trainer)
            super().on_train_begin(*args, **kwargs)

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            task.watch.on_step_begin(*args, **kwargs)

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            task.watch.on_step_end(*args, **kwargs)
            super().on_step_end(*args, **kwargs)

    vars(training)["Progress"] = Watched
    few = task.folder / "few"
    write_tokenized_examples(few, [[task.validation[0]]])
    training.fit(
        task.network, task.train, TokenizedDataset(few), settings, section(Machine), task.folder / "fit", "ours"
    )


def without_allocator(task: Task) -> None:
    _fit(task)


def by_length(task: Task) -> None:
    causal.Causal.supports_packing = lambda *args: False  # type: ignore
    ours(task)


def padded(task: Task) -> None:
    vars(trainer)["_MICRO_BATCH_COST"] = {"cpu": 10**9}
    vars(trainer)["_MICRO_BATCH_TOKENS"] = {"cpu": None}
    by_length(task)


def without_target_logits(task: Task) -> None:
    usual = causal.Causal.target_logits

    def every_logit(self: Any, network: Any, batch: Any) -> Any:
        if not causal.is_packed(batch):
            return usual(self, network, batch)
        places = torch.arange(batch["input_ids"].shape[1])
        return usual(self, network, batch | {"target_positions": places})[:, batch["target_positions"]]

    causal.Causal.target_logits = every_logit  # type: ignore
    ours(task)


def without_fast_dropout(task: Task) -> None:
    vars(training)["fast_dropout_generator"] = nullcontext
    ours(task)


def without_fused_gelu(task: Task) -> None:
    vars(training)["fuse_gelu"] = lambda network: None
    ours(task)


def trainer_as_started(task: Task) -> None:
    _trainer(task)


def trainer_at_its_best(task: Task, **options: Any) -> None:
    keep_freed_memory()
    _trainer(task, train_sampling_strategy="group_by_length", bf16=uses_bfloat16("auto"), **options)


def trainer_compiled(task: Task) -> None:
    trainer_at_its_best(task, torch_compile=True)


def _trainer(task: Task, **options: Any) -> None:
    is_seq2seq = interface_of(task.network).name == "seq2seq"
    rows = [_row(example, is_seq2seq) for example in task.train]
    collator = DataCollatorForSeq2Seq(task.tokenizer, model=task.network if is_seq2seq else None)
    classes: Any = (Seq2SeqTrainer, Seq2SeqTrainingArguments) if is_seq2seq else (Trainer, TrainingArguments)
    arguments = classes[1](**_shared(task), **options)
    trainer = classes[0](task.network, arguments, collator, rows, callbacks=[task.watch])
    task.watch.follow(trainer)
    trainer.train()


def _row(example: TokenizedExample, is_seq2seq: bool) -> dict[str, list[int]]:
    if is_seq2seq:
        return {"input_ids": example.source_ids, "labels": example.target_ids}
    ids = example.source_ids + example.target_ids
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": [-100] * len(example.source_ids) + example.target_ids,
    }


def _shared(task: Task) -> dict[str, Any]:
    return {
        "output_dir": str(task.folder / "other"),
        "per_device_train_batch_size": task.setup.batch,
        "max_steps": task.setup.steps,
        "seed": task.seed,
        "learning_rate": LEARNING_RATE,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": not HAS_GPU,
    }


def sft_as_started(task: Task) -> None:
    _sft(task)


def sft_at_its_best(task: Task, **options: Any) -> None:
    keep_freed_memory()
    _sft(task, train_sampling_strategy="group_by_length", activation_checkpointing=False, **options)


def sft_with_liger(task: Task) -> None:
    sft_at_its_best(task, use_liger_kernel=True)


def _sft(task: Task, **options: Any) -> None:
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = [
        {
            "input_ids": example.source_ids + example.target_ids,
            "completion_mask": [0] * len(example.source_ids) + [1] * len(example.target_ids),
        }
        for example in task.train
    ]
    arguments = SFTConfig(**_shared(task), bf16=uses_bfloat16("auto"), completion_only_loss=True, **options)
    trainer = SFTTrainer(
        task.network,
        arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=task.tokenizer,
        callbacks=[task.watch],
    )
    task.watch.follow(trainer)
    trainer.train()


PARTS = ("ours without", "ours, by length", "ours, padded")

CONTENDERS: dict[str, Callable[[Task], None]] = {
    "ours": ours,
    "Trainer as started": trainer_as_started,
    "SFTTrainer as started": sft_as_started,
    "Trainer at its best": trainer_at_its_best,
    "SFTTrainer at its best": sft_at_its_best,
    "ours, compiled": compiled,
    "Trainer at its best, compiled": trainer_compiled,
    "ours, with Liger": with_liger,
    "SFTTrainer at its best, with Liger": sft_with_liger,
    "ours, 2 processes": ours,
    "ours, by length": by_length,
    "ours, padded to the longest": padded,
    "ours without allocator": without_allocator,
    "ours without fast dropout": without_fast_dropout,
    "ours without target logits": without_target_logits,
    "ours without fused GELU": without_fused_gelu,
}


if __name__ == "__main__":
    main()
