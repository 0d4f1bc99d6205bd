"""Checks params.yaml before anything runs: `python -m stages.tools.check_params`, the first step of `make repro`.

Each stage checks it again. This check saves the wait for the first stage whose parameters are wrong. It also names
missing files and folders, which DVC would only call missing, files without the columns that the scenario reads, models
that are not on the hub, and the new name of a parameter that was renamed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, suppress
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from stages.lib.core.params import PARAMS, read_scenario, read_section, read_yaml
from stages.lib.core.process import UserError, first_line, launch
from stages.lib.ingest.readers import check_first_rows, origins, raw_files
from stages.lib.ingest.tracking import untracked
from stages.lib.params.evaluate import Evaluate, check_selective
from stages.lib.params.fit import Fit, check_class_weights
from stages.lib.params.machine import Machine
from stages.lib.params.model import OWN, Model, mistakes_of
from stages.lib.params.predict import Predict, check_form
from stages.lib.params.prepare import Prepare
from stages.lib.params.train import Train, check_together
from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.tuning.space import Space
from stages.tools.raw_data import note_on, other_than_dvc_keeps, pointers, too_large_for_git
from stages.tools.tasks import pipelines

# old place -> new place, or what to write instead; * stands for any scenario
RENAMED = {
    "scenarios.*.prepare.reading.kind": "reading.format",
    "scenarios.*.tokenize.long_source": "truncation (drop | left | right | fail)",
    "scenarios.*.tokenize.pack": "packing",
    "scenarios.*.predict.opening_tokens": "prefix_tokens",
    "machine.generation_batch_size": "generation_batch_tokens, which counts tokens and not sources",
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

LOCK = Path("dvc.lock")

_FILES_OF_A_SPLIT = 20  # that are looked into; where there are more, they are mostly alike
_HUB_SECONDS = 5
_DECISIVE = ("optimizer", "adapters", "adapters.quantize")  # settings that may not fit the machine


class _HubModel(NamedTuple):
    """A model that params.yaml names, and the section and the parameter that name it."""

    section: str
    place: str
    name: str
    revision: str


def main() -> None:
    if lines := [line for folder in pipelines() for line in _mistakes(folder)]:
        raise UserError(lines)


def _mistakes(folder: Path) -> list[str]:
    with chdir(folder):
        lines = _lines(_check)
    return [f"{folder}: {line}" if folder.name else line for line in lines]


def _check() -> None:
    if lines := list(renamed(read_yaml())):
        raise UserError(lines)
    prepare, model, evaluate = read_section(Prepare), read_section(Model), read_section(Evaluate)
    train = read_section(Train)
    predict, raw = read_section(Predict), Path(prepare.folder) / read_scenario()
    hashed = {
        "model -> folder": model.folder,
        "model -> alternatives_folder": model.alternatives_folder,
        "train -> teacher_folder": train.teacher_folder,
        "predict -> general_text_folder": predict.general_text_folder,
        "predict -> fluency_model_folder": predict.fluency_model_folder,
        "evaluate -> sentence_encoder_folder": evaluate.sentence_encoder_folder,
        "evaluate -> screen_folder": evaluate.screen_folder,
    }
    folders = {
        f"{raw}, the files of the scenario (prepare -> folder)": raw,
        **{
            f"{folder} ({place}; DVC hashes it even when it is not read)": Path(folder)
            for place, folder in hashed.items()
        },
        **dict(_checkpoint_folders(model)),
    }
    missing = [name for name, folder in folders.items() if not (folder.is_dir() or pointers(folder))]
    lines = [f"{PARAMS}: no folder {name}" for name in missing]
    lines += (changed := list(other_than_dvc_keeps(folders.values())))
    fit, labels = read_section(Fit), prepare.labels or {}
    machine, tuned = read_section(Machine), read_section(TuneHyperparameters)
    lines += _lines(lambda: check_together(fit, machine))
    lines += _lines(lambda: check_selective(evaluate, predict.validation))
    if tuned.trials:
        lines += _lines(lambda: Space(tuned, fit, list(model.candidates())))
        lines += _lines(lambda: _check_what_is_found(tuned, fit, machine))
    lines = list(dict.fromkeys(lines))
    lines += _lines(lambda: check_class_weights(fit, list(labels.values())))
    scenario = f"{PARAMS}: scenarios -> {read_scenario()}"
    lines += [f"{scenario} -> {line}" for line in _lines(lambda: check_form(predict, bool(labels)))]
    if raw.is_dir() and not changed:
        lines += _lines(lambda: _check_files(prepare, raw))
    lines += too_large_for_git(folders.values())
    if not (missing or changed) and (predict.general_text or predict.fluency_model):
        lines += _unusable_for_plain_texts(predict, model, labels)
    lines += _unavailable(list(_hub_models(model, train, evaluate)))
    if lines:
        raise UserError(lines)
    if lost := untracked(raw_files(prepare, raw)):
        print(note_on(lost))


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


def _check_files(prepare: Prepare, raw: Path) -> None:
    """Raises UserError where there are no such files, or where one of the first files of a split lacks a column. The
    stage reads its files one after the other, so it can't know the columns of the last one until late."""
    split_of = attrgetter("split", "mix")
    first = [own for _, group in groupby(origins(prepare, raw), split_of) for own in islice(group, _FILES_OF_A_SPLIT)]
    checks = [partial(check_first_rows, origin, prepare.mixed(origin.mix)) for origin in first]
    if lines := [line for check in checks for line in _lines(check)]:
        raise UserError(lines)


