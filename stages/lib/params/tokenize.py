"""Section `tokenize`: how text becomes token ids."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from stages.lib.params import Section

# 256 bytes and the special tokens of an encoder must fit
MIN_VOCABULARY = 260

Fraction = Annotated[float, Field(ge=0, lt=1)]
Splits = Literal["words", "blanks"]


class Languages(Section):
    """Codes of the tokenizer, such as en_XX; null for tokenizers without languages."""

    source: str | None = None
    target: str | None = None


class Task(Section):
    """What a scenario says."""

    prompt: str = "{source}\n"
    languages: Languages = Languages()
    max_source_tokens: Annotated[int, Field(ge=1)]
    max_target_tokens: Annotated[int, Field(ge=1)]
    long_source: Literal["set_aside", "cut_start", "cut_end", "fail"] = "set_aside"
    long_target: Literal["set_aside", "split", "fail"] = "set_aside"
    overlap_tokens: Annotated[int, Field(ge=0)] = 0
    pack: bool = False


class Tokenize(Task):
    of_scenario = frozenset(Task.model_fields)

    as_chat: bool
    vocabulary_size: Annotated[int, Field(ge=MIN_VOCABULARY)]
    vocabulary_splits: Splits
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
        if self.pack and self.long_target != "split":
            raise ValueError("pack: documents are cut into pieces, long ones too; write long_target: split")
        if self.overlap_tokens and self.long_target != "split":
            raise ValueError("overlap_tokens: only pieces overlap; write long_target: split, or 0")
        if self.overlap_tokens >= self.max_target_tokens:
            raise ValueError("overlap_tokens must be below max_target_tokens: what a piece sees is not what it learns")
        return self
