"""Batches of the causal family: aligned where the target begins, and a loss on the target alone."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from stages.lib.causal import prompt_batch, target_logits, training_batch
from stages.lib.losses import pair_losses, summed_loss
from stages.lib.pairs import Pair
from tests import tiny

SHORT, LONG = Pair("a", [5], [7, 8, 9, 1], 9), Pair("b", [3, 4, 5], [6, 1], 4)


def test_sources_are_padded_on_the_left_and_targets_on_the_right() -> None:
    batch = training_batch([SHORT, LONG], pad_id=0)
    assert batch["input_ids"].tolist() == [[0, 0, 5, 7, 8, 9], [3, 4, 5, 6, 0, 0]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert batch["position_ids"][0].tolist() == [0, 0, 0, 1, 2, 3]
    assert batch["labels"].tolist() == [[7, 8, 9, 1], [6, 1, -100, -100]]


def test_prompts_end_where_generation_goes_on() -> None:
    assert prompt_batch([[5], [3, 4]], pad_id=0)["input_ids"].tolist() == [[0, 5], [3, 4]]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_loss_of_a_batch_is_that_of_each_pair_alone_on_its_target(kind: str) -> None:
    """Against the textbook way: one unpadded sequence, all logits, shifted by one, the source masked out."""
    tokens = tiny.tokenizer()
    llama = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    architecture = tiny.ARCHITECTURE if kind == "gpt2" else llama | {"intermediate_size": 64}
    network = tiny.model(tokens, architecture=architecture).eval()
    pairs = [tiny.pair(tokens, source) for source in tiny.FACTS]
    expected = 0.0
    for pair in pairs:
        logits = network(input_ids=torch.tensor([pair.source_ids + pair.target_ids])).logits[0, :-1]
        on_target = logits[len(pair.source_ids) - 1 :]
        expected += F.cross_entropy(on_target, torch.tensor(pair.target_ids), reduction="sum").item()
    batch = training_batch(pairs, network.config.pad_token_id)
    assert summed_loss(network, batch, label_smoothing=0.0).item() == pytest.approx(expected, rel=1e-5)


def test_what_stands_in_the_source_carries_no_loss_but_steers_it() -> None:
    tokens = tiny.tokenizer()
    network = tiny.model(tokens).eval()
    first, second = tiny.pair(tokens, tiny.FACTS[0]), tiny.pair(tokens, tiny.FACTS[-1])
    swapped = Pair("swapped", second.source_ids, first.target_ids, first.target_bytes)
    one, other = (training_batch([pair], network.config.pad_token_id) for pair in (first, swapped))
    assert torch.equal(one["labels"], other["labels"])
    assert not torch.allclose(target_logits(network, one), target_logits(network, other))


def test_losses_of_pairs_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    pairs, network = tiny.pairs(tokens, tmp_path / "pairs"), tiny.model(tokens)
    every = range(len(pairs))
    one, many = (
        {index: (loss, count) for index, loss, count in pair_losses(network, pairs, every, size, 0)} for size in (1, 5)
    )
    assert one.keys() == many.keys() == set(every)
    assert all(one[i][0] == pytest.approx(many[i][0], rel=1e-5) for i in every)
    assert [one[i][1] for i in every] == [len(pair.target_ids) for pair in pairs]
