"""Texts for prompts, generated or chosen among labels. They are made in batches, but no text depends on its batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import excess_tokens
from stages.lib.core.process import UserError, first_line
from stages.lib.generation.batch import agrees_with_generate
from stages.lib.generation.beams import beam_texts
from stages.lib.generation.cache import NotPlain
from stages.lib.generation.constraints import constraint_of
from stages.lib.generation.continuations import longest_continuations
from stages.lib.generation.plain import plain_texts
from stages.lib.generation.sampling import sample_seed
from stages.lib.generation.sequential import sequential_texts
from stages.lib.generation.settings import end_ids, generation_config, greedy_config
from stages.lib.generation.written import Stops, Written
from stages.lib.models.devices import uses_bfloat16
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import on_device
from stages.lib.models.layouts import Layout, allowed_groups, choose_layout, prompt_layout
from stages.lib.models.losses import losses_of
from stages.lib.models.memory import Halving
from stages.lib.params.predict import Predict
from stages.lib.records.tokenized_examples import Label, TokenizedExample

_BATCH_TOKENS = 16_384  # where the user leaves it open
_CHECKED_TOKENS = 3  # of texts, before prompts are padded


class Prompt(NamedTuple):
    ids: list[int]
    key: str  # the example's id; with predict.seed, it is the seed of a sample


@dataclass(frozen=True)
class Decoded:
    """A text, and why it ends: at an end token or a stop string, or at predict.max_new_tokens.

    `log_probability` is summed over the tokens written, the end token included; natural logarithm, by the model's own
    distribution, before penalties, temperature and so on. That of a label is its share among the labels.

    `candidates` are all texts where predict.candidates asks for several, this one first; else empty.
    """

    text: str
    finish_reason: Literal["end", "length"]
    log_probability: float
    tokens: int
    candidates: list["Decoded"] = field(default_factory=list)


def decode(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    params: Predict,
    batch_tokens: int | None,
    title: str | None,
    labels: Sequence[Label] = (),
) -> list[Decoded]:
    """One text for each prompt, in the order of the prompts. A progress bar is shown if there is a title. Arguments and
    errors are those of `Decoder`."""
    decoder = Decoder(network, tokenizer, prompts, labels, params, batch_tokens)
    decoded: dict[int, Decoded] = {}
    with tqdm(total=len(prompts), desc=title, unit=" texts", disable=title is None) as bar:
        for part in decoder.parts:
            decoded.update(zip(part, decoder.decode(part), strict=True))
            bar.update(len(part))
    return [decoded[place] for place in range(len(prompts))]


class Decoder:
    """Decodes the prompts of one test set, part by part: in any order, in several processes, or again after a kill,
    with the same texts."""

    parts: list[list[int]]  # places of prompts, the longest first

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        labels: Sequence[Label],
        params: Predict,
        batch_tokens: int | None,
    ) -> None:
        """Args:
            labels: the texts to choose among. If there are any, most of `params` have no meaning.
            batch_tokens: of sources and texts that are decoded together; null: 16,384.

        With `predict.precision` bfloat16, the weights of the network are cast for good: what must be computed in
        float32 comes before.

        Raises:
            UserError: a prompt leaves no room for `max_new_tokens` in the model's context, or the model can't do what
                `params` ask for.
        """
        self._network, self._prompts, self._labels, self._params = network, prompts, labels, params
        if uses_bfloat16(params.precision, "predict"):
            to_bfloat16(network)
        network.eval()
        self._halving = Halving(network)
        self._is_plain = True
        self._longest = list(range(len(prompts)))  # of the prompts that begin with each, so that one pass serves them
        own = network.generation_config if network.can_generate() else GenerationConfig()  # a classifier has none
        self._config = generation_config(own, params)
        self._config.stop_strings = None  # `generate` counts those of the prompt too, and does not cut them off
        if params.strategy == "beam":
            self._config.num_return_sequences = params.candidates
            self._config.num_beam_groups, self._config.diversity_penalty = params.beam_groups, params.diversity_penalty
        self._stops = Stops(tokenizer, end_ids(self._config), params.stop)
        self._constraint = constraint_of(params, tokenizer, self._config, bool(labels))
        layout = self._label_layout() if labels else self._prompt_layout()
        self.parts = list(self._parts(layout, batch_tokens or _BATCH_TOKENS))

    def decode(self, part: Sequence[int]) -> list[Decoded]:
        """The texts of these prompts, in this order.

        Raises:
            UserError: the model can't do what the settings ask for, or memory ends on one prompt.
        """
        work = self._choose if self._labels else self._write
        return self._halving(work, [self._prompts[place] for place in part])

    def _parts(self, layout: Layout, batch_tokens: int) -> Iterator[list[int]]:
        prompts, new = self._prompts, 0 if self._labels else self._params.max_new_tokens
        width = 1 if self._labels else max(self._config.num_beams, self._params.candidates)
        sizes = [len(prompt.ids) for prompt in prompts]
        longest = self._longest
        # the longest first: if memory is too small, this shows at once; those that begin alike together
        order = sorted(range(len(prompts)), key=lambda place: (-sizes[longest[place]], longest[place], -sizes[place]))
        for group in allowed_groups(layout, _examples([prompts[place] for place in order], [])):
            part, room = list[int](), 0
            for place in (order[index] for index in group):
                room = max(room, sizes[place] + new)
                if part and width * room * (len(part) + 1) > batch_tokens:
                    yield part
                    part, room = [], sizes[place] + new
                part.append(place)
            yield part

    def _prompt_layout(self) -> Layout:
        _check_room(self._network, self._prompts, self._params)
        if len(self._prompts) == 1:
            return "single"
        steps = min(_CHECKED_TOKENS, self._params.max_new_tokens)
        first_logits = partial(_first_logits, self._network, self._config, steps)
        sources = [prompt.ids for prompt in self._prompts]
        with self._without_own_settings():
            layout = prompt_layout(self._network, sources, first_logits)
            if layout == "padded":
                self._longest = longest_continuations(self._network, sources)
            shortest = min(range(len(sources)), key=lambda place: len(sources[place]))
            pair = sources[shortest], sources[self._longest[shortest]]
            self._is_plain = _computes_rows(self._network, self._config, steps, *pair)
            return layout

    def _write(self, prompts: Sequence[Prompt]) -> list[Decoded]:
        count = self._params.candidates
        is_sample = self._params.strategy == "sample"
        tries = [(prompt, number) for prompt in prompts for number in range(count if is_sample else 1)]
        sources = [prompt.ids for prompt, _ in tries]
        seeds = [sample_seed(self._params.seed, prompt.key, number) for prompt, number in tries]
        with torch.no_grad(), self._without_own_settings():
            texts = list(map(self._decoded, self._texts(sources, seeds)))
        return [best_of(texts[start : start + count], is_sample) for start in range(0, len(texts), count)]

    def _texts(self, sources: Sequence[list[int]], seeds: Sequence[int]) -> list[Written]:
        if self._is_plain:
            try:
                if self._params.strategy == "beam":
                    return beam_texts(self._network, sources, self._config, self._stops, self._constraint)
                return sequential_texts(self._network, sources, self._config, seeds, self._stops, self._constraint)
            except NotPlain:
                self._is_plain = False
        if self._params.strategy == "beam" and self._params.beam_groups > 1:
            name = type(self._network).__name__
            raise UserError(f"predict -> beam_groups: {name} is decoded by transformers, which has none; write 1")
        return plain_texts(self._network, sources, self._config, seeds, self._stops, self._constraint)

    @contextmanager
    def _without_own_settings(self) -> Iterator[None]:
        """`generate` would take values that are unset in its argument from the network's own settings."""
        own = self._network.generation_config
        self._network.generation_config = GenerationConfig()
        try:
            yield
        except ValueError as error:
            name = type(self._network).__name__
            raise UserError(f"predict: {name} can't generate so: {first_line(error)}") from None
        finally:
            self._network.generation_config = own

    def _decoded(self, written: Written) -> Decoded:
        ids = written.ids
        reason: Literal["end", "length"] = "end" if self._stops.has_ended(ids) else "length"
        return Decoded(self._stops.text(ids), reason, written.log_probability, len(ids))

    def _label_layout(self) -> Layout:
        if len(self._prompts) == 1:
            return "single"
        return choose_layout(self._network, _examples(self._prompts, self._labels[0].target_ids), pack=False)

    def _choose(self, prompts: Sequence[Prompt]) -> list[Decoded]:
        """The most likely label for each prompt."""
        labels = self._labels
        losses_among = _single_token_losses if all(len(label.target_ids) == 1 for label in labels) else _label_losses
        shares, best = (-losses_among(self._network, prompts, labels)).log_softmax(-1).max(-1)
        return [
            Decoded(labels[number].word, "end", share, len(labels[number].target_ids))
            for share, number in zip(shares.tolist(), best.tolist(), strict=True)
        ]


