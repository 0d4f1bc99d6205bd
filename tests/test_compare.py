"""`compare`: what it says of runs that are known to be better, worse or equal, and where it reads them from."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib.comparison.comparing import compare, describe
from stages.lib.comparison.rendering import as_markdown, as_text
from stages.lib.comparison.run import Run
from stages.lib.core.files import write_json, write_text
from stages.lib.core.process import UserError
from stages.lib.records.examples import Question
from stages.lib.records.predictions import Prediction, write_predictions
from stages.lib.scores.faithfulness import faithfulness
from stages.lib.scores.score import Score, mean_score
from stages.lib.scores.scored import scored, write_scored
from stages.lib.scores.slots import Slots
from stages.tools.compare import compared, has_regression
from tests.build import copy_dvcignore, prediction
from tests.shell import WITH_CODE
from tests.shell import dvc as shell_dvc
from tests.test_forgetting import MANY, windows

PROJECT = Path(__file__).parent.parent
dvc = partial(shell_dvc, environment=WITH_CODE)
EXAMPLES = 120


def predictions(name: str, examples: int = EXAMPLES, reference: str = "truth") -> list[Prediction]:
    kinds = ["pub"] * 15 + ["café"] * (examples - 15)
    return [
        prediction(
            f"{name} {i}", f"{reference} {i}", id=f"{i:04}", source="word " * (1 + i % 4), metadata={"kind": kinds[i]}
        )
        for i in range(examples)
    ]


def scores(gain: float = 0.0, seed: int = 0, examples: int = EXAMPLES, tokenizer: str = "13a") -> dict[str, Score]:
    """Scores of a model that is better by `gain`, where one model differs from another by 10 on a text."""
    hard = np.random.default_rng(0).normal(40, 15, examples)
    own = hard + np.random.default_rng(seed).normal(gain, 10 / np.sqrt(2), examples)
    return {
        "bleu": mean_score(own, f"refs:1|tok:{tokenizer}"),
        "ter": mean_score(100 - own, "case:lc", higher_is_better=False),
        "perplexity": mean_score(np.random.default_rng(seed + 50).normal(3, 1, examples), "", higher_is_better=False),
    }


def lock(rate: float = 0.1, train: str = "a", task: str = "toy") -> dict[str, Any]:
    return {
        "train": {
            "params": {"params.yaml": {"fit": {"rate": rate, "freeze": {"first_layers": 0}}}},
            "deps": [{"path": "data/prepare/train", "md5": train * 32}, {"path": "stages/lib/core", "md5": "c" * 32}],
            "outs": [{"path": "data/train/model", "md5": f"{rate}" * 16}],
        },
        "evaluate": {
            "params": {"params.yaml": {f"scenarios.{task}.evaluate": {"metrics": ["bleu", "ter"]}}},
            "outs": [{"path": "data/evaluate", "md5": "e" * 32}],
        },
    }


def run(
    name: str, own: Mapping[str, Score], texts: Sequence[Prediction] = (), edited: Sequence[str] = (), **of_lock: Any
) -> Run:
    texts = texts or predictions(name)
    return Run(name, "0123abc", lock(**of_lock), edited, "gpt2", ["bleu", "ter"], scored(texts, own), texts, list)


MAIN = run("main", scores())


@pytest.mark.parametrize(
    ("gain", "start", "words"),
    [
        (8, "better is better than main: bleu +", {"bleu": "better", "ter": "better", "perplexity": "undecided"}),
        (-8, "better is worse than main: bleu -", {"bleu": "worse", "ter": "worse", "perplexity": "undecided"}),
    ],
)
def test_a_true_difference_is_told_with_its_direction(gain: float, start: str, words: dict[str, str]) -> None:
    figures = compare(MAIN, run("better", scores(gain, seed=3)))
    assert figures["verdict"].startswith(start)
    assert {name: own["verdict"] for name, own in figures["scores"].items()} == words
    bleu = figures["scores"]["bleu"]
    assert bleu["low"] < bleu["difference"] < bleu["high"]
    assert bleu["wins"] + bleu["losses"] + bleu["ties"] == EXAMPLES


def test_a_text_that_became_less_true_is_not_called_better() -> None:
    """Of two texts with a higher BLEU, one tells another fact wrongly."""
    plain = np.zeros(EXAMPLES)
    gains, errors = plain.copy(), plain.copy()
    gains[:2], errors[1] = 50, 1
    sides = [
        {"bleu": mean_score(bleu, ""), "slot_error": mean_score(wrong, "", higher_is_better=False)}
        for bleu, wrong in ((plain, plain), (gains, errors))
    ]
    first, second = (replace(run(name, own), headline=[*own]) for name, own in zip(("a", "b"), sides, strict=True))
    assert [row["id"] for row in compare(first, second)["changed"]] == ["0000"]


def test_without_a_true_difference_the_verdict_says_what_the_test_set_could_show() -> None:
    figures = compare(MAIN, run("seed-2", scores(seed=2)))
    least = figures["scores"]["bleu"]["smallest_difference"]
    assert figures["verdict"].startswith("No difference between seed-2 and main is shown: bleu ")
    assert figures["verdict"].endswith(
        f"this test set of 120 examples shows differences of {least:.2f} bleu, {least:.2f} ter or more."
    )


def told(name: str, wrong: int, train: Sequence[Question]) -> Run:
    """Facts told in other words than the source's; of the first few a wrong one. Checked as `train` teaches."""
    own = [
        prediction(
            f"A {('costly' if i < wrong else 'thrifty')} place is Inn {i}.",
            "The truth.",
            id=f"{i}",
            group=f"{i}",
            source=f"name: Inn {i}; price: cheap",
        )
        for i in range(60)
    ]
    checked = faithfulness(own, Slots.learn((one.source, one.references) for one in train))
    return Run(name, "0123abc", lock(), (), "gpt2", ["slot_error"], scored(own, checked), own, lambda: train)


