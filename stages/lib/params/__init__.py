"""params.yaml as typed values: one module a section, named like it, with one class a section.

A stage imports the sections that it uses, and only those count as its code. The whole file is checked all the same,
so that a slip in `predict` is told before `train` has spent its hours: see `_schemas`.
"""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.lib.process import UserError

PARAMS = Path("params.yaml")


class Section(BaseModel):
    """Every parameter of a section stands in params.yaml: no defaults here, no unknown names, no silent conversions.

    Those in `of_scenario` depend on the task and stand in each scenario instead, in its part of the section's name.
    They may have defaults, so that a scenario says no more than what is peculiar to it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    of_scenario: ClassVar[frozenset[str]] = frozenset()


S = TypeVar("S", bound=Section)


def read_section(schema: type[S], path: Path = PARAMS) -> S:
    """The section of `schema` from the params file, with what the chosen scenario says of it.

    Raises:
        UserError: with a line for every mistake in the whole file, not only in this section.
    """
    values = _checked(path)
    name = _section_name(schema)
    part = values["scenarios"][values["scenario"]][name] if schema.of_scenario else {}
    return schema.model_validate({**values[name], **part})


def read_scenario(path: Path = PARAMS) -> str:
    """The name of the chosen scenario. Raises UserError like `read_section`."""
    return str(_checked(path)["scenario"])


def _checked(path: Path) -> dict[str, Any]:
    values = _read_yaml(path)
    if lines := _mistakes(values):
        raise UserError(f"{path}: {line}" for line in lines)
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # YAML 1.2, as DVC reads and writes it: PyYAML's 1.1 takes 1e-05 for text and `on` for True
        values = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's top folder") from None
    except YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f"line {place.line + 1}: " if place else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{path}: {where}not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected sections of parameters, such as `fit:`")
    return values


def _mistakes(values: Mapping[str, Any]) -> list[str]:
    schemas = _schemas()
    known = ["scenario", "scenarios", *schemas]
    # a misspelt name is one mistake, not an unknown section and a missing one; the same for parameters below
    lines = _misspelt(values, known, "section")
    lines += [
        f"{name}: expected parameters, found {values[name]!r}"
        for name in ("scenarios", *schemas)
        if name in values and not isinstance(values[name], dict)
    ]
    scenarios = values["scenarios"] if isinstance(values.get("scenarios"), dict) else {}
    if {"scenario", "scenarios"} <= values.keys():
        lines += _scenario_mistakes(values["scenario"], scenarios, schemas)
    for name, schema in schemas.items():
        if isinstance(section := values.get(name), dict):
            lines += _section_mistakes(name, schema, section, _parts(name, scenarios) if schema.of_scenario else {})
    return list(dict.fromkeys(lines))  # a mistake in a section is found once for each scenario


def _misspelt(values: Mapping[str, Any], known: Collection[str], what: str) -> list[str]:
    unknown = [str(name) for name in values if name not in known]
    meant = {match for name in unknown for match in _nearest(name, known)}
    missing = [name for name in known if name not in values and name not in meant]
    lines = [f"{name}: no such {what}{suggestion(name, known)}" for name in unknown]
    return lines + [f"{name}: missing {what}" for name in missing]


def _scenario_mistakes(
    chosen: Any, scenarios: Mapping[str, Any], schemas: Mapping[str, type[Section]]
) -> Iterator[str]:
    """What is wrong with the scenarios, but for their parameters."""
    names = [str(name) for name in scenarios]
    if not isinstance(chosen, str) or chosen not in scenarios:
        yield f"scenario: `{chosen}` is none of scenarios{suggestion(str(chosen), names)}"
    stages = {name: schema for name, schema in schemas.items() if schema.of_scenario}
    for name, scenario in scenarios.items():
        # it is part of a path, and of a parameter's name for DVC
        if not isinstance(name, str) or not re.fullmatch(r"[a-z_]\w*", name, re.ASCII | re.IGNORECASE):
            yield f"scenarios -> {name}: a name begins with a letter, and has letters, digits and underscores only"
        if not isinstance(scenario, dict):
            yield f"scenarios -> {name}: expected parameters, found {scenario!r}"
            continue
        yield from (f"scenarios -> {name} -> {line}" for line in _misspelt(scenario, stages, "section"))
        for stage in scenario.keys() & stages.keys():
            if not isinstance(scenario[stage], dict):
                yield f"scenarios -> {name} -> {stage}: expected parameters, found {scenario[stage]!r}"


def _parts(section: str, scenarios: Mapping[str, Any]) -> dict[str, Any]:
    """Place in the file -> what stands there, for the part of every scenario that belongs to this section."""
    return {
        f"scenarios -> {name} -> {section}": scenario[section]
        for name, scenario in scenarios.items()
        if isinstance(scenario, dict) and isinstance(scenario.get(section), dict)
    }


def _schemas() -> dict[str, type[Section]]:
    """Section name -> its schema, found on disk. Imported by name on purpose: a schema that a stage does not use
    can refuse a run but never change a result, so an edit of it must not rerun that stage."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: getattr(importlib.import_module(f"{__name__}.{name}"), _class_name(name)) for name in names}


