"""Texts that a network writes together, one token each at a time: a row of its batch each, or several (beams).

Plain `generate` copies all keys and values for every token, computes rows that have ended, and for beams the prompt
again in every row. Here, keys and values have room for the whole text from the start, and rows can be dropped. A source
that another one begins with, as each question of a conversation begins with those before it, is not computed again.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, GenerationMixin, PreTrainedModel

from stages.lib.generation.cache import NotPlain, Origin, beginnings, roomy_layers
from stages.lib.generation.continuations import longest_continuations
from stages.lib.generation.settings import greedy_config
from stages.lib.models.families import interface_of
from stages.lib.models.memory import is_out_of_memory

_ROUNDING, _ROUNDING_OF_16_BITS = 1e-3, 5e-2  # relative differences of logits that are no fault


class Batch:
    """N rows, at first `rows_of_source` for each source, one source after the other."""

    def __init__(
        self,
        network: PreTrainedModel,
        sources: Sequence[Sequence[int]],
        config: GenerationConfig,
        rows_of_source: int = 1,
    ) -> None:
        """Computes the sources, each once; those that others begin with, not at all.

        Args:
            config: with `max_new_tokens`.

        Raises:
            NotPlain: the network keeps more between tokens than keys and values, or prepares its inputs in its own way.
        """
        own: Any = type(network)
        if own.prepare_inputs_for_generation is not GenerationMixin.prepare_inputs_for_generation:
            raise NotPlain
        self._network = network
        longest = longest_continuations(network, sources)
        computed = {place: row for row, place in enumerate(sorted(set(longest)))}
        origins = [
            Origin(computed[place], len(sources[place]) - len(source))
            for place, source in zip(longest, sources, strict=True)
        ]
        inputs = interface_of(network).generation_inputs(
            network, [sources[place] for place in computed], int(network.config.pad_token_id)
        )
        # `generate` prepares what the network needs: positions, masks, the encoder's states, the start of the decoder
        self._inputs, logits = network.generate(  # type: ignore[operator]
            **inputs, generation_config=greedy_config(config), custom_generate=partial(_first_pass, origins)
        )
        self.count = len(sources) * rows_of_source
        self.logits: Tensor = logits.repeat_interleave(rows_of_source, 0)  # (N, vocabulary), float32: of the next token
        self._prompt_tokens = self._inputs["past_key_values"].get_seq_length()
        self._spread([origin for origin in origins for _ in range(rows_of_source)], int(config.max_new_tokens or 0))

    def _spread(self, origins: Sequence[Origin], new_tokens: int) -> None:
        inputs = self._inputs
        cache, room = inputs["past_key_values"], self._prompt_tokens + new_tokens
        if isinstance(cache, EncoderDecoderCache):
            self._grown = roomy_layers(cache.self_attention_cache, origins, room)
            self._layers = self._grown + roomy_layers(cache.cross_attention_cache, origins, 0)
        else:
            self._layers = self._grown = roomy_layers(cache, origins, room)
        if inputs.get("attention_mask") is None and any(origin.dropped for origin in origins):
            inputs["attention_mask"] = self._rows([1] * self._prompt_tokens).expand(len(origins), -1)  # without pads
        for name in self._names_of_rows():
            inputs[name] = beginnings(inputs[name], origins, 1)
        if self._network.config.is_encoder_decoder:
            hidden = inputs["encoder_outputs"].last_hidden_state
            inputs["encoder_outputs"].last_hidden_state = beginnings(hidden, origins, 1)

    def step(self, tokens: Tensor) -> None:
        """Computes the logits after these tokens: (N), one for each row."""
        inputs = self._inputs
        if self._network.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = tokens[:, None]
        else:
            inputs["input_ids"] = tokens[:, None]
            if inputs.get("attention_mask") is not None:
                mask = inputs["attention_mask"]
                inputs["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        for name in ("position_ids", "decoder_position_ids"):
            if name in inputs:
                inputs[name] = inputs[name][:, -1:] + 1
        self.logits = self._network(**inputs, return_dict=True).logits[:, -1].float()

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drops all other rows. The last ones that are kept take the places of those that are not, so that few are
        copied. The answer is the present row of each new row."""
        kept, count = set(rows), len(rows)
        holes = [row for row in range(count) if row not in kept]
        movers = [row for row in rows if row >= count]
        order = list(range(count))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        index = self._rows(order)
        for layer in self._layers:
            if movers:
                layer.copy_rows(self._rows(movers), self._rows(holes))
            layer.cut(count)
        for name in self._names_of_rows():
            self._inputs[name] = self._inputs[name][index]
        if self._network.config.is_encoder_decoder:
            encoded = self._inputs["encoder_outputs"]
            encoded.last_hidden_state = encoded.last_hidden_state[index]
        self.count = count
        return order

    def reorder(self, rows: Sequence[int]) -> None:
        """Row n goes on with what row `rows[n]` has written so far, which has the same source."""
        changed = [place for place, row in enumerate(rows) if place != row]
        if changed:
            sources, targets = self._rows([rows[place] for place in changed]), self._rows(changed)
            for layer in self._grown:
                layer.copy_rows(sources, targets, self._prompt_tokens)

    def _rows(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, device=self.logits.device)

    def _names_of_rows(self) -> list[str]:
        names = ("attention_mask", "position_ids", "decoder_position_ids", "decoder_attention_mask")
        return [name for name in names if self._inputs.get(name) is not None]


