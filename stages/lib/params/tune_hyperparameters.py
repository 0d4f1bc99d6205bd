"""Section `tune_hyperparameters`: the search over settings of `fit`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from stages.lib.core.params import Section, suggestion
from stages.lib.core.process import UserError
from stages.lib.params.fit import Fit

# settings that are read only if another one has one of these values
_READ_WITH: Mapping[str, tuple[str, Sequence[str | None]]] = {
    "batch_size": ("batch_tokens", [None]),
    "decay_fraction": ("schedule", ["wsd"]),
    "cycles": ("schedule", ["cosine_restarts"]),
    "final_fraction": ("schedule", ["cosine", "linear", "wsd", "cosine_restarts"]),
}


class Dimension(Section):
    """One searched setting: `low` to `high` (on a logarithmic scale if `log`), or one of `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list[Any] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.choices is not None:
            if not self.choices or self.low is not None or self.high is not None or self.log:
                raise ValueError("give either `choices` (one or more) or `low` and `high`")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("give `choices`, or `low` and a larger `high`")
        elif self.log and self.low <= 0:
            raise ValueError("a logarithmic scale needs `low` above 0")
        return self

    def ends(self) -> list[Any]:
        return [self.low, self.high] if self.choices is None else self.choices


class TuneHyperparameters(Section):
    trials: Annotated[int, Field(ge=0)]
    epochs: Annotated[float, Field(gt=0)]
    max_train_examples: Annotated[int, Field(ge=1)] | None
    max_validation_examples: Annotated[int, Field(ge=1)] | None
    seed: Annotated[int, Field(ge=0)]
    search: dict[str, Dimension]

    @field_validator("search")
    @classmethod
    def _settings_of_fit(cls, search: dict[str, Dimension]) -> dict[str, Dimension]:
        for name, dimension in search.items():
            if name not in Fit.model_fields:
                raise ValueError(f"{name}: no such parameter of fit{suggestion(name, Fit.model_fields)}")
            if name in ("freeze", "adapters", "class_weights"):
                raise ValueError(f"{name}: only settings of one value can be searched")
            form: Any = Annotated[Fit.model_fields[name].annotation, Fit.model_fields[name]]
            allowed = TypeAdapter[Any](form)
            for value in dimension.ends():
                try:
                    # not strict with bounds: the 8 of a whole number has become 8.0
                    allowed.validate_python(value, strict=dimension.choices is not None)
                except ValidationError as error:
                    raise ValueError(f"{name}: {error.errors()[0]['msg']}, found {value!r}") from None
        return search


def check_search(params: TuneHyperparameters, fit: Fit) -> None:
    """Raises UserError for searched settings that no trial would read."""
    lines = []
    for name, (decisive, values) in _READ_WITH.items() if params.trials else ():
        chosen = params.search[decisive].ends() if decisive in params.search else [getattr(fit, decisive)]
        if name in params.search and not set(values) & set(chosen):
            wanted = " or ".join("null" if value is None else value for value in values)
            lines.append(
                f"params.yaml: tune_hyperparameters -> search -> {name}: only read with fit -> {decisive}: {wanted}; "
                f"write that, or delete this search"
            )
    if lines:
        raise UserError(lines)