def _section_name(schema: type[Section]) -> str:
    return schema.__module__.rpartition(".")[2]


def _class_name(section: str) -> str:
    return section.title().replace("_", "")


def _section_mistakes(
    name: str, schema: type[Section], section: Mapping[str, Any], parts: Mapping[str, Any]
) -> Iterator[str]:
    own = schema.model_fields.keys() - schema.of_scenario
    misplaced = section.keys() & schema.of_scenario
    yield from (f"{name} -> {field}: depends on the task; move it to the {name} of a scenario" for field in misplaced)
    for place, part in (parts if schema.of_scenario else {name: {}}).items():
        misplaced = part.keys() & own
        yield from (f"{place} -> {field}: is the same for all tasks; move it to {name}" for field in misplaced)
        details = _errors(schema, {**section, **part})
        unknown = {str(e["loc"][-1]) for e in details if e["type"] == "extra_forbidden"}
        meant = {match for typed in unknown for match in _nearest(typed, schema.model_fields)}
        for error in details:
            field = error["loc"][0] if error["loc"] else None
            is_own = field in section or field in own
            known = own if is_own else schema.of_scenario
            if not (error["type"] == "missing" and error["loc"][-1] in meant):
                yield f"{name if is_own else place} -> {_describe(error, schema, known)}"


def _errors(schema: type[Section], values: Mapping[str, Any]) -> list[ErrorDetails]:
    try:
        schema.model_validate(values)
    except ValidationError as error:
        return error.errors()
    return []


def _describe(error: ErrorDetails, schema: type[Section], allowed: Collection[str]) -> str:
    """`allowed` are the names that may stand at the top of the place that the error is in."""
    place = "".join(f"{part} -> " for part in error["loc"]).removesuffix(" -> ")
    if error["type"] == "extra_forbidden":
        *above, name = error["loc"]
        known = _schema_at(above, schema).model_fields if above else allowed
        return f"{place}: no such parameter{suggestion(str(name), known)}"
    if error["type"] == "missing":
        return f"{place}: missing"
    if error["type"] == "value_error":  # one of our own rules, which says itself what was found
        return ": ".join(filter(None, (place, error["msg"].removeprefix("Value error, "))))
    return f"{place}: {error['msg'].removeprefix('Input ')}, found {error['input']!r}"


def _schema_at(path: Sequence[int | str], schema: Any) -> type[Section]:
    """The schema of what stands below `schema` at this path, through sections and dicts of sections."""
    for part in path:
        is_section = isinstance(schema, type) and issubclass(schema, Section)
        schema = schema.model_fields[str(part)].annotation if is_section else get_args(schema)[-1]
    return cast(type[Section], schema)


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of a line about an unknown name: the one that was probably meant, or all that there are."""
    nearest = _nearest(name, known)
    return f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(sorted(known)) or 'none'}"


def _nearest(name: str, known: Collection[str]) -> Sequence[str]:
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
