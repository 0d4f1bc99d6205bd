"""Gradient times input: how much a target token depends on each token of its source, to first order.

Each number of a token's embedding is multiplied by the gradient by it (Shrikumar et al. 2017; Simonyan, Vedaldi and
Zisserman 2014 for the gradient alone). The norm of these products is the weight of the token. Their sum would have a
sign, but is near 0 in networks that normalise their states: those hardly change where an embedding grows or shrinks.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import on_device
from stages.lib.models.layouts import captured_embeddings
from stages.lib.records.tokenized_examples import TokenizedExample


def gradient_times_input(network: PreTrainedModel, example: TokenizedExample) -> Tensor:
    """(T, S): the weight of each of S source tokens for each of T target tokens, in nats, from 0 on."""
    embeddings, gradients = source_gradients(network, example)
    return torch.stack([(gradient * embeddings).norm(dim=-1) for gradient in gradients])


def source_gradients(network: PreTrainedModel, example: TokenizedExample) -> tuple[Tensor, Iterator[Tensor]]:
    """The embeddings of the source tokens, and for each target token the gradient of its log-probability by them: each
    (S, width). One forward pass of the example alone serves all, so no pad can matter."""
    log_probabilities, embeddings = _forward(network, example)
    tokens = len(example.source_ids)

    def gradients() -> Iterator[Tensor]:
        for left, own in zip(range(len(log_probabilities) - 1, -1, -1), log_probabilities, strict=True):
            (gradient,) = torch.autograd.grad(own, embeddings, retain_graph=left > 0)
            yield gradient[0, :tokens]

    return embeddings.detach()[0, :tokens], gradients()


def _forward(network: PreTrainedModel, example: TokenizedExample) -> tuple[Tensor, Tensor]:
    """The log-probability of each target token (T), and the embeddings that it depends on (1, S or longer, width)."""
    network.eval()
    interface = interface_of(network)
    batch = on_device(interface.training_batch([example], int(network.config.pad_token_id)), network)
    with torch.enable_grad(), captured_embeddings(network, batch["input_ids"]) as captured:
        logits = interface.target_logits(network, batch)[0]
        log_probabilities = logits.log_softmax(-1).gather(-1, batch["labels"][0, :, None])[:, 0]
    return log_probabilities, captured[0]