def teaching(examples: int) -> list[Question]:
    prices = ("cheap", "dear")
    return [
        Question(
            f"{i}",
            f"name: House {i}; price: {prices[i % 2]}",
            [f"A {('thrifty', 'costly')[i % 2]} place is House {i}."],
            f"{i}",
        )
        for i in range(examples)
    ]


def test_facts_are_checked_alike_where_the_training_data_differ() -> None:
    """By the phrases that the training examples of the first run teach: else more data could not be compared."""
    first, second = told("main", 30, teaching(200)), told("more-data", 0, teaching(400))
    assert first.scored.scores["slot_error"].signature != second.scored.scores["slot_error"].signature
    figures = compare(first, second)
    assert figures["refused"] == {}
    assert (figures["scores"]["slot_error"]["first"], figures["scores"]["slot_error"]["second"]) == (0.25, 0.0)
    assert figures["scores"]["slot_error"]["verdict"] == "better"


def test_equal_scores_are_called_equal() -> None:
    figures = compare(MAIN, run("copy", scores()))
    assert figures["verdict"] == "copy and main have the same bleu, ter on each of 120 examples."
    assert figures["changed"] == []


def test_a_gain_in_one_score_and_a_loss_in_another_is_no_gain() -> None:
    mixed = scores(8, seed=3) | {"ter": scores(-8, seed=3)["ter"]}
    figures = compare(MAIN, run("mixed", mixed))
    assert figures["verdict"].startswith("mixed is better than main in bleu +")
    assert ", and worse in ter +" in figures["verdict"]


def test_examples_are_paired_by_id_in_whatever_order() -> None:
    second = run("HEAD", scores(8, seed=3))
    order = np.random.default_rng(5).permutation(EXAMPLES).tolist()
    texts = [second.predictions[row] for row in order]
    shuffled = Run(
        second.name, second.commit, second.lock, (), "", second.headline, second.scored.chosen(order), texts, list
    )
    assert compare(MAIN, shuffled) == compare(MAIN, second)


def test_examples_of_one_side_only_are_counted_and_left_out() -> None:
    part = run("part", scores(examples=90), predictions("part", 90))
    figures = compare(MAIN, part)
    assert (figures["examples"], figures["only_in_first"], figures["only_in_second"]) == (90, 30, 0)
    assert "30 test examples are only in main: the 90 common ones are compared" in as_text({"comparisons": [figures]})


