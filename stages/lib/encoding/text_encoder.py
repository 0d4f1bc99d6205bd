"""Texts -> token ids: many texts at once, on all cores. Special tokens that a text names are plain characters."""

import json
from collections.abc import Set
from functools import cached_property
from typing import Any

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.special_tokens import MARK, SpecialTokens, is_byte


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

    def marked(self, texts: list[str]) -> list[Encoding]:
        """The ids of texts in which MARK stands before each special token (see special_tokens), and the place of each
        id. No special token is added. Only fast tokenizers have this."""
        return self._marked_backend.encode_batch(texts, add_special_tokens=False) if texts else []

    @cached_property
    def _marked_backend(self) -> Tokenizer:
        assert self._backend is not None, "a fast tokenizer"
        content = json.loads(self._backend.to_str())
        content["post_processor"] = None  # some trim white space off the places of tokens
        return Tokenizer.from_str(json.dumps(content))

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after a text."""
        (framed,), (bare,) = self.ids(["x"]), self.ids(["x"], special=False)
        start = next(n for n in range(len(framed)) if framed[n : n + len(bare)] == bare)
        return framed[:start], framed[start + len(bare) :]

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
        return 0 if self._unknown is None else sum(ids.count(self._unknown) for ids in texts)

    @cached_property
    def _unknown(self) -> int | None:
        # GPT-2 has one token for unknown, start and end; it is byte-level and knows every text
        unknown: int | None = self._tokenizer.unk_token_id
        return None if unknown in (self._tokenizer.eos_token_id, self._tokenizer.bos_token_id) else unknown


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
    _rename(content, set(SpecialTokens(tokenizer).ids))
    backend = Tokenizer.from_str(json.dumps(content))
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _rename(content: dict[str, Any], special: Set[str]) -> None:
    """Gives all special tokens a MARK in front, in the pieces of the model too: some models, such as Unigram, would
    find them there, as the likeliest of all. Renamed in the same way everywhere, they keep their ids."""
    names = {token: MARK + token for token in special}
    content["added_tokens"] = [token for token in content["added_tokens"] if not is_byte(token["content"])]
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = content["model"]
    model["unk_token"] = names.get(model.get("unk_token"), model.get("unk_token"))
    if model["type"] == "Unigram":
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    elif not special.isdisjoint(model["vocab"]):
        model["vocab"] = {names.get(piece, piece): number for piece, number in model["vocab"].items()}
        merges = ((merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model.get("merges", []))
        model["merges"] = [merge for merge, pair in merges if special.isdisjoint({*pair, "".join(pair)})]
