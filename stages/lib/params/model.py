"""Section `model`: the model that is fine-tuned, and the architectures of models from random weights."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from stages.lib.core.params import Section

# an encoder becomes a classifier for label tasks, and a bert2bert generator for text
Family = Literal["causal", "seq2seq", "encoder"]
PreTokenizer = Literal["words", "whitespace"]

# 256 bytes and the special tokens of an encoder must fit
MIN_VOCABULARY_SIZE = 260


class Architecture(Section):
    """A model of random weights: its model_type in transformers, the settings of that type's configuration (further
    names, which transformers checks), and the vocabulary that is learned from the train split."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    model_type: str
    vocabulary_size: Annotated[int, Field(ge=MIN_VOCABULARY_SIZE)]
    pre_tokenizer: PreTokenizer

    @property
    def settings(self) -> dict[str, Any]:
        """Of the configuration."""
        return dict(self.model_extra or {})


class Model(Section):
    """`scratch` is None where training starts from a checkpoint."""

    of_architecture: ClassVar[str | None] = "scratch"

    name: Annotated[str, Field(min_length=1)]
    revision: str
    folder: str
    family: Family | None
    trust_remote_code: str | None
    architecture: str
    scratch: Architecture | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name.startswith((".", "/", "~")):
            raise ValueError(f"name: `{self.name}` is a path; write `name: folder` and put the path in `folder`")
        if self.name == "scratch":
            raise ValueError("name: `scratch` is no model; for random weights set architecture to one of architectures")
        if self.trust_remote_code not in (None, self.name_or_path):
            raise ValueError(
                f"trust_remote_code: `{self.trust_remote_code}` is not the model in use, {self.name_or_path}"
            )
        return self

    @property
    def name_or_path(self) -> str:
        """What `from_pretrained` takes: a local folder, or a name on the hub."""
        return self.folder if self.name == "folder" else self.name

    @property
    def hub_name(self) -> str | None:
        """None for a local folder and for random weights."""
        return self.name if self.scratch is None and self.name != "folder" else None

    @property
    def title(self) -> str:
        """How reports call the model."""
        return self.name_or_path if self.scratch is None else f"{self.architecture}, from random weights"