def test_other_test_data_are_refused_by_the_first_text_that_differs() -> None:
    texts = [*predictions("HEAD")[:-1], predictions("HEAD", reference="another truth")[-1]]
    with pytest.raises(UserError) as error:
        compare(MAIN, run("HEAD", scores(), texts))
    assert "of 120 examples that both have, 1 have another source or other references" in error.value.lines[0]
    assert "example 0119: references in main: 'truth 119', in HEAD: 'another truth 119'" in error.value.lines[1]


@pytest.mark.parametrize(
    ("second", "line"),
    [
        (run("HEAD", scores(), task="other"), "main is a run of toy, HEAD of other"),
        (
            run("HEAD", scores(), [prediction("", "", id=f"new {i}") for i in range(EXAMPLES)]),
            "no test example in common",
        ),
        (run("HEAD", {"chrf": scores()["bleu"]}), "main and HEAD have no comparable score"),
    ],
)
def test_what_has_nothing_in_common_is_refused(second: Run, line: str) -> None:
    with pytest.raises(UserError, match=line):
        compare(MAIN, second)


@pytest.mark.parametrize(("sides", "names"), [("ab", "a and b"), ("a", "a"), ("b", "b")])
def test_runs_without_answers_are_refused_in_one_line(sides: str, names: str) -> None:
    """Not as other test data, nor by comparing what needs no answers."""
    runs = []
    for name in "ab":
        texts = [replace(own, references=[]) for own in predictions(name)] if name in sides else predictions(name)
        runs.append(run(name, {"empty": mean_score([0.0] * EXAMPLES, "", higher_is_better=False)}, texts))
    with pytest.raises(UserError) as error:
        compare(*runs)
    line = f"{names}: test has no answers, so nothing was scored, and there are no scores to compare"
    assert error.value.lines == [line]


def test_examples_of_a_single_group_are_refused() -> None:
    texts = [prediction("", f"truth {i}", id=f"{i:04}", group="g") for i in range(EXAMPLES)]
    with pytest.raises(UserError, match="are one group"):
        compare(run("main", scores(), texts), run("HEAD", scores(), texts))


def test_a_score_of_other_conventions_is_left_out_and_named() -> None:
    second = run("HEAD", scores(8, seed=3, tokenizer="char"))
    figures = compare(MAIN, second)
    assert figures["refused"] == {"bleu": "bleu: computed in two ways: main has tok:13a, HEAD tok:char"}
    assert list(figures["scores"]) == ["ter", "perplexity"]
    with pytest.raises(UserError, match="bleu: computed in two ways"):  # a regression of it would pass unseen
        has_regression({"revisions": [describe(MAIN)], "comparisons": [figures]})


def test_perplexities_of_two_tokenizers_are_not_compared() -> None:
    own, other = (
        Score(np.full((EXAMPLES, 2), [20.0, tokens]), "perplexity", np.zeros(EXAMPLES), "per:token", False)
        for tokens in (10, 12)
    )
    figures = compare(run("main", scores() | {"perplexity": own}), run("HEAD", scores() | {"perplexity": other}))
    line = "perplexity: computed in two ways: main has tokens:1200, HEAD tokens:1440"
    assert figures["refused"] == {"perplexity": line}


def test_only_a_headline_score_that_is_shown_to_be_worse_is_a_regression() -> None:
    for second, expected in (
        (run("HEAD", scores(-8, seed=3)), True),
        (run("HEAD", scores(seed=2)), False),
        (run("HEAD", scores() | {"perplexity": mean_score([9.0] * EXAMPLES, "", higher_is_better=False)}), False),
    ):
        figures = {"revisions": [describe(MAIN)], "comparisons": [compare(MAIN, second)]}
        assert has_regression(figures) is expected


def test_parts_with_few_examples_are_marked() -> None:
    parts = compare(MAIN, run("HEAD", scores(8, seed=3)))["breakdowns"]
    kinds = {part["value"]: part for part in parts if part["by"] == "kind" and part["score"] == "bleu"}
    assert (kinds["pub"]["examples"], kinds["pub"]["small"]) == (15, True)
    assert (kinds["café"]["examples"], kinds["café"]["small"]) == (105, False)
    assert kinds["café"]["low"] > 0


