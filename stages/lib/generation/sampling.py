"""Samples that do not depend on their batch, and that plain transformers reproduces from the seed of each text."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def sample_seed(seed: int, key: str, number: int = 0) -> int:
    """The seed of one text. After `torch.manual_seed` with it, `generate` samples the same text for the source alone.

    Args:
        seed: predict.seed.
        key: the id of the example.
        number: of the candidate, from 0.
    """
    digest = hashlib.sha256(repr((seed, key, number)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


class Sampler:
    """Chooses tokens for texts, each by its own random numbers. With one generator for all, a sample would depend on
    the other texts of its batch.

    The largest of probability / exponential noise is a sample (the Gumbel-max trick: Maddison et al. 2014, section 2).
    torch.multinomial draws one in the same way, from the same random numbers.
    """

    def __init__(self, config: GenerationConfig, seeds: Sequence[int], device: torch.device) -> None:
        self._warpers = _warpers(config)
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def choose(self, scores: Tensor, texts: Sequence[int]) -> Tensor:
        """A token for each of these texts: (B), from scores (B, vocabulary)."""
        no_ids: Any = None  # these warpers read scores alone
        warped = self._warpers(no_ids, scores)
        noise = torch.empty_like(warped)
        for row, text in zip(noise, texts, strict=True):
            row.exponential_(generator=self._generators[text])
        return (warped.softmax(-1) / noise).argmax(-1)


def _warpers(config: GenerationConfig) -> LogitsProcessorList:
    """In the order of `generate`."""
    warpers = LogitsProcessorList()
    if config.temperature not in (None, 1.0):
        warpers.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        warpers.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1:
        warpers.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        warpers.append(MinPLogitsWarper(config.min_p))
    return warpers
