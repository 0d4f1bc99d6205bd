"""Texts that grow by one token after the other: the most likely one, or a sampled one."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from stages.lib.generation.batch import Batch
from stages.lib.generation.constraints import Constraint
from stages.lib.generation.rules import Rules
from stages.lib.generation.sampling import Sampler
from stages.lib.generation.written import Stops, Written


def sequential_texts(
    network: PreTrainedModel,
    sources: Sequence[list[int]],
    config: GenerationConfig,
    seeds: Sequence[int],
    stops: Stops,
    constraint: Constraint | None,
) -> list[Written]:
    """One for each source.

    Args:
        seeds: of samples, one for each source.

    Raises:
        NotPlain: the network needs `plain_texts`.
    """
    batch = Batch(network, sources, config)
    device, most = batch.logits.device, int(config.max_new_tokens or 0)
    rules = Rules(network, config, sources, constraint)
    sampler = Sampler(config, seeds, device) if config.do_sample else None
    texts = list(range(len(sources)))  # of the rows
    ids = torch.zeros(len(sources), most, dtype=torch.long, device=device)
    sums = torch.zeros(len(sources), dtype=torch.double, device=device)
    found: dict[int, Written] = {}
    for length in range(1, most + 1):
        scores = rules(batch.logits, texts, ids[:, : length - 1])
        tokens = sampler.choose(scores, texts) if sampler else scores.argmax(-1)
        ids[:, length - 1] = tokens
        sums += _log_probabilities(batch.logits, tokens)
        has_ended = (stops.have_ended(ids[:, :length]) if length < most else torch.ones_like(tokens).bool()).tolist()
        for row, text in enumerate(texts):
            if has_ended[row]:
                found[text] = Written(ids[row, :length].tolist(), float(sums[row]))
        if all(has_ended):
            break
        if any(has_ended):
            order = batch.keep([row for row, is_over in enumerate(has_ended) if not is_over])
            texts, ids, sums, tokens = [texts[row] for row in order], ids[order], sums[order], tokens[order]
        batch.step(tokens)
    return [found[text] for text in range(len(sources))]


def _log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of one token in each row: (N), from logits (N, vocabulary)."""
    return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
