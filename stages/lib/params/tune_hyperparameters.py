"""Section `tune_hyperparameters`: the search over settings of `fit`."""

from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from stages.lib.core.params import Section, suggestion
from stages.lib.params.fit import Fit


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
            if name in ("freeze", "adapters"):
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
