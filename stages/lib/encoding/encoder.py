"""Examples -> token ids, in batches, with the policies for texts that are too long."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.special_tokens import SpecialTokens, inert
from stages.lib.checkpoint.tokenizers import target_from
from stages.lib.core.templates import RejectedRow
from stages.lib.encoding.conversations import ConversationEncoder, turns_to_drop, without_oldest
from stages.lib.encoding.encoded import Encoded
from stages.lib.encoding.marked_encoder import MarkedEncoder
from stages.lib.encoding.text_encoder import TextEncoder
from stages.lib.params.model import Family
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.chats import Turn, answer_places, render
from stages.lib.records.examples import Example, Question
from stages.lib.records.tokenized_examples import TokenizedExample


class Ids(NamedTuple):
    """The ids of each source and of each target of all questions, conversations left out. A source is a problem instead
    where the chat template refuses it."""

    examples: Sequence[Example]
    sources: Sequence[list[int] | RejectedRow]
    targets: list[list[int]]
    conversations: list[Encoded]


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
        self._arguments = tokenizer, params, family, labels, answers_apart
        self._tokenizer, self._params, self._family, self._labels = tokenizer, params, family, labels
        self._texts = TextEncoder(tokenizer)
        self._special = SpecialTokens(tokenizer)
        self._marked = MarkedEncoder(self._texts, self._special)
        self._marked_prompt = self._special.marked(inert(params.prompt))
        self._empty_target = len(target_from([], tokenizer, family))
        self._has_special_prompt = self._special.are_in(params.prompt)
        self._conversations = (
            ConversationEncoder(tokenizer, self._texts, params, answers_apart)
            if family == "causal" and tokenizer.chat_template
            else None
        )
        self._chat = self._conversations if params.as_chat else None  # of a source and its targets

    def __reduce__(self) -> tuple[type["Encoder"], tuple[Any, ...]]:
        """For a worker: a tokenizer that is sent alone forgets how special tokens are told from text."""
        return Encoder, self._arguments

    def is_threaded(self, examples: Iterable[Example]) -> bool:
        """Whether `ids` frees Python's lock for such examples. A slow tokenizer and a chat template hold it."""
        has_chats = self._chat or (self._conversations and any(example.turns for example in examples))
        return self._texts.is_fast and not has_chats

    @property
    def can_be_sent(self) -> bool:
        """Whether a worker can read it. The code of a checkpoint is known only to the process that has loaded it."""
        return not type(self._tokenizer).__module__.startswith("transformers_modules")

    def encoded(self, examples: Sequence[Example]) -> list[Encoded]:
        return self.fitted(self.ids(examples))

    def ids(self, examples: Sequence[Example]) -> Ids:
        """Before any text is truncated or split; conversations are done. Can run beside `fitted`."""
        questions = [question for example in examples for question in self._questions(example)]
        conversations = (example for example in examples if example.turns)
        encoded = [] if self._conversations is None else self._conversations.encode(conversations)
        if self._chat is not None:
            return Ids(examples, *self._as_chat(self._chat, questions), encoded)
        sources = self._source_ids([question.source for question in questions])
        targets = self._target_ids([text for question in questions for text in question.references])
        return Ids(examples, sources, targets, encoded)

    def prompt_without_source(self) -> list[int] | None:
        """The ids of the prompt around an empty source. None where they are none, or the chat template refuses it."""
        try:
            return self._asked(Question("", "", [], ""), "") or None
        except RejectedRow:
            return None

    def fitted(self, ids: Ids) -> list[Encoded]:
        sources, targets, conversations = iter(ids.sources), iter(ids.targets), iter(ids.conversations)
        batch = []
        for example in ids.examples:
            is_encoded = self._conversations is not None and example.turns
            encoded = next(conversations) if is_encoded else Encoded(example)
            encoded.special_as_text = self._has_special_tokens(example)
            for question in self._questions(example):
                self._encode(encoded, question, next(sources), list(islice(targets, len(question.references))))
            batch.append(encoded)
        return batch

    def _questions(self, example: Example) -> Iterator[Question]:
        """None for what is encoded as a conversation."""
        return iter(()) if self._conversations is not None and example.turns else example.questions()

    def _has_special_tokens(self, example: Example) -> bool:
        if not example.turns:
            return any(map(self._special.are_in, (example.source, *example.targets)))
        return self._special.are_in(example.tools) or any(
            self._special.are_in(text, is_answer=turn.role == "assistant")
            for turn in example.turns
            for text in (turn.text, turn.fields)
        )

    def _as_chat(
        self, chat: ConversationEncoder, questions: Sequence[Question]
    ) -> tuple[list[list[int] | RejectedRow], list[list[int]]]:
        """The prompt around each source as what a user says, and its targets as answers. Special tokens that the prompt
        names stay text: here they would forge a turn."""
        sources, targets = list[list[int] | RejectedRow](), list[list[int]]()
        for question in questions:
            try:
                source, answers = chat.exchange(self._prompt(question.source), question.references)
            except RejectedRow as problem:
                sources.append(problem)
                targets += [[] for _ in question.references]
            else:
                sources.append(source)
                targets += answers
        return sources, targets

    def _asked(self, question: Question, source: str) -> list[int]:
        """The ids of the prompt for a question, around this source. Raises RejectedRow."""
        if self._chat is None:
            return self._source_ids([source])[0]
        return self._chat.exchange(self._prompt(source), question.references)[0]

    def _prompt(self, source: str) -> str:
        # not str.format: the text around may hold braces of its own
        return self._params.prompt.replace("{source}", source)

    def _source_ids(self, sources: list[str]) -> list[list[int]]:
        """With the tokenizer's own special tokens. In a causal model without an end token, since the target follows,
        and never empty: the first token of a free text needs one before it."""
        if self._has_special_prompt:
            return self._with_special_prompt(sources)
        encoded = self._texts.ids([self._prompt(source) for source in sources])
        if self._family != "causal":
            return encoded
        end, start = self._tokenizer.eos_token_id, self._tokenizer.bos_token_id
        for ids in encoded:
            while ids and ids[-1] == end:
                ids.pop()
            if not ids:
                ids.append(end if start is None else start)
        return encoded

    def _with_special_prompt(self, sources: list[str]) -> list[list[int]]:
        """The prompt's own special tokens are special, those of a source stay text. A start token that the prompt has
        is not doubled."""
        texts = [self._marked_prompt.replace("{source}", inert(source)) for source in sources]
        start, end = self._texts.frame
        end = [] if self._family == "causal" else end
        bare = [marked.ids for marked in self._marked.ids(texts, [()] * len(texts))]
        return [[*([] if start and ids[:1] == start[-1:] else start), *ids, *end] for ids in bare]

    def _target_ids(self, texts: list[str]) -> list[list[int]]:
        """As the model writes them, the end token included. A label for a classification head is its number."""
        if self._labels and self._family == "encoder":
            return [[self._labels.index(text)] for text in texts]
        if self._family == "causal":
            end = self._tokenizer.eos_token_id
            return [[*ids, end] for ids in self._texts.ids(texts, special=False)]
        return [target_from(ids, self._tokenizer, self._family) for ids in self._texts.ids(texts, is_target=True)]

    def _encode(
        self, encoded: Encoded, question: Question, source_ids: list[int] | RejectedRow, targets: list[list[int]]
    ) -> None:
        """Adds the tokenized examples of one question, or the reason why there are none. A question without references
        makes one, without a target."""
        tries = max(len(targets), 1)
        encoded.tried += tries
        try:
            if isinstance(source_ids, RejectedRow):
                raise source_ids
            encoded.source_tokens.append(len(source_ids))
            encoded.target_tokens += map(len, targets)
            encoded.unknown_tokens += self._texts.unknown(source_ids, *targets)
            fitting = self._fitting_source(encoded.example, question, source_ids)
        except RejectedRow as problem:
            encoded.problems += [problem] * tries
            return
        encoded.sources_truncated += fitting is not source_ids
        if not targets:
            encoded.tokenized.append(TokenizedExample(question.id, fitting, [], [], 0))
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
            ids = self._asked(question, source)
        if len(ids) > limit:
            raise RejectedRow("long_prompt", f"tokenize.prompt alone takes {len(ids):,} tokens")
        return ids

    def _fitting_history(self, example: Example, question: Question) -> list[int]:
        """The ids of a conversation before one of its answers, without its oldest turns."""

        def encode(turns: list[Turn]) -> list[int]:
            return self._source_ids([render(turns)])[0]

        number = [each.id for each in example.questions()].index(question.id)
        turns = example.turns[: answer_places(example.turns)[number]]
        limit = self._params.max_source_tokens
        return encode(without_oldest(turns, turns_to_drop(turns, lambda history: len(encode(history)), limit)))

    def _tokenized(self, name: str, source_ids: list[int], ids: list[int], size: int) -> Iterator[TokenizedExample]:
        """One; or, by the policy for long targets, as many as the target needs. Each token has loss in exactly one. The
        tokens right before a piece are repeated in front of it as context."""
        limit, overlap = self._params.max_target_tokens, self._params.overlap_tokens
        is_label = self._labels and self._family == "encoder"
        if not is_label and len(ids) <= self._empty_target:
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
