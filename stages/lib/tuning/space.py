"""The search space: which settings a trial reads, in which order they are drawn, and what all of a grid are.

A trial reads a setting only if another one says so: `adapters.rank` needs adapters, `cycles` a schedule with restarts,
and `when` of a dimension says the rest. Settings that a trial does not read are not drawn, so no two trials are the
same but for what neither reads.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stages.lib.core.params import suggestion
from stages.lib.core.process import UserError
from stages.lib.params.fit import Fit, with_settings
from stages.lib.params.model import OWN
from stages.lib.params.tune_hyperparameters import MODEL, Dimension, TuneHyperparameters, completed, is_whole
from stages.lib.tuning.scales import label

if TYPE_CHECKING:
    from optuna import Trial

Settings = dict[str, Any]  # dotted name of a setting of `fit`, or MODEL -> value
Choose = Callable[[str, Dimension], Any]

_PLACE = "params.yaml: tune_hyperparameters -> search"
_LARGEST_GRID = 100_000
# settings that are read only if another one has one of these values
_READ_WITH: Mapping[str, tuple[str, Sequence[str | None]]] = {
    "batch_size": ("batch_tokens", [None]),
    "decay_fraction": ("schedule", ["wsd"]),
    "cycles": ("schedule", ["cosine_restarts"]),
    "final_fraction": ("schedule", ["cosine", "linear", "wsd", "cosine_restarts"]),
}


class Space:
    """What the trials of a search may have.

    Args:
        fit: the settings of params.yaml, which the first trial has, and all trials where nothing is searched.
        models: names of the models to choose from, OWN first.

    Raises:
        UserError: a line for each searched setting that no trial would read, whose value in params.yaml is not in its
            range, or that a grid can't enumerate.
    """

    def __init__(self, params: TuneHyperparameters, fit: Fit, models: Sequence[str] = (OWN,)) -> None:
        self._fixed = fit.model_dump()
        self._dimensions = dict(params.search)
        if len(models) > 1:
            self._dimensions = {MODEL: Dimension(choices=list(models)), **self._dimensions}
        self._is_grid = params.sampler == "grid"
        lines = [f"{_PLACE} -> {line}" for line in self._mistakes(models)]
        if params.trials > 1 and not self._dimensions:
            lines.append(f"{_PLACE}: nothing to search for; name a setting, or write trials: 0")
        if self._is_grid and (size := self._grid_size()) > _LARGEST_GRID:
            lines.append(f"{_PLACE}: a grid of up to {size:,} trials; give fewer points, or take another sampler")
        if lines:
            raise UserError(lines)

    @property
    def names(self) -> list[str]:
        """Of the searched settings, as the tables show them."""
        return list(self._dimensions)

    def of_params(self) -> Settings:
        """The settings of params.yaml, in the form of a trial's."""
        return self._walk(lambda name, dimension: self._spelled(name, dimension, self._value(name, {})))

    def suggest(self, trial: "Trial") -> Settings:
        """The settings that the sampler of the study draws for a trial."""
        return self._walk(lambda name, dimension: _suggested(trial, name, dimension))

    def at(self, shares: Mapping[str, float]) -> Settings:
        """The settings at a point of the unit cube, of which each searched setting is an axis."""
        return self._walk(lambda name, dimension: dimension.at(shares[name], _is_whole(name)))

    @cached_property
    def grid(self) -> list[Settings]:
        """All combinations that differ in what a trial reads."""
        found: list[Settings] = [{}]
        for name in self._order:
            found = [extended for settings in found for extended in self._extended(settings, name)]
        return found

    def _grid_size(self) -> int:
        """As if each trial read all settings."""
        return math.prod(len(own.grid(_is_whole(name))) for name, own in self._dimensions.items())

    def values(self, settings: Settings) -> dict[str, Any]:
        """The values of section `fit` with the settings of a trial."""
        own = {name: completed(name, value) for name, value in settings.items() if name != MODEL}
        return with_settings(self._fixed, own)

    def _walk(self, choose: Choose) -> Settings:
        settings: Settings = {}
        for name in self._order:
            if self._is_read(name, settings):
                settings[name] = choose(name, self._dimensions[name])
        return settings

    def _extended(self, settings: Settings, name: str) -> Iterator[Settings]:
        if not self._is_read(name, settings):
            yield settings
            return
        for value in self._dimensions[name].grid(_is_whole(name)):
            yield {**settings, name: value}

    def _is_read(self, name: str, settings: Settings) -> bool:
        """Whether a trial with these settings of what decides, reads the setting."""
        above = _above(name)
        return (not above or self._value(above, settings) is not None) and all(
            self._value(decisive, settings) in values for decisive, values in self._conditions(name)
        )

    def _conditions(self, name: str) -> list[tuple[str, list[Any]]]:
        """What other settings must have, so that this one is read."""
        own = [_READ_WITH[name]] if name in _READ_WITH else []
        every = [*own, *self._dimensions[name].when.items()]
        return [(decisive, [_completed(decisive, value) for value in values]) for decisive, values in every]

    def _value(self, name: str, settings: Settings) -> Any:
        """Of a setting in a trial, which has the one of params.yaml unless it has its own. None below what is null."""
        if name == MODEL:
            return settings.get(MODEL, OWN)
        value: Any = self.values(settings)
        for part in name.split("."):
            value = None if value is None else value[part]
        return value

    @cached_property
    def _order(self) -> list[str]:
        """Every setting stands after those that decide whether it is read."""
        order: list[str] = []
        left = list(self._dimensions)
        while left:
            ready = next((name for name in left if not self._deciders(name) & {*left}), left[0])
            left.remove(ready)
            order.append(ready)
        return order

    def _deciders(self, name: str) -> set[str]:
        decisive = {decisive for decisive, _ in self._conditions(name)}
        return (decisive | set(map(_above, {name, *decisive}))) - {""}

    def _mistakes(self, models: Sequence[str]) -> Iterator[str]:
        for name, dimension in self._dimensions.items():
            if name in self._deciders_of(name):
                yield f"{name} -> when: it decides on itself"
                continue
            yield from self._condition_mistakes(name, models)
            if name != MODEL and self._is_read(name, {}) and not self._is_in(dimension, name, self._value(name, {})):
                place = " -> ".join(["fit", *name.split(".")])
                yield (
                    f"{name}: does not hold {label(self._value(name, {}))}, the value of {place}, which the first "
                    f"trial has; widen it, or change that value"
                )
            if self._is_grid and not dimension.grid(_is_whole(name)):
                yield f"{name}: a grid needs `points`, `step` or `choices`"

    def _condition_mistakes(self, name: str, models: Sequence[str]) -> Iterator[str]:
        for decisive, values in self._conditions(name):
            if unknown := [value for value in values if decisive == MODEL and value not in models]:
                yield f"{name} -> when -> {MODEL}: no such model, {label(unknown[0])}{suggestion(unknown[0], models)}"
            elif not any(value in self._possible(decisive, values, models) for value in values):
                wanted = " or ".join(map(label, values))
                yield f"{name}: only read with fit -> {decisive}: {wanted}; write that, or delete this search"
        above = _above(name)
        if above and all(value is None for value in self._possible(above, [None], models)):
            yield f"{name}: only read with fit -> {above}; write some, or delete this search"

    def _spelled(self, name: str, dimension: Dimension, value: Any) -> Any:
        """A value of params.yaml as the choices spell it, which can leave out parts of a section."""
        return next((own for own in dimension.choices or () if _completed(name, own) == value), value)

    def _is_in(self, dimension: Dimension, name: str, value: Any) -> bool:
        if dimension.choices is None:
            return dimension.holds(value)
        return any(_completed(name, own) == value for own in dimension.choices)

    def _possible(self, name: str, wanted: Sequence[Any], models: Sequence[str]) -> list[Any]:
        """The values that a setting has in some trial; of a range, those of `wanted` that it holds."""
        if name == MODEL:
            return list(models)
        if name in self._dimensions:
            choices = self._dimensions[name].choices
            if choices is None:
                return [value for value in wanted if self._dimensions[name].holds(value)]
            return [_completed(name, value) for value in choices]
        above = _above(name)
        if above in self._dimensions:
            return [self._value(name, {above: value}) for value in self._dimensions[above].choices or ()]
        return [self._value(name, {})]

    def _deciders_of(self, name: str) -> set[str]:
        """All that decide whether a setting is read, also through others."""
        found, left = set[str](), [name]
        while left:
            for decisive in self._deciders(left.pop()) & self._dimensions.keys():
                if decisive not in found:
                    found.add(decisive)
                    left.append(decisive)
        return found


