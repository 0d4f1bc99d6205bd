"""Greedy texts by plain transformers, with which those of other runtimes are compared."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from stages.lib.models.families import interface_of, interface_of_saved


def whole_model(folder: Path) -> PreTrainedModel:
    """In float32, as predict computes."""
    interface = interface_of_saved(AutoConfig.from_pretrained(folder, local_files_only=True))
    network: PreTrainedModel = interface.auto_class.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return network


@torch.no_grad()
def greedy(network: PreTrainedModel, prompts: Sequence[list[int]], decoding: GenerationConfig) -> Iterator[list[int]]:
    """The ids of one text for each prompt. Each prompt is alone, as it is for a person who asks."""
    network.eval()
    # `generate` takes values that are unset in its argument from the network's own config, so that one is replaced
    network.generation_config = decoding
    for prompt in prompts:
        inputs = interface_of(network).generation_inputs(network, [prompt], int(decoding.pad_token_id))
        generated: Tensor = network.generate(**inputs)  # type: ignore[operator]
        # not generated: the prompt, or the one token that a decoder starts from
        first = 1 if network.config.is_encoder_decoder else len(prompt)
        yield generated[0, first:].tolist()
