"""Texts as token ids: many at once on all cores, and what is done with those that are too long."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from stages.lib.examples import Example
from stages.lib.pairs import Pair
from stages.lib.params.tokenize import Tokenize
from stages.lib.templates import Unusable

# examples, then the ids of each source and of each target of them all
Ids = tuple[Sequence[Example], list[list[int]], list[list[int]]]


@dataclass(slots=True)
class Encoded:
    """One example. Lengths are in tokens, before anything was cut, split or set aside."""

    example: Example
    source_tokens: int
    target_tokens: list[int]
    unknown_tokens: int
    is_cut: bool = False
    split_targets: int = 0
    pairs: list[Pair] = field(default_factory=list)
    problems: list[Unusable] = field(default_factory=list)


class Encoder:
    """Encodes batches of examples by the settings of section `tokenize`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, params: Tokenize) -> None:
        self._tokenizer, self._params = tokenizer, params
        # the library below, without the Python around it, which would take as long as the tokenizing
        self._backend = _plain_backend(tokenizer) if tokenizer.is_fast else None

    def ids(self, examples: Sequence[Example]) -> Ids:
        """Before anything is cut or split. This part leaves Python's lock free, so that it may run beside the other."""
        sources = self._ids([self._prompt(example.source) for example in examples], special=True)
        targets = self._ids([target for example in examples for target in example.targets], special=False)
        return examples, sources, targets

    def fitted(self, ids: Ids) -> list[Encoded]:
        examples, sources, targets = ids
        rest = iter(targets)
        return [
            self._encoded(example, source_ids, list(islice(rest, len(example.targets))))
            for example, source_ids in zip(examples, sources, strict=True)
        ]

    def _prompt(self, source: str) -> str:
        # not str.format: the text around may hold braces of its own
        return self._params.prompt.replace("{source}", source)

    def _ids(self, texts: list[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        if self._backend is not None:
            ids = [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=special)]
        else:
            ids = self._tokenizer(texts, add_special_tokens=special, split_special_tokens=True)["input_ids"]
        return [self._source_ids(each) for each in ids] if special else ids

    def _source_ids(self, ids: list[int]) -> list[int]:
        """With the tokenizer's own start tokens, but without an end token: the target follows. Never empty, since the
        first token of a free text must be predicted from something."""
        end, start = self._tokenizer.eos_token_id, self._tokenizer.bos_token_id
        while ids and ids[-1] == end:
            ids.pop()
        return ids or [end if start is None else start]

    def _encoded(self, example: Example, source_ids: list[int], targets: list[list[int]]) -> Encoded:
        encoded = Encoded(example, len(source_ids), [len(ids) + 1 for ids in targets], 0)
        # GPT-2 names one token for unknown, start and end; being byte-level, it knows every text
        if self._tokenizer.unk_token_id not in (None, self._tokenizer.eos_token_id, self._tokenizer.bos_token_id):
            encoded.unknown_tokens = sum(ids.count(self._tokenizer.unk_token_id) for ids in (source_ids, *targets))
        try:
            fitting = self._fitting_source(example.source, source_ids)
        except Unusable as problem:
            encoded.problems += [problem] * len(targets)
            return encoded
        encoded.is_cut = fitting is not source_ids
        for target, ids in zip(example.targets, targets, strict=True):
            try:
                pairs = list(self._pairs(example.id, fitting, ids, len(target.encode())))
            except Unusable as problem:
                encoded.problems.append(problem)
            else:
                encoded.pairs += pairs
                encoded.split_targets += len(pairs) > 1
        return encoded

    def _fitting_source(self, source: str, ids: list[int]) -> list[int]:
        """The same ids, or, by the policy for long sources, those of the prompt around a shorter source."""
        limit, policy = self._params.max_source_tokens, self._params.long_source
        if len(ids) <= limit:
            return ids
        if policy not in ("cut_start", "cut_end"):
            raise Unusable("long_source", f"source of {len(ids):,} tokens, more than tokenize.max_source_tokens")
        while len(ids) > limit and source:
            excess = -(-(len(ids) - limit) // self._params.prompt.count("{source}"))
            source = self._shortened(source, excess, at_start=policy == "cut_start")
            ids = self._ids([self._prompt(source)], special=True)[0]
        if len(ids) > limit:
            raise Unusable("long_prompt", f"tokenize.prompt alone takes {len(ids):,} tokens")
        return ids

    def _shortened(self, text: str, tokens: int, at_start: bool) -> str:
        """Without this many tokens at one end; a tokenizer that does not say where they stand loses as many parts."""
        if self._backend is None:
            characters = -(-len(text) * tokens // max(len(self._ids([text], special=False)[0]), 1))
            return text[characters:] if at_start else text[: max(len(text) - characters, 0)]
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        if tokens >= len(offsets):
            return ""
        # at least a character: a token may be a part of one
        return text[max(offsets[tokens - 1][1], 1) :] if at_start else text[: min(offsets[-tokens][0], len(text) - 1)]

    def _pairs(self, name: str, source_ids: list[int], target_ids: list[int], size: int) -> Iterator[Pair]:
        """One pair, or, by the policy for long targets, as many as it takes. Each token carries loss in exactly one;
        those right before a piece are repeated in front of it as context."""
        if not target_ids:
            raise Unusable("untrainable", "the target has no token of its own, only the end token")
        limit, overlap = self._params.max_target_tokens, self._params.overlap_tokens
        ids = [*target_ids, self._tokenizer.eos_token_id]
        if len(ids) <= limit:
            yield Pair(name, source_ids, ids, size)
            return
        if self._params.long_target != "split":
            raise Unusable("long_target", f"target of {len(ids):,} tokens, more than tokenize.max_target_tokens")
        for start in range(0, len(ids), limit):
            stop = min(start + limit, len(ids))
            share = size * stop // len(ids) - size * start // len(ids)
            yield Pair(name, [*source_ids, *ids[max(start - overlap, 0) : start]], ids[start:stop], share)


def _plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy for which `<|end|>` in a text stays the characters that it is: data can't end a target or forge a turn."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] == "Unigram":  # it has its special tokens among its pieces as well, likelier than any
        special = set(tokenizer.all_special_tokens) - {tokenizer.unk_token}
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in special]
        pieces = content["model"]["vocab"]
        content["model"]["vocab"] = [[f"\0{text}" if text in special else text, score] for text, score in pieces]
    backend = Tokenizer.from_str(json.dumps(content))
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend
