"""Writes a recipe's values into params.yaml: `python -m stages.tools.recipe NAME FOLDER`, then `make repro`.

A recipe is what a known data set needs, stages/tools/recipes/NAME.yaml, in the form of params.yaml and over its values.
FOLDER holds the folder of the set, with the files that the recipe names. `git diff params.yaml` shows what was written.
"""

import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.lib.core.params import PARAMS, read_scenario, suggestion
from stages.lib.core.process import UserError, launch

RECIPES = Path(__file__).parent / "recipes"


def main() -> None:
    if len(sys.argv) != 3:
        raise UserError(f"usage: python -m stages.tools.recipe NAME FOLDER; there are {', '.join(sorted(names()))}")
    apply(sys.argv[1], sys.argv[2], PARAMS)
    scenario = read_scenario()
    print(f"{PARAMS} now says what {sys.argv[1]} needs; its files are expected in {Path(sys.argv[2]) / scenario}")


def names() -> list[str]:
    return [path.stem for path in RECIPES.glob("*.yaml")]


def apply(name: str, folder: str, params: Path) -> None:
    """Changes the params file, comments and all other values stay.

    Raises:
        UserError: no recipe of this name, or no params file.
    """
    if name not in names():
        raise UserError(f"recipe `{name}`: no such recipe{suggestion(name, names())}")
    if not params.is_file():
        raise UserError(f"{params}: no such file; run from the project's top folder")
    yaml = YAML()  # round trip: comments are kept, in the form in which DVC writes the file too
    yaml.default_flow_style = False
    values = yaml.load(params)
    _merge(values, yaml.load(RECIPES / f"{name}.yaml"))
    values["prepare"]["folder"] = folder
    yaml.dump(values, params)


def _merge(values: MutableMapping[str, Any], changes: Mapping[str, Any]) -> None:
    for name, change in changes.items():
        if isinstance(change, Mapping) and isinstance(values.get(name), MutableMapping):
            _merge(values[name], change)
        else:
            values[name] = change


if __name__ == "__main__":
    launch(main)
