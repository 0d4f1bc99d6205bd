"""Section `model`: which pretrained weights, or which architecture."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stages.lib.params import Section, suggestion

# what a user chooses among; the family of an encoder depends on the task too
Kind = Literal["causal", "seq2seq", "encoder"]


class Model(Section):
    name: Annotated[str, Field(min_length=1)]
    revision: str
    folder: str
    family: Kind | None
    remote_code_of: str | None
    architecture: str
    architectures: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name.startswith((".", "/", "~")):
            raise ValueError(f"name: `{self.name}` is a path; write `name: folder` and put the path in `folder`")
        if self.architecture not in self.architectures:
            known = suggestion(self.architecture, self.architectures)
            raise ValueError(f"architecture: `{self.architecture}` is none of architectures{known}")
        for name, settings in self.architectures.items():
            if "model_type" not in settings:
                raise ValueError(f"architectures -> {name} -> model_type: missing, for example `gpt2`")
        if self.remote_code_of not in (None, self.place()):
            raise ValueError(f"remote_code_of: `{self.remote_code_of}` is not the model in use, {self.place()}")
        return self

    def place(self) -> str:
        """Where `from_pretrained` looks: a local folder, or a name on the hub."""
        return self.folder if self.name == "folder" else self.name
