"""Greedy texts of one prompt, several tokens at a time (prompt lookup decoding: Saxena 2023).

What followed the last words where they stood before, in the prompt or the text, is guessed to follow again. One pass of
the network computes all guesses, and those stay that it would have written itself. So the text is the same.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from stages.lib.generation.settings import greedy_config
from stages.lib.models.families import interface_of

_GUESSED_TOKENS = 10
_REPEATED = list(range(1, 9)) * 2  # tokens of any vocabulary; where no other may follow, each was there before
_CHECKED_TOKENS = 4
_ROUNDING = 1e-3  # relative difference of logits that is no fault


def with_prompt_lookup(network: PreTrainedModel, config: GenerationConfig) -> GenerationConfig:
    """The same settings for `generate`, with guesses where the text is greedy and the network can take them back: not
    every one can forget tokens that it has read, and some compute several tokens otherwise than one."""
    is_greedy = not config.do_sample and (config.num_beams or 1) == 1
    # of an encoder-decoder, transformers guesses from the text alone
    if not is_greedy or interface_of(network).name != "causal" or not _computes_guesses(network, config):
        return config
    guessing = greedy_config(config)
    guessing.prompt_lookup_num_tokens = _GUESSED_TOKENS
    return guessing


def _computes_guesses(network: PreTrainedModel, config: GenerationConfig) -> bool:
    try:
        one, several = (_first_logits(network, config, guessed) for guessed in (None, _GUESSED_TOKENS))
    except Exception:  # of any class: it is the network's own code
        return False
    return one.shape == several.shape and bool((one - several).norm() < _ROUNDING * one.norm())


@torch.no_grad()
def _first_logits(network: Any, config: GenerationConfig, guessed: int | None) -> Tensor:
    config = greedy_config(config)
    others = [0, *range(max(_REPEATED) + 1, network.config.get_text_config().vocab_size)]
    steps = {"max_new_tokens": _CHECKED_TOKENS, "min_new_tokens": _CHECKED_TOKENS, "suppress_tokens": others}
    config.update(**steps, prompt_lookup_num_tokens=guessed, output_logits=True, return_dict_in_generate=True)
    batch = interface_of(network).generation_inputs(network, [_REPEATED], int(network.config.pad_token_id))
    return torch.stack(network.generate(**batch, generation_config=config).logits)
