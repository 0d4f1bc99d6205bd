"""Several tasks in one project, each in a folder of its own: `python -m stages.tools.tasks NAME SCENARIO` adds one.

tasks/NAME holds what the top folder holds for a single task: params.yaml, dvc.lock, data/ and metrics/. `stages` is a
link to the code there. dvc.yaml is a copy: DVC also reads it from commits, where a link has no content.

Without arguments, brings the tasks to the form of the project. `make repro` does this first, as the project may have
become a newer version.
"""

import os
import re
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from stages.lib.core.files import write_text
from stages.lib.core.params import NAME, PARAMS, PIPELINE, Section, read_scenario, read_yaml, schemas, suggestion
from stages.lib.core.process import UserError, launch

TASKS = Path("tasks")

_IGNORED = Path(".dvcignore")
_CODE = "stages"
_TOP = "../.."  # from a task's folder
_COMMENT = "# What is particular to this task. The top folder's file spells out all that a scenario can say.\n"


def main() -> None:
    if len(sys.argv) not in (1, 3):
        raise UserError("usage: python -m stages.tools.tasks [NAME SCENARIO]")
    if not PIPELINE.is_file() or Path(_CODE).is_symlink():
        raise UserError("tasks: run this in the project's top folder")
    read_scenario()  # a mistake in the top folder's file would come into all tasks
    if len(sys.argv) == 3:
        add(*sys.argv[1:])
    for folder in tasks():
        for change in renew(folder):
            print(f"{folder}: {change}")


def tasks() -> list[Path]:
    return sorted(params.parent for params in TASKS.glob(f"*/{PARAMS}"))


def pipelines() -> list[Path]:
    """The folders of the tasks; without any, the present folder."""
    return tasks() or [Path()]


def add(name: str, scenario: str) -> None:
    """Starts a task with a scenario and the settings of the top folder's params.yaml.

    Raises:
        UserError: the name can't be one or is taken, or there is no such scenario.
    """
    folder = TASKS / name
    scenarios = read_yaml()["scenarios"]
    if not NAME.fullmatch(name):
        raise UserError(f"{name}: a name begins with a letter, and has letters, digits and underscores only")
    if (folder / PARAMS).exists():
        raise UserError(f"{folder}: there is such a task already")
    if scenario not in scenarios:
        raise UserError(f"{PARAMS}: scenarios -> {scenario}: no such scenario{suggestion(scenario, scenarios)}")
    raw = folder / "data/raw" / name
    raw.mkdir(parents=True, exist_ok=True)
    write_text(folder / PARAMS, _params(name, scenario))
    print(f"{folder}: put its files into {raw}, edit {folder / PARAMS}, and run `make repro`")
    if _hide_top_folder():
        print(f"{_IGNORED}: hides the top folder's {PIPELINE} from DVC, so that only the tasks run")


def renew(folder: Path) -> Iterator[str]:
    """Gives a task the project's code and dvc.yaml, and the parameters that its params.yaml lacks, with the values of
    the top folder. Yields what has changed.

    Raises:
        UserError: the task has other code, or its params.yaml can't be read.
    """
    code = folder / _CODE
    if code.exists() and not code.is_symlink():
        raise UserError(f"{code}: is no link to the project's code; delete it, and run this again")
    if not code.is_symlink():
        code.symlink_to(f"{_TOP}/{_CODE}")
    pipeline = PIPELINE.read_text()
    if (before := _content(folder / PIPELINE)) != pipeline:
        write_text(folder / PIPELINE, pipeline)
        if before:
            yield f"{PIPELINE} is the project's again"
    values = _load(folder / PARAMS)
    if added := list(_complete(values, _load(PARAMS))):
        write_text(folder / PARAMS, _dump(values))
        yield f"{PARAMS} has got {', '.join(added)}"


def _content(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _params(name: str, scenario: str) -> str:
    values = _load(PARAMS)
    values["scenario"] = name
    values["scenarios"] = CommentedMap({name: values["scenarios"][scenario]})
    values["prepare"]["folder"] = "data/raw"
    shared = [
        (values["model"], "folder"),
        (values["model"], "alternatives_folder"),
        *((other, "folder") for other in values["model"]["alternatives"].values() if "folder" in other),
        (values["train"], "teacher_folder"),
        (values["predict"], "general_text_folder"),
        (values["predict"], "fluency_model_folder"),
        (values["evaluate"], "sentence_encoder_folder"),
        (values["evaluate"], "screen_folder"),
    ]
    for section, parameter in shared:
        section[parameter] = os.path.join(_TOP, section[parameter])
    text = re.sub(r"\n(#.*\n)*scenarios:", f"\n{_COMMENT}scenarios:", _dump(values))
    return text.replace("$schema=", f"$schema={_TOP}/", 1)


def _hide_top_folder() -> bool:
    """Else each command of DVC would ask for the results of the sample, which is not the team's."""
    line, content = f"/{PIPELINE}", _IGNORED.read_text()
    if line in content.splitlines():
        return False
    # above the project's own lines: below, the next one that it adds would conflict in an upgrade
    write_text(_IGNORED, f"# the tasks are in {TASKS}/\n{line}\n\n{content}")
    return True


def _complete(values: CommentedMap, whole: CommentedMap) -> Iterator[str]:
    """Adds what is missing of the sections of `whole`, with its comments. Yields the name of each parameter."""
    for name, schema in schemas().items():
        if name not in values:
            _insert(values, name, whole)
            yield name
        elif isinstance(values[name], CommentedMap):
            yield from (f"{name} -> {place}" for place in _complete_section(values[name], whole[name], schema))


def _complete_section(values: CommentedMap, whole: CommentedMap, schema: type[Section]) -> Iterator[str]:
    for name in whole:
        form = schema.model_fields[name].annotation
        if name not in values:
            _insert(values, name, whole)
            yield name
        elif isinstance(form, type) and issubclass(form, Section) and isinstance(values[name], CommentedMap):
            yield from (f"{name} -> {place}" for place in _complete_section(values[name], whole[name], form))


def _insert(values: CommentedMap, name: str, whole: CommentedMap) -> None:
    """At its place, but never last: the comment of the last parameter goes on with the lines above the next section."""
    above = list(whole)[: list(whole).index(name)]
    position = sum(other in values for other in above)
    values.insert(min(position, len(values) - 1), name, whole[name])
    if name in whole.ca.items:
        values.ca.items[name] = whole.ca.items[name]


def _load(path: Path) -> CommentedMap:
    read_yaml(path)  # tells what is wrong with it
    values: CommentedMap = _yaml().load(path)
    return values


def _dump(values: CommentedMap) -> str:
    text = StringIO()
    _yaml().dump(values, text)
    return text.getvalue()


def _yaml() -> YAML:
    yaml = YAML()  # round trip: comments stay, in the form in which DVC writes the file too
    yaml.default_flow_style = False
    return yaml


if __name__ == "__main__":
    launch(main)
