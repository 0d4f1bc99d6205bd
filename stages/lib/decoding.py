"""Sources in, generated texts out: in batches, yet no text depends on the batch it was made in."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from stages.lib.causal import prompt_batch
from stages.lib.models import context_length
from stages.lib.params.predict import Predict
from stages.lib.process import UserError


@dataclass(frozen=True)
class Decoded:
    text: str
    stopped: Literal["end", "length"]


def decode(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[list[int]],
    params: Predict,
    batch_size: int,
    title: str,
) -> list[Decoded]:
    """One text for each source, in the order of the sources.

    Raises:
        UserError: a source leaves no room for `max_new_tokens` in the model's context.
    """
    _check_room(network, sources, params)
    network.eval()
    # a checkpoint's own generation_config.json may ask for sampling or penalties: params.yaml alone decides
    network.generation_config = _generation_config(tokenizer, params)
    decoded: dict[int, Decoded] = {}
    # the longest first: a batch that does not fit into memory shows at once
    order = sorted(range(len(sources)), key=lambda index: (-len(sources[index]), index))
    with tqdm(total=len(sources), desc=title, unit=" texts") as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            texts = _decode_batch(network, tokenizer, [sources[index] for index in chosen], params)
            decoded.update(zip(chosen, texts, strict=True))
            bar.update(len(chosen))
    return [decoded[index] for index in range(len(sources))]


def _check_room(network: PreTrainedModel, sources: Sequence[list[int]], params: Predict) -> None:
    longest, context = max(map(len, sources)), context_length(network)
    if context is not None and longest + params.max_new_tokens > context:
        raise UserError(
            f"predict -> max_new_tokens: {params.max_new_tokens} after a source of {longest} tokens is more than the "
            f"model's context of {context}; lower it to {context - longest}, or tokenize.max_source_tokens"
        )


def _generation_config(tokenizer: PreTrainedTokenizerBase, params: Predict) -> GenerationConfig:
    beams = {"num_beams": params.beams, "length_penalty": params.length_penalty} if params.strategy == "beam" else {}
    return GenerationConfig(
        max_new_tokens=params.max_new_tokens,
        do_sample=False,  # sampling is greedy choice among noisy scores, see `_Gumbel`
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **beams,
    )


@torch.no_grad()
def _decode_batch(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sources: list[list[int]], params: Predict
) -> list[Decoded]:
    batch = {name: part.to(network.device) for name, part in prompt_batch(sources, tokenizer.pad_token_id).items()}
    processors = _sampling(sources, params) if params.strategy == "sample" else LogitsProcessorList()
    generated: Tensor = network.generate(**batch, logits_processor=processors)  # type: ignore[operator]
    new = generated[:, batch["input_ids"].shape[1] :].tolist()
    return [_decoded(tokenizer, ids) for ids in new]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> Decoded:
    ended = tokenizer.eos_token_id in ids
    kept = ids[: ids.index(tokenizer.eos_token_id)] if ended else ids
    text = str(tokenizer.decode(kept, skip_special_tokens=True))
    return Decoded(text.strip(), "end" if ended else "length")


def _sampling(sources: list[list[int]], params: Predict) -> LogitsProcessorList:
    processors = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k is not None:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    processors.append(_Gumbel(sources, params.seed))
    return processors


class _Gumbel(LogitsProcessor):
    """Noise that turns the greedy choice into a sample (the Gumbel-max trick: Maddison et al. 2014, section 2).

    Each text draws from a generator of its own, seeded by its source, so that its sample does not depend on which
    texts share its batch, as it would with torch's one generator.
    """

    def __init__(self, sources: list[list[int]], seed: int) -> None:
        self._generators = [torch.Generator().manual_seed(_seed_of(source, seed)) for source in sources]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand(scores.shape[1], generator=own) for own in self._generators])
        # a draw of exactly 0 would make the noise, and with it a forbidden token's score, not a number
        return scores - torch.log(-torch.log(uniform.clamp(min=1e-20))).to(scores.device)


def _seed_of(source: list[int], seed: int) -> int:
    digest = hashlib.sha256(repr((seed, source)).encode()).digest()
    return int.from_bytes(digest[:7], "big")
