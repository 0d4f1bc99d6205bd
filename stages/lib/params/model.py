"""Section `model`: the model that is fine-tuned, the alternatives that tuning may choose in its place, and the
architectures of models from random weights."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from stages.lib.core.files import read_json
from stages.lib.core.params import CHECKPOINT, Section
from stages.lib.core.process import UserError

# an encoder becomes a classifier for label tasks, and a bert2bert generator for text
Family = Literal["causal", "seq2seq", "encoder"]
PreTokenizer = Literal["words", "whitespace"]

# 256 bytes and the special tokens of an encoder must fit
MIN_VOCABULARY_SIZE = 260

OWN = "model"  # the name of the section's own model among those that tuning may choose

# values of the section that an alternative has too, unless it gives others; and those that say which checkpoint it is
_SHARED = ("name", "revision", "folder", "family", "trust_remote_code")
_OF_CHECKPOINT = ("name", "revision", "folder", "trust_remote_code")


class Architecture(Section):
    """A model of random weights: its model_type in transformers, the settings of that type's configuration (further
    names, which transformers checks), and the vocabulary: so many tokens, learned from the train split; None: that of
    the tokenizer in `model.folder`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    model_type: str
    vocabulary_size: Annotated[int, Field(ge=MIN_VOCABULARY_SIZE)] | None
    pre_tokenizer: PreTokenizer

    @property
    def settings(self) -> dict[str, Any]:
        """Of the configuration."""
        return dict(self.model_extra or {})


def _no_path(name: str) -> str:
    if name.startswith((".", "/", "~")):
        raise ValueError(f"`{name}` is a path; write `name: folder` and put the path in `folder`")
    return name


Name = Annotated[str, Field(min_length=1), AfterValidator(_no_path)]


class Alternative(Section):
    """What another model has in place of the values of the section. The defaults stand for what it does not give, and
    are never read."""

    name: Name = ""
    revision: str = ""
    folder: str = ""
    family: Family | None = None
    trust_remote_code: str | None = None
    scratch: Architecture | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_no_architecture(cls, values: Any) -> Any:
        if isinstance(values, dict) and "architecture" in values:
            raise ValueError(
                "architecture: DVC is told of one of `architectures` only; write random weights in its place, such as "
                "scratch: {model_type: gpt2, vocabulary_size: 1024, pre_tokenizer: words, n_layer: 2}"
            )
        return values

    def given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}


def _usable(name: str) -> str:
    """It is part of a path."""
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise ValueError("a name has letters, digits, - and _ only")
    if name == OWN:
        raise ValueError(f"`{OWN}` is the name of the section's own model; choose another one")
    return name


def _consistent(alternative: Alternative, info: ValidationInfo) -> Alternative:
    is_readable = all(name in info.data for name in (*_SHARED, "alternatives_folder"))  # else its mistakes are reported
    if is_readable and (lines := list(_mistakes(alternative, info.data))):
        raise ValueError("; ".join(lines))
    return alternative


def _mistakes(alternative: Alternative, section: Mapping[str, Any]) -> Iterator[str]:
    given = alternative.given()
    if alternative.scratch is not None:
        if needless := [name for name in _OF_CHECKPOINT if name in given]:
            yield f"{', '.join(needless)}: random weights have no checkpoint; leave this out, or `scratch`"
        return
    values = _completed(alternative, section)
    name, folder, place = values["name"], values["folder"], _place(values)
    if name == "scratch":
        yield "name: `scratch` is no model; write random weights as scratch: {model_type: ..., ...}"
    hashed = section["alternatives_folder"]
    if name == "folder" and folder != section["folder"] and not _is_within(folder, hashed):
        yield (
            f"folder: `{folder}` is outside of {hashed}, so DVC would not see it change; put it there, or change "
            f"model -> alternatives_folder"
        )
    if name not in ("folder", section["name"]) and "revision" not in given and section["revision"] != "main":
        yield f"revision: `{section['revision']}` is that of {section['name']}; give one of {name}, such as main"
    if values["trust_remote_code"] not in (None, place):
        yield f"trust_remote_code: `{values['trust_remote_code']}` is not the model of this alternative, {place}"


