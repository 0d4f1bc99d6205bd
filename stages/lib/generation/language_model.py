"""What `predict` asks of causal models about plain texts, checked before any work: the general texts, and the model
that says how fluent predictions are."""

from pathlib import Path

from stages.lib.checkpoint.architecture import model_family
from stages.lib.core.params import CHECKPOINT
from stages.lib.core.process import UserError
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict


def general_texts(model: Model, params: Predict) -> dict[str, str]:
    """Path below the folder of `params` -> text, for each file of text.

    Args:
        model: that reads them.

    Raises:
        UserError: the model is not causal, or can't be read; there is no text, or it is not UTF-8.
    """
    if model_family(model) != "causal":
        raise UserError(
            f"predict -> general_text: {model.title} is not causal, and only causal models have a loss on plain text "
            f"(others have learned from gaps in it, each kind of model from its own): write false"
        )
    folder, texts = Path(params.general_text_folder), {}
    for path in sorted(folder.rglob("*.txt")):
        try:
            texts[path.relative_to(folder).as_posix()] = path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"predict -> general_text_folder: {path} is not UTF-8: {error}") from None
    if not any(map(str.strip, texts.values())):
        raise UserError(f"predict -> general_text: no text in {folder}; put files *.txt there, or write false")
    return texts


def fluency_model(base: Model, params: Predict) -> Model | None:
    """The causal model that says how fluent predictions are; None where `params` names none.

    Args:
        base: the model before fine-tuning.

    Raises:
        UserError: it is the base, and this has random weights, is not causal, or can't be read; or it is not in the
            folder.
    """
    if params.fluency_model is None:
        return None
    if params.fluency_model == "base":
        if base.scratch is not None or model_family(base) != "causal":
            raise UserError(
                f"predict -> fluency_model: {base.title} is no pretrained causal model, so it can't say how fluent a "
                f"text is: write folder, and put one into fluency_model_folder; or null"
            )
        return base
    folder = params.fluency_model_folder
    if not list(Path(folder).glob("*.safetensors")):
        raise UserError(f"predict -> fluency_model_folder: no weights (*.safetensors) in {folder}")
    own = {"family": "causal", "trust_remote_code": None, "architecture": CHECKPOINT, "scratch": None}
    return base.model_copy(update={"name": "folder", "folder": folder, **own})
