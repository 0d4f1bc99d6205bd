"""Section `predict`: how text is generated."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.lib.core.params import Section


class Task(Section):
    """The part of a scenario."""

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    max_new_tokens: Annotated[int, Field(ge=1)]
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    candidates: Annotated[int, Field(ge=1)] = 1
    beams: Annotated[int, Field(ge=2)] = 5
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(gt=0, le=1)] | None = None
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    prefix_tokens: Annotated[int, Field(ge=0)] = 16

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens: at most max_new_tokens, which is {self.max_new_tokens}")
        return self

    @model_validator(mode="after")
    def _candidates_differ(self) -> Self:
        if self.candidates > 1 and self.strategy == "greedy":
            raise ValueError("candidates: `strategy: greedy` writes one text; write 1, or take beam or sample")
        if self.candidates > self.beams and self.strategy == "beam":
            raise ValueError(f"candidates: at most as many as beams, which is {self.beams}")
        return self


class Predict(Task):
    of_scenario = frozenset(Task.model_fields)

    seed: Annotated[int, Field(ge=0)]
    engine: Literal["transformers", "vllm"]
