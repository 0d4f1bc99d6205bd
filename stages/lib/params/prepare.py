"""Section `prepare`: where the raw text is, how it is read, cleaned and checked, and how it is split."""

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from stages.lib.core.params import Section
from stages.lib.core.templates import Template

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
SplitName = Literal["train", "validation", "test"]
# a file, a folder or a glob; or column -> file, for aligned files
Files = str | dict[str, str]
Role = Literal["system", "user", "assistant", "tool"]


class Hub(Section):
    name: str
    config: str | None = None
    revision: str = "main"


class Thread(Section):
    """Columns of rows that are single messages, each an answer to another one."""

    id: str
    parent: str
    role: str
    text: str


class Reading(Section):
    format: Literal["csv", "tsv", "json", "jsonl", "parquet", "arrow", "xlsx", "text", "dialog"] | None = None
    encoding: str = "utf-8"
    columns: list[str] | None = None
    delimiter: str | None = None
    quoted: bool | None = None
    comment: Annotated[str, Field(min_length=1)] | None = None
    skip_lines: Count = 0
    max_record_lines: Annotated[int, Field(ge=1)] = 200
    max_record_ratio: Annotated[int, Field(ge=2)] = 100
    records: str | None = None
    text_row: Literal["line", "paragraph", "file"] = "line"
    thread: Thread | None = None

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise ValueError(f"`{delimiter}`: give one character, and no quotation mark or line end")
        return delimiter

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


class Conversation(Section):
    """How a conversation is read. `turn` is for one that stands in a single text."""

    roles: dict[str, Role] = Field(default_factory=dict)
    turn: str | None = None
    merge: str | None = "\n"
    system: str | None = None
    tools: str | None = None

    @field_validator("turn")
    @classmethod
    def _finds_roles(cls, turn: str | None) -> str | None:
        if turn is not None and "role" not in _pattern(turn).groupindex:
            raise ValueError(f"`{turn}` has no group (?P<role>...), which finds who speaks")
        return turn


class Extract(Section):
    """A column made from another one: what the first group of the pattern finds in it."""

    field: str
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _has_a_group(cls, pattern: str) -> str:
        if not _pattern(pattern).groups:
            raise ValueError(f"`{pattern}` has no group in parentheses, which finds the value")
        return pattern


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"`{text}` is no regular expression: {error}") from None


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


class Mixed(Section):
    """Further rows of train: how they are read, and their share of its examples."""

    files: Files
    hub: Hub | None = None
    reading: Reading = Reading()
    extract: dict[str, Extract] = Field(default_factory=dict)
    source: str | None = None
    target: str | list[str] | None = None
    messages: str | list[str] | None = None
    conversation: Conversation = Conversation()
    share: Annotated[float, Field(gt=0, lt=1)]

    @field_validator("files")
    @classmethod
    def _inside_folder(cls, files: Files) -> Files:
        _check_inside(files)
        return files

    @field_validator("source", "target")
    @classmethod
    def _are_templates(cls, value: object, info: ValidationInfo) -> object:
        _check_templates(value, str(info.field_name))
        return value


class Task(Section):
    """The part of a scenario."""

    train: Files
    validation: Files | None = None
    test: Files | None = None
    hub: Hub | None = None
    reading: Reading = Reading()
    extract: dict[str, Extract] = Field(default_factory=dict)
    source: str | dict[SplitName, str] | None = None
    target: str | list[str] | dict[SplitName, str | list[str] | None] | None = None
    list_separators: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["\n", " | "])
    messages: str | list[str] | None = None
    conversation: Conversation = Conversation()
    labels: dict[str, str] | None = None
    group_references: bool = True
    split: SplitRule = SplitRule()
    metadata: list[str] = Field(default_factory=list)
    known_ngrams: str | None = None
    mix: dict[str, Mixed] = Field(default_factory=dict)