def test_the_examples_that_changed_most_come_side_by_side() -> None:
    own = scores()
    moved = own["bleu"].each.copy()
    moved[[7, 9]] += [-30, 20]
    figures = compare(MAIN, run("HEAD", own | {"bleu": mean_score(moved, own["bleu"].signature)}))
    assert [(row["id"], row["verdict"]) for row in figures["changed"]] == [("0007", "worse"), ("0009", "better")]
    worse = figures["changed"][0]
    assert (worse["first"], worse["second"], worse["references"]) == ("main 7", "HEAD 7", ["truth 7"])
    assert worse["second_score"] == pytest.approx(worse["first_score"] - 30, abs=1e-3)


def test_params_and_data_that_differ_are_named() -> None:
    figures = compare(MAIN, run("HEAD", scores(), rate=0.2, train="b"))
    assert figures["params"] == [{"name": "fit.rate", "first": 0.1, "second": 0.2}]
    assert [row["what"] for row in figures["data"]] == [
        "result of train: data/train/model",
        "training data: data/prepare/train",
    ]


def test_scores_from_before_an_edit_are_called_old() -> None:
    figures = compare(MAIN, run("workspace", scores(), edited=["fit.rate"]))
    assert any("workspace: params.yaml was edited after this run (fit.rate)" in note for note in figures["notes"])


@pytest.mark.parametrize(
    ("change", "says"),
    [(0.3, "general text: more needs +0.3 bits a byte (0."), (0.0, "general text: no difference is shown")],
)
def test_a_note_tells_which_run_has_forgotten_more(change: float, says: str) -> None:
    first = replace(MAIN, general_text=windows(0.0, MANY))
    second = replace(run("more", scores(seed=3)), general_text=windows(change, MANY, 3))
    assert says in "\n".join(compare(first, second)["notes"])


def test_losses_on_other_general_texts_are_not_compared() -> None:
    first, second = (replace(MAIN, general_text=windows(0.0, texts)) for texts in (MANY, MANY[::-1]))
    assert "general text: the two runs have read other texts" in "\n".join(compare(first, second)["notes"])


def test_text_fits_a_terminal_and_markdown_keeps_its_tables() -> None:
    count = 10_000
    names = ("main", "a-branch-with-a-name-that-is-longer-than-usual")
    texts = [
        prediction("a | b\n" * 40, "c", id=f"{i:016x}", source="x", metadata={"a long column": f"value {i % 30} " * 5})
        for i in range(count)
    ]
    shares = [np.random.default_rng(seed).random(count) / 50 for seed in (1, 2)]
    runs = [
        run(name, {"copied_from_source": mean_score(share, "", higher_is_better=False)}, texts)
        for name, share in zip(names, shares, strict=True)
    ]
    figures = {"comparisons": [compare(*runs)]}
    assert max(map(len, as_text(figures).splitlines())) <= 80
    lines = as_markdown(figures).splitlines()
    cells = {line.replace("\\|", "").count("|") for line in lines if line.startswith("| 0000")}
    assert cells == {7}


# --- revisions of a real repository

DVC = """
stages:
  evaluate:
    cmd: cp -r made/data made/metrics .
    params: [fit, scenarios.toy.evaluate]
    deps: [made]
    outs: [data/predict, data/evaluate]
    metrics: [metrics/evaluate.json: {cache: false}]
"""
PARAMS = """
scenario: toy
scenarios:
  toy:
    evaluate:
      metrics: [bleu, ter]
fit:
  rate: 1
"""


