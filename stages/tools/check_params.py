"""Checks params.yaml before anything runs: `python -m stages.tools.check_params`, the first step of `make repro`.

Each stage checks it again. This check saves the wait for the first stage whose parameters are wrong. It also names
missing files and folders, which DVC would only call missing, and the new name of a parameter that was renamed.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from stages.lib.core.params import PARAMS, read_scenario, read_section, read_yaml
from stages.lib.core.process import UserError, launch
from stages.lib.ingest.readers import origins
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.fit import Fit, check_class_weights
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.prepare import Prepare
from stages.lib.params.train import Train, check_together
from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.tuning.space import Space

# old place -> new place, or what to write instead; * stands for any scenario
RENAMED = {
    "scenarios.*.prepare.reading.kind": "reading.format",
    "scenarios.*.tokenize.long_source": "truncation (drop | left | right | fail)",
    "scenarios.*.tokenize.pack": "packing",
    "scenarios.*.predict.opening_tokens": "prefix_tokens",
    "prepare.limits.max_set_aside_fraction": "max_rejected_fraction",
    "model.remote_code_of": "trust_remote_code",
    "model.architectures": "a section of its own, architectures",
    "tokenize.vocabulary_size": "architectures -> NAME -> vocabulary_size",
    "tokenize.vocabulary_splits": "architectures -> NAME -> pre_tokenizer (words | whitespace)",
    "tokenize.max_set_aside_fraction": "max_rejected_fraction",
    "tokenize.max_cut_fraction": "max_truncated_fraction",
    "fit.epochs": "train -> epochs",
    "fit.choose_by": "train -> metric_for_best_model",
    "fit.choose_examples": "train -> generation_eval_examples",
    "fit.average_best": "train -> average_checkpoints",
    "fit.validations": "evals_per_run",
    "fit.r_drop": "nothing: R-Drop is no longer offered; delete the line",
    "fit.freeze.thaw_epochs": "nothing: gradual unfreezing is no longer offered; delete the line",
    "fit.adapters.kind": "type",
    "fit.adapters.modules": "target_modules",
    "fit.processes": "machine -> train_processes",
    "fit.nodes": "machine -> nodes",
    "fit.rendezvous": "machine -> rendezvous",
    "fit.sharded": "machine -> sharded",
    "predict.before_training": "predict_base -> enabled",
    "evaluate.lowercase": "bleu_lowercase, chrf_lowercase and ter_case_sensitive of a scenario's evaluate",
    "machine.processes": "data_workers, for prepare and tokenize; train_processes are those of training",
}

_DECISIVE = ("optimizer", "adapters", "adapters.quantize")  # settings that may not fit the machine


def main() -> None:
    if lines := list(renamed(read_yaml())):
        raise UserError(lines)
    prepare, model, evaluate = read_section(Prepare), read_section(Model), read_section(Evaluate)
    teacher, others = read_section(Train).teacher_folder, model.alternatives_folder
    raw = Path(prepare.folder) / read_scenario()
    folders = {
        f"{raw}, the files of the scenario (prepare -> folder)": raw,
        f"{model.folder} (model -> folder; DVC hashes it even when it is not read)": Path(model.folder),
        f"{others} (model -> alternatives_folder; DVC hashes it even when it is not read)": Path(others),
        **dict(_checkpoint_folders(model)),
        f"{teacher} (train -> teacher_folder; DVC hashes it even when it is not read)": Path(teacher),
        f"{evaluate.sentence_encoder_folder} (evaluate -> sentence_encoder_folder; DVC hashes it even when it is not "
        f"read)": Path(evaluate.sentence_encoder_folder),
    }
    lines = [f"{PARAMS}: no folder {name}" for name, folder in folders.items() if not folder.is_dir()]
    fit, labels = read_section(Fit), prepare.labels or {}
    machine, tuned = read_section(Machine), read_section(TuneHyperparameters)
    lines += _lines(lambda: check_together(fit, machine))
    if tuned.trials:
        lines += _lines(lambda: Space(tuned, fit, list(model.candidates())))
        lines += _lines(lambda: _check_what_is_found(tuned, fit, machine))
    lines = list(dict.fromkeys(lines))
    lines += _lines(lambda: check_class_weights(fit, list(labels.values())))
    if raw.is_dir():
        lines += _lines(lambda: origins(prepare, raw))
    if lines:
        raise UserError(lines)


def _checkpoint_folders(model: Model) -> Iterator[tuple[str, Path]]:
    """Of the alternatives that are read from a folder of their own."""
    for name, other in model.candidates().items():
        if other.scratch is None and other.name == "folder" and other.folder != model.folder:
            yield f"{other.folder} (model -> alternatives -> {name} -> folder)", Path(other.folder)


def _check_what_is_found(tuned: TuneHyperparameters, fit: Fit, machine: Machine) -> None:
    """Training gets what the search has found, but on a machine that trials don't need: they are never sharded."""
    decisive = {name: tuned.search[name] for name in _DECISIVE if name in tuned.search}
    search = {name: dimension.model_copy(update={"when": {}}) for name, dimension in decisive.items()}
    space = Space(tuned.model_copy(update={"search": search, "trials": 1}), fit)
    found = [Fit.model_validate(space.values(settings)) for settings in space.grid]
    if lines := [line for settings in found for line in _lines(partial(check_together, settings, machine))]:
        raise UserError(lines)


def _lines(check: Callable[[], object]) -> list[str]:
    """Of the error that the check raises."""
    try:
        check()
    except UserError as error:
        return error.lines
    return []


def renamed(values: Mapping[str, Any]) -> Iterator[str]:
    """A line for each parameter that stands under an old name."""
    for old, new in RENAMED.items():
        for place in _found(old.split("."), values):
            yield f"{PARAMS}: {' -> '.join(place)}: is now {new}"


def _found(path: list[str], values: Any) -> Iterator[list[str]]:
    """The places that the path matches."""
    if not path:
        yield []
        return
    first, *rest = path
    if isinstance(values, Mapping):
        for name in values if first == "*" else [first]:
            if name in values:
                yield from ([str(name), *place] for place in _found(rest, values[name]))


if __name__ == "__main__":
    launch(main)
