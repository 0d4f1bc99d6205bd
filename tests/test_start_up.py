"""A stage imports what it uses and no more: torch takes seconds, and a run of the chain starts seven processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.build import PROJECT

HEAVY = {"torch", "transformers", "datasets", "peft", "optuna", "sacrebleu", "rouge_score", "nltk", "pandas", "scipy"}
USED = {
    "prepare": set[str](),
    "tokenize": {"transformers"},  # of it the tokenizers and configurations, which do without torch
    "evaluate": set[str](),
}


@pytest.mark.parametrize("stage", USED)
def test_a_stage_without_a_network_starts_without_torch(stage: str, tmp_path: Path) -> None:
    """Started as DVC starts it, in a folder without params.yaml, which ends it before it works."""
    program = (
        f"import runpy, sys\n"
        f"try: runpy.run_module('stages.{stage}', run_name='__main__')\n"
        f"except SystemExit as end: assert end.code == 2\n"
        f"print(*{HEAVY} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True
    )
    assert done.stderr == "params.yaml: no such file; run from the project's top folder\n"
    assert set(done.stdout.split()) == USED[stage]
