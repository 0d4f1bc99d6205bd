"""Texts as token ids: many at once on all cores, and what is done with those that are too long."""

import json
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from stages.lib.chat_format import ChatFormat, Chunk
from stages.lib.chats import Turn, render
from stages.lib.examples import Example, Question, answer_id
from stages.lib.pairs import Pair
from stages.lib.params.model import Kind
from stages.lib.params.tokenize import Tokenize
from stages.lib.templates import Unusable
from stages.lib.vocabulary import target_from

# examples, then the ids of each source and of each target of all their questions; none of those that are chats
Ids = tuple[Sequence[Example], list[list[int]], list[list[int]]]


@dataclass(slots=True)
class Encoded:
    """One example. Lengths are in tokens, before anything was cut, split or set aside."""

    example: Example
    tried: int = 0  # pairs of a source and a target, or answers
    source_tokens: list[int] = field(default_factory=list)
    target_tokens: list[int] = field(default_factory=list)
    unknown_tokens: int = 0
    sources_cut: int = 0
    targets_split: int = 0
    pairs: list[Pair] = field(default_factory=list)
    problems: list[Unusable] = field(default_factory=list)


@dataclass
class ChatTokens:
    """A conversation as ids, with the places where each answer that is learned begins and ends."""

    turns: list[Turn]
    last_only: bool  # the last turn is the only one of these answers
    ids: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def pair(self, name: str, start: int, stop: int, size: int) -> Pair:
        """Answers `start` to `stop`, the latter not among them, with all before them as source."""
        begin, last = self.firsts[start], self.ends[stop - 1]
        between = zip(self.ends[start : stop - 1], self.firsts[start + 1 : stop], strict=True)
        only_read = [place - begin for end, first in between for place in range(end, first)]
        return Pair(name, self.ids[:begin], self.ids[begin:last], only_read, size)


