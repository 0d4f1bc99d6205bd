"""The settings that a model was made with: as the stages have recorded them, and in settings.json beside its weights.

Params of today may be others. So a model is asked and decoded by the settings of its own run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from stages.lib.core.files import read_json
from stages.lib.core.params import Section, read_yaml
from stages.lib.core.process import UserError
from stages.lib.params.model import OWN, Family, prediction_folder, report_folder
from stages.lib.params.predict import Predict
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.tokenized_examples import Label, read_label_ids

SETTINGS = "settings.json"
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")

ModelClass = Literal["causal", "seq2seq", "classifier"]
S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Settings:
    """`train` is what data/train/report says: the model, and the settings of its training, those of the search
    included. `labels` are the texts to choose among; none for free text. `chat_template` is that of the tokenizer in
    training."""

    scenario: str
    prepare: Prepare
    tokenize: Tokenize
    train: Mapping[str, Any]
    predict: Predict
    labels: list[Label]
    chat_template: str | None

    @property
    def model_class(self) -> ModelClass:
        used: ModelClass = self.train["class"]
        return used

    @property
    def family(self) -> Family:
        """By which sources become ids. That of a bert2bert is seq2seq here: it is one, once it is made."""
        return "encoder" if self.model_class == "classifier" else self.model_class

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "prepare": self.prepare.model_dump(mode="json"),
            "tokenize": self.tokenize.model_dump(mode="json"),
            "train": dict(self.train),
            "predict": self.predict.model_dump(mode="json"),
            "labels": [label._asdict() for label in self.labels],
            "chat_template": self.chat_template,
            "versions": {name: version(name) for name in _PACKAGES},
        }


def settings_of_run(data: Path, params: Path, chat_template: str | None) -> Settings:
    """Of the run whose results are in `data`.

    Args:
        params: params.yaml, which names the scenario.

    Raises:
        UserError: a stage has not run, or another version of the project has run it.
    """
    train = _json(data / "train/report/settings.json")
    name = train["alternative"] or OWN
    return Settings(
        scenario=str(read_yaml(params)["scenario"]),
        prepare=_section(Prepare, data / "prepare/report/settings.json"),
        tokenize=_section(Tokenize, report_folder(data / "tokenize", name) / "settings.json"),
        train=train,
        predict=_section(Predict, data / "predict/settings.json"),
        labels=read_label_ids(prediction_folder(data / "tokenize", name) / "label_ids.json"),
        chat_template=chat_template,
    )


def settings_of_folder(folder: Path) -> Settings:
    """Of an exported model.

    Raises:
        UserError: this is no folder that export_model has written, or another version of the project has written it.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{path}: not there; `python -m stages.tools.export_model` writes a folder that has it")
    values = read_json(path)
    return Settings(
        scenario=values["scenario"],
        prepare=_checked(Prepare, values["prepare"], f"{path}: prepare"),
        tokenize=_checked(Tokenize, values["tokenize"], f"{path}: tokenize"),
        train=values["train"],
        predict=_checked(Predict, values["predict"], f"{path}: predict"),
        labels=[Label(**label) for label in values["labels"]],
        chat_template=values["chat_template"],
    )


def _section(schema: type[S], path: Path) -> S:
    return _checked(schema, _json(path), str(path))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; run `make repro`, or `dvc checkout` if it has been made")
    return read_json(path)


def _checked(schema: type[S], values: Mapping[str, Any], place: str) -> S:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(
            f"{place} -> {' -> '.join(map(str, own['loc']))}: {own['msg']}: another version of the project has written "
            f"it; use the tools of that version"
            for own in error.errors()
        ) from None
