"""Examples -> token ids, in batches, with the policies for texts that are too long."""

from collections.abc import Iterator, Sequence
from itertools import islice

from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.tokenizers import target_from
from stages.lib.core.templates import RejectedRow
from stages.lib.encoding.conversations import ConversationEncoder, answer_places, turns_to_drop, without_oldest
from stages.lib.encoding.encoded import Encoded
from stages.lib.encoding.text_encoder import TextEncoder
from stages.lib.params.model import Family
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.chats import Turn, render
from stages.lib.records.examples import Example, Question
from stages.lib.records.tokenized_examples import TokenizedExample

# examples, then the ids of each source and of each target of all their questions, except for conversations
Ids = tuple[Sequence[Example], list[list[int]], list[list[int]]]


class Encoder:
    """Encodes batches of examples by the settings of section `tokenize`, as models of this family expect it.

    Args:
        labels: the words that targets are chosen from; none for free text.
        answers_apart: each answer of a conversation makes its own tokenized example, as predictions need it. Else, in
            a causal model, as many answers as fit share one, each with loss.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        params: Tokenize,
        family: Family = "causal",
        labels: Sequence[str] = (),
        answers_apart: bool = False,
    ) -> None:
        self._tokenizer, self._params, self._family, self._labels = tokenizer, params, family, labels
        self._texts = TextEncoder(tokenizer)
        self._conversations = (
            ConversationEncoder(tokenizer, self._texts, params, answers_apart)
            if family == "causal" and tokenizer.chat_template
            else None
        )

    @property
    def is_fast(self) -> bool:
        return self._texts.is_fast

    def ids(self, examples: Sequence[Example]) -> Ids:
        """Before anything is truncated or split. This part leaves Python's lock free, so it can run beside `fitted`."""
        questions = [question for example in examples for question in self._questions(example)]
        sources = self._source_ids([self._prompt(question.source) for question in questions])
        return examples, sources, self._target_ids([text for each in questions for text in each.references])

    def prompt_without_source(self) -> list[int] | None:
        """The ids of the prompt around an empty source. None where they are none, or the chat template refuses it."""
        try:
            (ids,) = self._source_ids([self._prompt("")])
        except RejectedRow:
            return None
        return ids or None

    def fitted(self, ids: Ids) -> list[Encoded]:
        examples, sources, targets = ids
        rest_of_sources, rest_of_targets = iter(sources), iter(targets)
        batch = []
        for example in examples:
            encoded = Encoded(example)
            if self._conversations is not None and example.turns:
                self._conversations.encode(encoded, example.turns)
            for question in self._questions(example):
                own_targets = list(islice(rest_of_targets, len(question.references)))
                self._encode(encoded, question, next(rest_of_sources), own_targets)
            batch.append(encoded)
        return batch

    def _questions(self, example: Example) -> Iterator[Question]:
        """None for what is encoded as a conversation."""
        return iter(()) if self._conversations is not None and example.turns else example.questions()

    def _prompt(self, source: str) -> str:
        # not str.format: the text around may hold braces of its own
        return self._params.prompt.replace("{source}", source)

    def _source_ids(self, texts: list[str]) -> list[list[int]]:
        """With the tokenizer's own special tokens. In a causal model without an end token, since the target follows,
        and never empty: the first token of a free text needs one before it."""
        if self._conversations is not None and self._params.as_chat:
            return [self._conversations.prompt_ids([Turn("user", text)]) for text in texts]
        encoded = self._texts.ids(texts)
        if self._family != "causal":
            return encoded
        end, start = self._tokenizer.eos_token_id, self._tokenizer.bos_token_id
        for ids in encoded:
            while ids and ids[-1] == end:
                ids.pop()
            if not ids:
                ids.append(end if start is None else start)
        return encoded

    def _target_ids(self, texts: list[str]) -> list[list[int]]:
        """As the model writes them, the end token included. A label for a classification head is its number."""
        if self._labels and self._family == "encoder":
            return [[self._labels.index(text)] for text in texts]
        if self._conversations is not None and self._params.as_chat:
            return [self._conversations.answer_ids(text) for text in texts]
        if self._family == "causal":
            return [[*ids, self._tokenizer.eos_token_id] for ids in self._texts.ids(texts, special=False)]
        return [target_from(ids, self._tokenizer, self._family) for ids in self._texts.ids(texts, is_target=True)]

    def _encode(self, encoded: Encoded, question: Question, source_ids: list[int], targets: list[list[int]]) -> None:
        """Adds the tokenized examples of one question, or the reason why there are none."""
        encoded.tried += len(targets)
        encoded.source_tokens.append(len(source_ids))
        encoded.target_tokens += map(len, targets)
        encoded.unknown_tokens += self._texts.unknown(source_ids, *targets)
        try:
            fitting = self._fitting_source(encoded.example, question, source_ids)
        except RejectedRow as problem:
            encoded.problems += [problem] * len(targets)
            return
        encoded.sources_truncated += fitting is not source_ids
        for target, ids in zip(question.references, targets, strict=True):
            try:
                tokenized = list(self._tokenized(question.id, fitting, ids, len(target.encode())))
            except RejectedRow as problem:
                encoded.problems.append(problem)
            else:
                encoded.tokenized += tokenized
                encoded.targets_split += len(tokenized) > 1

    def _fitting_source(self, example: Example, question: Question, ids: list[int]) -> list[int]:
        """The same ids; or, by the policy for long sources, the ids of the prompt around a shorter source."""
        limit, policy = self._params.max_source_tokens, self._params.truncation
        if len(ids) <= limit:
            return ids
        if policy not in ("left", "right"):
            raise RejectedRow("long_source", f"source of {len(ids):,} tokens, more than tokenize.max_source_tokens")
        if example.turns:
            return self._fitting_history(example, question)
        source = question.source
        while len(ids) > limit and source:
            excess = -(-(len(ids) - limit) // self._params.prompt.count("{source}"))
            source = self._texts.shortened(source, excess, at_start=policy == "left")
            ids = self._source_ids([self._prompt(source)])[0]
        if len(ids) > limit:
            raise RejectedRow("long_prompt", f"tokenize.prompt alone takes {len(ids):,} tokens")
        return ids

    def _fitting_history(self, example: Example, question: Question) -> list[int]:
        """The ids of a conversation before one of its answers, without its oldest turns."""

        def encode(turns: list[Turn]) -> list[int]:
            return self._source_ids([self._prompt(render(turns))])[0]

        number = [each.id for each in example.questions()].index(question.id)
        turns = example.turns[: answer_places(example.turns)[number]]
        return encode(without_oldest(turns, turns_to_drop(turns, encode, self._params.max_source_tokens)))

    def _tokenized(self, name: str, source_ids: list[int], ids: list[int], size: int) -> Iterator[TokenizedExample]:
        """One; or, by the policy for long targets, as many as the target needs. Each token has loss in exactly one. The
        tokens right before a piece are repeated in front of it as context."""
        limit, overlap = self._params.max_target_tokens, self._params.overlap_tokens
        is_label = self._labels and self._family == "encoder"
        if not is_label and len(ids) <= len(target_from([], self._tokenizer, self._family)):
            raise RejectedRow("untrainable", "the target has no token of its own, only the end token")
        if len(ids) <= limit:
            yield TokenizedExample(name, source_ids, ids, [], size)
            return
        if self._params.long_target != "split" or self._family != "causal":
            why = "" if self._params.long_target != "split" else "; only causal models can continue a split target"
            raise RejectedRow(
                "long_target", f"target of {len(ids):,} tokens, more than tokenize.max_target_tokens{why}"
            )
        for start in range(0, len(ids), limit):
            stop = min(start + limit, len(ids))
            share = size * stop // len(ids) - size * start // len(ids)
            before = ids[max(start - overlap, 0) : start]
            yield TokenizedExample(name, [*source_ids, *before], ids[start:stop], [], share)