def text_of(tokenizer: PreTrainedTokenizerBase, labels: Sequence[Label], target_ids: list[int]) -> str:
    """The text that a model has written if it has generated, or chosen, this target."""
    for label in labels:
        if label.target_ids == target_ids:
            return label.word
    return str(tokenizer.decode(target_ids, skip_special_tokens=True)).strip()


def best_of(candidates: Sequence[Decoded], is_sample: bool) -> Decoded:
    """The first beam, or the sample of the largest mean log-probability, with all candidates in this order."""
    if len(candidates) == 1:
        return candidates[0]
    if is_sample:
        candidates = sorted(candidates, key=lambda own: -own.log_probability / own.tokens)
    return replace(candidates[0], candidates=list(candidates))


@torch.no_grad()
def to_bfloat16(network: PreTrainedModel) -> None:
    """The weights for good, as `from_pretrained` would load them. Autocast would cast them again for every token."""
    for weights in network.parameters():
        if weights.dtype == torch.float32:  # those in 4 bits are integers
            weights.data = weights.data.bfloat16()
    for module in network.modules():
        for own, buffer in module.named_buffers(recurse=False):
            if buffer.dtype == torch.float32 and not own.endswith("inv_freq"):  # rotary positions need all digits
                setattr(module, own, buffer.bfloat16())


