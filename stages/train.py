"""The final training run, with the best settings -> the model.

Reads:  data/tune_hyperparameters/best.json and model.json; data/tokenize/{train,validation}/, tokenizer/ and
        label_ids.json, or those of the alternative that model.json names; the base model.
Writes: data/train/model/ (weights, configuration, tokenizer: `from_pretrained` opens it; beside an adapter of a
        checkpoint base.json in place of weights), adapter/ (for peft; a note without adapters) and report/: curve.json,
        stats.json and settings.json (the model, the settings that it was trained with, and which of them the search has
        found).
Random: initial weights, order of the examples, dropout: all by `fit.seed`.
"""

import json
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import read_json, write_json
from stages.lib.core.params import read_section
from stages.lib.core.process import is_main_process, launch
from stages.lib.models.cost import cost
from stages.lib.models.devices import configure_gpu
from stages.lib.models.families import interface_of
from stages.lib.models.loading import load_base, parameter_count
from stages.lib.models.memory import is_out_of_memory
from stages.lib.params.fit import Fit, with_settings
from stages.lib.params.machine import Machine
from stages.lib.params.model import OWN, Model, chosen_model, training_folder
from stages.lib.params.train import FitSettings, Train, check_together
from stages.lib.records.tokenized_examples import TokenizedDataset, read_label_ids
from stages.lib.training.checkpoints import load_weights
from stages.lib.training.class_weights import class_weights
from stages.lib.training.distillation import Teacher, load_teacher
from stages.lib.training.distributed import launch_distributed
from stages.lib.training.estimate import estimate
from stages.lib.training.fit import fit
from stages.lib.training.fsdp import gather_trained_weights
from stages.lib.training.loop import update_steps
from stages.lib.training.resume import resumable_state
from stages.lib.training.saving import checked_part, save
from stages.lib.training.selection import make_scorer
from stages.lib.training.state import Curve
from stages.lib.training.trainable import make_trainable, trainable_count

SOURCE = Path("data/tokenize")
TUNED = Path("data/tune_hyperparameters/best.json")
CHOICE = Path("data/tune_hyperparameters/model.json")
TARGET = Path("data/train")


def main() -> None:
    fit_, train_, machine = read_section(Fit), read_section(Train), read_section(Machine)
    check_together(fit_, machine)
    settings = FitSettings(**dict(fit_), **dict(train_))
    layout = f"{machine.world_size} processes{', sharded' if machine.sharded else ''}"
    with resumable_state("train", machine.nodes, layout) as folder:
        of_machine = machine.train_processes, machine.nodes, machine.rendezvous
        if not launch_distributed("stages.train", "train_processes", *of_machine):
            configure_gpu()
            name, model = chosen_model(read_section(Model), CHOICE)
            run(settings, model, machine, training_folder(SOURCE, name), TUNED, TARGET, folder, name)


def run(
    settings: FitSettings,
    model: Model,
    machine: Machine,
    source: Path,
    tuned: Path,
    target: Path,
    folder: Path,
    name: str = OWN,
) -> None:
    """Trains, and writes the model with its reports.

    Args:
        source: the tokenized data of this model.
        tuned: best.json of tune-hyperparameters.
        folder: of the resumable state.
        name: of the model among those that tuning may choose.
    """
    print(f"train: model {name} (search), not {OWN}" if name != OWN else f"train: model {model.title} (params.yaml)")
    found = _found_by_search(settings, read_json(tuned))
    settings = FitSettings.model_validate(with_settings(settings.model_dump(), found))
    check_together(settings, machine)  # tuning may have chosen another optimizer
    tokenizer = load_tokenizer(source / "tokenizer")
    train, validation = TokenizedDataset(source / "train"), TokenizedDataset(source / "validation")
    labels = read_label_ids(source / "label_ids.json")

    def untrained() -> PreTrainedModel:
        words = [label.word for label in labels]
        network, new = load_base(model, tokenizer, words, settings.dropout, settings.seed)
        return make_trainable(network, settings, new)

    weights_of_labels = class_weights(settings, labels, train)
    network = untrained()
    teacher = load_teacher(settings, network, tokenizer, labels, train)
    parameters = parameter_count(network), trainable_count(network)  # saving frees the weights, shared ones apart
    print(f"train: {_plan(network, train, validation, settings, machine, teacher)}", flush=True)
    scorer = make_scorer(settings, tokenizer, labels, validation, machine.generation_batch_tokens)
    curve = fit(network, train, validation, settings, machine, folder, "train", scorer, weights_of_labels, teacher)
    weights = gather_trained_weights(network) if machine.sharded else None
    if not is_main_process():
        return
    if weights is not None:
        network = untrained()
        load_weights(network, weights)
    checked = TokenizedDataset(source / "validation", first=checked_part(validation))
    reported = _reported_loss(curve) if len(checked) == len(validation) else None
    save(network, tokenizer, model, checked, settings.precision, settings.seed, target, reported)
    write_json(target / "report/curve.json", {"training": curve.training, "validation": curve.validation})
    write_json(target / "report/stats.json", _stats(*parameters, curve))
    about = {
        "model": model.title,
        "alternative": None if name == OWN else name,
        "base_model": model.hub_name,
        "class": interface_of(network).name,
        "from_search": [*([] if name == OWN else ["model"]), *found],
    }
    write_json(target / "report/settings.json", about | settings.model_dump())
    print(f"train: {_conclusion(settings, curve)} -> {target / 'model'}")


