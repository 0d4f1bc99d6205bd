"""Texts -> token ids: many texts at once, on all cores. Special tokens that a text names are plain characters."""

import json
from collections.abc import Container

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


class TextEncoder:
    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        # the library below transformers: the Python code above it takes as long as the tokenizing
        self._backend = _plain_backend(tokenizer) if tokenizer.is_fast else None
        self._target_backend = _target_backend(tokenizer) if tokenizer.is_fast else None

    @property
    def is_fast(self) -> bool:
        return self._backend is not None

    def ids(self, texts: list[str], special: bool = True, is_target: bool = False) -> list[list[int]]:
        """The ids of each text, with the tokenizer's special tokens around it if `special`."""
        if not texts:
            return []
        backend = self._target_backend if is_target else self._backend
        if backend is not None:
            return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=special)]
        argument = "text_target" if is_target else "text"
        options = {"add_special_tokens": special, "split_special_tokens": True}
        return [list(ids) for ids in self._tokenizer(**{argument: texts}, **options)["input_ids"]]

    def shortened(self, text: str, tokens: int, at_start: bool) -> str:
        """The text without so many tokens at one end. A slow tokenizer gives no offsets: its tokens count as equally
        long."""
        if self._backend is None:
            characters = -(-len(text) * tokens // max(len(self.ids([text], special=False)[0]), 1))
            return text[characters:] if at_start else text[: max(len(text) - characters, 0)]
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        if tokens >= len(offsets):
            return ""
        # at least one character: a token may be a part of one
        return text[max(offsets[tokens - 1][1], 1) :] if at_start else text[: min(offsets[-tokens][0], len(text) - 1)]

    def unknown(self, *texts: list[int]) -> int:
        """The number of unknown tokens among the ids of these texts."""
        # GPT-2 has one token for unknown, start and end; it is byte-level and knows every text
        unknown = self._tokenizer.unk_token_id
        if unknown in (None, self._tokenizer.eos_token_id, self._tokenizer.bos_token_id):
            return 0
        return sum(ids.count(unknown) for ids in texts)


def _target_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Like `_plain_backend`, for targets, which may be in another language than sources."""
    if not hasattr(tokenizer, "_switch_to_target_mode"):
        return _plain_backend(tokenizer)
    tokenizer._switch_to_target_mode()
    try:
        return _plain_backend(tokenizer)
    finally:
        tokenizer._switch_to_input_mode()


def _plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy that reads `<|end|>` in a text as plain characters: data can't end a target or forge a turn."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] == "Unigram":  # its pieces include the special tokens, as the likeliest of all
        special = set(tokenizer.all_special_tokens) - {tokenizer.unk_token}
        pieces = content["model"]["vocab"]
        content["model"]["vocab"] = [[_renamed(text, special), score] for text, score in pieces]
        for token in content["added_tokens"]:  # renamed like the pieces, so that all keep their ids
            token["content"] = _renamed(token["content"], special)
    backend = Tokenizer.from_str(json.dumps(content))
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _renamed(token: str, special: Container[str]) -> str:
    """A special token gets a name that no text contains: with a NUL in front."""
    return f"\0{token}" if token in special else token
