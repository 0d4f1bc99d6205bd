"""Section `tokenize`: how text becomes token ids."""

from typing import Annotated

from pydantic import Field, field_validator

from stages.lib.params import Section

# 256 bytes and two special tokens must fit
MIN_VOCABULARY = 258


class Tokenize(Section):
    prompt: str
    vocabulary_size: Annotated[int, Field(ge=MIN_VOCABULARY)]
    max_source_tokens: Annotated[int, Field(ge=1)]
    max_target_tokens: Annotated[int, Field(ge=2)]
    max_set_aside_fraction: Annotated[float, Field(ge=0, lt=1)]

    @field_validator("prompt")
    @classmethod
    def _holds_source(cls, prompt: str) -> str:
        if "{source}" not in prompt:
            raise ValueError("must contain {source}, the place where the source text goes")
        return prompt