def sh(folder: Path, command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command.split(), cwd=folder, env=WITH_CODE, capture_output=True, text=True)
    assert result.returncode == code, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def commit_run(folder: Path, name: str, gain: float, seed: int) -> None:
    """A run of the pipeline on the branch `name`."""
    texts = predictions(f"{name} \udc80")  # a model of bytes can write half a character
    write_predictions(folder / "made/data/predict/predictions.jsonl", texts)
    write_scored(folder / "made/data/evaluate/scores.parquet", scored(texts, scores(gain, seed)))
    write_json(folder / "made/metrics/evaluate.json", {"task": "toy", "model": "gpt2", "bleu": 1.0, "ter": 1.0})
    sh(folder, f"git checkout -q -b {name}")
    dvc(folder, "repro -q")
    sh(folder, "git add .")
    sh(folder, f"git commit -q -m {name}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Branches `old` (no run), `main`, `better` (checked out), an experiment `trial`, a remote that has main only."""
    folder = tmp_path_factory.mktemp("compare") / "project"
    for name in (".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    copy_dvcignore(folder)
    write_text(
        folder / ".dvc/config.local",
        f"[core]\n    remote = team\n['remote \"team\"']\n    url = {folder.parent / 'remote'}\n",
    )
    write_text(folder / "dvc.yaml", DVC)
    write_text(folder / "params.yaml", PARAMS)
    write_text(folder / "dvc.lock", "schema: '2.0'\nstages: {}\n")
    sh(folder, "git init -q -b old")
    sh(folder, "git add .")
    sh(folder, "git commit -q -m old")
    commit_run(folder, "main", gain=0, seed=0)
    dvc(folder, "push -q")
    commit_run(folder, "better", gain=8, seed=3)
    sh(folder, "dvc exp run -q --name trial -S fit.rate=3")
    sh(folder, "git checkout -q -f better")
    return folder


@pytest.mark.pipeline
def test_revisions_are_compared_without_a_checkout(project: Path, tmp_path: Path) -> None:
    """A branch, a commit, an experiment and the workspace; what is not in the cache comes from the remote."""
    here = shutil.copytree(project, tmp_path / "here", symlinks=True)
    write_text(here / "params.yaml", PARAMS.replace("rate: 1", "rate: 7"))
    before = {file: file.read_bytes() for file in here.rglob("*") if file.is_file() and ".dvc" not in file.parts}
    (here / ".dvc/cache").rename(here / ".dvc/kept")
    with chdir(here):
        assert compared(["main", "main~0"])["comparisons"][0]["verdict"].startswith("main~0 and main have the same")
        with pytest.raises(UserError, match=r"better: data/evaluate/scores.parquet is neither in DVC's cache"):
            compared(["main", "better"])
    shutil.copytree(here / ".dvc/kept", here / ".dvc/cache", dirs_exist_ok=True)
    page = "-m stages.tools.compare main better trial workspace --json figures.json --html page.html"
    told = sh(here, f"python {page}").stdout
    figures = json.loads((here / "figures.json").read_text())
    assert told.startswith("better is better than main: bleu +")
    assert [own["second"] for own in figures["comparisons"]] == ["better", "trial", "workspace"]
    assert [own["params"] for own in figures["comparisons"]] == [
        [],
        [{"name": "fit.rate", "first": 1, "second": 3}],
        [],
    ]
    assert "params.yaml was edited after this run (fit.rate)" in figures["comparisons"][2]["notes"][0]
    assert "better is better than main" in (here / "page.html").read_text()
    for name in ("figures.json", "page.html"):
        (here / name).unlink()
    assert {
        file: file.read_bytes() for file in here.rglob("*") if file.is_file() and ".dvc" not in file.parts
    } == before


@pytest.mark.pipeline
def test_exit_codes_tell_a_regression_from_a_broken_comparison(project: Path) -> None:
    gate = "python -m stages.tools.compare --markdown --fail-on-regression"
    assert sh(project, f"{gate} main better").stdout.startswith("**better is better than main")
    sh(project, f"{gate} better main", code=1)
    file = sh(project, "git rev-parse HEAD:params.yaml").stdout.strip()
    for name in ("nowhere", file[:7]):
        assert sh(project, f"{gate} main {name}", code=2).stderr == f"{name}: unknown Git revision '{name}'\n"


@pytest.mark.pipeline
def test_a_pull_request_that_makes_the_model_worse_is_told_so(project: Path, tmp_path: Path) -> None:
    here = shutil.copytree(project, tmp_path / "here", symlinks=True)
    (here / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci/compare", here / ".ci")
    sh(here, "git checkout -q main")
    dvc(here, "checkout -q")
    assert sh(here, ".ci/compare better").stdout == "verdict=worse\n"
    assert (here / "reports/comparison.md").read_text().startswith("**workspace is worse than better")


@pytest.mark.pipeline
def test_a_revision_without_scores_of_examples_is_refused_in_one_line(project: Path) -> None:
    with chdir(project), pytest.raises(UserError, match="old: its run has kept no scores of examples"):
        compared(["old", "main"])
