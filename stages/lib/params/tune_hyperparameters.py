"""Section `tune_hyperparameters`: the search over settings of `fit`, and over models."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from stages.lib.core.params import Section, suggestion
from stages.lib.params.fit import Count, Fit, Positive
from stages.lib.params.train import Metric

MODEL = "model"  # the searched model among the settings of a trial

_FINEST = "4g"  # digits of a drawn number: easy to copy, and no search is finer

Place = tuple[str | int, ...]  # names and numbers that lead to a value


class Dimension(Section):
    """One searched setting: `low` to `high` (on a logarithmic scale if `log`, in steps of `step`), or one of `choices`.

    A trial reads it only if each setting in `when` has one of the values given there.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: Positive | None = None
    points: Annotated[int, Field(ge=2)] | None = None
    choices: list[Any] | None = None
    when: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.choices is not None:
            if not self.choices or (self.low, self.high, self.step, self.points) != (None,) * 4 or self.log:
                raise ValueError("give either `choices` (one or more) or `low` and `high`")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("give `choices`, or `low` and a larger `high`")
        elif self.log and self.low <= 0:
            raise ValueError("a logarithmic scale needs `low` above 0")
        elif self.step is not None and (self.log or self.points is not None):
            raise ValueError("`step` goes neither with `log` nor with `points`")
        elif self.step is not None and self.step > self.high - self.low:
            raise ValueError("`step` is longer than the range")
        return self

    def ends(self) -> list[Any]:
        return [self.low, self.high] if self.choices is None else self.choices

    def holds(self, value: Any) -> bool:
        """Whether `value` is in the range."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.ends()[0] <= value <= self.ends()[1]

    def at(self, share: float, whole: bool) -> Any:
        """The value at this share, 0 to 1, of the range or of the choices."""
        if self.choices is not None:
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        low, high = self.ends()
        if self.step is not None:
            steps = math.floor((high - low) / self.step + 1e-9)
            value = low + self.step * min(int(share * (steps + 1)), steps)
        elif whole and not self.log:
            value = min(math.floor(low + share * (high - low + 1)), high)
        else:
            value = low * (high / low) ** share if self.log else low + share * (high - low)
        return round(value) if whole else self.rounded(value)

    def grid(self, whole: bool) -> list[Any]:
        """Every value that a grid tries; none where a range of fractions says neither `points` nor `step`."""
        if self.choices is not None:
            return self.choices
        low, high = self.ends()
        if self.points is not None:
            shares = [place / (self.points - 1) for place in range(self.points)]
            values = [low * (high / low) ** share if self.log else low + share * (high - low) for share in shares]
        elif self.step is not None or (whole and not self.log):
            step = self.step or 1
            values = [low + step * place for place in range(math.floor((high - low) / step + 1e-9) + 1)]
        else:
            return []
        return list(dict.fromkeys(round(value) if whole else self.rounded(value) for value in values))

    def rounded(self, value: float) -> float:
        """In the range still: its ends may have more digits."""
        low, high = self.ends()
        return min(max(float(f"{value:.{_FINEST}}"), low), high)


class Confirm(Section):
    """The best `trials` of the search, and the settings of `fit`, are trained again at full length with `seeds` seeds.
    None are with `trials: 0`."""

    trials: Annotated[int, Field(ge=0)]
    seeds: Count
    epochs: Positive


class TuneHyperparameters(Section):
    trials: Annotated[int, Field(ge=0)]
    max_minutes: Positive | None
    max_updates: Count | None
    sampler: Literal["grid", "random", "quasi_random", "tpe", "gp", "cma_es"]
    pruner: Literal["median", "successive_halving", "hyperband", "wilcoxon"] | None
    metric: Metric
    cost: Literal["parameters", "flops"] | None
    epochs: Positive
    max_train_examples: Count | None
    max_validation_examples: Count | None
    confirm: Confirm
    seed: Annotated[int, Field(ge=0)]
    search: dict[str, Dimension]

    @field_validator("search")
    @classmethod
    def _settings_of_fit(cls, search: dict[str, Dimension]) -> dict[str, Dimension]:
        _refuse([error for name, dimension in search.items() for error in _errors(name, dimension)])
        return search

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        pruner = f"{self.pruner} can't weigh two objectives; write null, or set cost to null"
        losses = "wilcoxon compares losses of examples; set metric: loss, or take another one"
        single = "cma_es has one objective; take tpe or gp, or set cost to null"
        rules = [
            (self.pruner is not None and self.cost is not None, "pruner", pruner),
            (self.pruner == "wilcoxon" and self.metric != "loss", "pruner", losses),
            (self.sampler == "cma_es" and self.cost is not None, "sampler", single),
        ]
        _refuse([_error((name,), line) for is_broken, name, line in rules if is_broken])
        return self


def _refuse(errors: list[InitErrorDetails]) -> None:
    """Raises ValidationError for all of them, each at its place."""
    if errors:
        raise ValidationError.from_exception_data("", errors)


def _errors(name: str, dimension: Dimension) -> Iterator[InitErrorDetails]:
    """What is wrong with a searched setting: its name, its values, and what it is read with."""
    if dimension.choices is None:
        given = {end: getattr(dimension, end) for end in ("low", "high", "step")}
        # not strict: the 8 of a whole number has become 8.0
        values: dict[Place, Any] = {(end,): value for end, value in given.items() if value is not None}
        yield from _value_errors(name, (name,), values, strict=False)
    else:
        yield from _value_errors(name, (name, "choices"), _numbered(dimension.choices))
    for other, wanted in dimension.when.items():
        if other != MODEL:  # the search itself knows the models
            yield from _value_errors(other, (name, "when", other), _numbered(wanted))


def _numbered(values: Sequence[Any]) -> dict[Place, Any]:
    return {(number,): value for number, value in enumerate(values)}


def _value_errors(
    name: str, place: Place, values: Mapping[Place, Any], strict: bool = True
) -> Iterator[InitErrorDetails]:
    """What is wrong with values for a setting, by where they stand below `place`."""
    above = place[: place.index(name) + 1]
    try:
        form, parts = _form(name), _section_in(_field(name))
    except ValueError as error:
        yield _error(above, str(error))
        return
    for path, value in values.items():
        try:
            if isinstance(form.validate_python(value, strict=strict), bool) and not strict:
                yield _error(above, "it is true or false; give `choices`")
        except ValidationError as error:
            for own in error.errors():
                found = (*place, *path, *own["loc"])
                if own["type"] == "extra_forbidden" and parts is not None:
                    yield _error(found, f"no such parameter{suggestion(str(found[-1]), parts.model_fields)}")
                else:
                    yield {"type": own["type"], "loc": found, "input": own["input"], "ctx": own.get("ctx", {})}


def _error(place: Place, line: str) -> InitErrorDetails:
    return {"type": PydanticCustomError("value_error", "{line}", {"line": line}), "loc": place, "input": None}


@cache
def _form(name: str) -> TypeAdapter[Any]:
    """Checks values of a setting of `fit`. Raises ValueError as `_field` does."""
    own = _field(name)
    form: Any = Annotated[own.annotation, own]
    return TypeAdapter(form)


def _field(name: str) -> FieldInfo:
    """A setting of `fit`, by its dotted name.

    Raises:
        ValueError: there is no such setting.
    """
    section: type[Section] = Fit
    *above, last = name.split(".")
    for part in above:
        inner = _section_in(section.model_fields[part]) if part in section.model_fields else None
        if inner is None:
            raise ValueError(f"no such parameter of fit{suggestion(part, _sections(section))}")
        section = inner
    if last not in section.model_fields:
        place = ".".join(["fit", *above])
        raise ValueError(f"no such parameter of {place}{suggestion(last, section.model_fields)}")
    return section.model_fields[last]


def _sections(section: type[Section]) -> Sequence[str]:
    return [name for name, own in section.model_fields.items() if _section_in(own) is not None]


def _section_in(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, also one that may be null."""
    kind = field.annotation
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next((part for part in parts if isinstance(part, type) and issubclass(part, Section)), None)


def completed(name: str, value: Any) -> Any:
    """The value of a setting of `fit` with all that a section in it leaves out."""
    form = _form(name)
    return form.dump_python(form.validate_python(value))


@cache
def is_whole(name: str) -> bool:
    """Whether a setting of `fit` is a whole number, or null."""
    schema = _form(name).json_schema()
    return any(kind.get("type") == "integer" for kind in schema.get("anyOf", [schema]))