def agrees_with_generate(
    network: PreTrainedModel,
    source: Sequence[int],
    longest: Sequence[int],
    config: GenerationConfig,
    tokens: Tensor,
    logits: Tensor,
) -> bool:
    """Whether a batch computes what `generate` does, also after rows were moved and dropped.

    Args:
        longest: the source, or one that begins with it.
        tokens: (T), that `generate` has written after the source.
        logits: (T, vocabulary), by which it has chosen them.
    """
    try:
        batch = Batch(network, [longest, source], config, rows_of_source=2)
        found = [batch.logits[2:]]
        for number, token in enumerate(tokens[:-1].tolist()):
            if number == 1:
                batch.reorder([0, 1, 3, 2])
                batch.keep([2, 3])
            batch.step(tokens.new_full((batch.count,), token))
            found.append(batch.logits[-2:])
    except Exception as error:  # of any class: it is the network's own code
        if is_out_of_memory(error):
            raise
        return False
    largest = max((own - expected).norm() / expected.norm() for own, expected in zip(found, logits, strict=True))
    return bool(largest < (_ROUNDING if network.dtype == torch.float32 else _ROUNDING_OF_16_BITS))


def _first_pass(
    origins: Sequence[Origin], network: Any, input_ids: Tensor, **arguments: Any
) -> tuple[dict[str, Any], Tensor]:
    """The arguments of later passes, of the rows computed, and the logits (N, vocabulary) after the prompt of each
    origin. `generate` calls this in place of its own loop."""
    ours = ("logits_processor", "stopping_criteria", "generation_config")
    inputs = {name: value for name, value in arguments.items() if name not in ours}
    prepared = network.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **inputs)
    rows = torch.tensor([origin.row for origin in origins], device=input_ids.device)
    dropped = torch.tensor([origin.dropped for origin in origins], device=input_ids.device)
    if prepared.get("logits_to_keep") and dropped.any():
        prepared["logits_to_keep"], places = (input_ids.shape[1] - 1 - dropped).unique(return_inverse=True)
    else:
        places = -1 - dropped
    outputs = network(**prepared, return_dict=True)
    cache = outputs.get("past_key_values")
    if not isinstance(cache, DynamicCache | EncoderDecoderCache):
        raise NotPlain
    # copied, so that the logits of all other tokens are freed
    return inputs | {"past_key_values": cache}, outputs.logits[rows, places].to(torch.float32, copy=True)