def _completed(alternative: Alternative, section: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an alternative: what it gives, else what the section says. Trust is in one checkpoint alone, so
    another one does not have it from the section."""
    given = alternative.given()
    values = {**{name: section[name] for name in _SHARED}, "scratch": None, **given}
    if values["scratch"] is not None or ("trust_remote_code" not in given and _place(values) != _place(section)):
        values["trust_remote_code"] = None
    return values


def _place(values: Mapping[str, Any]) -> str:
    folder: str = values["folder"]
    name: str = values["name"]
    return folder if name == "folder" else name


def _is_within(path: str, folder: str) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


class Model(Section):
    """`scratch` is None where training starts from a checkpoint."""

    of_architecture: ClassVar[str | None] = "scratch"

    name: Name
    revision: str
    folder: str
    family: Family | None
    trust_remote_code: str | None
    architecture: str
    alternatives_folder: str
    alternatives: dict[Annotated[str, AfterValidator(_usable)], Annotated[Alternative, AfterValidator(_consistent)]]
    scratch: Architecture | None

    @field_validator("name")
    @classmethod
    def _is_a_checkpoint(cls, name: str) -> str:
        if name == "scratch":
            raise ValueError("`scratch` is no model; for random weights set architecture to one of architectures")
        return name

    @field_validator("trust_remote_code")
    @classmethod
    def _trusts_the_model_in_use(cls, trusted: str | None, info: ValidationInfo) -> str | None:
        if {"name", "folder"} <= info.data.keys() and trusted not in (None, _place(info.data)):
            raise ValueError(f"`{trusted}` is not the model in use, {_place(info.data)}")
        return trusted

    @property
    def name_or_path(self) -> str:
        """What `from_pretrained` takes: a local folder, or a name on the hub."""
        return _place(dict(self))

    @property
    def hub_name(self) -> str | None:
        """None for a local folder and for random weights."""
        return self.name if self.scratch is None and self.name != "folder" else None

    @property
    def hub_revision(self) -> str | None:
        return self.revision if self.hub_name is not None else None

    @property
    def public_name(self) -> str | None:
        """Of the checkpoint, for those who get the trained model: without a path of this machine. None for random
        weights."""
        if self.scratch is not None:
            return None
        path = Path(self.name_or_path)
        return path.name if path.is_absolute() else self.name_or_path

    @property
    def title(self) -> str:
        """How reports call the model."""
        return self.name_or_path if self.scratch is None else f"{self.architecture}, from random weights"

    def candidates(self) -> dict[str, Self]:
        """The models that tuning may choose: this one, by the name `model`, and the alternatives. Each is complete, and
        has no alternatives. DVC does not see in which order they stand in params.yaml, so here it is that of the names.
        """
        alone = self.model_copy(update={"alternatives": {}})
        return {OWN: alone, **{name: alone._as(name, other) for name, other in sorted(self.alternatives.items())}}

    def _as(self, name: str, alternative: Alternative) -> Self:
        architecture = CHECKPOINT if alternative.scratch is None else name
        return self.model_copy(update={**_completed(alternative, dict(self)), "architecture": architecture})


class Chosen(NamedTuple):
    """The model in use and its name among the candidates."""

    name: str
    model: Model

    @property
    def is_alternative(self) -> bool:
        return self.name != OWN


def chosen_model(model: Model, choice: Path) -> Chosen:
    """The model in use.

    Args:
        choice: model.json of tune-hyperparameters.

    Raises:
        UserError: it names none of the alternatives.
    """
    name = read_json(choice)["alternative"]
    if name is None:
        return Chosen(OWN, model.candidates()[OWN])
    if name not in model.alternatives:
        raise UserError(
            f"{choice}: `{name}` is none of params.yaml: model -> alternatives; run `dvc repro tune-hyperparameters`"
        )
    return Chosen(name, model.candidates()[name])


def mistakes_of(name: str, lines: Iterable[str]) -> list[str]:
    """Lines of a UserError about the candidate of this name; those about an alternative name its place."""
    return list(lines) if name == OWN else [_placed(name, line) for line in lines]


def _placed(name: str, line: str) -> str:
    place = f"params.yaml: model -> alternatives -> {name}"
    for start, own in (("model", place), (f"params.yaml: architectures -> {name}", f"{place} -> scratch")):
        if line.startswith((f"{start}:", f"{start} ->")):
            return f"{own}{line.removeprefix(start)}"
    return f"{place}: {line}"


# what a candidate has is in three folders, each of other readers: a test text that changes must train nothing again


def training_folder(tokenized: Path, name: str) -> Path:
    """Below the folder of `tokenize`: what training reads of the candidate of this name. These are train/, validation/,
    tokenizer/ and label_ids.json."""
    return tokenized if name == OWN else tokenized / "alternatives" / name


def prediction_folder(tokenized: Path, name: str) -> Path:
    """What predictions read: test/, tokenizer/, label_ids.json and no_input.json."""
    return tokenized if name == OWN else tokenized / "alternatives_test" / name


def report_folder(tokenized: Path, name: str) -> Path:
    return tokenized / "report" if name == OWN else tokenized / "report/alternatives" / name
