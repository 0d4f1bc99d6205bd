"""Section `model`: which pretrained weights, or which architecture."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from stages.lib.params import Section


class Model(Section):
    name: Annotated[str, Field(min_length=1)]
    revision: str
    folder: str
    architecture: dict[str, Any]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name.startswith((".", "/", "~")):
            raise ValueError(f"name: `{self.name}` is a path; write `name: folder` and put the path in `folder`")
        if self.name == "scratch" and "model_type" not in self.architecture:
            raise ValueError("architecture -> model_type: missing, for example `gpt2`")
        return self
