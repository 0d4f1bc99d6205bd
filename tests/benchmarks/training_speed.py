"""Training speed against transformers' Trainer and TRL's SFTTrainer (extra `bench`), on the samples.

Run: `python -m tests.benchmarks.training_speed [--precision float32|bfloat16] [SETUP ...]`, on a machine that does
nothing else. All have the same model, weights, examples, examples in an update, optimiser, schedule and number of
updates. Without `--precision` it is bfloat16 where the machine has instructions for it; Trainer as started keeps
float32. Each contender runs in a process of its own, in turn, so that a slow minute of the machine meets all of them;
medians are compared. Tokens are counted without pads. The first steps do not count.

The loss on the same validation examples, by the same code, shows what all have learned: at the end, and for `curves`
also on the way. Each round has its own seed; losses are means and standard deviations.

At their best, the others have length grouping, our allocator, and no checkpointing of activations. Grouping makes them
faster, but an update teaches less. Our batches are random, as those of the others as started. The bare loop is the
limit to compare with: a few lines of plain PyTorch with our kernels, each update one batch, padded to its longest.
docs/training.md has the results.
"""

import argparse
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from stages import prepare, tokenize
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.process import UserError, keep_freed_memory
from stages.lib.models.devices import autocast, move_to_own_device, own_device, peak_memory, uses_bfloat16
from stages.lib.models.families import causal, interface_of
from stages.lib.models.families.interface import IGNORED, is_packed, on_device
from stages.lib.models.loading import base_model, parameter_count
from stages.lib.models.losses import example_losses, summed_loss
from stages.lib.params.machine import Machine
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import (
    TokenizedDataset,
    TokenizedExample,
    read_label_ids,
    write_tokenized_examples,
)
from stages.lib.training import fit as training
from stages.lib.training import kernels, loop, micro_batches
from stages.lib.training.progress import Progress
from stages.lib.training.sampler import BatchSampler
from tests.build import PROJECT, fit_settings, scratch_model, section

LEARNING_RATE = 1e-3
HAS_GPU = torch.cuda.is_available()
NOT_COUNTED = 15 if HAS_GPU else 2  # steps; compilers are done by then

_PLACES: dict[str, Any] = {"train": "data_to_text/places.csv", "source": "{facts}", "target": "{text}"}
_LABELS = {label: label for label in ("negative", "neutral", "positive")}
_REVIEWS: dict[str, Any] = {
    "train": "sentiment_analysis/reviews.csv",
    "source": "{text}",
    "target": "{label}",
    "labels": _LABELS,
}

