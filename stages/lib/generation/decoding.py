"""Texts for sources, generated or chosen among labels. They are made in batches, but no text depends on its batch."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
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

from stages.lib.checkpoint.architecture import excess_tokens
from stages.lib.core.process import UserError, first_line
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import on_device
from stages.lib.models.layouts import Layout, allowed_groups, choose_layout, prompt_layout
from stages.lib.models.losses import losses_of
from stages.lib.models.memory import Halving
from stages.lib.params.predict import Predict
from stages.lib.records.tokenized_examples import Label, TokenizedExample

# settings of generation that belong to the model and not to the user
_STARTS_AND_ENDS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "suppress_tokens",
)
_CHECKED_TOKENS = 3  # of texts, before prompts are padded


@dataclass(frozen=True)
class Decoded:
    text: str
    finish_reason: Literal["end", "length"]


def decode(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[list[int]],
    params: Predict,
    batch_size: int,
    title: str | None,
) -> list[Decoded]:
    """One text for each source, in the order of the sources. A progress bar is shown if there is a title.

    Raises:
        UserError: a source leaves no room for `max_new_tokens` in the model's context, the model can't do what `params`
            ask for, or memory ends on one source.
    """
    _check_room(network, sources, params)
    network.eval()
    own = network.generation_config
    config = _generation_config(own, params)
    # `generate` takes values that are unset in its argument from the network's own config, so that one is replaced
    network.generation_config = config
    try:
        first_logits = partial(_first_logits, network, min(_CHECKED_TOKENS, params.max_new_tokens))
        layout = prompt_layout(network, sources, first_logits) if batch_size > 1 else "single"
        decode_batch = partial(_decode_batch, network, tokenizer, params, config)
        return _by_length(network, sources, layout, decode_batch, batch_size, title)
    except ValueError as error:
        raise UserError(f"predict: {type(network).__name__} can't generate so: {first_line(error)}") from None
    finally:
        network.generation_config = own


def choose_labels(
    network: PreTrainedModel, sources: Sequence[list[int]], labels: Sequence[Label], batch_size: int, title: str | None
) -> list[Decoded]:
    """The most likely label for each source, in the order of the sources."""
    losses_among = _single_token_losses if all(len(label.target_ids) == 1 for label in labels) else _label_losses
    examples = _examples(sources, labels[0].target_ids)
    layout = choose_layout(network, examples, pack=False) if batch_size > 1 else "single"

    def choose_batch(batch: Sequence[list[int]]) -> list[Decoded]:
        best = losses_among(network, batch, labels).argmin(1).tolist()
        return [Decoded(labels[number].word, "end") for number in best]

    return _by_length(network, sources, layout, choose_batch, batch_size, title)


def text_of(tokenizer: PreTrainedTokenizerBase, labels: Sequence[Label], target_ids: list[int]) -> str:
    """The text that a model has written if it has generated, or chosen, this target."""
    for label in labels:
        if label.target_ids == target_ids:
            return label.word
    return str(tokenizer.decode(target_ids, skip_special_tokens=True)).strip()


def _by_length(
    network: PreTrainedModel,
    sources: Sequence[list[int]],
    layout: Layout,
    work: Callable[[Sequence[list[int]]], list[Decoded]],
    batch_size: int,
    title: str | None,
) -> list[Decoded]:
    decoded: dict[int, Decoded] = {}
    halving = Halving(network)
    # the longest first: if memory is too small, this shows at once
    order = sorted(range(len(sources)), key=lambda index: (-len(sources[index]), index))
    groups = allowed_groups(layout, _examples([sources[index] for index in order], []))
    with tqdm(total=len(sources), desc=title, unit=" texts", disable=title is None) as bar:
        for places in (
            group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)
        ):
            chosen = [order[place] for place in places]
            decoded.update(zip(chosen, halving(work, [sources[index] for index in chosen]), strict=True))
            bar.update(len(chosen))
    return [decoded[index] for index in range(len(sources))]


def _examples(sources: Sequence[list[int]], target_ids: list[int]) -> list[TokenizedExample]:
    return [TokenizedExample("", source, target_ids, [], 0) for source in sources]


def _label_losses(network: PreTrainedModel, sources: Sequence[list[int]], labels: Sequence[Label]) -> Tensor:
    """(B, labels): the loss on each label as the target of each source."""
    return torch.stack([losses_of(network, _examples(sources, label.target_ids))[0] for label in labels], 1)


@torch.no_grad()
def _single_token_losses(network: PreTrainedModel, sources: Sequence[list[int]], labels: Sequence[Label]) -> Tensor:
    """The same if every label is one token, or one number of a classification head: one forward pass gives all."""
    network.eval()
    interface = interface_of(network)
    examples = _examples(sources, labels[0].target_ids)
    batch = on_device(interface.training_batch(examples, int(network.config.pad_token_id)), network)
    scores = interface.target_logits(network, batch)[:, 0].float().log_softmax(-1)
    return -scores[:, [label.target_ids[0] for label in labels]]


def _check_room(network: PreTrainedModel, sources: Sequence[list[int]], params: Predict) -> None:
    lengths = np.array([len(source) for source in sources])
    excess = excess_tokens(interface_of(network).name, network.config, lengths, np.array([params.max_new_tokens]))
    if excess > 0:
        raise UserError(
            f"predict -> max_new_tokens: with a source of {lengths.max()} tokens, {params.max_new_tokens} are {excess} "
            f"more than the model has positions for; lower it, or tokenize.max_source_tokens"
        )


def _generation_config(own: Any, params: Predict) -> GenerationConfig:
    """Starts and ends a text as `own` does; all other settings are those of params.yaml."""
    beams = {"num_beams": params.beams, "length_penalty": params.length_penalty} if params.strategy == "beam" else {}
    # sampling is a greedy choice among noisy scores, see `_Gumbel`
    options = {"max_new_tokens": params.max_new_tokens, "do_sample": False, **beams}
    return GenerationConfig(**{name: getattr(own, name) for name in _STARTS_AND_ENDS} | options)


@torch.no_grad()
def _first_logits(network: PreTrainedModel, steps: int, sources: Sequence[list[int]]) -> Tensor:
    """Logits (B, steps, vocabulary) of the first tokens of greedy texts. The first is chosen by the prompt alone, the
    others also by the state that it has left behind."""
    batch = interface_of(network).generation_inputs(network, sources, int(network.config.pad_token_id))
    options = {"num_beams": 1, "max_new_tokens": steps, "min_new_tokens": steps, "output_logits": True}
    generated: Any = network.generate(**batch, **options, return_dict_in_generate=True)  # type: ignore[operator]
    return torch.stack(generated.logits, 1)


@torch.no_grad()
def _decode_batch(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    params: Predict,
    config: GenerationConfig,
    sources: Sequence[list[int]],
) -> list[Decoded]:
    batch = interface_of(network).generation_inputs(network, sources, tokenizer.pad_token_id)
    processors = _sampling(sources, params) if params.strategy == "sample" else LogitsProcessorList()
    generated: Tensor = network.generate(**batch, logits_processor=processors)  # type: ignore[operator]
    # not generated: the prompt, or the one token that a decoder starts from
    first = 1 if network.config.is_encoder_decoder else batch["input_ids"].shape[1]
    ends = end_ids(config)
    return [_decoded(tokenizer, ids, ends) for ids in generated[:, first:].tolist()]


def end_ids(config: GenerationConfig) -> set[int]:
    """The tokens that end a text."""
    return {config.eos_token_id} if isinstance(config.eos_token_id, int) else set(config.eos_token_id or ())


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: set[int]) -> Decoded:
    length = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return Decoded(text_of(tokenizer, [], ids[:length]), "end" if length < len(ids) else "length")


def _sampling(sources: Sequence[list[int]], params: Predict) -> LogitsProcessorList:
    processors = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k is not None:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    processors.append(_Gumbel(sources, params.seed))
    return processors


class _Gumbel(LogitsProcessor):
    """Noise that turns the greedy choice into a sample (the Gumbel-max trick: Maddison et al. 2014, section 2).

    Each text has its own generator, seeded by its source. With one generator for all, a sample would depend on the
    other texts of its batch.
    """

    def __init__(self, sources: Sequence[list[int]], seed: int) -> None:
        self._generators = [torch.Generator().manual_seed(_seed_of(source, seed)) for source in sources]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand(scores.shape[1], generator=own) for own in self._generators])
        # a draw of exactly 0 would make the score of a forbidden token not a number
        return scores - torch.log(-torch.log(uniform.clamp(min=1e-20))).to(scores.device)


def _seed_of(source: list[int], seed: int) -> int:
    digest = hashlib.sha256(repr((seed, source)).encode()).digest()
    return int.from_bytes(digest[:7], "big")
