"""Training runs of a search: what they have in common is opened once, and each gets a fresh copy of its model."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.models.devices import autocast
from stages.lib.models.families.interface import Loaded
from stages.lib.models.loading import load_base, parameter_count
from stages.lib.models.losses import example_losses
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.train import NO_TEACHER, FitSettings
from stages.lib.records.tokenized_examples import Label, TokenizedDataset, read_label_ids
from stages.lib.training.class_weights import class_weights
from stages.lib.training.fit import fit
from stages.lib.training.loop import update_steps
from stages.lib.training.selection import make_scorer
from stages.lib.training.state import Curve
from stages.lib.training.trainable import make_trainable, trainable_count

# gets the number of an evaluation, from 1, the updates, the value, and the losses of validation examples if asked for
Watch = Callable[[int, int, float, Sequence[float]], None]


@dataclass(frozen=True)
class Result:
    """Of a training run."""

    value: float  # of the metric, at its best
    updates: int
    parameters: int
    flops: float  # estimated


@dataclass
class Candidate:
    """A model that a trial can have, with its tokenized data."""

    model: Model
    tokenizer: PreTrainedTokenizerBase
    labels: list[Label]
    train: TokenizedDataset
    validation: TokenizedDataset

    def bits_per_byte(self, loss: float) -> float:
        """Of a loss in nats a token. Tokens of several models differ, bytes don't."""
        return loss * self.validation.target_tokens() / self.validation.target_bytes() / math.log(2)


class Candidates:
    """The models that trials can have.

    Args:
        models: by name.
        folders: of each, its tokenized data.
        first_train, first_validation: examples that trials read, None: all.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        folders: Mapping[str, Path],
        first_train: int | None,
        first_validation: int | None,
    ) -> None:
        self._models, self._folders = models, folders
        self._first = first_train, first_validation
        self.open = lru_cache(maxsize=None)(self._open)
        self._pristine = lru_cache(maxsize=1)(self._load)

    @property
    def are_several(self) -> bool:
        return len(self._models) > 1

    def _open(self, name: str) -> Candidate:
        folder, (train, validation) = self._folders[name], self._first
        return Candidate(
            self._models[name],
            load_tokenizer(folder / "tokenizer"),
            read_label_ids(folder / "label_ids.json"),
            TokenizedDataset(folder / "train", first=train),
            TokenizedDataset(folder / "validation", first=validation),
        )

    def network(self, name: str, settings: Fit) -> Loaded:
        """The model before training. The same one as before comes from memory, and with it the random numbers that
        follow its own, such as those of adapters."""
        (network, new), random_state = self._pristine(name, settings.dropout, settings.seed)
        torch.set_rng_state(random_state)
        return Loaded(copy.deepcopy(network), set(new))

    def _load(self, name: str, dropout: float | None, seed: int) -> tuple[Loaded, torch.Tensor]:
        own = self.open(name)
        loaded = load_base(own.model, own.tokenizer, [label.word for label in own.labels], dropout, seed)
        return loaded, torch.get_rng_state()


def settings_of_trial(values: Mapping[str, Any], epochs: float, metric: str, examples: int) -> FitSettings:
    """Section `fit` of a trial -> all settings of a training run.

    Args:
        examples: of validation, which the metric reads.
    """
    form = {"epochs": epochs, "max_minutes": None, "average_checkpoints": 1, **NO_TEACHER}
    judged = {"metric_for_best_model": metric, "generation_eval_examples": examples}
    return FitSettings.model_validate({**values, **form, **judged})


def run_trial(
    candidates: Candidates,
    name: str,
    settings: FitSettings,
    machine: Machine,
    folder: Path,
    title: str,
    watch: Watch,
    with_losses: bool,
) -> Result:
    """Trains the model of this name. A loss is in nats a target token; in bits a byte where there are several models.

    Args:
        folder: for checkpoints, from which a killed run goes on.
        watch: gets every evaluation, and can end the run by an exception.
        with_losses: whether it gets the losses of the validation examples too.

    Raises:
        Diverged, OutOfMemory: these settings can't be trained.
        UserError: see `fit`.
    """
    own = candidates.open(name)
    network, new = candidates.network(name, settings)
    network = make_trainable(network, settings, new)

    def value_of(curve: Curve, point: tuple[int, float]) -> float:
        return own.bits_per_byte(point[1]) if candidates.are_several and not curve.scores else point[1]

    def watched(curve: Curve) -> None:
        points = curve.scores or curve.validation
        with autocast(settings.precision):
            losses = [loss for _, loss, _ in sorted(example_losses(network, own.validation, 16))] if with_losses else []
        watch(len(points), points[-1][0], value_of(curve, points[-1]), losses)

    weights = class_weights(settings, own.labels, own.train)
    scorer = make_scorer(settings, own.tokenizer, own.labels, own.validation, machine.generation_batch_tokens)
    curve = fit(network, own.train, own.validation, settings, machine, folder, title, scorer, weights, watch=watched)
    updates = curve.training[-1][0]
    tokens = int(own.train.lengths().sum()) * settings.epochs * updates / update_steps(own.train, settings)
    every, trained = parameter_count(network), trainable_count(network)
    # 2 forward, 2 backward to the activations, 2 to the weights that are trained (Kaplan et al. 2020, section 2.1)
    return Result(value_of(curve, curve.best()), updates, every, (4 * every + 2 * trained) * tokens)
