"""Section `tokenize`: how text becomes token ids."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.lib.core.params import Section

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Languages(Section):
    """Codes of the tokenizer, such as en_XX; null for tokenizers without languages."""

    source: str | None = None
    target: str | None = None


class Task(Section):
    """The part of a scenario."""

    prompt: str = "{source}\n"
    languages: Languages = Languages()
    max_source_tokens: Count
    max_target_tokens: Count
    truncation: Literal["drop", "left", "right", "fail"] = "drop"
    long_target: Literal["drop", "split", "fail"] = "drop"
    overlap_tokens: Annotated[int, Field(ge=0)] = 0
    packing: bool = False


class Tokenize(Task):
    of_scenario = frozenset(Task.model_fields)

    as_chat: bool
    untrainable: Literal["fail", "drop"]
    max_rejected_fraction: Fraction
    max_truncated_fraction: Annotated[float, Field(ge=0, le=1)]
    shown_examples: Annotated[int, Field(ge=0)]

    @field_validator("prompt")
    @classmethod
    def _holds_source(cls, prompt: str) -> str:
        if "{source}" not in prompt:
            raise ValueError("must contain {source}, the place where the source text goes")
        return prompt

    @model_validator(mode="after")
    def _pieces_advance(self) -> Self:
        if self.packing and self.long_target != "split":
            raise ValueError("packing: documents are cut into pieces, long ones too; write long_target: split")
        if self.overlap_tokens and self.long_target != "split":
            raise ValueError("overlap_tokens: only pieces overlap; write long_target: split, or 0")
        if self.overlap_tokens >= self.max_target_tokens:
            raise ValueError("overlap_tokens must be below max_target_tokens: what a piece sees is not what it learns")
        return self
