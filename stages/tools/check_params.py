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
from stages.lib.params.tune_hyperparameters import TuneHyperparameters, check_search

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


def main() -> None:
    if lines := list(renamed(read_yaml())):
        raise UserError(lines)
    prepare, model, evaluate = read_section(Prepare), read_section(Model), read_section(Evaluate)
    teacher = read_section(Train).teacher_folder
    raw = Path(prepare.folder) / read_scenario()
    folders = {
        f"{raw}, the files of the scenario (prepare -> folder)": raw,
        f"{model.folder} (model -> folder; DVC hashes it even when it is not read)": Path(model.folder),
        f"{teacher} (train -> teacher_folder; DVC hashes it even when it is not read)": Path(teacher),
        f"{evaluate.sentence_encoder_folder} (evaluate -> sentence_encoder_folder; DVC hashes it even when it is not "
        f"read)": Path(evaluate.sentence_encoder_folder),
    }
    lines = [f"{PARAMS}: no folder {name}" for name, folder in folders.items() if not folder.is_dir()]
    fit, labels = read_section(Fit), prepare.labels or {}
    machine, tuned = read_section(Machine), read_section(TuneHyperparameters)
    lines += _lines(lambda: check_together(fit, machine))
    lines += _lines(lambda: check_search(tuned, fit))
    if "optimizer" in tuned.search:  # training gets any of them
        for name in tuned.search["optimizer"].ends():
            lines += _lines(partial(check_together, fit.model_copy(update={"optimizer": name}), machine))
    lines = list(dict.fromkeys(lines))
    lines += _lines(lambda: check_class_weights(fit, list(labels.values())))
    if raw.is_dir():
        lines += _lines(lambda: origins(prepare, raw))
    if lines:
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
