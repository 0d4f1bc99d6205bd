"""`make reruns`: what `dvc status` knows, and what only the order of the chain tells."""

from collections.abc import Mapping

from stages.tools.reruns import report

CHAIN = {
    "prepare": {"deps": ["data/raw"], "outs": ["data/prepare/train"]},
    "train": {"deps": ["data/prepare/train"], "outs": ["data/train/model"]},
    "evaluate": {"deps": ["data/train/model"], "outs": [{"metrics/plots": {"cache": False}}]},
}


def lines(status: Mapping[str, object]) -> list[str]:
    return [" ".join(line.split()) for line in report(CHAIN, status)]


def test_nothing_changed() -> None:
    assert lines({}) == ["prepare is up to date", "train is up to date", "evaluate is up to date"]


def test_a_changed_parameter_is_named_and_what_follows_may_run() -> None:
    status = {"train": [{"changed deps": {"params.yaml": {"fit.epochs": "modified"}}}]}
    assert lines(status) == [
        "prepare is up to date",
        "train would run: fit.epochs modified",
        "evaluate may run: if train comes out different",
    ]


def test_what_follows_what_may_run_may_run_too() -> None:
    status = {"prepare": [{"changed deps": {"data/raw": "modified"}}, "changed command"]}
    assert lines(status)[0] == "prepare would run: data/raw modified, changed command"
    assert lines(status)[1:] == [
        "train may run: if prepare comes out different",
        "evaluate may run: if train comes out different",
    ]
