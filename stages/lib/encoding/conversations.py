"""Conversations -> token ids, by the tokenizer's chat template; and the policy for conversations that are too long."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.chat_template import Answer, ChatFormat, Refusal, Rendering
from stages.lib.core.templates import RejectedRow
from stages.lib.core.worker_pool import in_batches
from stages.lib.encoding.encoded import Encoded
from stages.lib.encoding.marked_encoder import MarkedEncoder, MarkedIds
from stages.lib.encoding.text_encoder import TextEncoder
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.chats import Turn, answer_places
from stages.lib.records.examples import Example, answer_id
from stages.lib.records.tokenized_examples import TokenizedExample

_BATCH_RENDERINGS = 1024
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class ChatTokens:
    """A rendered conversation as ids, with its answers with loss, whose spans are of tokens."""

    turns: Sequence[Turn]
    ids: list[int]
    answers: list[Answer]

    def example(self, name: str, start: int, stop: int) -> TokenizedExample:
        """Answers `start` to `stop` (excluded) as target, and all before them as source."""
        answers = self.answers[start:stop]
        begin, end = answers[0].first, answers[-1].end
        with_loss = {place for answer in answers for span in answer.spans for place in range(*span)}
        masked = [place - begin for place in range(begin, end) if place not in with_loss]
        size = sum(answer.size for answer in answers)
        return TokenizedExample(name, self.ids[:begin], self.ids[begin:end], masked, size)


class ConversationEncoder:
    """With `answers_apart` each answer makes its own tokenized example. Else as many answers as fit share one."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, texts: TextEncoder, params: Tokenize, answers_apart: bool
    ) -> None:
        self._format, self._texts, self._params = ChatFormat(tokenizer), texts, params
        self._marked = MarkedEncoder(texts, self._format.special)
        self._answers_apart = answers_apart

    def exchange(self, question: str, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """All that the model reads before it answers a question, and what it writes for each answer, the end token
        included. Raises RejectedRow where the template can't write them."""
        found = self._tokens(self._format.exchanges(question, answers or ["-"]))
        source = found[0].ids[: found[0].answers[0].first]
        targets = [tokens.ids[answer.first : answer.end] for tokens in found for answer in tokens.answers]
        return source, targets if answers else []

    def encode(self, examples: Iterable[Example]) -> list[Encoded]:
        """The tokenized examples of each conversation: each has the history that fits, and one answer or several."""
        batch = [Encoded(example) for example in examples]
        pairs = ((encoded, rendering) for encoded in batch for rendering in self._renderings(encoded))
        for chunk in in_batches(pairs, lambda pair: len(pair[1].text), _BATCH_RENDERINGS, _BATCH_CHARACTERS):
            tokens = self._tokens([rendering for _, rendering in chunk])
            for (encoded, _), own in zip(chunk, tokens, strict=True):
                self._add(encoded, own)
        for encoded in batch:
            places = [answer_id(encoded.example.id, number) for number in range(encoded.tried)]
            encoded.tokenized.sort(key=lambda example: places.index(example.id))
        return batch

    def _renderings(self, encoded: Encoded) -> Iterator[Rendering]:
        example = encoded.example
        places = answer_places(example.turns)
        encoded.tried += len(places)
        rendered = self._format.renderings(example.turns, example.tools, places, self._answers_apart, encoded.left_out)
        for rendering in rendered:
            if isinstance(rendering, Refusal):
                encoded.problems.append(rendering.problem)
            else:
                yield rendering

    def _tokens(self, renderings: Sequence[Rendering]) -> list[ChatTokens]:
        spans = [[span for answer in rendering.answers for span in answer.spans] for rendering in renderings]
        marked = self._marked.ids([rendering.text for rendering in renderings], spans)
        return [
            ChatTokens(rendering.turns, own.ids, [_in_tokens(answer, own) for answer in rendering.answers])
            for rendering, own in zip(renderings, marked, strict=True)
        ]

    def _add(self, encoded: Encoded, whole: ChatTokens) -> None:
        """Adds the tokenized examples of the answers of one rendering."""
        encoded.source_tokens += (answer.first for answer in whole.answers)
        encoded.target_tokens += (answer.end - answer.first for answer in whole.answers)
        encoded.unknown_tokens += self._texts.unknown(whole.ids)
        numbers = {place: number for number, place in enumerate(answer_places(encoded.example.turns))}
        waiting, skipped = [answer.place for answer in whole.answers], 0
        while waiting:
            name = answer_id(encoded.example.id, numbers[waiting[0]])
            try:
                tokens, skipped = self._with_fitting_history(encoded.example.tools, whole, waiting, skipped)
                start = [answer.place + skipped for answer in tokens.answers].index(waiting[0])
                stop = self._last_fitting(tokens, start)
            except RejectedRow as problem:
                encoded.problems.append(problem)
                waiting = waiting[1:]
                continue
            encoded.tokenized.append(tokens.example(name, start, stop))
            encoded.sources_truncated += tokens is not whole
            done = {answer.place + skipped for answer in tokens.answers[start:stop]}
            waiting = [place for place in waiting if place not in done]

    def _with_fitting_history(
        self, tools: str, whole: ChatTokens, places: list[int], likely: int
    ) -> tuple[ChatTokens, int]:
        """The same conversation; or, by the policy for long sources, without its oldest turns, so that the prompt for
        the first of these answers fits. Then it has those of them that the template writes alike in it. The number is
        that of the turns left out; `likely` is a guess of it."""
        found = next(answer.first for answer in whole.answers if answer.place == places[0])
        limit = self._params.max_source_tokens
        if found <= limit:
            return whole, 0
        if self._params.truncation not in ("left", "right"):
            raise RejectedRow("long_source", f"history of {found:,} tokens, more than tokenize.max_source_tokens")
        answer = whole.turns[places[0]]
        skipped = turns_to_drop(
            whole.turns[: places[0]], lambda history: self._prompt_length([*history, answer], tools), limit, likely
        )
        shorter = without_oldest(whole.turns, skipped)
        wanted = [place - skipped for place in (places[:1] if self._answers_apart else places)]
        for rendering in self._format.renderings(shorter, tools, wanted, self._answers_apart):
            if isinstance(rendering, Refusal):
                if rendering.place == wanted[0]:
                    raise rendering.problem
            elif rendering.answers[0].place == wanted[0]:
                return self._tokens([rendering])[0], skipped
        raise AssertionError("each answer is in a rendering or refused")

    def _prompt_length(self, turns: Sequence[Turn], tools: str) -> int:
        """Of all that the model reads before the last of these turns."""
        (tokens,) = self._tokens([self._format.alone(turns, tools)])
        return tokens.answers[0].first

    def _last_fitting(self, tokens: ChatTokens, start: int) -> int:
        """The number after the last answer that fits into a tokenized example that begins with answer `start`."""
        lengths = [answer.end - answer.first for answer in tokens.answers]
        limit = self._params.max_target_tokens
        if lengths[start] > limit:
            raise RejectedRow(
                "long_target", f"answer of {lengths[start]:,} tokens, more than tokenize.max_target_tokens"
            )
        stop = start + 1
        room = self._params.max_source_tokens + limit
        while (
            not self._answers_apart
            and stop < len(lengths)
            and lengths[stop] <= limit
            and tokens.answers[stop].end <= room
        ):
            stop += 1
        return stop


def _in_tokens(answer: Answer, marked: MarkedIds) -> Answer:
    return replace(answer, spans=[(marked.before(begin), marked.before(end)) for begin, end in answer.spans])


def turns_to_drop(turns: Sequence[Turn], length: Callable[[list[Turn]], int], limit: int, likely: int = 0) -> int:
    """How many of the oldest turns, system turns not counted, to drop until the others have at most `limit` tokens.
    What is left begins with a user's turn: an answer or the result of a tool would lack what it answers.

    Args:
        length: of turns, in tokens.
        likely: a guess of the answer, which saves calls of `length` if it is right or a little too small.

    Raises:
        RejectedRow: the turns since the last one of a user are too long.
    """
    possible = [n for n in range(len(turns)) if n == 0 or _can_begin(without_oldest(turns, n))]

    def fits(number: int) -> bool:  # less history is never longer
        return length(without_oldest(turns, possible[number])) <= limit

    low, high, step = 0, len(possible), 0
    if guess := bisect_left(possible, likely):
        low, high = (0, guess - 1) if fits(guess - 1) else (guess, high)
    while low < high:
        middle = min(low + step, (low + high) // 2)
        if fits(middle):
            high = middle
        else:
            low, step = middle + 1, 2 * step + 1
    if low == len(possible):
        raise RejectedRow(
            "long_source", "the turns since the last user turn are longer than tokenize.max_source_tokens"
        )
    return possible[low]


def without_oldest(turns: Sequence[Turn], count: int) -> list[Turn]:
    """Without so many of the oldest turns; system turns stay."""
    kept = next((place for place, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return [*turns[:kept], *turns[kept + count :]]


def _can_begin(turns: Sequence[Turn]) -> bool:
    return next((turn.role for turn in turns if turn.role != "system"), "") == "user"
