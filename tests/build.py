"""What several test files build: sections of params.yaml, predictions, and a folder's content for comparisons."""

from contextlib import chdir
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML

from stages.lib.core.params import Section, read_section
from stages.lib.params.fit import Fit
from stages.lib.params.model import Model
from stages.lib.params.train import FitSettings, Train
from stages.lib.records.predictions import Prediction

PROJECT = Path(__file__).parent.parent
PARAMS = PROJECT / "tests/params.yaml"

S = TypeVar("S", bound=Section)


def section(schema: type[S], **overrides: Any) -> S:
    """As the params.yaml of the tests has it, with some values replaced; checked like any other."""
    return schema.model_validate({**dict(_section(schema)), **overrides})


@cache
def _section(schema: type[Section]) -> Section:
    """Read once: checking the whole file takes a quarter of a second."""
    return read_section(schema, PARAMS)


def fit_settings(**overrides: Any) -> FitSettings:
    """Of one training run, as the params.yaml of the tests has them, with some values replaced."""
    return FitSettings.model_validate({**dict(section(Fit)), **dict(section(Train)), **overrides})


def params_of(scenario: str, folder: Path, **edits: Any) -> Path:
    """A copy of the real params.yaml with this scenario chosen, and `section` or `section__parameter` replaced."""
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load(PROJECT / "params.yaml")
    values["scenario"] = scenario
    for place, value in edits.items():
        section, _, name = place.partition("__")
        holder, name = (values[section], name) if name else (values, section)
        holder[name] = value
    yaml.dump(values, folder / "params.yaml")
    return folder / "params.yaml"


def scratch_model(architecture: dict[str, Any], **overrides: Any) -> Model:
    """Random weights of this architecture."""
    scratch = {"vocabulary_size": 300, "pre_tokenizer": "words"} | architecture
    return section(Model, architecture="own", scratch=scratch, **overrides)


def prediction(text: str, *references: str, **overrides: Any) -> Prediction:
    size = sum(len(reference.encode()) for reference in references)
    name = overrides.get("id", "0")
    values = {
        "id": name,
        "group": name,
        "metadata": {},
        "source": "",
        "round_trip": "".join(references[:1]),
        "finish_reason": "end",
        "reference_truncated": False,
        "reference_nats": 1.0,
        "reference_tokens": 1,
    }
    return Prediction(prediction=text, references=list(references), **{"reference_bytes": size, **values, **overrides})


def copy_dvcignore(folder: Path) -> None:
    """Without the line by which a project with tasks hides its own pipeline."""
    lines = (PROJECT / ".dvcignore").read_text().splitlines(keepends=True)
    (folder / ".dvcignore").write_text("".join(line for line in lines if line != "/dvc.yaml\n"))


def contents(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> bytes, for every file at any depth."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def run_stage(folder: Path, stage: str) -> None:
    """What DVC would start in a process of its own, run in this one."""
    with chdir(folder):
        import_module(f"stages.{stage.replace('-', '_')}").main()
