"""Conversations -> token ids, by the tokenizer's chat template; and the policy for conversations that are too long."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.chat_template import ChatFormat, Chunk
from stages.lib.core.templates import RejectedRow
from stages.lib.encoding.encoded import Encoded
from stages.lib.encoding.text_encoder import TextEncoder
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.chats import Turn
from stages.lib.records.examples import answer_id
from stages.lib.records.tokenized_examples import TokenizedExample


@dataclass
class ChatTokens:
    """A conversation as ids. `firsts` and `ends` are the places where each answer with loss begins and ends."""

    turns: list[Turn]
    last_only: bool  # only the last turn has loss
    ids: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def example(self, name: str, start: int, stop: int, size: int) -> TokenizedExample:
        """Answers `start` to `stop` (excluded) as target, and all before them as source."""
        begin, last = self.firsts[start], self.ends[stop - 1]
        between = zip(self.ends[start : stop - 1], self.firsts[start + 1 : stop], strict=True)
        masked = [place - begin for end, first in between for place in range(end, first)]
        return TokenizedExample(name, self.ids[:begin], self.ids[begin:last], masked, size)


class ConversationEncoder:
    """With `answers_apart` each answer makes its own tokenized example. Else as many answers as fit share one."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, texts: TextEncoder, params: Tokenize, answers_apart: bool
    ) -> None:
        self._format, self._texts, self._params = ChatFormat(tokenizer), texts, params
        self._answers_apart = answers_apart

    def prompt_ids(self, turns: list[Turn]) -> list[int]:
        """All that the model reads before it answers these turns."""
        tokens = self._tokens([*turns, Turn("assistant", "-")], last_only=True)
        return tokens.ids[: tokens.firsts[0]]

    def answer_ids(self, text: str) -> list[int]:
        """The answer as the model writes it, the end token included."""
        tokens = self._tokens([Turn("user", "-"), Turn("assistant", text)])
        return tokens.ids[tokens.firsts[0] : tokens.ends[0]]

    def encode(self, encoded: Encoded, turns: list[Turn]) -> None:
        """Adds the tokenized examples of a conversation: each has the history that fits, and one answer or several."""
        answers = answer_places(turns)
        encoded.tried += len(answers)
        try:
            whole = self._tokens(turns)
        except RejectedRow:
            # some templates change earlier turns when more turns follow: then each answer is encoded alone
            for number, place in enumerate(answers):
                try:
                    alone = self._tokens(turns[: place + 1], last_only=True)
                except RejectedRow as problem:
                    encoded.problems.append(problem)
                else:
                    self._encode_answers(encoded, alone, [place], number)
        else:
            self._encode_answers(encoded, whole, answers, 0)

    def _encode_answers(self, encoded: Encoded, whole: ChatTokens, places: list[int], first: int) -> None:
        """Adds the tokenized examples of the answers at these places; `first` is the number of the first."""
        encoded.source_tokens += whole.firsts
        encoded.target_tokens += (end - first for first, end in zip(whole.firsts, whole.ends, strict=True))
        encoded.unknown_tokens += self._texts.unknown(whole.ids)
        number = 0
        while number < len(places):
            try:
                tokens = self._with_fitting_history(whole, places[number], number)
                own = number - (len(places) - len(tokens.firsts))  # its number among the answers that are left
                stop = self._last_fitting(tokens, own)
            except RejectedRow as problem:
                encoded.problems.append(problem)
                number += 1
                continue
            size = sum(len(whole.turns[place].text.encode()) for place in places[number : number + stop - own])
            name = answer_id(encoded.example.id, first + number)
            encoded.tokenized.append(tokens.example(name, own, stop, size))
            encoded.sources_truncated += tokens is not whole
            number += stop - own

    def _with_fitting_history(self, whole: ChatTokens, place: int, number: int) -> ChatTokens:
        """The same conversation; or, by the policy for long sources, without its oldest turns, so that the prompt for
        this answer fits."""
        found, limit = whole.firsts[number], self._params.max_source_tokens
        if found <= limit:
            return whole
        if self._params.truncation not in ("left", "right"):
            raise RejectedRow("long_source", f"history of {found:,} tokens, more than tokenize.max_source_tokens")
        skipped = turns_to_drop(whole.turns[:place], self.prompt_ids, limit)
        return self._tokens(without_oldest(whole.turns, skipped), whole.last_only)

    def _last_fitting(self, tokens: ChatTokens, own: int) -> int:
        """The number after the last answer that fits into a tokenized example that begins with answer `own`."""
        lengths = [end - first for first, end in zip(tokens.firsts, tokens.ends, strict=True)]
        limit = self._params.max_target_tokens
        if lengths[own] > limit:
            raise RejectedRow("long_target", f"answer of {lengths[own]:,} tokens, more than tokenize.max_target_tokens")
        stop = own + 1
        room = self._params.max_source_tokens + limit
        while not self._answers_apart and stop < len(lengths) and lengths[stop] <= limit and tokens.ends[stop] <= room:
            stop += 1
        return stop

    def _tokens(self, turns: list[Turn], last_only: bool = False) -> ChatTokens:
        chunks = self._format.chunks(turns, last_only)
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
        contents = [content for content, _ in chunks if isinstance(content, str)]
        encoded = iter(self._texts.ids(contents, special=False))
        before, before_ids = "", list[int]()
        for content, _ in chunks:
            if isinstance(content, int):
                before, ids = "", [content]
            else:
                ids = self._continuation(before, before_ids, content, alone=next(encoded))
                before, before_ids = content, ids
            yield ids

    def _continuation(self, before: str, before_ids: list[int], text: str, alone: list[int]) -> list[int]:
        """The ids of a text after another text, if the ids of that one stay the same. Tokenizers such as Llama 2's put
        a blank in front of a text that is encoded `alone`."""
        if not before:
            return alone
        (both,) = self._texts.ids([before + text], special=False)
        return both[len(before_ids) :] if both[: len(before_ids)] == before_ids else alone


def answer_places(turns: Sequence[Turn]) -> list[int]:
    return [place for place, turn in enumerate(turns) if turn.role == "assistant"]


def turns_to_drop(turns: list[Turn], encode: Callable[[list[Turn]], list[int]], limit: int) -> int:
    """How many of the oldest turns, system turns not counted, to drop until the others have at most `limit` tokens.

    Raises:
        RejectedRow: the last turn alone is too long.
    """
    # a conversation can't begin with an answer
    possible = [n for n in range(len(turns)) if (left := without_oldest(turns, n)) and _can_begin(left)]
    low, high = 0, len(possible) - 1
    while low < high:  # less history is never longer
        middle = (low + high) // 2
        if len(encode(without_oldest(turns, possible[middle]))) <= limit:
            high = middle
        else:
            low = middle + 1
    if not possible or len(encode(without_oldest(turns, possible[low]))) > limit:
        raise RejectedRow("long_source", "the last turn alone is longer than tokenize.max_source_tokens")
    return possible[low]


def without_oldest(turns: list[Turn], count: int) -> list[Turn]:
    """Without so many of the oldest turns; system turns stay."""
    kept = next((place for place, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return [*turns[:kept], *turns[kept + count :]]


def _can_begin(turns: list[Turn]) -> bool:
    return next((turn.role for turn in turns if turn.role != "system"), "assistant") != "assistant"
