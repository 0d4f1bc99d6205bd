"""Texts by transformers' `generate`, for networks whose state between tokens is no plain cache of keys and values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from stages.lib.generation.constraints import Constraint
from stages.lib.generation.sampling import Sampler
from stages.lib.generation.settings import greedy_config
from stages.lib.generation.written import Stops, Written
from stages.lib.models.families import interface_of
from stages.lib.models.losses import losses_of
from stages.lib.records.tokenized_examples import TokenizedExample


def plain_texts(
    network: PreTrainedModel,
    sources: Sequence[list[int]],
    config: GenerationConfig,
    seeds: Sequence[int],
    stops: Stops,
    constraint: Constraint | None,
) -> list[Written]:
    """The texts of each source, one source after the other: its best `num_return_sequences` beams, or one.

    Args:
        seeds: of samples, one for each source.
    """
    batch = interface_of(network).generation_inputs(network, sources, int(network.config.pad_token_id))
    # not generated: the prompt, or the one token that a decoder starts from
    first = 1 if network.config.is_encoder_decoder else batch["input_ids"].shape[1]
    processors = LogitsProcessorList()
    if constraint is not None:
        processors.append(_Constrained(constraint, first))
    if config.do_sample:
        processors.append(_Sampled(Sampler(config, seeds, network.device)))
        config = greedy_config(config)  # the sample is the one token that is left
    generated: Tensor = network.generate(  # type: ignore[operator]
        **batch,
        generation_config=config,
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([_Stopped(stops, first)]),
    )
    count = config.num_return_sequences or 1
    texts = [stops.cut(ids) for ids in generated[:, first:].tolist()]
    return [Written(ids, _log_probability(network, sources[place // count], ids)) for place, ids in enumerate(texts)]


class _Constrained(LogitsProcessor):
    def __init__(self, constraint: Constraint, first: int) -> None:
        self._constraint, self._first = constraint, first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._constraint(scores, input_ids[:, self._first :].tolist())


class _Sampled(LogitsProcessor):
    """Leaves the token that is sampled for each text."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self._sampler.choose(scores, range(len(scores)))[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class _Stopped(StoppingCriteria):
    def __init__(self, stops: Stops, first: int) -> None:
        self._stops, self._first = stops, first

    def __call__(self, input_ids: Tensor, scores: Any, **others: Any) -> Tensor:
        return self._stops.have_ended(input_ids[:, self._first :])


def _log_probability(network: PreTrainedModel, source: list[int], ids: list[int]) -> float:
    """By one more pass, of this text alone: such networks may compute others beside it differently."""
    losses, _ = losses_of(network, [TokenizedExample("", source, ids, [], 0)])
    return -float(losses[0])
