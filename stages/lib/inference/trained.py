"""A trained model with all that it takes to ask it: of the run in this folder, or of an exported folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import read_json
from stages.lib.core.params import PARAMS, read_section
from stages.lib.core.process import UserError, first_line
from stages.lib.inference.settings import Settings, settings_of_folder, settings_of_run
from stages.lib.models.loading import is_adapter, saved_model, trained_model
from stages.lib.params.model import OWN, Model, chosen_model, prediction_folder, report_folder

DATA = Path("data")
TRAINED = DATA / "train"
CHOICE = DATA / "tune_hyperparameters/model.json"


@dataclass(frozen=True)
class Trained:
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: Settings


def of_run() -> Trained:
    """
    Raises:
        UserError: a stage has not run, or an adapter's base can't be loaded.
    """
    settings = run_settings()
    network = trained_model(base_of_run(), TRAINED)
    return Trained(network, load_tokenizer(TRAINED / "model"), settings)


def run_settings() -> Settings:
    """
    Raises:
        UserError: as `settings_of_run` does, or there is no model.
    """
    model = TRAINED / "model"
    if not model.exists():
        raise UserError(f"{model}: not there; run `make repro`, or `dvc checkout` if it has been made")
    return settings_of_run(DATA, PARAMS, load_tokenizer(model).chat_template)


def base_of_run(folder: Path = Path()) -> Model:
    """The model before training, of the run in this folder."""
    return chosen_model(read_section(Model, folder / PARAMS), folder / CHOICE).model


def checkout_run(fetch: Callable[[str], None], folder: Path) -> None:
    """Brings what `of_run` reads into a folder.

    Args:
        fetch: copies a file or a folder to it, by its path in the project.
    """
    for path in (PARAMS, CHOICE, TRAINED / "report", TRAINED / "model", TRAINED / "adapter"):
        fetch(str(path))
    name = read_json(folder / TRAINED / "report/settings.json")["alternative"] or OWN
    fetch(str(DATA / "prepare/report/settings.json"))
    fetch(str(report_folder(DATA / "tokenize", name) / "settings.json"))
    fetch(str(prediction_folder(DATA / "tokenize", name) / "label_ids.json"))
    fetch(str(DATA / "predict/settings.json"))
    base = base_of_run(folder)
    if is_adapter(folder / TRAINED) and base.name == "folder":
        fetch(base.folder)


def of_folder(folder: Path, trust_remote_code: bool) -> Trained:
    """
    Raises:
        UserError: it is no folder that export_model has written, or its own code may not run.
    """
    settings = settings_of_folder(folder)
    try:
        network = saved_model(folder, trust_remote_code).float()  # as predict computes
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: can't be loaded: {first_line(error)}") from None
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = settings.chat_template
    return Trained(network, tokenizer, settings)
