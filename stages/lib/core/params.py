"""params.yaml as typed values: one class a section, in `stages/lib/params`, in the module of the section's name.

A stage imports the sections that it uses, and only their modules count as its code. Each stage still checks the whole
file, so that a mistake in `predict` is reported before `train` has spent its hours.
"""

import difflib
import importlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import ScalarToken

from stages.lib.core.process import UserError

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
CHECKPOINT = "checkpoint"  # the architecture that means: as the checkpoint has it
NAME = re.compile(r"[a-z_]\w*", re.ASCII | re.IGNORECASE)  # of a scenario: part of a path, and of a parameter's name

_SECTIONS = Path(__file__).parents[1] / "params"
_CONFLICT_MARKER = re.compile(r"(<{7}|\|{7}|={7}|>{7})( |$)")


class Section(BaseModel):
    """A section states every parameter in params.yaml: no defaults, no unknown names, no silent conversions.

    The parameters in `of_scenario` differ from task to task. They stand in each scenario, in its part of the section's
    name. They may have defaults, so that a scenario says only what is particular to it. The parameter
    `of_architecture` holds the chosen one of `architectures`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    of_scenario: ClassVar[frozenset[str]] = frozenset()
    of_architecture: ClassVar[str | None] = None

    @classmethod
    def elsewhere(cls) -> frozenset[str]:
        """The parameters that stand outside of the section itself."""
        return cls.of_scenario | ({cls.of_architecture} if cls.of_architecture else set())


S = TypeVar("S", bound=Section)


def read_section(schema: type[S], path: Path = PARAMS) -> S:
    """The section of `schema` from the params file, with the parts that the chosen scenario and architecture add.

    Raises:
        UserError: with a line for every mistake in the whole file, not only in this section.
    """
    values = _checked(path)
    name = _section_name(schema)
    part = values["scenarios"][values["scenario"]][name] if schema.of_scenario else {}
    if schema.of_architecture:
        part = {schema.of_architecture: values["architectures"][values[name]["architecture"]] or None}
    return schema.model_validate({**values[name], **part})


def read_scenario(path: Path = PARAMS) -> str:
    """The name of the chosen scenario. Raises UserError like `read_section`."""
    return str(_checked(path)["scenario"])


def read_yaml(path: Path = PARAMS) -> dict[str, Any]:
    """The file's values, unchecked. Raises UserError where it is missing or no YAML."""
    try:
        # YAML 1.2, as DVC reads and writes it: PyYAML's 1.1 takes 1e-05 for text and `on` for True
        values = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's top folder") from None
    except YAMLError as error:
        raise UserError(f"{path}: {line}" for line in _syntax_mistakes(path, error)) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected sections of parameters, such as `fit:`")
    return values


def _syntax_mistakes(path: Path, error: YAMLError) -> list[str]:
    text = path.read_text("utf-8", "replace")
    if conflicts := _conflicts(text):
        return [f"line {number}: merge markers: resolve the conflict" for number in conflicts]
    place = getattr(error, "problem_mark", None)
    if place and (opened := _open_quote(text, place.line)) is not None:
        return [f"line {opened + 1}: not valid YAML: the quote that begins here does not end in this line"]
    where = f"line {place.line + 1}: " if place else ""
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return [f"{where}not valid YAML: {problem}"]


def _conflicts(text: str) -> list[int]:
    """The line, from 1, at which each conflict begins that git has left in the text."""
    found = [(number, line[0]) for number, line in enumerate(text.split("\n"), 1) if _CONFLICT_MARKER.match(line)]
    return [number for number, sign in found if sign == "<"] or [number for number, _ in found[:1]]