def _examples(prompts: Sequence[Prompt], target_ids: list[int]) -> list[TokenizedExample]:
    return [TokenizedExample("", prompt.ids, target_ids, [], 0) for prompt in prompts]


def _label_losses(network: PreTrainedModel, prompts: Sequence[Prompt], labels: Sequence[Label]) -> Tensor:
    """(B, labels): the loss on each label as the target of each prompt."""
    return torch.stack([losses_of(network, _examples(prompts, label.target_ids))[0] for label in labels], 1)


@torch.no_grad()
def _single_token_losses(network: PreTrainedModel, prompts: Sequence[Prompt], labels: Sequence[Label]) -> Tensor:
    """The same if every label is one token, or one number of a classification head: one forward pass gives all."""
    network.eval()
    interface = interface_of(network)
    examples = _examples(prompts, labels[0].target_ids)
    batch = on_device(interface.training_batch(examples, int(network.config.pad_token_id)), network)
    scores = interface.target_logits(network, batch)[:, 0].float().log_softmax(-1)
    return -scores[:, [label.target_ids[0] for label in labels]]


def _check_room(network: PreTrainedModel, prompts: Sequence[Prompt], params: Predict) -> None:
    lengths = np.array([len(prompt.ids) for prompt in prompts])
    excess = excess_tokens(interface_of(network).name, network.config, lengths, np.array([params.max_new_tokens]))
    if excess > 0:
        raise UserError(
            f"predict -> max_new_tokens: with a source of {lengths.max()} tokens, {params.max_new_tokens} are {excess} "
            f"more than the model has positions for; lower it, or tokenize.max_source_tokens"
        )


def _first_logits(
    network: PreTrainedModel, config: GenerationConfig, steps: int, sources: Sequence[list[int]]
) -> Tensor:
    """Logits (B, steps, vocabulary) of the first tokens of greedy texts. The first is chosen by the prompt alone, the
    others also by the state that it has left behind."""
    return torch.stack(_first_steps(network, config, steps, sources).logits, 1)


@torch.no_grad()
def _computes_rows(
    network: PreTrainedModel, config: GenerationConfig, steps: int, source: list[int], longest: list[int]
) -> bool:
    """Whether our own batches compute the network as `generate` does, also a source that `longest` begins with."""
    first = _first_steps(network, config, steps, [source])
    tokens = first.sequences[0, -steps:]
    return agrees_with_generate(network, source, longest, config, tokens, torch.cat(first.logits))


@torch.no_grad()
def _first_steps(network: PreTrainedModel, config: GenerationConfig, steps: int, sources: Sequence[list[int]]) -> Any:
    batch = interface_of(network).generation_inputs(network, sources, int(network.config.pad_token_id))
    config = greedy_config(config)
    config.update(max_new_tokens=steps, min_new_tokens=steps, output_logits=True, return_dict_in_generate=True)
    return network.generate(**batch, generation_config=config)  # type: ignore[operator]
