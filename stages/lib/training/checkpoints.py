"""Checkpoints of training: the trained weights, the moments of the optimiser, random numbers and the state of the run.

A checkpoint counts once its last file is written: size and digest of all others.
"""

import os
import random
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stages.lib.core.files import read_json, sha256_of, write_json
from stages.lib.core.process import UserError, first_line
from stages.lib.models.memory import is_sharded
from stages.lib.training import fsdp
from stages.lib.training.state import State

_MARK, _STATE, _WEIGHTS, _MOMENTS = "complete.json", "state.json", "model.safetensors", "optimizer.pt"


class Unwritable(UserError):
    """A checkpoint can't be written."""


class Checkpoints:
    """Those of one run, in its folder. All processes that train together call each method."""

    def __init__(
        self, folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator, title: str
    ) -> None:
        self._folder, self._network, self._optimizer = folder, network, optimizer
        self._accelerator, self._title = accelerator, title

    def newest(self) -> Path | None:
        """The checkpoint to resume from. Deletes incomplete ones, which a killed run has left."""
        with self._accelerator.main_process_first():
            return newest_complete(self._folder)

    def save(self, state: State, kept: Collection[int]) -> None:
        """Deletes older checkpoints afterwards, except those of the steps in `kept`.

        Raises:
            Unwritable: the disk is full, or the folder can't be written to.
        """
        checkpoint = self._folder / f"checkpoint-{state.step}"
        try:
            self._write(checkpoint, state)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise Unwritable(
                f"{self._title}: the checkpoint of step {state.step} can't be written to {self._folder} "
                f"({first_line(error)}); make room and run again: it continues from the last"
            ) from None
        if self._accelerator.is_main_process:
            _keep_only(self._folder, {state.step, *kept})

    def restore(self, checkpoint: Path) -> State:
        """Weights, moments and random numbers as they were. Returns the state of the run."""
        load_weights(self._network, load_file(checkpoint / _WEIGHTS))
        if is_sharded(self._network):
            fsdp.load_moments(self._network, self._optimizer, checkpoint)
        else:
            # to the CPU first: moments of the main process's GPU would all be opened there
            moments = torch.load(checkpoint / _MOMENTS, map_location="cpu", weights_only=True)
            self._optimizer.load_state_dict(moments)
        _set_random_state(torch.load(self._random_file(checkpoint), weights_only=True))
        return State.from_json(read_json(checkpoint / _STATE))

    def load_mean(self, steps: Sequence[int]) -> None:
        """Gives the network the mean weights of the checkpoints of these steps."""
        load_weights(self._network, _mean_weights([self._folder / f"checkpoint-{step}" for step in steps]))

    def _write(self, checkpoint: Path, state: State) -> None:
        checkpoint.mkdir(parents=True, exist_ok=True)
        is_main, sharded = self._accelerator.is_main_process, is_sharded(self._network)
        weights = fsdp.gather_trained_weights(self._network) if sharded else dict(_trained(self._network))
        if is_main:
            save_file({name: own.detach().contiguous() for name, own in weights.items()}, checkpoint / _WEIGHTS)
            write_json(checkpoint / _STATE, state.to_json())
        if sharded:
            fsdp.save_moments(self._network, self._optimizer, checkpoint)
        elif is_main:
            torch.save(self._optimizer.state_dict(), checkpoint / _MOMENTS)
        torch.save(_random_state(), self._random_file(checkpoint))
        self._accelerator.wait_for_everyone()  # each has written files of its own
        if is_main:
            mark_complete(checkpoint)

    def _random_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"random-{self._accelerator.process_index}.pt"


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads the trained weights of a checkpoint, in place."""
    if is_sharded(network):
        fsdp.load_weights(network, weights)
        return
    with torch.no_grad():
        for name, own in _trained(network):
            own.copy_(weights[name])


def _mean_weights(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """Name -> mean over the checkpoints, in float32."""
    sums: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        for name, weights in load_file(checkpoint / _WEIGHTS).items():
            sums[name] = sums.get(name, 0) + weights.float()
    return {name: total / len(checkpoints) for name, total in sums.items()}


def mark_complete(checkpoint: Path) -> None:
    """Writes the last file of a checkpoint. All files are flushed to the disk, so that a power cut loses none."""
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.name != _MARK)
    content = {
        str(file.relative_to(checkpoint)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files
    }
    write_json(checkpoint / _MARK, content)
    for path in (*files, checkpoint / _MARK, checkpoint, checkpoint.parent):
        _flush(path)


def newest_complete(folder: Path) -> Path | None:
    newest_first = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    complete = [checkpoint for checkpoint in newest_first if _is_complete(checkpoint)]
    for checkpoint in set(newest_first) - set(complete):
        shutil.rmtree(checkpoint)
    return complete[0] if complete else None


def _keep_only(folder: Path, steps: Collection[int]) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        if step_of(checkpoint) not in steps:
            shutil.rmtree(checkpoint)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _trained(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What training changes: weights, of tied ones one, and buffers such as the ranges of I-BERT."""
    yield from ((name, weights) for name, weights in network.named_parameters() if weights.requires_grad)
    saved = network.state_dict()
    yield from (
        (name, buffer) for name, buffer in network.named_buffers() if name in saved and buffer.is_floating_point()
    )


def _random_state() -> dict[str, Any]:
    """Of all generators that a network may draw from."""
    _, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }


def _set_random_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
    np.random.set_state(("MT19937", *saved["numpy"]))
    random.setstate(saved["python"])


def _is_complete(checkpoint: Path) -> bool:
    try:
        expected = read_json(checkpoint / _MARK)
    except (OSError, ValueError):  # no mark, or an empty one after a power cut
        return False
    return all(
        (file := checkpoint / name).is_file()
        and file.stat().st_size == entry["bytes"]
        and sha256_of(file) == entry["sha256"]
        for name, entry in expected.items()
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
