"""Section `predict`: how text is generated."""

import json
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stages.lib.core.params import Section
from stages.lib.core.process import UserError


class Task(Section):
    """The part of a scenario."""

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    max_new_tokens: Annotated[int, Field(ge=1)]
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    choices: Annotated[list[str], Field(min_length=1)] | None = None
    json_schema: dict[str, Any] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    candidates: Annotated[int, Field(ge=1)] = 1
    beams: Annotated[int, Field(ge=2)] = 5
    beam_groups: Annotated[int, Field(ge=1)] = 1
    diversity_penalty: Annotated[float, Field(gt=0)] = 0.5
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(gt=0, le=1)] | None = None
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    prefix_tokens: Annotated[int, Field(ge=0)] = 16
    validation: bool = False

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
        if self.choices and self.candidates > len(self.choices) and self.strategy == "beam":
            raise ValueError(f"candidates: at most as many as choices, which is {len(self.choices)}")
        return self

    @model_validator(mode="after")
    def _groups_are_equal(self) -> Self:
        if self.beams % self.beam_groups and self.strategy == "beam":
            raise ValueError(f"beam_groups: must divide beams, which is {self.beams}")
        return self

    @model_validator(mode="after")
    def _choices_can_be_told_apart(self) -> Self:
        for number, choice in enumerate(self.choices or []):
            if not choice.strip() or choice != choice.strip():
                raise ValueError(f"choices -> {number}: {choice!r} is blank, or has blanks at an end; a text has none")
            if choice in (self.choices or [])[:number]:
                raise ValueError(f"choices -> {number}: {choice!r} is there twice")
        return self

    @model_validator(mode="after")
    def _only_the_form_ends_a_text(self) -> Self:
        name = "choices" if self.choices is not None else "json_schema"
        if self.choices is not None and self.json_schema is not None:
            raise ValueError("choices: not together with json_schema, whose `enum` lists what is allowed")
        for other in ("stop", "min_new_tokens", "no_repeat_ngram_size"):
            if self.is_constrained and getattr(self, other):
                raise ValueError(f"{name}: not together with {other}, which could forbid the only text that is allowed")
        return self

    @property
    def is_constrained(self) -> bool:
        """Whether texts are bound to a form."""
        return self.choices is not None or self.json_schema is not None


class Predict(Task):
    of_scenario = frozenset(Task.model_fields)

    seed: Annotated[int, Field(ge=0)]
    engine: Literal["transformers", "vllm"]
    general_text: bool
    general_text_folder: str
    fluency_model: Literal["base", "folder"] | None
    fluency_model_folder: str


def check_form(params: Task, has_labels: bool) -> None:
    """Raises UserError where texts can't be bound to the form that is asked for.

    Args:
        has_labels: whether the scenario chooses among labels already.
    """
    if has_labels and params.is_constrained:
        name = "choices" if params.choices is not None else "json_schema"
        raise UserError(f"predict -> {name}: this scenario chooses among its labels (prepare -> labels); write null")
    if params.json_schema is not None and (problem := _problem_of(params.json_schema)):
        raise UserError(f"predict -> json_schema: {problem}")


def _problem_of(schema: dict[str, Any]) -> str:
    if find_spec("llguidance") is None:
        return "the package llguidance is not installed; run `make setup EXTRAS=json`"
    # only needed for schemas
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    except (TypeError, ValueError) as error:  # such as a date, which YAML knows and JSON does not
        return f"this is no JSON: {error}"
    is_error, problems = LLMatcher.validate_grammar_with_warnings(grammar)
    return " ".join(problems[0].split()) if is_error else ""
