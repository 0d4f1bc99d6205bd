"""Logits of several targets of one source, which the network reads once for all of them."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from stages.lib.models.families import interface_of
from stages.lib.models.families.causal import first_position, positions
from stages.lib.models.families.interface import (
    IGNORED,
    accepted_arguments,
    attention_mask,
    on_device,
    padded,
    target_labels,
    unwrap,
)
from stages.lib.models.families.seq2seq import decoder_inputs
from stages.lib.records.tokenized_examples import TokenizedExample


def logits_of_shared_sources(network: PreTrainedModel, examples: Sequence[TokenizedExample]) -> tuple[Tensor, Tensor]:
    """Logits (B, T, vocabulary) and the labels (B, T) that they predict. Neighbours of equal source share a pass over
    it: an encoder's output or, in a causal model, the keys and values of all its tokens but the last."""
    sources, row_of = list[list[int]](), list[int]()
    for source, neighbours in groupby(example.source_ids for example in examples):
        row_of += [len(sources)] * len(list(neighbours))
        sources.append(source)
    labels = padded([target_labels(example) for example in examples], IGNORED, "right").to(network.device)
    rows = torch.tensor(row_of, device=network.device)
    if network.config.is_encoder_decoder:
        return _decoded(network, sources, rows, labels), labels
    return _continued(network, sources, rows, examples), labels


def _decoded(network: PreTrainedModel, sources: Sequence[list[int]], rows: Tensor, labels: Tensor) -> Tensor:
    batch = interface_of(network).prompt_batch(sources, int(network.config.pad_token_id))
    batch, plain = on_device(batch, network), unwrap(network)
    encoder: Any = plain.get_encoder()
    states = BaseModelOutput(last_hidden_state=encoder(**batch)[0][rows])
    mask, inputs = batch["attention_mask"][rows], decoder_inputs(plain, labels)
    logits: Tensor = network(
        encoder_outputs=states, attention_mask=mask, decoder_input_ids=inputs, use_cache=False
    ).logits
    return logits


def _continued(
    network: PreTrainedModel, sources: Sequence[list[int]], rows: Tensor, examples: Sequence[TokenizedExample]
) -> Tensor:
    pad_id = int(network.config.pad_token_id)
    batch = on_device(interface_of(network).prompt_batch([source[:-1] for source in sources], pad_id), network)
    one = {"logits_to_keep": 1} if "logits_to_keep" in accepted_arguments(network) else {}
    cache = network(**_inputs(network, **batch), use_cache=True, **one).past_key_values
    cache.batch_select_indices(rows)
    following = [[*example.source_ids[-1:], *example.target_ids[:-1]] for example in examples]
    rest = on_device({"ids": padded(following, pad_id, "right"), "mask": attention_mask(following, "right")}, network)
    mask = torch.cat([batch["attention_mask"][rows], rest["mask"]], 1)
    inputs = _inputs(network, rest["ids"], mask)
    logits: Tensor = network(**inputs, past_key_values=cache, use_cache=True).logits
    return logits


def _inputs(network: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    """Of a forward pass over the last tokens of rows with this mask."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "position_ids" in accepted_arguments(network):
        own = positions(attention_mask)[:, -input_ids.shape[1] :]
        inputs["position_ids"] = own + first_position(network)
    return inputs