_SMALL = {"model_type": "gpt2", "n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 1024}
_BASE = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024}
_T5 = {"model_type": "t5", "num_layers": 6, "num_decoder_layers": 6, "d_model": 512, "d_ff": 2048, "num_heads": 8}
_T5_BASE = _T5 | {"num_layers": 12, "num_decoder_layers": 12, "d_model": 768, "d_ff": 3072, "num_heads": 12}
_QWEN = {"model_type": "qwen2", "num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864}
_QWEN |= {"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}
_MINILM = {"model_type": "bert", "num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12}
_MINILM |= {"intermediate_size": 1536}


@dataclass(frozen=True)
class Setup:
    architecture: dict[str, Any]
    facts: int  # descriptions of places in a source, of which the last is asked for
    batch: int
    steps: int
    rounds: int
    vocabulary: int = 2048  # embeddings of the model; the sample has fewer tokens
    data: dict[str, Any] = field(default_factory=lambda: _PLACES)
    points: int = 1  # of the loss curve; the last one is at the end
    is_for_speed: bool = True
    wants_gpu: bool = False


SETUPS = {
    "gpt2-4M": Setup(_SMALL, facts=1, batch=64, steps=12, rounds=2),
    "gpt2-4M-long": Setup(_SMALL, facts=8, batch=16, steps=12, rounds=2),
    "gpt2-124M": Setup(_BASE, facts=1, batch=16, steps=6, rounds=1, vocabulary=50_257),
    "t5-small": Setup(_T5, facts=1, batch=32, steps=8, rounds=2),
    "minilm-classifier": Setup(_MINILM, facts=1, batch=32, steps=20, rounds=2, vocabulary=30_522, data=_REVIEWS),
    "gpu-gpt2-124M": Setup(_BASE, facts=8, batch=64, steps=45, rounds=1, vocabulary=50_257, wants_gpu=True),
    "gpu-qwen-0.5B": Setup(_QWEN, facts=8, batch=32, steps=45, rounds=1, vocabulary=151_936, wants_gpu=True),
    "gpu-t5-base": Setup(_T5_BASE, facts=8, batch=64, steps=45, rounds=1, wants_gpu=True),
    "curves": Setup(_SMALL, facts=1, batch=32, steps=120, rounds=3, points=6, is_for_speed=False),
}


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        setup, contender, wanted, folder, seed = sys.argv[2:]
        figures = worker(setup, contender, wanted, Path(folder), int(seed))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(figures))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=("float32", "bfloat16", "auto"), default="auto")
    usual = [name for name, setup in SETUPS.items() if setup.wants_gpu == HAS_GPU]
    parser.add_argument("setups", nargs="*", choices=SETUPS, default=usual)
    arguments = parser.parse_args()
    try:
        precision = "bfloat16" if uses_bfloat16(arguments.precision) else "float32"
    except UserError as error:
        raise SystemExit(str(error)) from None
    print(f"{precision} on {_processor()}")
    for name in arguments.setups:
        with tempfile.TemporaryDirectory() as place:
            _prepared(SETUPS[name], Path(place))
            _compare(name, precision, Path(place))


def _processor() -> str:
    """Its name, and the widest instructions that torch uses on it."""
    if HAS_GPU:
        return torch.cuda.get_device_name()
    described = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    names = [line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name")]
    special = [name for name, has in torch.cpu.get_capabilities().items() if has and ("amx" in name or "bf16" in name)]
    instructions = [torch.backends.cpu.get_cpu_capability(), *special]
    return f"{names[0] if names else sys.platform}, {torch.get_num_threads()} threads, {', '.join(instructions)}"


def _prepared(setup: Setup, folder: Path) -> None:
    raw, _, file = setup.data["train"].partition("/")
    data = setup.data | {"train": file, "validation": None, "test": None}
    prepare.run(section(Prepare, **data), 1, PROJECT / "data/raw" / raw, folder / "prepare")
    model = scratch_model({"vocabulary_size": 2048, "model_type": setup.architecture["model_type"]})
    tokenize.run(section(Tokenize), model, workers=1, source=folder / "prepare", target=folder / "tokenize")
    for split in ("train", "validation"):
        examples = list(TokenizedDataset(folder / "tokenize" / split))
        long = [_longer(examples, at, setup.facts) for at in range(len(examples))]
        write_tokenized_examples(folder / split, [long])


def _longer(examples: list[TokenizedExample], at: int, facts: int) -> TokenizedExample:
    others = [examples[(at + step * 37) % len(examples)].source_ids for step in range(at % (2 * facts - 1))]
    return examples[at]._replace(source_ids=[*(i for own in others for i in own), *examples[at].source_ids])


def _compare(name: str, precision: str, folder: Path) -> None:
    setup, results = SETUPS[name], dict[str, list[dict[str, Any]]]()
    contenders = [own for own in CONTENDERS if _takes_part(own, setup)]
    for seed in range(1, setup.rounds + 1):
        for contender in contenders:
            results.setdefault(contender, []).append(_run(name, contender, precision, folder, seed))
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
        peak = _matmul_peak(torch.bfloat16 if precision == "bfloat16" else torch.float32)
        use = 6 * first["multiplied"] * ours / peak
        print(f"ours: {100 * use:.0f} % of the {peak / 1e9:.0f} GFLOP/s that a matrix product reaches here", flush=True)


def _mean_and_spread(losses: tuple[float, ...]) -> str:
    return f"{statistics.mean(losses):.3f}" + (f"±{statistics.stdev(losses):.3f}" if len(losses) > 1 else "")


def _takes_part(contender: str, setup: Setup) -> bool:
    model = setup.architecture["model_type"]
    if not setup.is_for_speed:
        return contender in ("ours", "Trainer as started", "Trainer at its best")
    if "SFTTrainer" in contender and model in ("t5", "bert"):  # it trains causal models
        return False
    if "Liger" in contender:
        return setup.wants_gpu and model == "qwen2"
    if contender.endswith("compiled"):
        return setup.wants_gpu
    if contender.endswith("2 processes"):
        return not setup.wants_gpu
    return not contender.startswith(PARTS) or setup is SETUPS["gpt2-4M"]


def _run(setup: str, contender: str, precision: str, folder: Path, seed: int) -> dict[str, Any]:
    command = ["-m", "tests.benchmarks.training_speed", "worker", setup, contender, precision, str(folder), str(seed)]
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


def _matmul_peak(dtype: torch.dtype) -> float:
    """FLOP/s of large products, the best of several."""
    size = 8192 if HAS_GPU else 2048
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


class Stopwatch:
    """Times the steps of every optimizer of this process, and computes the loss on the way.

    Args:
        every: so many steps, the loss is computed.
    """

    def __init__(self, steps: int, every: int, loss: Callable[[], float]) -> None:
        self._steps, self._every, self._loss = steps, every, loss
        self._done, self._begun, self._seconds = 0, 0.0, 0.0
        self.tokens = list[int]()  # of each step
        self.losses = list[float]()
        register_optimizer_step_post_hook(self._step_is_done)

    def tokens_a_second(self) -> float:
        return sum(self.tokens[NOT_COUNTED : self._steps]) / self._seconds

    def _step_is_done(self, *_: Any) -> None:
        self._done += 1
        if self._done == NOT_COUNTED:
            self._begun = _now()
        elif self._done <= self._steps:
            self._seconds = _now() - self._begun
        if self._done % self._every == 0:
            self.losses.append(self._loss())


@dataclass(frozen=True)
class Task:
    setup: Setup
    precision: str  # float32 or bfloat16
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train: TokenizedDataset
    validation: TokenizedDataset
    folder: Path
    seed: int
    watch: Stopwatch

    def settings(self, **options: Any) -> FitSettings:
        return fit_settings(
            epochs=(self.setup.steps - 0.5) / math.ceil(len(self.train) / self.setup.batch),
            batch_size=self.setup.batch,
            learning_rate=LEARNING_RATE,
            schedule="linear",
            warmup_fraction=0.0,
            evals_per_run=1,
            weight_decay=0.0,
            precision=self.precision,
            seed=self.seed,
            **options,
        )


def worker(setup_name: str, contender: str, precision: str, folder: Path, seed: int) -> dict[str, Any]:
    """One contender, in this process."""
    torch.manual_seed(seed)
    setup, tokenizer = SETUPS[setup_name], load_tokenizer(folder / "tokenize/tokenizer")
    labels = [label.word for label in read_label_ids(folder / "tokenize/label_ids.json")]
    network = base_model(scratch_model(setup.architecture), tokenizer, labels, dropout=0.1, seed=seed)
    network.resize_token_embeddings(setup.vocabulary)
    train, validation = TokenizedDataset(folder / "train"), TokenizedDataset(folder / "validation", first=64)

    def loss() -> float:
        losses = list(example_losses(network, validation, 16))
        return sum(own for _, own, _ in losses) / sum(tokens for _, _, tokens in losses)

    watch = Stopwatch(setup.steps, setup.steps // setup.points, loss)
    with tempfile.TemporaryDirectory() as place:
        task = Task(setup, precision, network, tokenizer, train, validation, Path(place), seed, watch)
        CONTENDERS[contender](task)
    return {
        "parameters": parameter_count(network),
        "multiplied": _multiplied(network),
        "tokens_a_second": watch.tokens_a_second() * int(os.environ.get("WORLD_SIZE", "1")),
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
    class Watched(Progress):
        def advance(self, tokens: int) -> None:
            task.watch.tokens.append(tokens)
            super().advance(tokens)

    vars(loop)["Progress"] = Watched
    few = task.folder / "few"
    write_tokenized_examples(few, [[task.validation[0]]])
    settings, validation = task.settings(**options), TokenizedDataset(few)
    training.fit(task.network, task.train, validation, settings, section(Machine), task.folder / "fit", "ours")


def bare_loop(task: Task) -> None:
    keep_freed_memory()
    network, settings, interface = task.network, task.settings(), interface_of(task.network)
    move_to_own_device(network)
    kernels.use_kernels(network, settings)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)
    order = BatchSampler(task.train.lengths(), settings)
    with kernels.fast_dropout_generator():
        for step in range(task.setup.steps):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / task.setup.steps)
            examples = [task.train[index] for index in order.at(step)]
            batch = on_device(interface.training_batch(examples, task.tokenizer.pad_token_id), network)
            network.train()
            with autocast(task.precision):
                loss = summed_loss(interface, network, batch, 0.0) / batch["labels"].ne(IGNORED).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            task.watch.tokens.append(sum(len(own.source_ids) + len(own.target_ids) for own in examples))
            optimizer.step()
            optimizer.zero_grad()


def without_allocator(task: Task) -> None:
    _fit(task)


def by_length(task: Task) -> None:
    vars(training)["choose_layout"] = lambda *args, **options: "padded"
    ours(task)


def padded(task: Task) -> None:
    vars(micro_batches)["_MICRO_BATCH_COST"] = dict.fromkeys(("cpu", "cuda"), 10**9)
    vars(micro_batches)["_MICRO_BATCH_TOKENS"] = dict.fromkeys(("cpu", "cuda"))
    by_length(task)


def without_target_logits(task: Task) -> None:
    usual = causal.Causal.target_logits

    def every_logit(self: Any, network: Any, batch: Any) -> Any:
        if not is_packed(batch):
            return usual(self, network, batch)
        places = torch.arange(batch["input_ids"].shape[1], device=network.device)
        return usual(self, network, batch | {"target_positions": places})[:, batch["target_positions"]]

    causal.Causal.target_logits = every_logit  # type: ignore
    ours(task)


def without_fast_dropout(task: Task) -> None:
    vars(training)["fast_dropout_generator"] = nullcontext
    ours(task)


def without_fused_gelu(task: Task) -> None:
    vars(kernels)["fuse_gelu"] = lambda network: None
    ours(task)


def trainer_as_started(task: Task) -> None:
    _trainer(task)


def trainer_at_its_best(task: Task, **options: Any) -> None:
    keep_freed_memory()
    _trainer(task, train_sampling_strategy="group_by_length", bf16=task.precision == "bfloat16", **options)


def trainer_compiled(task: Task) -> None:
    trainer_at_its_best(task, torch_compile=True)


def _trainer(task: Task, **options: Any) -> None:
    family = interface_of(task.network).name
    rows = [_row(example, family) for example in task.train]
    classes: Any = (Trainer, TrainingArguments)
    collator: Any = DataCollatorForSeq2Seq(task.tokenizer)
    if family == "seq2seq":
        classes = (Seq2SeqTrainer, Seq2SeqTrainingArguments)
        collator = DataCollatorForSeq2Seq(task.tokenizer, model=task.network)
    elif family == "classifier":
        collator = DataCollatorWithPadding(task.tokenizer)
    trainer = classes[0](task.network, classes[1](**_shared(task), **options), collator, rows)
    _count_tokens(trainer, task.watch)
    trainer.train()


def _row(example: TokenizedExample, family: str) -> dict[str, Any]:
    if family == "classifier":
        return {"input_ids": example.source_ids, "labels": example.target_ids[0]}
    if family == "seq2seq":
        return {"input_ids": example.source_ids, "labels": example.target_ids}
    ids = example.source_ids + example.target_ids
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": [IGNORED] * len(example.source_ids) + example.target_ids,
    }


def _count_tokens(trainer: Trainer, watch: Stopwatch) -> None:
    """Of sources and targets of every batch, without pads."""
    step = trainer.training_step

    def counted(model: Any, inputs: Any, *rest: Any) -> torch.Tensor:
        targets = inputs["labels"]
        is_apart = "decoder_input_ids" in inputs or targets.shape != inputs["input_ids"].shape
        written = int(targets.ne(IGNORED).sum()) if is_apart else 0
        watch.tokens.append(int(inputs["attention_mask"].sum()) + written)
        return step(model, inputs, *rest)

    vars(trainer)["training_step"] = counted


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
    arguments = SFTConfig(**_shared(task), bf16=task.precision == "bfloat16", completion_only_loss=True, **options)
    trainer = SFTTrainer(
        task.network,
        arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=task.tokenizer,
    )
    _count_tokens(trainer, task.watch)
    trainer.train()


PARTS = ("ours without", "ours, by length", "ours, padded")

CONTENDERS: dict[str, Callable[[Task], None]] = {
    "ours": ours,
    "Trainer as started": trainer_as_started,
    "SFTTrainer as started": sft_as_started,
    "Trainer at its best": trainer_at_its_best,
    "SFTTrainer at its best": sft_at_its_best,
    "bare loop": bare_loop,
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
