"""Section `tokenize`: how text becomes token ids."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from stages.lib.params import Section

# 256 bytes and two special tokens must fit
MIN_VOCABULARY = 258

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Tokenize(Section):
    prompt: str
    vocabulary_size: Annotated[int, Field(ge=MIN_VOCABULARY)]
    max_source_tokens: Annotated[int, Field(ge=1)]
    max_target_tokens: Annotated[int, Field(ge=2)]
    long_source: Literal["set_aside", "cut_start", "cut_end", "fail"]
    long_target: Literal["set_aside", "split", "fail"]
    overlap_tokens: Annotated[int, Field(ge=0)]
    untrainable: Literal["fail", "set_aside"]
    max_set_aside_fraction: Fraction
    max_cut_fraction: Annotated[float, Field(ge=0, le=1)]
    shown_examples: Annotated[int, Field(ge=0)]

    @field_validator("prompt")
    @classmethod
    def _holds_source(cls, prompt: str) -> str:
        if "{source}" not in prompt:
            raise ValueError("must contain {source}, the place where the source text goes")
        return prompt

    @model_validator(mode="after")
    def _pieces_advance(self) -> "Tokenize":
        if self.long_target == "split" and self.overlap_tokens >= self.max_target_tokens:
            raise ValueError("overlap_tokens must be below max_target_tokens: what a piece sees is not what it learns")
        return self
