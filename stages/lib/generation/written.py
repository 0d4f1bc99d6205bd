"""A text as the model has written it, and where it ends."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_BYTES_OF_CHARACTER = 4  # at most, in UTF-8: a token is at least one


class Written(NamedTuple):
    ids: list[int]  # with the token that ends the text, if one does
    log_probability: float  # summed over the ids, before penalties, temperature and so on; natural logarithm


class Stops:
    """Where texts end: at a token, or at a string that the text then lacks."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Collection[int], strings: Sequence[str]) -> None:
        self._tokenizer, self._ends, self._strings = tokenizer, set(ends), strings
        self._end_ids = torch.tensor(sorted(ends), dtype=torch.long)
        self._last_tokens = _BYTES_OF_CHARACTER * max(map(len, strings), default=0) + 1

    def have_ended(self, ids: Tensor) -> Tensor:
        """Whether the last token of each text ends it: (N), from ids (N, T)."""
        have_ended = self.are_ends(ids[:, -1])
        if self._strings:
            rows = ids[:, -self._last_tokens :].tolist()
            have_ended |= torch.tensor([self._has_string(row) for row in rows], device=ids.device)
        return have_ended

    def are_ends(self, tokens: Tensor) -> Tensor:
        """Whether each token ends its text, of any shape."""
        self._end_ids = self._end_ids.to(tokens.device)
        return torch.isin(tokens, self._end_ids)

    def cut(self, ids: Sequence[int]) -> list[int]:
        """Up to the token that ends the text, and with it."""
        lengths = (length for length in range(1, len(ids)) if self.has_ended(ids[:length]))
        return list(ids[: next(lengths, len(ids))])

    def has_ended(self, ids: Sequence[int]) -> bool:
        return ids[-1] in self._ends or (bool(self._strings) and self._has_string(ids[-self._last_tokens :]))

    def text(self, ids: Sequence[int]) -> str:
        """Without the end."""
        text = self._decoded(ids[:-1] if ids[-1] in self._ends else ids)
        found = [place for place in map(text.find, self._strings) if place >= 0]
        return text[: min(found, default=len(text))].strip()

    def _has_string(self, ids: Sequence[int]) -> bool:
        text = self._decoded(ids)
        return any(string in text for string in self._strings)

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
