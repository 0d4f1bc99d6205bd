"""Section `predict`: how text is generated."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.params import Section


class Predict(Section):
    strategy: Literal["greedy", "beam", "sample"]
    max_new_tokens: Annotated[int, Field(ge=1)]
    beams: Annotated[int, Field(ge=2)]
    length_penalty: float
    temperature: Annotated[float, Field(gt=0)]
    top_k: Annotated[int, Field(ge=1)] | None
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: Annotated[int, Field(ge=0)]
    before_training: bool
