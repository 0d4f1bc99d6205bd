"""What several test files build: sections of params.yaml, predictions, and a folder's content for comparisons."""

from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML

from stages.lib.params import Section, read_section
from stages.lib.params.model import Model
from stages.lib.predictions import Prediction

PROJECT = Path(__file__).parent.parent
PARAMS = PROJECT / "tests/params.yaml"

S = TypeVar("S", bound=Section)


def section(schema: type[S], **overrides: Any) -> S:
    """As the params.yaml of the tests has it, with some values replaced; checked like any other."""
    return schema.model_validate({**read_section(schema, PARAMS).model_dump(), **overrides})


def params_of(scenario: str, folder: Path, **edits: Any) -> Path:
    """A copy of the real params.yaml with this scenario chosen and `section__parameter` edited."""
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load(PROJECT / "params.yaml")
    values["scenario"] = scenario
    for place, value in edits.items():
        section, _, name = place.partition("__")
        values[section][name] = value
    yaml.dump(values, folder / "params.yaml")
    return folder / "params.yaml"


def scratch_model(architecture: dict[str, Any], **overrides: Any) -> Model:
    """Random weights of this architecture."""
    return section(Model, architecture="own", architectures={"own": architecture}, **overrides)


def prediction(text: str, *references: str, **overrides: Any) -> Prediction:
    size = sum(len(reference.encode()) for reference in references)
    values = {"id": "0", "source": "", "stopped": "end", "goes_on": False, "reference_nats": 1.0, "reference_tokens": 1}
    return Prediction(prediction=text, references=list(references), **{"reference_bytes": size, **values, **overrides})


def contents(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> bytes, for every file at any depth."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
