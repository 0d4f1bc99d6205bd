"""Section `prepare`: where the raw text is, how it is read, cleaned and checked, and how it is split."""

from pathlib import PurePath
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from stages.lib.core.params import Section
from stages.lib.core.templates import Template

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
# a file, a folder or a glob; or column -> file, for aligned files
Files = str | dict[str, str]


class Hub(Section):
    name: str
    config: str | None = None
    revision: str = "main"


class Reading(Section):
    format: Literal["csv", "tsv", "json", "jsonl", "parquet", "text", "dialog"] | None = None
    encoding: str = "utf-8"
    columns: list[str] | None = None
    records: str | None = None
    text_row: Literal["line", "paragraph", "file"] = "line"

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            "".encode(encoding)  # which refuses encodings of no text, such as hex
        except LookupError:
            raise ValueError(
                f"`{encoding}` is no encoding that Python knows; usual are utf-8, latin-1, utf-16"
            ) from None
        return encoding


class Clean(Section):
    encoding: bool
    html_entities: bool
    unicode: Literal["NFC", "NFKC"] | None
    control_characters: bool
    whitespace: Literal["keep", "strip", "collapse"]


class Mask(Section):
    emails: bool
    phones: bool
    phone_region: str | None
    cards: bool


class Range(Section):
    """Bounds of a length, both included; null is no bound."""

    min: Count | None
    max: Count | None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}: no text can be kept")
        return self


class LengthLimits(Section):
    source_characters: Range
    source_words: Range
    target_characters: Range
    target_words: Range


class Duplicates(Section):
    compare: Literal["pair", "source", "target"]
    in_train: Literal["drop", "keep"]
    near: Annotated[float, Field(ge=0.5, le=1)] | None


class SplitRule(Section):
    by: Literal["hash", "group", "stratum", "order"] = "hash"
    field: str | None = None
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1

    @model_validator(mode="after")
    def _field_where_needed(self) -> Self:
        if self.by in ("group", "stratum") and self.field is None:
            raise ValueError(f"by: {self.by} needs `field`, the column that holds it")
        if self.by == "hash" and self.field is not None:
            raise ValueError("`field` is not read with by: hash; use by: group, stratum or order, or field: null")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction and test_fraction leave nothing to train on")
        return self


class Limits(Section):
    max_rejected_fraction: Fraction
    max_duplicate_fraction: Fraction
    max_leak_fraction: Fraction


class Task(Section):
    """The part of a scenario."""

    train: Files
    validation: Files | None = None
    test: Files | None = None
    hub: Hub | None = None
    reading: Reading = Reading()
    source: str | None = None
    target: str | None = None
    messages: str | None = None
    labels: dict[str, str] | None = None
    group_references: bool = True
    split: SplitRule = SplitRule()
    metadata: list[str] = Field(default_factory=list)


class Prepare(Task):
    of_scenario = frozenset(Task.model_fields)

    folder: str
    clean: Clean
    mask: Mask
    lengths: LengthLimits
    duplicates: Duplicates
    limits: Limits
    shown_examples: Count
    seed: int

    @field_validator("train", "validation", "test")
    @classmethod
    def _inside_folder(cls, files: Files | None) -> Files | None:
        for name in [] if files is None else [files] if isinstance(files, str) else files.values():
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                raise ValueError(f"`{name}` is outside the scenario's folder, so DVC would not see it change")
        return files

    @field_validator("source", "target")
    @classmethod
    def _is_template(cls, template: str | None, info: ValidationInfo) -> str | None:
        if template is not None and not Template(template).fields:
            raise ValueError(f"`{template}` names no column; write one in braces, such as {{{info.field_name}}}")
        return template

    @field_validator("labels")
    @classmethod
    def _at_least_two(cls, labels: dict[str, str] | None) -> dict[str, str] | None:
        if labels is not None and (len(labels) < 2 or len(set(labels.values())) < len(labels)):
            raise ValueError("give two labels or more, each with a word of its own: {value in the data: word}")
        return labels

    @property
    def groups(self) -> bool:
        """Whether rows of equal source are one example: free text and conversations have none, labels contradict."""
        return self.group_references and self.source is not None and self.labels is None

    @model_validator(mode="after")
    def _one_kind_of_row(self) -> Self:
        if (self.target is None) == (self.messages is None):
            raise ValueError("give either `target` (and `source`, for other than free text) or `messages`")
        if self.messages is not None and self.source is not None:
            raise ValueError("source: with `messages`, the turns before an answer are its source; write source: null")
        if self.labels is not None and self.source is None:
            raise ValueError("labels: a label answers a source; give `source`")
        if self.source is None and self.messages is None and self.duplicates.compare == "source":
            raise ValueError("duplicates -> compare: without a source template there is no source to compare")
        if self.hub is not None and any(isinstance(files, dict) for files in (self.train, self.validation, self.test)):
            raise ValueError("train, validation, test: with `hub` they are names of its splits")
        return self
