"""Commands in a repository that a test has made."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.cli import main

# git knows who commits, and `python` and `dvc` are those of the tests
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    **{f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
# of a repository that has none of its own, the project's code
WITH_CODE = ENVIRONMENT | {"PYTHONPATH": str(Path(__file__).parent.parent)}


def run(folder: Path, command: str, environment: Mapping[str, str] = ENVIRONMENT) -> str:
    """What it prints. It has to succeed."""
    result = subprocess.run(shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def dvc(folder: Path, arguments: str, environment: Mapping[str, str] = ENVIRONMENT) -> None:
    """What the command does, without the second in which a process of its own imports DVC. It has to succeed."""
    with chdir(folder), pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        assert main(shlex.split(arguments)) == 0, f"dvc {arguments}"
