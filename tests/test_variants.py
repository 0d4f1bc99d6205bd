"""`seeds` and `learning_curve` as commands: what they make by DVC, what they find there, and what they leave alone. The
chain is a single stage, whose scores are invented."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages.lib.core.process import UserError
from stages.tools import learning_curve, seeds
from stages.tools.variants import finished
from tests.build import contents, copy_dvcignore
from tests.shell import WITH_CODE, dvc
from tests.shell import run as shell

DVC = """
stages:
  evaluate:
    cmd: python make.py
    deps: [make.py]
    params: [fit, prepare, scenarios.toy.evaluate]
    outs:
      - data/predict
      - data/evaluate
      - metrics/prepare.json: {cache: false}
    metrics: [metrics/evaluate.json: {cache: false}]
"""
PARAMS = """
scenario: toy
scenarios:
  toy:
    evaluate:
      metrics: [bleu]
fit:
  seed: 1
  rate: 0.1
prepare:
  train_share: 1.0
"""
# each run of it notes its settings in {log}
MAKE = """
from pathlib import Path
import numpy as np
from ruamel.yaml import YAML
from stages.lib.core.files import write_json
from stages.lib.records.predictions import Prediction, write_predictions
from stages.lib.scores.score import mean_score
from stages.lib.scores.scored import scored, write_scored

params = YAML(typ="safe").load(Path("params.yaml"))
seed, share = params["fit"]["seed"], params["prepare"]["train_share"]
with open("{log}", "a") as log:
    print(seed, share, file=log)
texts = [
    Prediction(str(i), str(i), {}, "s", "p", ["r"], "r", "end", False, 1.0, 1, 1) for i in range(50)
]
quality = 10 * share + np.random.default_rng(seed).normal(40, 10, 50)
write_predictions(Path("data/predict/predictions.jsonl"), texts)
write_scored(Path("data/evaluate/scores.parquet"), scored(texts, {"bleu": mean_score(quality, "s")}))
write_json(Path("metrics/evaluate.json"), {"bleu": 1, "model": "toy"})
write_json(Path("metrics/prepare.json"), {"examples": {"train": round(800 * share)}})
"""

pytestmark = pytest.mark.pipeline


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a repository, as a task has it, with a finished run that nobody has committed."""
    folder = tmp_path / "project/tasks/one"
    folder.mkdir(parents=True)
    for name, text in (("dvc.yaml", DVC), ("params.yaml", PARAMS), ("make.py", MAKE)):
        (folder / name).write_text(text.replace("{log}", str(tmp_path / "log")))
    top = tmp_path / "project"
    (top / ".gitignore").write_text("/tasks/*/data/?*\n.scratch/\n")
    shell(top, "git init -q -b main", WITH_CODE)
    dvc(top, "init -q", WITH_CODE)
    copy_dvcignore(top)
    for command in ("git add .", "git commit -q -m start"):
        shell(top, command, WITH_CODE)
    (folder / "params.yaml").write_text(PARAMS.replace("rate: 0.1", "rate: 0.2"))
    dvc(folder, "repro -q", WITH_CODE)
    for name, value in WITH_CODE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, tool: object, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    tool.main()  # type: ignore[attr-defined]


def log_of(task: Path) -> list[str]:
    return (task.parents[2] / "log").read_text().splitlines()


def state(task: Path) -> tuple[dict[str, bytes], str]:
    """All that is in the workspace, but for the results of the tools, and what git sees of it."""
    files = {path: own for path, own in contents(task).items() if not path.startswith((".scratch", "metrics/seeds"))}
    status = subprocess.run(["git", "status", "--short"], cwd=task, capture_output=True, text=True).stdout
    return files, status


def test_what_is_there_is_not_made_again_and_the_workspace_stays(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(task)
    call(monkeypatch, seeds, "3", "--jobs", "2")
    assert sorted(log_of(task)) == ["1 1.0", "2 1.0", "3 1.0"]
    assert state(task)[0] == before[0]
    made = json.loads((task / "metrics/seeds.json").read_text())
    assert made["seeds"] == [1, 2, 3]
    assert len({*made["scores"]["bleu"]["values"].values()}) == 3
    assert capsys.readouterr().out.startswith("fit.seed = 1, 2, 3: 1 runs are there, 2 will be made, 2 at once; ")
    call(monkeypatch, seeds, "3")
    assert len(log_of(task)) == 3
    assert json.loads((task / "metrics/seeds.json").read_text()) == made
    shell(task, "git add .", WITH_CODE)
    shell(task, "git commit -q -m run", WITH_CODE)
    call(monkeypatch, seeds, "--against", "HEAD")
    against = json.loads((task / "metrics/seeds.json").read_text())["against"]
    assert (against["seeds"], against["scores"]["bleu"]["difference"]) == ([3, 3], 0)
    for revision, line in (("HEAD~1", "HEAD~1: no dvc.lock, so"), ("nowhere", "nowhere: neither a commit nor")):
        with pytest.raises(UserError, match=line):
            finished("fit.seed", revision)
    call(monkeypatch, learning_curve, "1/2", "1")
    assert log_of(task)[3:] == ["1 0.5"]
    curve = json.loads((task / "metrics/learning_curve.json").read_text())
    assert [point["examples"] for point in curve["scores"]["bleu"]["points"]] == [400, 800]
    assert (task / "metrics/learning_curve.svg").read_text().startswith("<svg")
    (task / "params.yaml").write_text(PARAMS)
    with pytest.raises(UserError, match=r"no finished run of params.yaml to start from \(evaluate would run\)"):
        call(monkeypatch, seeds, "2")
    (task / "dvc.yaml").write_text(DVC.replace("make.py]", "make.py, more.py]"))
    (task / "more.py").touch()
    with pytest.raises(UserError, match=r"more\.py: unknown to git, so a copy by DVC lacks it: `git add` it"):
        call(monkeypatch, seeds, "2")
