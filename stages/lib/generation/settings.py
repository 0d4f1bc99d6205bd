"""The settings of section `predict` in the terms of transformers."""

from copy import deepcopy
from typing import Any

from transformers import GenerationConfig

from stages.lib.params.predict import Predict

# settings of generation that belong to the model and not to the user
_OF_MODEL = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "suppress_tokens",
)
_OF_SEARCH = (
    "length_penalty",
    "early_stopping",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
)


def generation_config(own: GenerationConfig, params: Predict) -> GenerationConfig:
    """The same decoding for plain `generate`, which then writes the texts of predict. Only a sample needs more: the
    seed of its text (`sampling.sample_seed`).

    Args:
        own: of the model. Which tokens start and end a text is its affair; all else is replaced.
    """
    options: dict[str, Any] = {
        "max_new_tokens": params.max_new_tokens,
        "min_new_tokens": params.min_new_tokens or None,
        "stop_strings": params.stop or None,
        "repetition_penalty": params.repetition_penalty,
        "no_repeat_ngram_size": params.no_repeat_ngram_size,
        "do_sample": params.strategy == "sample",
        "num_beams": params.beams if params.strategy == "beam" else 1,
    }
    if params.strategy == "beam":
        options |= {"length_penalty": params.length_penalty, "early_stopping": params.early_stopping}
    if params.strategy == "sample":
        top_k = params.top_k or 0  # `generate` would take 50 where it is unset
        options |= {"temperature": params.temperature, "top_k": top_k, "top_p": params.top_p, "min_p": params.min_p}
    return GenerationConfig(**{name: getattr(own, name) for name in _OF_MODEL} | options)


def greedy_config(config: GenerationConfig) -> GenerationConfig:
    """The same without beams and samples."""
    greedy = deepcopy(config)
    search = dict.fromkeys(_OF_SEARCH)
    # in one call, since each call warns of settings that do not fit together
    greedy.update(do_sample=False, num_beams=1, num_return_sequences=1, **search)
    return greedy


def end_ids(config: GenerationConfig) -> set[int]:
    """The tokens that end a text."""
    return {config.eos_token_id} if isinstance(config.eos_token_id, int) else set(config.eos_token_id or ())