def _suggested(trial: "Trial", name: str, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        encoded = [_encoded(value) for value in dimension.choices]
        return dimension.choices[encoded.index(trial.suggest_categorical(name, encoded))]
    low, high = dimension.ends()
    if dimension.step is not None:  # the last step may end below
        high = float(f"{low + dimension.step * math.floor((high - low) / dimension.step + 1e-9):.10g}")
    if _is_whole(name):
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(low), int(high), step=step, log=dimension.log)
    value = trial.suggest_float(name, low, high, step=dimension.step, log=dimension.log)
    return value if trial.number == 0 else dimension.rounded(value)


def listed(settings: Settings) -> str:
    """As a person reads them."""
    return ", ".join(f"{name} {label(value)}" for name, value in settings.items())


def encoded(settings: Settings) -> Settings:
    """In the form that the study keeps."""
    return {name: _encoded(value) for name, value in settings.items()}


def _encoded(value: Any) -> Any:
    """Optuna's choices are numbers, words and null."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _above(name: str) -> str:
    """The section that a dotted name leads into."""
    return name.rpartition(".")[0]


def _completed(name: str, value: Any) -> Any:
    return value if name == MODEL else completed(name, value)


def _is_whole(name: str) -> bool:
    return name != MODEL and is_whole(name)
