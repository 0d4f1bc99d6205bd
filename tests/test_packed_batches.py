"""Packed examples, end to end in one row, teach the same as each alone."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.lib.models.families import interface_of
from stages.lib.models.layouts import Layout, choose_layout
from stages.lib.models.losses import summed_loss
from stages.lib.params.model import Family
from stages.lib.records.tokenized_examples import TokenizedExample
from stages.lib.training.kernels import use_kernels
from stages.lib.training.micro_batches import Collator, split_evenly
from tests import tiny

NARROW = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
RELATIVE = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2}
CLASSIFIERS: list[dict[str, Any]] = [
    {"model_type": "bert", **NARROW},
    {"model_type": "roberta", **NARROW},
    {"model_type": "xlm-roberta", **NARROW},
    {"model_type": "albert", **NARROW, "embedding_size": 16},
    {"model_type": "electra", **NARROW, "embedding_size": 16},
    {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
]
TEXT_TO_TEXT: list[dict[str, Any]] = [{"model_type": "t5", **RELATIVE}, {"model_type": "mt5", **RELATIVE}]
CAUSAL: list[dict[str, Any]] = [
    {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2},
    {"model_type": "llama", **NARROW},
]
LABELS = ["a", "b", "c"]


def examples(with_label: bool) -> list[TokenizedExample]:
    sources = [[5 + (size * place) % 90 for place in range(size)] for size in (4, 9, 11, 12, 30)]
    targets = [[len(ids) % 3] if with_label else ids[: 1 + len(ids) % 7] for ids in sources]
    return [TokenizedExample("", ids, target, [], 1) for ids, target in zip(sources, targets, strict=True)]


def network_of(architecture: dict[str, Any]) -> PreTrainedModel:
    has_labels = architecture not in TEXT_TO_TEXT + CAUSAL
    family: Family = "encoder" if has_labels else "causal" if architecture in CAUSAL else "seq2seq"
    tokens = tiny.tokenizer(family)
    network = tiny.model(tokens, architecture=architecture, dropout=0.0, labels=LABELS if has_labels else [])
    use_kernels(network, tiny.settings())
    return network


@pytest.mark.parametrize(
    "architecture", CLASSIFIERS + TEXT_TO_TEXT + CAUSAL, ids=lambda architecture: architecture["model_type"]
)
def test_a_packed_batch_has_the_loss_and_gradient_of_a_padded_one(architecture: dict[str, Any]) -> None:
    network, own = network_of(architecture), examples(with_label=architecture in CLASSIFIERS)
    assert choose_layout(network, own) == "packed"
    weights = {tuple(example.target_ids): 0.5 + number for number, example in enumerate(own)}

    def result(layout: Layout, cost: int, pieces: int = 1, row_step: int = 1) -> tuple[float, dict[str, Tensor]]:
        interface = interface_of(network)
        (batch,) = Collator(interface, layout, 0, cost, None, own[0], row_step, weights)(own)["micro_batches"]
        network.zero_grad()
        parts = split_evenly(batch, pieces)
        loss = torch.stack([summed_loss(interface, network, part, 0.1) for part in parts]).sum()
        loss.backward()
        return loss.item(), {
            name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None
        }

    loss, gradients = result("padded", 10**6)
    # one segment of attention, several, the halves of a batch, and rows that pads fill
    ways: list[dict[str, int]] = [{"cost": 10**6}, {"cost": 4}, {"cost": 4, "pieces": 2}]
    ways += [{"cost": 4, "row_step": 32}, {"cost": 4, "pieces": 2, "row_step": 32}]
    for packed, same in (result("packed", **way) for way in ways):
        assert packed == pytest.approx(loss, rel=1e-5)
        assert same.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert (same[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("architecture", [CLASSIFIERS[0], TEXT_TO_TEXT[0]], ids=["bert", "t5"])
def test_activations_that_are_computed_again_change_nothing(architecture: dict[str, Any]) -> None:
    own = examples(with_label=architecture in CLASSIFIERS)
    gradients = []
    for is_kept in (True, False):
        network = network_of(architecture)
        if not is_kept:
            network.activation_checkpointing_enable({"use_reentrant": False})
        network.train()
        batch = interface_of(network).packed_batch(own, 0)
        summed_loss(interface_of(network), network, batch, 0.0).backward()
        gradients.append([weights.grad for weights in network.parameters() if weights.grad is not None])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_a_head_that_reads_another_token_than_the_first_is_not_packed() -> None:
    architecture = {"model_type": "layoutlm", **NARROW}
    assert choose_layout(network_of(architecture), examples(with_label=True)) == "padded"


def test_the_saved_model_does_not_name_our_attention() -> None:
    network = tiny.model(tiny.tokenizer("encoder"), architecture=CLASSIFIERS[0], labels=LABELS)
    before = network.config.to_dict()
    use_kernels(network, tiny.settings())
    assert network.config.to_dict() == before