class Prepare(Task):
    of_scenario = frozenset(Task.model_fields)

    folder: str
    clean: Clean
    mask: Mask
    lengths: LengthLimits
    duplicates: Duplicates
    limits: Limits
    train_share: Annotated[float, Field(gt=0, le=1)]
    shown_examples: Count
    seed: int

    @field_validator("train", "validation", "test", "known_ngrams")
    @classmethod
    def _inside_folder(cls, files: Files | None) -> Files | None:
        _check_inside(files)
        return files

    @field_validator("source", "target")
    @classmethod
    def _are_templates(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, dict) and "train" not in value:
            raise ValueError("give the template of train; validation and test have the same unless they name their own")
        _check_templates(value, str(info.field_name))
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _as_in_the_data(cls, labels: Any) -> Any:
        """YAML reads 1 and true as a number and a boolean; rows have them as texts."""
        if not isinstance(labels, dict):
            return labels
        return {_as_text(name): _as_text(word) for name, word in labels.items()}

    @field_validator("labels")
    @classmethod
    def _at_least_two(cls, labels: dict[str, str] | None) -> dict[str, str] | None:
        if labels is not None and (len(labels) < 2 or len(set(labels.values())) < len(labels)):
            raise ValueError("give two labels or more, each with a word of its own: {value in the data: word}")
        return labels

    def source_of(self, split: SplitName) -> str | None:
        """The template of the sources of a split; None for free text and conversations."""
        return _of_split(self.source, split)

    def targets_of(self, split: SplitName) -> list[str]:
        """The templates of its targets: each gives one reference, or several from a list. None for conversations, and
        for a test split whose answers nobody knows."""
        found = _of_split(self.target, split)
        return [] if found is None else [found] if isinstance(found, str) else found

    def mixed(self, name: str | None) -> "Prepare":
        """How the rows of this entry of `mix` are read: as if they were all that train has. Each is an example of its
        own. With None: as this section says."""
        if name is None:
            return self
        own = self.mix[name]
        read: dict[str, Any] = {part: getattr(own, part) for part in Mixed.model_fields if part in Task.model_fields}
        alone: dict[str, Any] = {"validation": None, "test": None, "split": SplitRule(), "metadata": []}
        return self.model_copy(update={"train": own.files, **read, **alone, "group_references": False, "mix": {}})

    @property
    def message_fields(self) -> list[str]:
        """The fields that hold a conversation, one after the other. Only answers of the last have loss."""
        return [self.messages] if isinstance(self.messages, str) else self.messages or []

    @property
    def group_field(self) -> str | None:
        """The field whose rows stay in one split. By default, a tree of messages stays whole."""
        if self.split.by == "hash" and self.reading.thread is not None:
            return self.reading.thread.id
        return self.split.field if self.split.by == "group" else None

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
        if self.messages == []:
            raise ValueError("messages: an empty list names no field")
        if self.messages is None and (self.conversation != Conversation() or self.reading.thread is not None):
            raise ValueError("conversation and reading -> thread are only read with `messages`; name its field there")
        if any(not self.targets_of(split) for split in ("train", "validation") if self.target is not None):
            raise ValueError("target: only test can be without answers")
        if not self.targets_of("test") and self.target is not None and self.test is None:
            raise ValueError("target: a test split taken from train has its answers; give its files in `test`")
        if not self.targets_of("test") and self.target is not None and self.source is None:
            raise ValueError("target: free text without its text is nothing; name the field of test too")
        if self.source is None and self.messages is None and self.duplicates.compare == "source":
            raise ValueError("duplicates -> compare: without a source template there is no source to compare")
        for name, own in self.mix.items():
            self._check_mixed(f"mix -> {name}", own)
        if sum(own.share for own in self.mix.values()) >= 1:
            raise ValueError("mix: the shares leave nothing to the scenario's own examples")
        if self.hub is not None and any(isinstance(files, dict) for files in (self.train, self.validation, self.test)):
            raise ValueError("train, validation, test: with `hub` they are names of its splits")
        return self

    def _check_mixed(self, place: str, own: Mixed) -> None:
        if self.messages is not None and own.messages is None:
            raise ValueError(f"{place}: the scenario has conversations; name the field of its `messages`")
        if self.messages is None and own.target is None:
            raise ValueError(f"{place}: the scenario has no conversations; give `target` (and `source`)")
        if own.messages is not None and (own.target is not None or own.source is not None):
            raise ValueError(
                f"{place}: with `messages`, the turns before an answer are its source; leave the others out"
            )
        if own.source is None and self.labels is not None:
            raise ValueError(f"{place}: a label answers a source; give `source`")
        if own.source is None and self.messages is None and self.duplicates.compare == "source":
            raise ValueError(f"{place}: with duplicates -> compare: source, every row needs one; give `source`")
        if own.hub is not None and isinstance(own.files, dict):
            raise ValueError(f"{place} -> files: with `hub` it is the name of its split")


def _check_inside(files: Files | None) -> None:
    for name in [] if files is None else [files] if isinstance(files, str) else files.values():
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError(f"`{name}` is outside the scenario's folder, so DVC would not see it change")


def _check_templates(value: object, place: str) -> None:
    if value is not None and not any(True for _ in _templates(value)):
        raise ValueError("it names no column")
    for template in _templates(value):
        if not Template(template).fields:
            raise ValueError(f"`{template}` names no column; write one in braces, such as {{{place}}}")


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _templates(value: object) -> Iterator[str]:
    """All templates in the value of `source` or `target`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _templates(each)


def _of_split(value: Any, split: SplitName) -> Any:
    return value.get(split, value["train"]) if isinstance(value, dict) else value