def _unusable_for_plain_texts(predict: Predict, model: Model, labels: Mapping[str, str]) -> Iterator[str]:
    """Lines about models that can't do what `predict` asks about plain texts."""
    from stages.lib.generation.language_model import fluency_model, general_texts  # with transformers

    for name, candidate in model.candidates().items():
        lines = _lines(partial(general_texts, candidate, predict)) if predict.general_text else []
        lines += [] if labels else _lines(partial(fluency_model, candidate, predict))
        yield from mistakes_of(name, lines)


def _hub_models(model: Model, train: Train, evaluate: Evaluate) -> Iterator[_HubModel]:
    for name, candidate in model.candidates().items():
        if candidate.hub_name is not None:
            place = "name" if name == OWN else f"alternatives -> {name} -> name"
            yield _HubModel("model", place, candidate.hub_name, candidate.revision)
    if train.teacher not in (None, "folder"):
        yield _HubModel("train", "teacher", train.teacher, train.teacher_revision)
    if evaluate.sentence_encoder not in (None, "folder"):
        yield _HubModel("evaluate", "sentence_encoder", evaluate.sentence_encoder, evaluate.sentence_encoder_revision)


def _unavailable(models: Sequence[_HubModel]) -> list[str]:
    """A line for each model that can't be loaded. One that stages have run with is not asked for: offline, their
    results are still of use."""
    if not models:
        return []
    values, run = read_yaml(), _params_run()
    unseen = [model for model in models if all(params.get(model.section) != values[model.section] for params in run)]
    problems = {model: _problem_of(model) for model in unseen}
    return [f"{PARAMS}: {model.section} -> {model.place}: {problem}" for model, problem in problems.items() if problem]


def _params_run() -> list[Mapping[str, Any]]:
    """The params of each stage's last run."""
    with suppress(UserError):  # nothing has run, or a merge has left it broken
        stages = read_yaml(LOCK).get("stages") or {}
        return [stage.get("params", {}).get(str(PARAMS), {}) for stage in stages.values()]
    return []


def _problem_of(model: _HubModel) -> str | None:
    """Asks the hub once: loading asks five times more, and waits in between."""
    # only needed for models of the hub
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    file = {"repo_id": model.name, "filename": "config.json", "revision": model.revision}
    try:
        if not isinstance(try_to_load_from_cache(**file), str):
            get_hf_file_metadata(hf_hub_url(**file), timeout=_HUB_SECONDS)
    except EntryNotFoundError:  # the model is there
        return None
    except GatedRepoError:
        return f"{model.name} needs access: accept its terms on its page, and set HF_TOKEN to a token of yours"
    except RepositoryNotFoundError:
        return f"no model {model.name} on the hub; if it is private, set HF_TOKEN to a token that may read it"
    except RevisionNotFoundError:
        return f"{model.name} has no revision {model.revision}"
    except Exception as error:  # of the HTTP client, whose classes change with the version of huggingface_hub
        return f"{model.name} is neither in the local cache nor found on the hub: {first_line(error)}"
    return None


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
