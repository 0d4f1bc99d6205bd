"""Section `prepare`: where the raw text is and how it is split."""

from pathlib import PurePath
from typing import Annotated

from pydantic import Field, field_validator

from stages.lib.params import Section

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Prepare(Section):
    folder: str
    train: str
    validation: str | None
    test: str | None
    source_column: str
    target_column: str
    group_references: bool
    validation_fraction: Fraction
    test_fraction: Fraction
    max_set_aside_fraction: Fraction
    seed: int

    @field_validator("train", "validation", "test")
    @classmethod
    def _inside_folder(cls, name: str | None) -> str | None:
        if name is not None and (PurePath(name).is_absolute() or ".." in PurePath(name).parts):
            raise ValueError(f"`{name}` is outside prepare.folder, so DVC would not see it change")
        return name
