"""What the settings forbid or penalise among the next tokens: by transformers' own processors, and by a constraint."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    GenerationConfig,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from stages.lib.generation.constraints import Constraint


class Rules:
    """In the order of `generate`. Rules about what a text has so far are applied to each alone, without its pads."""

    def __init__(
        self,
        network: PreTrainedModel,
        config: GenerationConfig,
        sources: Sequence[list[int]],
        constraint: Constraint | None,
    ) -> None:
        self._device, self._starts, self._constraint = network.device, sources, constraint
        if network.config.is_encoder_decoder:
            start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
            self._starts = [[start]] * len(sources)
        self._of_each = [self._about_text(config, len(start)) for start in self._starts]
        self._of_all = LogitsProcessorList()
        if config.forced_bos_token_id is not None:
            self._of_all.append(ForcedBOSTokenLogitsProcessor(config.forced_bos_token_id))
        if config.suppress_tokens is not None:
            self._of_all.append(SuppressTokensLogitsProcessor(config.suppress_tokens, str(self._device)))

    def __call__(self, scores: Tensor, texts: Sequence[int], ids: Tensor) -> Tensor:
        """The scores (N, vocabulary) that remain.

        Args:
            texts: the number of the source of each row.
            ids: (N, T), the tokens written so far.
        """
        if self._of_each[0]:
            rows = zip(scores.split(1), texts, ids.tolist(), strict=True)
            scores = torch.cat([self._of_each[text](self._ids(text, own), row) for row, text, own in rows])
        if self._constraint is not None:
            scores = self._constraint(scores, ids.tolist())
        length = len(self._starts[texts[0]]) + ids.shape[1]
        return self._of_all(_unknown_ids(len(texts), length), scores)

    def _about_text(self, config: GenerationConfig, start: int) -> LogitsProcessorList:
        rules = LogitsProcessorList()
        if config.repetition_penalty not in (None, 1.0):
            rules.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if config.no_repeat_ngram_size:
            rules.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
        if config.min_new_tokens and config.eos_token_id is not None:
            ends, device = config.eos_token_id, str(self._device)
            rules.append(MinNewTokensLengthLogitsProcessor(start, config.min_new_tokens, ends, device))
        return rules

    def _ids(self, text: int, ids: list[int]) -> Any:
        return torch.tensor([self._starts[text] + ids], device=self._device)


def _unknown_ids(rows: int, length: int) -> Any:
    """For rules that ask for nothing but the number of tokens."""
    return torch.zeros(1, dtype=torch.long).expand(rows, length)
