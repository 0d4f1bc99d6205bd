"""How many bytes `dvc push` uploads after a small change.

Run: `python -m tests.benchmarks.uploaded_bytes [ROWS] [REVISION]`. It takes the working tree, or a revision of git for
a comparison, and pushes to a folder. Rows are synthetic; the model is the shipped base, fine-tuned on a few rows of the
sample. Claims: 1 % more rows upload little more than 1 % of what prepare and tokenize have made; one changed row of
test uploads one shard of each; and a second LoRA fit uploads the adapter.
"""

import csv
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from stages.lib.records.examples import read_examples
from tests.benchmarks.synthetic import rows
from tests.test_pipeline import PROJECT, run

RAW, SAMPLE = Path("data/raw/data_to_text/places.csv"), "sample.csv"
DATA, TRAIN = ("prepare", "tokenize"), ("train",)
FEW_ROWS = 400  # of the sample, to train on

Row = tuple[str, str]


class Change(NamedTuple):
    name: str
    make: Callable[[Path], None]  # edits the project
    stages: tuple[str, ...]  # that run and are pushed


def main(count: str = "100000", revision: str | None = None) -> None:
    wanted = int(count)
    drawn = list(rows(wanted + 2 * (wanted // 100)))
    first, end, middle = drawn[:wanted], drawn[wanted : wanted + wanted // 100], drawn[wanted + wanted // 100 :]
    half = wanted // 2
    changes = [
        Change(f"{wanted:,} rows", lambda project: write(project, first), DATA),
        Change("1 % more, at the end", lambda project: write(project, [*first, *end]), DATA),
        Change(
            "1 % more, in the middle",
            lambda project: write(project, [*first[:half], *middle, *first[half:], *end]),
            DATA,
        ),
        Change("one changed row of test", change_a_test_row, DATA),
        Change("a LoRA fit", fit_adapters, TRAIN),
        Change("the same with another seed", lambda project: set_params(project, fit={"seed": 2}), TRAIN),
    ]
    print("| change | KB uploaded | of all that these stages have made |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        project, remote = project_in(Path(place), revision), Path(place) / "remote"
        for change in changes:
            before = size(remote)
            change.make(project)
            run(project, "dvc", "repro", *change.stages)
            run(project, "dvc", "push", *change.stages)
            uploaded, made = size(remote) - before, sum(size(project / "data" / stage) for stage in change.stages)
            print(f"| {change.name} | {uploaded / 1e3:,.1f} | {uploaded / made:.2%} |", flush=True)


def project_in(place: Path, revision: str | None) -> Path:
    """A project of its own with this code, and a folder as its remote."""
    source, project = PROJECT, place / "project"
    if revision is not None:
        source = place / "revision"
        run(place, "git", "clone", "-q", "--no-checkout", str(PROJECT), str(source))
        run(source, "git", "checkout", "-q", revision)
    project.mkdir()
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(source / name, project)
    for name in ("stages", "data/raw"):
        shutil.copytree(source / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / RAW, project / SAMPLE)
    run(project, "git", "init", "-q")
    run(project, "dvc", "init", "-q")
    run(project, "dvc", "remote", "add", "-q", "-d", "team", str(place / "remote"))
    set_params(project, scenario_tokenize={"max_target_tokens": 256})  # words at random have many tokens
    return project


def set_params(project: Path, scenario_tokenize: dict[str, Any] | None = None, **sections: dict[str, Any]) -> None:
    yaml = YAML()
    values = yaml.load(project / "params.yaml")
    values["scenarios"]["data_to_text"]["tokenize"].update(scenario_tokenize or {})
    for name, changed in sections.items():
        values[name].update(changed)
    yaml.dump(values, project / "params.yaml")


def write(project: Path, table: list[Row]) -> None:
    with (project / RAW).open("w", newline="") as file:
        csv.writer(file).writerows([("facts", "text"), *table])


def change_a_test_row(project: Path) -> None:
    """In the middle of the split."""
    examples = list(read_examples(project / "data/prepare/test"))
    source = examples[len(examples) // 2].source
    with (project / RAW).open(newline="") as file:
        _, *table = csv.reader(file)
    write(project, [(facts, f"{text} Changed." if facts == source else text) for facts, text in table])


def fit_adapters(project: Path) -> None:
    lines = (project / SAMPLE).read_text().splitlines(keepends=True)
    (project / RAW).write_text("".join(lines[: FEW_ROWS + 1]))
    set_params(project, fit={"adapters": {"type": "lora", "rank": 8}}, tune_hyperparameters={"trials": 0})
    set_params(project, train={"epochs": 0.5})


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(*sys.argv[1:])
