"""Processes that share a sharded network learn what a single one does. Two of them run this file as a program."""

import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes

from stages.lib.core.process import UserError
from stages.lib.training.estimate import estimate
from stages.lib.training.fit import fit
from stages.lib.training.fsdp import gather_trained_weights
from stages.lib.training.selection import make_scorer
from stages.lib.training.trainable import make_trainable
from stages.lib.training.validation import Scorer
from tests import tiny

pytestmark = pytest.mark.slow

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "one process has more micro-batches than the other": ("gpt2", {"micro_batch_tokens": 40, "l1": 0.001}),
    "one process has no example": ("t5", {"batch_size": 1, "epochs": 0.25}),
    "adapters": ("llama", {"adapters": {"rank": 4}, "average_checkpoints": 2}),
    "frozen layers": ("bert", {"freeze": {"first_layers": 1}}),
    "a score of generated texts decides": ("gpt2", {"metric_for_best_model": "chrf"}),
}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", __name__, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads((folder / "results.json").read_text()))


@pytest.mark.parametrize("case", CASES)
def test_it_learns_what_one_process_does(case: str, together: dict[str, Any], tmp_path: Path) -> None:
    alone, shared = curves(case, tmp_path), together[case]
    assert alone.keys() == shared.keys()
    for name, points in alone.items():
        assert shared[name] == [pytest.approx(point, rel=1e-4) for point in points], name


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(together: dict[str, Any]) -> None:
    assert together["killed"] is True


def test_a_checkpoint_that_cannot_be_written_is_one_line(together: dict[str, Any]) -> None:
    assert "the checkpoint of step 2 can't be written to" in together["full disk"]
    assert together["full disk"].endswith("make room and run again: it continues from the last")


def curves(case: str, folder: Path) -> dict[str, list[Any]]:
    curve, _ = trained(case, folder / "fit")
    return {"training": curve.training, "validation": curve.validation, "scores": curve.scores}


def trained(case: str, folder: Path, scorer: Scorer | None = None) -> Any:
    """The curve, and the trained weights."""
    (name, options), is_shared = CASES[case], "RANK" in os.environ
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    data = tiny.dataset(tokens, folder.parent / f"examples{os.environ.get('RANK')}")
    settings = tiny.settings(**{"epochs": 1, "evals_per_run": 2, "dropout": 0.0, **options})
    machine = tiny.machine(train_processes=2, sharded=True) if is_shared else tiny.machine()
    network = make_trainable(tiny.model(tokens, architecture=architecture, dropout=0.0), settings)
    estimate(network, data, data, settings, machine)
    scorer = scorer or make_scorer(settings, tokens, [], data, 5)
    curve = fit(network, data, data, settings, machine, folder, "test", scorer)
    return curve, gather_trained_weights(network) if is_shared else {}


class Killed(Exception):
    pass


def resumes_from_a_kill(folder: Path) -> bool:
    scores = iter([50.0, None, 60.0])

    def scorer(network: Any) -> float:
        if (score := next(scores)) is None:
            raise Killed
        return score

    case = "a score of generated texts decides"
    with pytest.raises(Killed):
        trained(case, folder / "fit", scorer)
    broken = trained(case, folder / "fit", scorer)
    scores = iter([50.0, 60.0])
    whole = trained(case, folder / "unbroken", scorer)
    same_weights = all(torch.equal(weights, broken[1][name]) for name, weights in whole[1].items())
    return bool(same_weights and whole[0] == broken[0])


def line_of_a_full_disk(folder: Path) -> str:
    """There is room for the weights, and not for the moments."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UserError) as error:
            trained("one process has more micro-batches than the other", folder / "fit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "fit/checkpoint-2/model.safetensors").is_file()
    return error.value.lines[0]


def work(rank: int, folder: Path) -> None:
    """What each of the two processes does; the first writes the results."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results: dict[str, Any] = {case: curves(case, folder / f"case{number}") for number, case in enumerate(CASES)}
    results["killed"] = resumes_from_a_kill(folder / "killed")
    results["full disk"] = line_of_a_full_disk(folder / "full")
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    distributed.destroy_process_group()


if __name__ == "__main__":
    gc.freeze()  # Trainer collects garbage at every start; without this, it looks at everything imported
    start_processes(work, (Path(sys.argv[1]),), nprocs=2, start_method="fork")  # so that imports happen once
