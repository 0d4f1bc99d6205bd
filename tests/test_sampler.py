"""The order of training: the examples of each batch, and those that each process gets."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from stages.lib.training.sampler import BatchSampler, UpdateLoader, batches_per_epoch
from tests import tiny

LENGTHS = np.random.default_rng(1).integers(5, 60, (2, 1003)).sum(0)


def batches(epoch: int = 0, **settings: Any) -> list[list[int]]:
    return [batch.tolist() for batch in BatchSampler(LENGTHS, tiny.settings(**settings)).batches(epoch)]


@pytest.mark.parametrize("size", [{"batch_size": 10}, {"batch_tokens": 640}])
def test_every_epoch_holds_each_example_once_in_a_new_random_order(size: dict[str, int]) -> None:
    first, second = batches(0, **size), batches(1, **size)
    assert first != second
    assert first == batches(0, **size)
    for epoch in (first, second):
        assert sorted(index for batch in epoch for index in batch) == list(range(len(LENGTHS)))
        assert len(epoch) == batches_per_epoch(LENGTHS, tiny.settings(**size))
    means = [LENGTHS[batch].mean() for batch in first]
    # of ten random examples; in batches of similar lengths, means would spread as single lengths do
    assert np.std(means) < 1.3 * LENGTHS.std() / np.sqrt(10)


def test_a_batch_holds_as_many_tokens_as_asked_for_within_the_longest_example() -> None:
    tokens = [LENGTHS[batch].sum() for batch in batches(batch_tokens=640)]
    assert max(tokens) < 640 + 120
    assert min(tokens) > 640 - 120


def test_an_example_longer_than_a_batch_is_a_batch_alone() -> None:
    assert [batch.tolist() for batch in BatchSampler(np.array([909]), tiny.settings(batch_tokens=10)).batches(0)] == [
        [0]
    ]


def test_an_example_longer_than_its_share_leaves_no_batch_empty() -> None:
    sampler = BatchSampler(np.array([10, 300, 10]), tiny.settings(batch_tokens=64))
    for epoch in range(8):
        batches = [batch.tolist() for batch in sampler.batches(epoch)]
        assert all(batches)
        assert sorted(index for batch in batches for index in batch) == [0, 1, 2]


def test_processes_share_every_batch_evenly() -> None:
    own = [BatchSampler(LENGTHS, tiny.settings(batch_size=17), rank, 2) for rank in (0, 1)]
    for whole, first, second in zip(batches(batch_size=17), *own, strict=False):
        assert sorted(first + second) == sorted(whole)
        longest = max(LENGTHS[first].max(), LENGTHS[second].max())
        assert abs(LENGTHS[first].sum() - LENGTHS[second].sum()) <= longest


def test_a_process_without_an_example_still_takes_part() -> None:
    assert next(iter(BatchSampler(np.array([6]), tiny.settings(), 1, 2))) == []


def test_epochs_follow_one_another_and_a_resumed_run_goes_on_where_it_was() -> None:
    both = [*batches(0, batch_size=10), *batches(1, batch_size=10)]
    for done in (0, 3, 101, 101 + 4):
        sampler = BatchSampler(LENGTHS, tiny.settings(batch_size=10), done=done)
        assert list(islice(sampler, 202 - done)) == both[done:]


def test_the_batch_of_a_step_is_known_afterwards() -> None:
    sampler = BatchSampler(LENGTHS, tiny.settings(batch_size=10))
    assert sampler.at(3) == batches(0, batch_size=10)[3]
    assert sampler.at(101 + 4) == batches(1, batch_size=10)[4]


def test_batches_are_made_without_a_second_team_of_threads() -> None:
    """OpenMP would let the helpers of training sleep between any two operations."""
    own, torch_threads = torch.get_num_threads(), list[int]()

    def collate(examples: Any) -> Any:
        torch_threads.append(torch.get_num_threads())
        return {"micro_batches": [], "tokens": 0, "targets": 0.0}

    torch.set_num_threads(2)
    try:
        updates = UpdateLoader(LENGTHS, BatchSampler(LENGTHS, tiny.settings()), collate, workers=0)
        next(iter(updates))
        assert set(torch_threads) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(own)
