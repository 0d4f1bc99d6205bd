"""Processes that hold a network together learn what one alone does. Two of them run this file as a program."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.lib.fitting import Judge, estimate, fit
from stages.lib.judging import judge_of
from stages.lib.process import UserError
from stages.lib.sharding import learned_weights
from stages.lib.trainable import student
from tests import tiny

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "one process has more parts than the other": ("gpt2", {"micro_batch_tokens": 40, "l1": 0.001}),
    "one process has no pair": ("t5", {"batch_size": 1}),
    "adapters": ("llama", {"adapters": {"rank": 4}, "average_best": 2}),
    "frozen layers": ("bert", {"freeze": {"first_layers": 1}}),
    "chosen by what it writes": ("gpt2", {"choose_by": "chrf"}),
}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", __name__, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads((folder / "curves.json").read_text()))


@pytest.mark.parametrize("case", CASES)
def test_it_learns_what_one_process_does(case: str, together: dict[str, Any], tmp_path: Path) -> None:
    alone, shared = curves(case, tmp_path), together[case]
    assert alone.keys() == shared.keys()
    for name, points in alone.items():
        assert shared[name] == [pytest.approx(point, rel=1e-4) for point in points], name


def test_a_killed_fit_goes_on_and_ends_with_the_same_bytes(together: dict[str, Any]) -> None:
    assert together["killed"] is True


def test_a_checkpoint_that_cannot_be_written_is_one_line(together: dict[str, Any]) -> None:
    assert "the checkpoint of step 2 can't be written to" in together["full disk"]
    assert together["full disk"].endswith("make room and run again: it goes on from the last")


def curves(case: str, folder: Path) -> dict[str, list[Any]]:
    curve, _ = fitted(case, folder / "fit")
    return {"training": curve.training, "validation": curve.validation, "scores": curve.scores}


def fitted(case: str, folder: Path, judge: Judge | None = None) -> Any:
    """The curve, and what is learned."""
    (name, options), is_shared = CASES[case], "RANK" in os.environ
    architecture, kind = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(kind)
    data = tiny.pairs(tokens, folder.parent / f"pairs{os.environ.get('RANK')}")
    shared = {"processes": 2, "sharded": True} if is_shared else {}
    settings = tiny.settings(**{"epochs": 1, "validations": 2, "dropout": 0.0, **options, **shared})
    network = student(tiny.model(tokens, architecture=architecture, dropout=0.0), settings)
    estimate(network, data, data, settings, tiny.machine())
    judge = judge or judge_of(settings, tokens, [], data, 5)
    curve = fit(network, data, data, settings, tiny.machine(), folder, "test", judge)
    return curve, learned_weights(network) if is_shared else {}


class Killed(Exception):
    pass


def goes_on_from_a_kill(folder: Path) -> bool:
    scores = iter([50.0, None, 60.0])

    def judge(network: Any) -> float:
        if (score := next(scores)) is None:
            raise Killed
        return score

    case = "chosen by what it writes"
    with pytest.raises(Killed):
        fitted(case, folder / "fit", judge)
    broken = fitted(case, folder / "fit", judge)
    scores = iter([50.0, 60.0])
    whole = fitted(case, folder / "unbroken", judge)
    same_weights = all(torch.equal(weights, broken[1][name]) for name, weights in whole[1].items())
    return bool(same_weights and whole[0] == broken[0])


def line_of_a_full_disk(folder: Path) -> str:
    """There is room for the weights, and not for the moments."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UserError) as error:
            fitted("one process has more parts than the other", folder / "fit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "fit/checkpoint-2/model.safetensors").is_file()
    return error.value.lines[0]


def main(folder: Path) -> None:
    results: dict[str, Any] = {case: curves(case, folder / f"case{at}") for at, case in enumerate(CASES)}
    results["killed"] = goes_on_from_a_kill(folder / "killed")
    results["full disk"] = line_of_a_full_disk(folder / "full")
    if os.environ["RANK"] == "0":
        (folder / "curves.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
