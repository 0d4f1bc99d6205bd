"""The workflows of pull requests: what they run, in a repository whose commands only note that they were called."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

PROJECT = Path(__file__).parent.parent
GITHUB, GITLAB = ".github/workflows/pipeline.yml", ".ci/gitlab.yml"
COMPARE = ".ci/compare"
# each notes its arguments, and ends with the code that the test has set for it
COMMAND = """#!/usr/bin/env bash
echo "${0##*/} $*" >> "$CALLS"
name=${0##*/}_code
[[ "$*" == *"compare origin/main --"* || "$name" != python_code ]] && exit "${!name:-0}"
exit 0
"""
COMMANDS = ("make", "dvc", "python", "gh", "curl")
EXPRESSIONS = {
    "github.base_ref": "main",
    "github.event.number": "7",
    "github.token": "token",
    "secrets.DVC_CONFIG": "[core]\n",
    "secrets.HF_TOKEN": "",
    "vars.EXTRAS": "s3",
}
VARIABLES = {
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
    "CI_MERGE_REQUEST_IID": "7",
    "CI_API_V4_URL": "https://example.org",
    "CI_PROJECT_ID": "1",
    "COMMENT_TOKEN": "token",
    "DVC_CONFIG": "secret",
}


class Outcome(NamedTuple):
    run: bool
    scores: bool | None  # None: not reached
    calls: list[str]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout of a pull request. The branch `main` of its origin has had a run."""
    folder = tmp_path / "repository"
    for name in (COMPARE, ".gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    for name in ("dvc.lock", "metrics/evaluate.json", ".dvc/config", "secret"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    for command in ("init -q -b main", "add .", "commit -q -m run", "remote add origin .", "fetch -q origin"):
        git(folder, command)
    for name in COMMANDS:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(COMMAND)
        path.chmod(0o755)
    return folder


def git(folder: Path, command: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *command.split()], cwd=folder, check=True)


def on_github(folder: Path, codes: dict[str, int]) -> Outcome:
    jobs = load(GITHUB)["jobs"]
    files = {name: folder.parent / name for name in ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
    for path in files.values():
        path.touch()
    environment = environment_of(folder, codes) | {name: str(path) for name, path in files.items()}
    environment |= evaluated(jobs["run"]["env"], EXPRESSIONS)
    passes = all(
        succeeds(folder, step["run"], environment | evaluated(step.get("env", {}), EXPRESSIONS))
        for step in jobs["run"]["steps"]
        if "run" in step
    )
    calls = Path(environment["CALLS"]).read_text().splitlines()
    if not passes:
        return Outcome(False, None, calls)
    outputs = dict(line.split("=") for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    results = evaluated(jobs["run"]["outputs"], {f"steps.compare.outputs.{k}": v for k, v in outputs.items()})
    needed = evaluated(jobs["scores"]["env"], {f"needs.run.outputs.{k}": v for k, v in results.items()})
    (step,) = jobs["scores"]["steps"]
    return Outcome(True, succeeds(folder, step["run"], environment | needed), calls)


def on_gitlab(folder: Path, codes: dict[str, int]) -> Outcome:
    jobs = load(GITLAB)
    environment = environment_of(folder, codes) | VARIABLES
    environment |= {name: Template(str(v)).substitute(VARIABLES) for name, v in jobs["run"]["variables"].items()}
    passes = succeeds(folder, "\n".join(jobs["run"]["script"]), environment)
    calls = Path(environment["CALLS"]).read_text().splitlines()
    if not passes:
        return Outcome(False, None, calls)
    lines = (folder / jobs["run"]["artifacts"]["reports"]["dotenv"]).read_text().splitlines()
    needed = dict(line.split("=") for line in lines)
    return Outcome(True, succeeds(folder, "\n".join(jobs["scores"]["script"]), environment | needed), calls)


def load(name: str) -> Any:
    return YAML(typ="safe").load(PROJECT / name)


def environment_of(folder: Path, codes: dict[str, int]) -> dict[str, str]:
    return {
        "PATH": f"{folder.parent / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(folder.parent / "calls"),
        **{f"{name}_code": str(code) for name, code in codes.items()},
    }


def evaluated(values: dict[str, str], expressions: dict[str, str]) -> dict[str, str]:
    """Fails at an expression that is not known."""
    return {
        name: re.sub(r"\$\{\{ (.+?) \}\}", lambda found: expressions[found[1]], value) for name, value in values.items()
    }


def succeeds(folder: Path, script: str, environment: dict[str, str]) -> bool:
    """As both services start it. A folder of the checkout must not shadow the commands of the test."""
    script = script.replace('export PATH="$PWD/.venv/bin:$PATH"', "")
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment).returncode == 0


@pytest.mark.parametrize("service", [on_github, on_gitlab])
@pytest.mark.parametrize(
    ("codes", "run", "scores", "last"),
    [
        ({}, True, True, ("gh pr comment 7", "curl")),
        ({"python": 1}, True, False, ("gh pr comment 7", "curl")),
        ({"python": 2}, False, None, ("python -m stages.tools.compare origin/main --markdown",) * 2),
        ({"dvc": 1}, False, None, ("dvc pull",) * 2),
        ({"make": 1}, False, None, ("make setup",) * 2),
        ({"gh": 1, "curl": 22}, False, None, ("gh pr comment 7", "curl")),
    ],
    ids=["better", "worse", "not-comparable", "remote", "install", "comment"],
)
def test_a_worse_model_is_told_from_a_broken_run(
    service: Any, codes: dict[str, int], run: bool, scores: bool | None, last: tuple[str, str], repository: Path
) -> None:
    outcome = service(repository, codes)
    assert (outcome.run, outcome.scores) == (run, scores)
    assert outcome.calls[-1].startswith(last[service is on_gitlab])


def test_a_base_that_is_unknown_or_without_scores_is_no_verdict_on_the_model(repository: Path) -> None:
    def compared(base: str) -> subprocess.CompletedProcess[str]:
        environment = environment_of(repository, {"python": 1})
        command = [f"./{COMPARE}", base]
        return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)

    assert compared("origin/nowhere").returncode > 2
    git(repository, "rm -q -r metrics")
    git(repository, "commit -q -m none")
    assert compared("HEAD").stdout == "verdict=ok\n"
    assert "HEAD has no scores to compare with" in (repository / "reports/comparison.md").read_text()


def test_each_task_is_compared_and_stale_results_are_told(repository: Path) -> None:
    for name in ("one", "two"):
        for file in ("dvc.yaml", "metrics/evaluate.json"):
            path = repository / "tasks" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    git(repository, "add tasks/one")
    git(repository, "commit -q -m one")
    (repository / "dvc.lock").write_text("new")
    environment = environment_of(repository, {})
    subprocess.run([f"./{COMPARE}", "main"], cwd=repository, env=environment, check=True, stdout=subprocess.DEVNULL)
    told = (repository / "reports/comparison.md").read_text()
    assert re.findall("## (.+)", told) == ["tasks/one", "tasks/two"]
    assert told.count("main has no scores to compare with") == 1
    assert "not those of this run" in told


def commands(name: str) -> Iterator[str]:
    for job in load(name).get("jobs", load(name)).values():
        yield from (step["run"] for step in job.get("steps", ()) if "run" in step)
        yield from job.get("script", ())


@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_what_a_workflow_calls_is_there(name: str) -> None:
    text = "\n".join(commands(name))
    targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make (\w+)", text)) == {"setup", "repro"}
    assert {"setup", "repro"} <= set(targets)
    assert "$(PULL)" in (PROJECT / "Makefile").read_text()
    assert set(re.findall(r"\.ci/\w+", text)) == {COMPARE}
    assert os.access(PROJECT / COMPARE, os.X_OK)
