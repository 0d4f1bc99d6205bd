"""One fit with the best settings -> the model.

Reads:  data/tokenize/{train,validation}/, tokenizer/ and labels.json; data/tune_hyperparameters/best.json; the base
        model.
Writes: data/train/model/ (weights, configuration, tokenizer: `from_pretrained` opens it), curve.json and account.json.
Random: initial weights, order of the batches, dropout: all by `fit.seed`.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from stages.lib.distributed import share
from stages.lib.files import read_json, write_json
from stages.lib.fitting import Curve, estimate, fit, update_steps
from stages.lib.judging import judge_of
from stages.lib.models import base_model, parameter_count
from stages.lib.pairs import Pairs, read_labels
from stages.lib.params import read_section
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.process import is_first, launch
from stages.lib.scratch import scratch
from stages.lib.sharding import learned_weights
from stages.lib.trainable import learned_count, merged, student
from stages.lib.vocabulary import open_vocabulary

SOURCE = Path("data/tokenize")
TUNED = Path("data/tune_hyperparameters/best.json")
TARGET = Path("data/train")


def main() -> None:
    sections = read_section(Fit), read_section(Model), read_section(Machine)
    with scratch("train", sections[0].nodes) as folder:
        if not share("stages.train", sections[0]):
            run(*sections, source=SOURCE, tuned=TUNED, target=TARGET, folder=folder)


def run(fit_: Fit, model: Model, machine: Machine, source: Path, tuned: Path, target: Path, folder: Path) -> None:
    settings = _with_tuned(fit_, read_json(tuned))
    tokenizer = open_vocabulary(source / "tokenizer")
    train, validation = Pairs(source / "train"), Pairs(source / "validation")
    labels = read_labels(source / "labels.json")
    label_words = [label.word for label in labels]
    learner = student(base_model(model, tokenizer, label_words, settings.dropout, settings.seed), settings)
    learned = learned_count(learner)
    print(f"train: {_plan(learner, train, validation, settings, machine)}", flush=True)
    judge = judge_of(settings, tokenizer, labels, validation, machine.generation_batch_size)
    curve = fit(learner, train, validation, settings, machine, folder, "train", judge)
    learned_together = learned_weights(learner) if settings.sharded else None
    if not is_first():
        return
    if learned_together is not None:
        learner = student(base_model(model, tokenizer, label_words, settings.dropout, settings.seed), settings)
        learner.load_state_dict(learned_together, strict=False)
    network = merged(learner)
    network.save_pretrained(target / "model")
    tokenizer.save_pretrained(target / "model")
    write_json(target / "curve.json", {"training": curve.training, "validation": curve.validation})
    write_json(target / "account.json", _account(network, learned, curve))
    print(f"train: {_conclusion(settings, curve)} -> {target / 'model'}")


def _with_tuned(fit_: Fit, tuned: dict[str, Any]) -> Fit:
    """The settings of params.yaml, replaced where tuning found better ones, and each replacement said."""
    for name, value in tuned.items():
        if value != getattr(fit_, name):
            print(f"train: fit.{name} {getattr(fit_, name)} -> {value} (best.json of tune-hyperparameters)")
    return Fit.model_validate({**fit_.model_dump(), **tuned})


def _plan(learner: PreTrainedModel, train: Pairs, validation: Pairs, settings: Fit, machine: Machine) -> str:
    every, learned = parameter_count(learner), learned_count(learner)
    frozen = f" ({every - learned:,} frozen)" if learned < every else ""
    return (
        f"{every:,} parameters{frozen}, {len(train):,} pairs with {train.learned_tokens():,} target tokens, "
        f"{update_steps(train, settings):,} updates of {_size(settings)}; "
        f"{_cost(learner, train, validation, settings, machine)}"
    )


def _size(settings: Fit) -> str:
    return f"{settings.batch_size} pairs" if settings.batch_tokens is None else f"{settings.batch_tokens:,} tokens"


def _cost(learner: PreTrainedModel, train: Pairs, validation: Pairs, settings: Fit, machine: Machine) -> str:
    try:
        seconds, memory = estimate(learner, train, validation, settings, machine)
    except torch.OutOfMemoryError:
        learner.zero_grad()
        alone = settings.processes * settings.nodes == 1
        remedy = "so batches will be computed in parts" if alone else "so lower fit.micro_batch_tokens"
        return f"memory ends with the longest batch, {remedy}"
    return f"about {_duration(seconds)} and {memory / 2**30:.1f} GiB of memory"


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds > 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _account(network: PreTrainedModel, learned: int, curve: Curve) -> dict[str, Any]:
    values = {"validation_loss": curve.validation} | ({"validation_score": curve.scores} if curve.scores else {})
    best = curve.best()[0]
    return {
        "parameters": parameter_count(network),
        "learned_parameters": learned,
        "updates": curve.training[-1][0],
        "best_update": best,
        "averaged": curve.averaged[0] if curve.averaged else 1,
        **{name: {"first": round(p[0][1], 5), "best": round(dict(p)[best], 5)} for name, p in values.items()},
    }


def _conclusion(settings: Fit, curve: Curve) -> str:
    step, value = curve.best()
    best = f"best validation {settings.choose_by} {value:.4f} at step {step:,} of {curve.training[-1][0]:,}"
    return best if curve.averaged is None else f"{best}; the mean of {curve.averaged[0]} has {curve.averaged[1]:.4f}"


if __name__ == "__main__":
    launch(main)
