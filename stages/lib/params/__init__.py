"""params.yaml as typed values: one module a section, named like it, with one class a section.

A stage imports the sections that it uses, and only those count as its code. The whole file is checked all the same,
so that a slip in `predict` is told before `train` has spent its hours: see `_schemas`.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.lib.process import UserError

PARAMS = Path("params.yaml")


class Section(BaseModel):
    """Every parameter stands in params.yaml: no defaults here, no unknown names, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


S = TypeVar("S", bound=Section)


def read_section(schema: type[S], path: Path = PARAMS) -> S:
    """The section of `schema` from the params file.

    Raises:
        UserError: with a line for every mistake in the whole file, not only in this section.
    """
    values = _read_yaml(path)
    if mistakes := _mistakes(values, path):
        raise UserError(mistakes)
    return schema.model_validate(values[_section_name(schema)])


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


def _mistakes(values: Mapping[str, Any], path: Path) -> list[str]:
    schemas = _schemas()
    unknown = [str(name) for name in values if name not in schemas]
    # a misspelt name is one mistake, not an unknown section and a missing one; the same for parameters below
    meant = {match for name in unknown for match in _nearest(name, schemas)}
    lines = [f"{path}: {name}: missing section" for name in schemas if name not in values and name not in meant]
    for name, section in values.items():
        if name not in schemas:
            lines.append(f"{path}: {name}: no such section{suggestion(str(name), schemas)}")
        elif not isinstance(section, dict):
            lines.append(f"{path}: {name}: expected parameters, found {section!r}")
        else:
            lines += [f"{path}: {name} -> {line}" for line in _section_mistakes(schemas[name], section)]
    return lines


def _schemas() -> dict[str, type[Section]]:
    """Section name -> its schema, found on disk. Imported by name on purpose: a schema that a stage does not use
    can refuse a run but never change a result, so an edit of it must not rerun that stage."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: getattr(importlib.import_module(f"{__name__}.{name}"), _class_name(name)) for name in names}


def _section_name(schema: type[Section]) -> str:
    return schema.__module__.rpartition(".")[2]


def _class_name(section: str) -> str:
    return section.title().replace("_", "")


def _section_mistakes(schema: type[Section], values: Mapping[str, Any]) -> list[str]:
    try:
        schema.model_validate(values)
    except ValidationError as error:
        details = error.errors()
    else:
        return []
    unknown = {str(e["loc"][-1]) for e in details if e["type"] == "extra_forbidden"}
    meant = {match for name in unknown for match in _nearest(name, schema.model_fields)}
    return [_describe(e, schema) for e in details if not (e["type"] == "missing" and e["loc"][-1] in meant)]


def _describe(error: ErrorDetails, schema: type[Section]) -> str:
    place = "".join(f"{part} -> " for part in error["loc"]).removesuffix(" -> ")
    if error["type"] == "extra_forbidden":
        *above, name = error["loc"]
        return f"{place}: no such parameter{suggestion(str(name), _schema_at(above, schema).model_fields)}"
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


def suggestion(name: str, known: Mapping[str, object]) -> str:
    """The end of a line about an unknown name: the one that was probably meant, or all that there are."""
    nearest = _nearest(name, known)
    return f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(known)}"


def _nearest(name: str, known: Mapping[str, object]) -> Sequence[str]:
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
