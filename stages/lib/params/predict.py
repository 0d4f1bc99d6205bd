"""Section `predict`: how text is generated."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.core.params import Section


class Task(Section):
    """The part of a scenario."""

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    max_new_tokens: Annotated[int, Field(ge=1)]
    beams: Annotated[int, Field(ge=2)] = 5
    length_penalty: float = 1.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    prefix_tokens: Annotated[int, Field(ge=0)] = 16


class Predict(Task):
    of_scenario = frozenset(Task.model_fields)

    seed: Annotated[int, Field(ge=0)]