def _found_by_search(settings: FitSettings, best: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the best settings that params.yaml has not, by dotted names. Where each one comes from is printed."""
    found = dict[str, Any]()
    for name, value in best.items():
        own, origin = attrgetter(name)(settings), "params.yaml; the search found nothing better"
        if value != own:
            found[name], origin = value, f"search; params.yaml has {_written(own)}"
        print(f"train: fit.{name} {_written(value)} ({origin})")
    return found


def _written(value: Any) -> str:
    """As in params.yaml."""
    return value if isinstance(value, str) else json.dumps(value)


def _plan(
    network: PreTrainedModel,
    train: TokenizedDataset,
    validation: TokenizedDataset,
    settings: FitSettings,
    machine: Machine,
    teacher: Teacher | None,
) -> str:
    every, trainable = parameter_count(network), trainable_count(network)
    frozen = f" ({every - trainable:,} frozen)" if trainable < every else ""
    return (
        f"{every:,} parameters{frozen}, {len(train):,} examples with {train.target_tokens():,} target tokens, "
        f"{update_steps(train, settings):,} updates of {_size(settings)}; "
        f"{_cost(network, train, validation, settings, machine, teacher)}"
    )


def _size(settings: Fit) -> str:
    return f"{settings.batch_size} examples" if settings.batch_tokens is None else f"{settings.batch_tokens:,} tokens"


def _cost(
    network: PreTrainedModel,
    train: TokenizedDataset,
    validation: TokenizedDataset,
    settings: FitSettings,
    machine: Machine,
    teacher: Teacher | None,
) -> str:
    try:
        seconds, memory = estimate(network, train, validation, settings, machine, teacher)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        network.zero_grad()
        remedy = "so micro-batches will be halved" if machine.world_size == 1 else "so lower fit.micro_batch_tokens"
        return f"memory ends with the longest batch, {remedy}"
    return cost(seconds, memory)


def _reported_loss(curve: Curve) -> float | None:
    """Of the weights that training has chosen. None where they are a mean of checkpoints, of which the score is known,
    not the loss."""
    if curve.averaged is None:
        return dict(curve.validation)[curve.best()[0]]
    return None if curve.scores else curve.averaged[1]


def _stats(every: int, trainable: int, curve: Curve) -> dict[str, Any]:
    values = {"validation_loss": curve.validation} | ({"validation_score": curve.scores} if curve.scores else {})
    best = curve.best()[0]
    return {
        "parameters": every,
        "trainable_parameters": trainable,
        "updates": curve.training[-1][0],
        "best_update": best,
        "averaged": curve.averaged[0] if curve.averaged else 1,
        **{name: {"first": round(p[0][1], 5), "best": round(dict(p)[best], 5)} for name, p in values.items()},
    }


def _conclusion(settings: FitSettings, curve: Curve) -> str:
    step, value = curve.best()
    metric = settings.metric_for_best_model
    best = f"best validation {metric} {value:.4f} at step {step:,} of {curve.training[-1][0]:,}"
    return best if curve.averaged is None else f"{best}; the mean of {curve.averaged[0]} has {curve.averaged[1]:.4f}"


if __name__ == "__main__":
    launch(main)