def _open_quote(text: str, last: int) -> int | None:
    """The line, from 0, of a quote that is not closed there. YAML looks for its end in the lines below, so the mistake
    shows on another line: `last`."""
    try:
        for token in YAML(typ="safe", pure=True).scan(text):
            first, end = token.start_mark.line, token.end_mark.line
            if isinstance(token, ScalarToken) and token.style in ("'", '"') and first < end == last:
                return int(first)
    except MarkedYAMLError as error:  # no quote below
        if "quoted" in (error.context or "") and error.context_mark.line < last:
            return int(error.context_mark.line)
    return None


def schemas() -> dict[str, type[Section]]:
    """Section name -> its schema, found on disk.

    The modules are imported by name on purpose: a schema that a stage does not use can refuse a run but never change a
    result, so an edit of it must not rerun that stage.
    """
    names = sorted(path.stem for path in _SECTIONS.glob("[a-z]*.py"))
    return {name: getattr(importlib.import_module(f"stages.lib.params.{name}"), _class_name(name)) for name in names}


def _checked(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    if lines := [*_outdated(path.parent), *(f"{path}: {line}" for line in _mistakes(values))]:
        raise UserError(lines)
    return values


def _outdated(folder: Path) -> Iterator[str]:
    """A task's dvc.yaml is a copy of the project's. An older one would hide from DVC what the code depends on."""
    code, copy = folder / "stages", folder / PIPELINE
    if code.is_symlink() and copy.is_file():
        project = code.resolve().parent
        if copy.read_bytes() != (project / PIPELINE).read_bytes():
            yield f"{copy}: differs from the project's; run `python -m stages.tools.tasks` in {project}"


def _mistakes(values: Mapping[str, Any]) -> list[str]:
    sections = schemas()
    groups = ("scenarios", "architectures")
    # a misspelt name is one mistake, not an unknown section and a missing one; the same for parameters below
    lines = _misspelt(values, ["scenario", *groups, *sections], "section")
    lines += [
        f"{name}: expected parameters, found {values[name]!r}"
        for name in (*groups, *sections)
        if name in values and not isinstance(values[name], dict)
    ]
    scenarios, architectures = (_dict_at(values, name) for name in groups)
    if {"scenario", "scenarios"} <= values.keys():
        lines += _scenario_mistakes(values["scenario"], scenarios, sections)
    if isinstance(values.get("architectures"), dict) and (chosen := _dict_at(values, "model").get("architecture")):
        lines += _architecture_mistakes(chosen, architectures)
    for name, schema in sections.items():
        if isinstance(section := values.get(name), dict):
            lines += _section_mistakes(name, schema, section, _parts(name, schema, scenarios, architectures))
    return list(dict.fromkeys(lines))  # a mistake in a section is found once for each scenario


def _dict_at(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _misspelt(values: Mapping[str, Any], known: Collection[str], what: str) -> list[str]:
    unknown = [str(name) for name in values if name not in known]
    meant = {match for name in unknown for match in _nearest(name, known)}
    missing = [name for name in known if name not in values and name not in meant]
    lines = [f"{name}: no such {what}{suggestion(name, known)}" for name in unknown]
    return lines + [f"{name}: missing {what}" for name in missing]


def _scenario_mistakes(
    chosen: Any, scenarios: Mapping[str, Any], sections: Mapping[str, type[Section]]
) -> Iterator[str]:
    """What is wrong with the scenarios, except for their parameters."""
    names = [str(name) for name in scenarios]
    if not isinstance(chosen, str) or chosen not in scenarios:
        yield f"scenario: `{chosen}` is none of scenarios{suggestion(str(chosen), names)}"
    stages = {name: schema for name, schema in sections.items() if schema.of_scenario}
    for name, scenario in scenarios.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield f"scenarios -> {name}: a name begins with a letter, and has letters, digits and underscores only"
        if not isinstance(scenario, dict):
            yield f"scenarios -> {name}: expected parameters, found {scenario!r}"
            continue
        yield from (f"scenarios -> {name} -> {line}" for line in _misspelt(scenario, stages, "section"))
        for stage in scenario.keys() & stages.keys():
            if not isinstance(scenario[stage], dict):
                yield f"scenarios -> {name} -> {stage}: expected parameters, found {scenario[stage]!r}"


def _architecture_mistakes(chosen: Any, architectures: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the architectures, except for their parameters."""
    if not isinstance(chosen, str) or chosen not in architectures:
        known = suggestion(str(chosen), list(map(str, architectures)))
        yield f"model -> architecture: `{chosen}` is none of architectures{known}"
    if architectures.get(CHECKPOINT) != {}:
        yield f"architectures -> {CHECKPOINT}: write {{}}; this one is as the checkpoint has it"


def _parts(
    section: str, schema: type[Section], scenarios: Mapping[str, Any], architectures: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Place in the file -> the parameters that stand there and belong to this section."""
    if schema.of_scenario:
        return {
            f"scenarios -> {name} -> {section}": scenario[section]
            for name, scenario in scenarios.items()
            if isinstance(scenario, dict) and isinstance(scenario.get(section), dict)
        }
    if schema.of_architecture:
        return {
            f"architectures -> {name}": {schema.of_architecture: settings}
            for name, settings in architectures.items()
            if name != CHECKPOINT
        }
    return {section: {}}


def _section_name(schema: type[Section]) -> str:
    return schema.__module__.rpartition(".")[2]


def _class_name(section: str) -> str:
    return section.title().replace("_", "")


def _section_mistakes(
    name: str, schema: type[Section], section: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    own = schema.model_fields.keys() - schema.elsewhere()
    misplaced = section.keys() & schema.of_scenario
    yield from (f"{name} -> {field}: depends on the task; move it to the {name} of a scenario" for field in misplaced)
    for place, part in parts.items():
        misplaced = part.keys() & own
        yield from (f"{place} -> {field}: is the same for all tasks; move it to {name}" for field in misplaced)
        details = _errors(schema, {**section, **part})
        unknown = {str(e["loc"][-1]) for e in details if e["type"] == "extra_forbidden"}
        meant = {match for typed in unknown for match in _nearest(typed, schema.model_fields)}
        for error in details:
            field = error["loc"][0] if error["loc"] else None
            is_own = field != schema.of_architecture if schema.of_architecture else field in section or field in own
            known = own if is_own else schema.of_scenario
            if not (error["type"] == "missing" and error["loc"][-1] in meant):
                description = _describe(error, schema, known).removeprefix(f"{schema.of_architecture} -> ")
                yield f"{name if is_own else place} -> {description}"


def _errors(schema: type[Section], values: Mapping[str, Any]) -> list[ErrorDetails]:
    try:
        schema.model_validate(values)
    except ValidationError as error:
        return list(_in_one_form(error.errors(), values))
    return []


def _in_one_form(errors: Sequence[ErrorDetails], values: Mapping[str, Any]) -> Iterator[ErrorDetails]:
    """Of a value that can have several forms, pydantic reports what is wrong in each one, and adds the form to the
    place. Here the first mistake of each place is left, and none of places that hold another one."""
    places = [_place(error, values) for error in errors]
    for number, (error, place) in enumerate(zip(errors, places, strict=True)):
        if place not in places[:number] and not any(place == other[: len(place)] != other for other in places):
            yield {**error, "loc": place}


def _place(error: ErrorDetails, values: Any) -> tuple[int | str, ...]:
    """Only the parts that lead into the values, and the name of what is missing."""
    place: list[int | str] = []
    for part in error["loc"]:
        try:
            values = values[part]
        except (KeyError, TypeError):  # the name of a form
            continue
        place.append(part)
    return (*place, error["loc"][-1]) if error["type"] == "missing" else tuple(place)


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
    """The end of a line about an unknown name: the name that was probably meant, or all that there are."""
    nearest = _nearest(name, known)
    return f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(sorted(known)) or 'none'}"


def _nearest(name: str, known: Collection[str]) -> Sequence[str]:
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
