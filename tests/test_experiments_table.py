"""The table of experiments: whatever they are, it fits 120 columns, and shows no scores that are not theirs."""

import json
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from stages.tools.experiments import main, report
from tests.shell import run

PROJECT = Path(__file__).parent.parent
KEPT = (".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "dvc.lock", "params.yaml", "metrics/evaluate.json")


def revision(params: dict[str, Any], scores: dict[str, Any], name: str, state: str = "") -> dict[str, Any]:
    """As DVC describes it. The keys of `params` and `scores` are folders of tasks."""
    about = {"task": "toy", "model": "gpt2", "examples": 9}
    data = {
        "params": {f"{folder}params.yaml": {"data": values} for folder, values in params.items()},
        "metrics": {
            f"{folder}metrics/evaluate.json": {"data": {**about, "bleu": bleu, "bleu_95": "1-2"}}
            for folder, bleu in scores.items()
        },
    }
    own = {"rev": f"{name}{'0' * 40}", "name": name, "data": data}
    return {**own, "revs": [own], "executor": {"state": state} if state else None, "experiments": None}


def test_each_task_has_its_table_of_what_concerns_it() -> None:
    params, scores = (
        {"tasks/a/": {"fit": {"seed": 1}}, "tasks/b/": {"fit": {"seed": 1}}},
        {"tasks/a/": 1, "tasks/b/": 2},
    )
    commit = revision(params, scores, "main")
    tuned = params | {"tasks/b/": {"fit": {"seed": 7, "adapters": {"rank": 4}}}}
    commit["experiments"] = [
        revision(tuned, scores | {"tasks/b/": 3}, "tuned"),
        revision(tuned, scores, "doomed", state="failed"),
    ]
    assert list(report(revision(params, scores, "workspace"), commit)) == [
        ["tasks/a, toy, gpt2", "        bleu  changes", "  main     1"],
        [
            "tasks/b, toy, gpt2",
            "                   bleu  changes",
            "  main                2",
            "  tuned               3  fit.seed=7, fit.adapters.rank=4",
            "  doomed (failed)        fit.seed=7, fit.adapters.rank=4",
        ],
    ]


@pytest.fixture
def ten_experiments(tmp_path: Path) -> Path:
    """Of the real pipeline, as the refs in which DVC keeps them."""
    for name in KEPT:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    for command in ("init -q -b main", "add .", "commit -q -m run"):
        run(tmp_path, f"git {command}")
    commit = run(tmp_path, "git rev-parse HEAD").strip()
    for number in range(10):
        run(tmp_path, f"git checkout -q --detach {commit}")
        for name, old, new in (
            ("params.yaml", "beams: 5", "beams: 4"),
            ("params.yaml", "learning_rate: 0.001", f"learning_rate: 0.00{number}"),
            ("params.yaml", "max_grad_norm: 1.0", "max_grad_norm: 0.5"),
            ("params.yaml", "epochs: 3 ", f"epochs: {number + 4}"),
            ("metrics/evaluate.json", '"bleu": ', f'"bleu": {number}'),
        ):
            text = (tmp_path / name).read_text()
            assert old in text
            (tmp_path / name).write_text(text.replace(old, new))
        run(tmp_path, "git commit -q -a -m run")
        run(tmp_path, f"git update-ref refs/exps/{commit[:2]}/{commit[2:]}/a-rather-long-name-{number} HEAD")
    run(tmp_path, "git checkout -q main")
    return tmp_path


@pytest.mark.pipeline
def test_ten_experiments_fit_120_columns(ten_experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chdir(ten_experiments):
        main()
    title, head, *lines = capsys.readouterr().out.splitlines()
    scores = json.loads((PROJECT / "metrics/evaluate.json").read_text())
    assert title == f"{scores['task']}, {scores['model']}"
    assert head.split() == [name for name in sorted(scores) if f"{name}_95" in scores] + ["changes"]
    assert max(map(len, lines)) <= 120
    names = [name for line in lines for name in line.split() if name.startswith("a-rather")]
    assert sorted(names) == [f"a-rather-long-name-{number}" for number in range(10)]
    assert lines[0].split() == ["main", *(str(scores[name]) for name in head.split()[:-1])]
