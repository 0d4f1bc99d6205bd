"""Texts that are bound to a form (constrained decoding): one of several choices, or JSON of a schema.

A constraint says which tokens may follow those that are written. It reads nothing else, so it is the same in every
batch, for every strategy.
"""

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from stages.lib.checkpoint.special_tokens import is_byte
from stages.lib.core.process import UserError, first_line
from stages.lib.generation.settings import end_ids
from stages.lib.params.predict import Predict, check_form

_JSON = '{"a": [1, true, "b c"]}'  # a tokenizer that can write it can write any

_Text = tuple[int, ...]


def constraint_of(
    params: Predict, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig, has_labels: bool
) -> "Constraint | None":
    """What `params` bind texts to.

    Args:
        has_labels: whether the scenario chooses among labels, without it.

    Raises:
        UserError: this is not possible with labels, or with this tokenizer.
    """
    check_form(params, has_labels)
    if params.choices is not None:
        return _Choices(params.choices, tokenizer, config)
    return None if params.json_schema is None else _JsonSchema(params.json_schema, tokenizer, config)


class Constraint(ABC):
    def __init__(self, config: GenerationConfig) -> None:
        self._ends = sorted(end_ids(config))
        self._first = 0 if config.forced_bos_token_id is None else 1  # where a text begins

    def __call__(self, scores: Tensor, written: Sequence[Sequence[int]]) -> Tensor:
        """The scores (N, vocabulary), minus infinity for what may not follow.

        Args:
            written: the tokens of each row so far. Those of the previous call are the same without their last ones.
        """
        if len(written[0]) < self._first:
            return scores
        allowed = torch.stack(self._allowed([tuple(ids[self._first :]) for ids in written], scores.shape[1]))
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    @abstractmethod
    def _allowed(self, texts: Sequence[_Text], vocabulary: int) -> list[Tensor]:
        """Whether each token may follow each text, (vocabulary). Any may where a text is over, or a beam search has
        gone on with a forbidden token for want of others: nobody reads these."""


class _Choices(Constraint):
    """A trie of the tokens by which the tokenizer writes each choice, as it has written the targets of training."""

    def __init__(self, choices: Sequence[str], tokenizer: PreTrainedTokenizerBase, config: GenerationConfig) -> None:
        super().__init__(config)
        self._next: dict[_Text, set[int]] = defaultdict(set)
        problems = list[str]()
        for choice in choices:
            ids = _target_ids(choice, tokenizer, config)
            problems += _problems_of(choice, ids, tokenizer, int(config.max_new_tokens or 0) - self._first)
            for length, token in enumerate(ids):
                self._next[tuple(ids[:length])].add(token)
            self._next[tuple(ids)].update(self._ends)
        if problems:
            raise UserError(f"predict -> choices: {problem}" for problem in problems)

    def _allowed(self, texts: Sequence[_Text], vocabulary: int) -> list[Tensor]:
        found = []
        for text in texts:
            allowed = torch.full((vocabulary,), text not in self._next)
            allowed[list(self._next.get(text, ()))] = True
            found.append(allowed)
        return found


class _State(NamedTuple):
    """After a text. There is no matcher where nobody reads what follows."""

    matcher: Any
    allowed: Tensor


class _JsonSchema(Constraint):
    """By llguidance, which matches bytes: of all ways to write a text in tokens, each is allowed."""

    def __init__(self, schema: dict[str, Any], tokenizer: PreTrainedTokenizerBase, config: GenerationConfig) -> None:
        super().__init__(config)
        # only needed for schemas
        from llguidance import LLMatcher

        # some tokenizers put a blank before every text
        grammar = LLMatcher.grammar_from_lark(f"start: / ?/ json\njson: %json {json.dumps(schema)}")
        vocabulary = _vocabulary(tokenizer, self._ends)
        blanks = [not vocabulary.decode_bytes([token]).strip() for token in range(vocabulary.vocab_size)]
        self._is_blank = torch.tensor(blanks)
        self._matcher = LLMatcher(vocabulary, grammar, log_level=0)
        self._states: dict[_Text, _State] = {}

    def _allowed(self, texts: Sequence[_Text], vocabulary: int) -> list[Tensor]:
        # rows often have equal texts, such as the beginning that a schema prescribes
        self._states = {text: self._state(text, vocabulary) for text in dict.fromkeys(texts)}
        return [self._states[text].allowed for text in texts]

    def _state(self, text: _Text, vocabulary: int) -> _State:
        if not text:
            return self._after(self._matcher, vocabulary)
        before, token = self._states[text[:-1]], text[-1]
        if before.matcher is None or token in self._ends or not before.allowed[token]:
            return _State(None, torch.ones(vocabulary, dtype=torch.bool))
        matcher = before.matcher.deep_copy()
        matcher.consume_token(token)
        return self._after(matcher, vocabulary)

    def _after(self, matcher: Any, vocabulary: int) -> _State:
        allowed = torch.zeros(vocabulary, dtype=torch.bool)
        may_follow = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8) > 0
        may_follow[self._ends] = False
        is_complete = matcher.is_accepting()
        if not is_complete or (may_follow & ~self._is_blank).any():  # blanks after the JSON are of no use
            allowed[: len(may_follow)] = may_follow[:vocabulary]
        allowed[self._ends] = is_complete
        if matcher.is_error() or not allowed.any():
            raise UserError(f"predict -> json_schema: no token may follow: {first_line(matcher.get_error())}")
        return _State(matcher, allowed)


def _target_ids(text: str, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig) -> list[int]:
    """As the model writes it, without what stands before and after."""
    if config.decoder_start_token_id is None:  # a causal model
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    ids = list(tokenizer(text_target=text, split_special_tokens=True)["input_ids"])
    if ids[:1] in ([tokenizer.bos_token_id], [config.forced_bos_token_id]):
        ids = ids[1:]
    end = next((place for place, token in enumerate(ids) if token in end_ids(config)), len(ids))
    return ids[:end]


def _problems_of(choice: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, most: int) -> Iterator[str]:
    written = str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
    if written != choice:
        yield f"the tokenizer of this model writes {choice!r} as {written!r}; write the choice so, or take another"
    if len(ids) >= most:
        yield f"{choice!r} has {len(ids)} tokens, and its end is one more; raise max_new_tokens, which is {most}"


def _vocabulary(tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> Any:
    """The bytes of each token. Raises UserError where they are not clear, or some of JSON's are missing."""
    from llguidance import LLTokenizer

    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content["added_tokens"] = [token for token in content["added_tokens"] if not is_byte(token["content"])]
        try:
            vocabulary = LLTokenizer(json.dumps(content), eos_token=ends)
        except ValueError:  # of a kind that it does not know
            pass
        else:
            ids = tokenizer(_JSON, add_special_tokens=False)["input_ids"]
            written = tokenizer.decode(ids, skip_special_tokens=True)
            if vocabulary.decode_str(ids).removeprefix(" ") == written == _JSON:
                return vocabulary
    raise UserError("predict -> json_schema: the tokenizer of this model can't write JSON; take a byte-level one")