class Encoder:
    """Encodes batches of examples by the settings of section `tokenize`, as models of this kind expect it.

    Args:
        labels: what targets are chosen from; none for free text.
        answers_apart: each answer of a conversation makes a pair of its own, as predictions need it. Else, where the
            model reads and writes in one stack, as many answers as fit share a pair, each with loss.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        params: Tokenize,
        kind: Kind = "causal",
        labels: Sequence[str] = (),
        answers_apart: bool = False,
    ) -> None:
        self._tokenizer, self._params, self._kind, self._labels = tokenizer, params, kind, labels
        self._answers_apart = answers_apart
        self._chat = ChatFormat(tokenizer) if kind == "causal" and tokenizer.chat_template else None
        self._as_chat = params.as_chat and self._chat is not None
        # the library below, without the Python around it, which would take as long as the tokenizing
        self._backend = _plain_backend(tokenizer) if tokenizer.is_fast else None
        self._target_backend = _target_backend(tokenizer) if tokenizer.is_fast else None

    @property
    def is_fast(self) -> bool:
        return self._backend is not None

    def ids(self, examples: Sequence[Example]) -> Ids:
        """Before anything is cut or split. This part leaves Python's lock free, so that it may run beside the other."""
        questions = [question for example in examples for question in self._plain_questions(example)]
        sources = self._source_ids([self._prompt(question.source) for question in questions])
        return examples, sources, self._target_ids([text for each in questions for text in each.references])

    def fitted(self, ids: Ids) -> list[Encoded]:
        examples, sources, targets = ids
        rest_of_sources, rest_of_targets = iter(sources), iter(targets)
        batch = []
        for example in examples:
            encoded = Encoded(example)
            if self._is_chat(example):
                self._encode_chat(encoded, example.turns)
            for question in self._plain_questions(example):
                answers = list(islice(rest_of_targets, len(question.references)))
                self._encode(encoded, question, next(rest_of_sources), answers)
            batch.append(encoded)
        return batch

    def _is_chat(self, example: Example) -> bool:
        return self._chat is not None and bool(example.turns)

    def _plain_questions(self, example: Example) -> Iterator[Question]:
        return iter(()) if self._is_chat(example) else example.questions()

    def _prompt(self, source: str) -> str:
        # not str.format: the text around may hold braces of its own
        return self._params.prompt.replace("{source}", source)

    def _source_ids(self, texts: list[str]) -> list[list[int]]:
        """With the tokenizer's own special tokens, but without an end token where the target follows in one stack.
        Never empty, since the first token of a free text must be predicted from something."""
        if self._as_chat:
            return [self._chat_prompt([Turn("user", text)]) for text in texts]
        encoded = self._encoded_texts(texts)
        if self._kind != "causal":
            return encoded
        end, start = self._tokenizer.eos_token_id, self._tokenizer.bos_token_id
        for ids in encoded:
            while ids and ids[-1] == end:
                ids.pop()
            if not ids:
                ids.append(end if start is None else start)
        return encoded

    def _target_ids(self, texts: list[str]) -> list[list[int]]:
        """As the model writes them, the end token included; of a label that a head chooses, its number."""
        if self._labels and self._kind == "encoder":
            return [[self._labels.index(text)] for text in texts]
        if self._as_chat:
            return [self._chat_answer(text) for text in texts]
        if self._kind == "causal":
            return [[*ids, self._tokenizer.eos_token_id] for ids in self._text_ids(texts)]
        encoded = self._encoded_texts(texts, is_target=True)
        return [target_from(ids, self._tokenizer, self._kind) for ids in encoded]

    def _text_ids(self, texts: list[str]) -> list[list[int]]:
        return self._encoded_texts(texts, special=False)

    def _encoded_texts(self, texts: list[str], special: bool = True, is_target: bool = False) -> list[list[int]]:
        if not texts:
            return []
        backend = self._target_backend if is_target else self._backend
        if backend is not None:
            return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=special)]
        way = "text_target" if is_target else "text"
        encoded = self._tokenizer(**{way: texts}, add_special_tokens=special, split_special_tokens=True)["input_ids"]
        return [list(ids) for ids in encoded]

    def _encode(self, encoded: Encoded, question: Question, source_ids: list[int], targets: list[list[int]]) -> None:
        """Adds the pairs of one question, or why there are none."""
        encoded.tried += len(targets)
        encoded.source_tokens.append(len(source_ids))
        encoded.target_tokens += map(len, targets)
        encoded.unknown_tokens += self._unknown(source_ids, *targets)
        try:
            fitting = self._fitting_source(encoded.example, question, source_ids)
        except Unusable as problem:
            encoded.problems += [problem] * len(targets)
            return
        encoded.sources_cut += fitting is not source_ids
        for target, ids in zip(question.references, targets, strict=True):
            try:
                pairs = list(self._pairs(question.id, fitting, ids, len(target.encode())))
            except Unusable as problem:
                encoded.problems.append(problem)
            else:
                encoded.pairs += pairs
                encoded.targets_split += len(pairs) > 1

    def _unknown(self, *texts: list[int]) -> int:
        # GPT-2 names one token for unknown, start and end; being byte-level, it knows every text
        unknown = self._tokenizer.unk_token_id
        if unknown in (None, self._tokenizer.eos_token_id, self._tokenizer.bos_token_id):
            return 0
        return sum(ids.count(unknown) for ids in texts)

    def _fitting_source(self, example: Example, question: Question, ids: list[int]) -> list[int]:
        """The same ids, or, by the policy for long sources, those of the prompt around a shorter source."""
        limit, policy = self._params.max_source_tokens, self._params.long_source
        if len(ids) <= limit:
            return ids
        if policy not in ("cut_start", "cut_end"):
            raise Unusable("long_source", f"source of {len(ids):,} tokens, more than tokenize.max_source_tokens")
        if example.turns:
            number = [each.id for each in example.questions()].index(question.id)
            turns = _until_answer(example.turns, number)[:-1]
            return self._shortest_history(turns, lambda left: self._source_ids([self._prompt(render(left))])[0])
        source = question.source
        while len(ids) > limit and source:
            excess = -(-(len(ids) - limit) // self._params.prompt.count("{source}"))
            source = self._shortened(source, excess, at_start=policy == "cut_start")
            ids = self._source_ids([self._prompt(source)])[0]
        if len(ids) > limit:
            raise Unusable("long_prompt", f"tokenize.prompt alone takes {len(ids):,} tokens")
        return ids

    def _shortened(self, text: str, tokens: int, at_start: bool) -> str:
        """Without this many tokens at one end; a tokenizer that does not say where they stand loses as many parts."""
        if self._backend is None:
            characters = -(-len(text) * tokens // max(len(self._text_ids([text])[0]), 1))
            return text[characters:] if at_start else text[: max(len(text) - characters, 0)]
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        if tokens >= len(offsets):
            return ""
        # at least a character: a token may be a part of one
        return text[max(offsets[tokens - 1][1], 1) :] if at_start else text[: min(offsets[-tokens][0], len(text) - 1)]

    def _pairs(self, name: str, source_ids: list[int], ids: list[int], size: int) -> Iterator[Pair]:
        """One pair, or, by the policy for long targets, as many as it takes. Each token carries loss in exactly one;
        those right before a piece are repeated in front of it as context."""
        limit, overlap = self._params.max_target_tokens, self._params.overlap_tokens
        is_label = self._labels and self._kind == "encoder"
        if not is_label and len(ids) <= len(target_from([], self._tokenizer, self._kind)):
            raise Unusable("untrainable", "the target has no token of its own, only the end token")
        if len(ids) <= limit:
            yield Pair(name, source_ids, ids, [], size)
            return
        if self._params.long_target != "split" or self._kind != "causal":
            why = "" if self._params.long_target != "split" else "; only causal models go on with a split target"
            raise Unusable("long_target", f"target of {len(ids):,} tokens, more than tokenize.max_target_tokens{why}")
        for start in range(0, len(ids), limit):
            stop = min(start + limit, len(ids))
            share = size * stop // len(ids) - size * start // len(ids)
            yield Pair(name, [*source_ids, *ids[max(start - overlap, 0) : start]], ids[start:stop], [], share)

    def _encode_chat(self, encoded: Encoded, turns: list[Turn]) -> None:
        """Adds the pairs of a conversation: each has the history that fits, and one answer or as many as fit."""
        answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
        encoded.tried += len(answers)
        try:
            whole = self._chat_tokens(turns)
        except Unusable:
            # some templates write what came before differently at every turn: then each answer stands for itself
            for number, place in enumerate(answers):
                try:
                    alone = self._chat_tokens(turns[: place + 1], last_only=True)
                except Unusable as problem:
                    encoded.problems.append(problem)
                else:
                    self._encode_answers(encoded, alone, [place], number)
        else:
            self._encode_answers(encoded, whole, answers, 0)

    def _encode_answers(self, encoded: Encoded, whole: ChatTokens, places: list[int], first: int) -> None:
        """Adds the pairs of the answers at these places of a conversation, `first` being the number of the first."""
        encoded.source_tokens += whole.firsts
        encoded.target_tokens += (end - first for first, end in zip(whole.firsts, whole.ends, strict=True))
        encoded.unknown_tokens += self._unknown(whole.ids)
        number = 0
        while number < len(places):
            try:
                tokens = self._with_fitting_history(whole, places[number], number)
                own = number - (len(places) - len(tokens.firsts))  # its number among the answers that are left
                stop = self._last_fitting(tokens, own)
            except Unusable as problem:
                encoded.problems.append(problem)
                number += 1
                continue
            size = sum(len(whole.turns[place].text.encode()) for place in places[number : number + stop - own])
            name = answer_id(encoded.example.id, first + number)
            encoded.pairs.append(tokens.pair(name, own, stop, size))
            encoded.sources_cut += tokens is not whole
            number += stop - own

    def _with_fitting_history(self, whole: ChatTokens, place: int, number: int) -> ChatTokens:
        """The same conversation, or, by the policy for long sources, without its oldest turns, so that the prompt for
        this answer fits."""
        found = whole.firsts[number]
        if found <= self._params.max_source_tokens:
            return whole
        if self._params.long_source not in ("cut_start", "cut_end"):
            raise Unusable("long_source", f"history of {found:,} tokens, more than tokenize.max_source_tokens")
        skipped = self._turns_to_drop(whole.turns[:place], self._chat_prompt)
        return self._chat_tokens(_without_oldest(whole.turns, skipped), whole.last_only)

    def _last_fitting(self, tokens: ChatTokens, own: int) -> int:
        """The number behind the last answer that fits into a pair that begins with answer `own`."""
        lengths = [end - first for first, end in zip(tokens.firsts, tokens.ends, strict=True)]
        limit = self._params.max_target_tokens
        if lengths[own] > limit:
            raise Unusable("long_target", f"answer of {lengths[own]:,} tokens, more than tokenize.max_target_tokens")
        stop = own + 1
        room = self._params.max_source_tokens + limit
        while not self._answers_apart and stop < len(lengths) and lengths[stop] <= limit and tokens.ends[stop] <= room:
            stop += 1
        return stop

    def _chat_tokens(self, turns: list[Turn], last_only: bool = False) -> ChatTokens:
        assert self._chat is not None
        chunks = self._chat.chunks(turns, last_only)
        tokens = ChatTokens(turns, last_only)
        for (_, answer), ids in zip(chunks, self._chunk_ids(chunks), strict=True):
            if answer is not None and answer == len(tokens.firsts):
                tokens.firsts.append(len(tokens.ids))
                tokens.ends.append(len(tokens.ids))
            tokens.ids += ids
            if answer is not None:
                tokens.ends[answer] = len(tokens.ids)
        return tokens

    def _chunk_ids(self, chunks: Sequence[Chunk]) -> Iterator[list[int]]:
        encoded = iter(self._text_ids([content for content, _ in chunks if isinstance(content, str)]))
        before, before_ids = "", list[int]()
        for content, _ in chunks:
            if isinstance(content, int):
                before, ids = "", [content]
            else:
                ids = self._continuation(before, before_ids, content, alone=next(encoded))
                before, before_ids = content, ids
            yield ids

    def _continuation(self, before: str, before_ids: list[int], text: str, alone: list[int]) -> list[int]:
        """The ids of a text that another one stands before, where they leave those of the other as they are: `alone`,
        tokenizers like Llama 2's would put a blank in front."""
        if not before:
            return alone
        (both,) = self._text_ids([before + text])
        return both[len(before_ids) :] if both[: len(before_ids)] == before_ids else alone

    def _chat_prompt(self, turns: list[Turn]) -> list[int]:
        tokens = self._chat_tokens([*turns, Turn("assistant", "-")], last_only=True)
        return tokens.ids[: tokens.firsts[0]]

    def _chat_answer(self, text: str) -> list[int]:
        tokens = self._chat_tokens([Turn("user", "-"), Turn("assistant", text)])
        return tokens.ids[tokens.firsts[0] : tokens.ends[0]]

    def _shortest_history(self, turns: list[Turn], encode: Callable[[list[Turn]], list[int]]) -> list[int]:
        return encode(_without_oldest(turns, self._turns_to_drop(turns, encode)))

    def _turns_to_drop(self, turns: list[Turn], encode: Callable[[list[Turn]], list[int]]) -> int:
        """How many of the oldest turns, system turns aside, have to go until the rest fits.

        Raises:
            Unusable: not even the last turn fits.
        """
        # a conversation can't begin with an answer
        ways = [n for n in range(len(turns)) if (left := _without_oldest(turns, n)) and _may_begin(left)]
        low, high = 0, len(ways) - 1
        while low < high:  # less history is never longer
            middle = (low + high) // 2
            if len(encode(_without_oldest(turns, ways[middle]))) <= self._params.max_source_tokens:
                high = middle
            else:
                low = middle + 1
        if not ways or len(encode(_without_oldest(turns, ways[low]))) > self._params.max_source_tokens:
            raise Unusable("long_source", "the last turn alone is longer than tokenize.max_source_tokens")
        return ways[low]


def _until_answer(turns: list[Turn], number: int) -> list[Turn]:
    places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    return turns[: places[number] + 1]


def _without_oldest(turns: list[Turn], count: int) -> list[Turn]:
    """Without this many turns from the oldest on; what the system was told stays."""
    kept = next((place for place, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return [*turns[:kept], *turns[kept + count :]]


def _may_begin(turns: list[Turn]) -> bool:
    return next((turn.role for turn in turns if turn.role != "system"), "assistant") != "assistant"


def _target_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """As `_plain_backend`, for targets, which may be of another language than sources."""
    if not hasattr(tokenizer, "_switch_to_target_mode"):
        return _plain_backend(tokenizer)
    tokenizer._switch_to_target_mode()
    try:
        return _plain_backend(tokenizer)
    finally:
        tokenizer._switch_to_input_mode()


def _plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy for which `<|end|>` in a text stays the characters that it is: data can't end a target or forge a turn."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] == "Unigram":  # it has its special tokens among its pieces as well, likelier than any
        special = set(tokenizer.all_special_tokens) - {tokenizer.unk_token}
        pieces = content["model"]["vocab"]
        content["model"]["vocab"] = [[_renamed(text, special), score] for text, score in pieces]
        for token in content["added_tokens"]:  # under the same names as the pieces, so that all keep their ids
            token["content"] = _renamed(token["content"], special)
    backend = Tokenizer.from_str(json.dumps(content))
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _renamed(token: str, special: Container[str]) -> str:
    """No text holds a NUL and the name of a special token behind it."""
    return f"\0{token}" if token in special else token
