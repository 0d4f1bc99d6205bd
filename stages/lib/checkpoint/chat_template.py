"""Conversations as the model's own chat template writes them, and where in that text the answers with loss stand."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from stages.lib.checkpoint.special_tokens import NO_MARK, SpecialTokens
from stages.lib.core.templates import RejectedRow
from stages.lib.records.chats import Turn

# for tokenizers without a template: each turn as `Turn.written` writes it, and the end token after each answer
PLAIN_TEMPLATE = (
    "{% if tools %}tools: {{ tools | tojson }}{{ '\\n' }}{% endif %}"
    "{% for message in messages %}{{ message['role'] }}: "
    "{% if 'reasoning_content' in message %}{{ '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}"
    "{% endif %}{{ message['content'] }}"
    "{% for call in message['tool_calls'] | default([]) %}{{ '\\n' if message['content'] or not loop.first }}"
    "{{ '<tool_call>\\n' + call['function'] | tojson + '\\n</tool_call>' }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

# Some templates write the current date: the same inputs would not give the same ids tomorrow. A macro, since
# transformers passes no function on to a template.
FIXED_DATE = (
    "{% macro strftime_now(form) %}{{ form | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July')"
    " | replace('%m', '07') | replace('%Y', '2024') | replace('%y', '24') | replace('%A', 'Friday')"
    " | replace('%a', 'Fri') | replace('%H', '00') | replace('%M', '00') | replace('%S', '00') }}{% endmacro %}"
)
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

_NO_END = "it has no special token after an answer"

# stands for a text of a conversation, to see whether the template writes it
_HOLE = f"{NO_MARK}{{}}{NO_MARK}"

Span = tuple[int, int]
Message = dict[str, Any]
Tools = list[Any] | None


@dataclass(frozen=True)
class Answer:
    """An answer with loss in a rendered conversation. `spans` have the loss, in characters or in tokens: the first
    begins where the prompt for this answer ends, the last ends with the end token. There are several where a template
    has several {% generation %} blocks. `size` is the length of the answer in UTF-8, without white space and end token
    around it."""

    place: int  # of its turn
    spans: list[Span]
    size: int

    @property
    def first(self) -> int:
        return self.spans[0][0]

    @property
    def end(self) -> int:
        return self.spans[-1][1]


@dataclass(frozen=True)
class Rendering:
    """What the template makes of these turns, in marked form (see special_tokens), and its answers with loss."""

    turns: Sequence[Turn]
    text: str
    answers: list[Answer]


@dataclass(frozen=True)
class Refusal:
    """Why the answer at this place can't be learned."""

    place: int
    problem: RejectedRow


class _Chat(NamedTuple):
    """What a template reads."""

    messages: list[Message]
    tools: Tools

    def before(self, place: int) -> "_Chat":
        return _Chat(self.messages[:place], self.tools)

    def replaced(self, place: int, **changes: Any) -> "_Chat":
        """With other fields in one message; None removes a field."""
        left = {name for name, value in changes.items() if value is None}
        changed = {name: value for name, value in (self.messages[place] | changes).items() if name not in left}
        return _Chat([*self.messages[:place], changed, *self.messages[place + 1 :]], self.tools)

    def with_arguments_as_text(self) -> "_Chat":
        """With the arguments of all calls of tools as JSON text."""
        messages = [
            message | {"tool_calls": list(map(_with_arguments_as_text, message["tool_calls"]))}
            if "tool_calls" in message
            else message
            for message in self.messages
        ]
        return _Chat(messages, self.tools)


class _Text(NamedTuple):
    """In marked form, and what stands in {% generation %} blocks; None if the template has none."""

    text: str
    generated: list[Span] | None


class _Template(NamedTuple):
    text: str
    has_generation: bool


class ChatFormat:
    """One tokenizer's chat template. Its first use raises RejectedRow if the tokenizer has several templates, and none
    of them is the default one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.special = SpecialTokens(tokenizer)

    def end_id(self) -> int:
        """The token that ends an answer, where generation stops. Raises RejectedRow where there is none."""
        return self.special.ids[self._end]

    @cached_property
    def _end(self) -> str:
        word = "sphinx"
        chat = _Chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": word}], None)
        text = self._rendered(chat).text
        start = text.find(word, _border(text, self._prompts(chat.before(1)), 1))
        for _, _, name in self.special.places(text, max(start, 0)):
            return name
        raise RejectedRow("chat_template", _NO_END)

    def renderings(
        self,
        turns: Sequence[Turn],
        tools: str,
        places: Sequence[int],
        apart: bool = False,
        left_out: Counter[str] | None = None,
    ) -> Iterator[Rendering | Refusal]:
        """The conversation up to the last of these answers. It has those answers that the template writes in it as it
        writes them in the last turn. Each other answer comes first, in a rendering that ends with it: some templates
        drop the thoughts of earlier answers.

        Args:
            places: of the answers with loss.
            apart: an answer shares the conversation only if all the text before it is the same, too.
            left_out: counts what the template passes over: `reasoning` and `thoughts` of an answer, and `tools`.
        """
        turns = turns[: places[-1] + 1]
        chat = self._chat(turns, tools)
        left_out = Counter() if left_out is None else left_out
        whole = self._complete(chat, left_out)
        shared = []
        for place in places:
            before = chat.before(place)
            try:
                prompts = self._prompts(before)
                own = self._own(chat.before(place + 1), whole, len(turns), left_out)
                answer = self._spanned(place, own, _border(own.text, prompts, place))
            except RejectedRow as problem:
                yield Refusal(place, problem)
                continue
            self._count_left_out(chat.before(place + 1), own.text, left_out)
            found = None if whole is None else _in_whole(whole.text, own.text, answer, prompts, apart)
            if found is None:
                yield Rendering(turns[: place + 1], own.text, [answer])
            else:
                shared.append(found)
        if shared and whole is not None:
            yield Rendering(turns, whole.text, shared)

    def alone(self, turns: Sequence[Turn], tools: str) -> Rendering:
        """A conversation of which only the last turn has loss. Raises RejectedRow."""
        chat, place = self._chat(turns, tools), len(turns) - 1
        text = self._rendered(chat)
        start = _border(text.text, self._prompts(chat.before(place)), place)
        return Rendering(turns, text.text, [self._spanned(place, text, start)])

    def exchanges(self, question: str, answers: Sequence[str]) -> list[Rendering]:
        """One for each answer to the same question. All have the same prompt. Raises RejectedRow."""
        turns = [[Turn("user", question), Turn("assistant", answer)] for answer in answers]
        chats = [self._chat(each, "") for each in turns]
        texts = [self._rendered(chat) for chat in chats]
        prompts = self._prompts(chats[0].before(1))
        for text in texts:
            prompts = [prompt for prompt in prompts if text.text.startswith(prompt)]
        start = _border(texts[0].text, prompts, 1)
        return [
            Rendering(each, text.text, [self._spanned(1, text, start)]) for each, text in zip(turns, texts, strict=True)
        ]

    def _chat(self, turns: Sequence[Turn], tools: str) -> _Chat:
        messages = [self.special.protected(turn.message(), is_answer=turn.role == "assistant") for turn in turns]
        if any("tool_calls" in message for message in messages) and self._writes_calls_for_null:
            messages = [_with_null(message) for message in messages]
        return _Chat(messages, self.special.protected(json.loads(tools)) if tools else None)

    def _complete(self, chat: _Chat, left_out: Counter[str]) -> _Text | None:
        """The conversation, if the template leaves out nothing of it. None if it refuses it: it may accept a part."""
        try:
            whole = self._rendered(chat)
            self._check(chat, whole.text, left_out)
        except RejectedRow:
            return None
        return whole

    def _own(self, chat: _Chat, whole: _Text | None, length: int, left_out: Counter[str]) -> _Text:
        """What the template makes of a conversation that ends with an answer; `length` is that of the whole one."""
        if whole is not None and len(chat.messages) == length:
            return whole
        own = self._rendered(chat)
        if whole is None:
            self._check(chat, own.text, left_out)
        return own

    def _prompts(self, before: _Chat) -> list[str]:
        """What generation may read after these messages, by the options that the template has."""
        return [self._rendered(before, prompt=True, **option).text for option in self._prompt_options]

    @cached_property
    def _prompt_options(self) -> list[dict[str, bool]]:
        """One for each different prompt. Where a template can think, some do so by default, and others don't."""
        if not any("enable_thinking" in template.text for template in self._templates.values()):
            return [{}]
        options: list[dict[str, bool]] = [{}, {"enable_thinking": True}, {"enable_thinking": False}]
        chat = _Chat([{"role": "user", "content": "a"}], None)
        return list({self._rendered(chat, prompt=True, **option).text: option for option in reversed(options)}.values())

    @cached_property
    def _writes_calls_for_null(self) -> bool:
        """Whether calls of tools are written only where the content is null, as in DeepSeek's templates."""
        call = {"type": "function", "id": "000000000", "function": {"name": _HOLE.format("call"), "arguments": {}}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        chats = (_Chat([{"role": "user", "content": "a"}, each], None) for each in (answer, _with_null(answer)))
        empty, null = (self._has_call(chat) for chat in chats)
        return null and not empty

    def _has_call(self, chat: _Chat) -> bool:
        try:
            return _HOLE.format("call") in self._rendered(chat).text
        except RejectedRow:
            return False

    def _spanned(self, place: int, text: _Text, start: int) -> Answer:
        """The answer that begins at `start` and is the last one of the text."""
        if text.generated is not None:
            spans = [(max(begin, start), end) for begin, end in text.generated if end > start]
            if not spans:
                raise RejectedRow("chat_template", f"it has message {place + 1} outside of its generation blocks")
        else:
            spans = [(start, self._end_after(text.text, start))]
        words = "".join(text.text[begin:end] for begin, end in spans)
        *_, last = [(len(words), len(words), ""), *self.special.places(words)]
        without_end = words[: last[0]] if last[1] == len(words) else words
        return Answer(place, spans, len(self.special.plain(without_end).strip().encode()))

    def _end_after(self, text: str, start: int) -> int:
        specials = list(self.special.places(text, start))
        ends = [end for _, end, name in specials if name == self._end] or [end for _, end, _ in specials[-1:]]
        if not ends:
            raise RejectedRow("chat_template", _NO_END)
        return ends[0]

    def _check(self, chat: _Chat, text: str, left_out: Counter[str]) -> None:
        """Counts the tools if the template leaves them out. Raises RejectedRow if it leaves out a message or a call."""
        probe = self._probe(chat)
        for place, message in enumerate(chat.messages):
            name = f"message {place + 1} ({message['role']})"
            hole = _HOLE.format(place)
            is_missing = _content(message).strip() and hole not in probe
            if is_missing and self._is_same(chat.replaced(place, content=hole), text):
                raise RejectedRow("chat_template", f"it leaves out {name}")
            calls = message.get("tool_calls") or []
            kept = [call for number, call in enumerate(calls) if _HOLE.format(f"{place}.{number}") in probe]
            if len(kept) < len(calls) and self._is_same(chat.replaced(place, tool_calls=kept or None), text):
                raise RejectedRow("chat_template", f"it leaves out a call of a tool in {name}")
        tools = chat.tools or []
        seen = all(_HOLE.format(f"tool {number}") in probe for number in range(len(tools)))
        if not seen and self._is_same(_Chat(chat.messages, None), text):
            left_out["tools"] = 1  # not once for each answer

    def _probe(self, chat: _Chat) -> str:
        """The conversation with a hole for each text, call and tool; nothing if the template refuses it."""
        messages = []
        for place, message in enumerate(chat.messages):
            calls = message.get("tool_calls") or []
            holes = [_renamed(call, _HOLE.format(f"{place}.{number}")) for number, call in enumerate(calls)]
            own = {"content": _HOLE.format(place)} if _content(message).strip() else {}
            messages.append(message | own | ({"tool_calls": holes} if calls else {}))
        tools = chat.tools and [
            _renamed(tool, _HOLE.format(f"tool {number}")) for number, tool in enumerate(chat.tools)
        ]
        try:
            return self._rendered(_Chat(messages, tools)).text
        except RejectedRow:
            return ""

    def _is_same(self, changed: _Chat, text: str) -> bool:
        try:
            return self._rendered(changed).text == text
        except RejectedRow:
            return False

    def _count_left_out(self, chat: _Chat, text: str, left_out: Counter[str]) -> None:
        """Counts the thoughts of the last message if the template leaves them out."""
        message, place = chat.messages[-1], len(chat.messages) - 1
        if message.get("reasoning_content") and self._is_same(chat.replaced(place, reasoning_content=None), text):
            left_out["reasoning"] += 1
        head, tag, rest = _content(message).partition("</think>")
        thoughts = head.rpartition("<think>")[2].strip()
        changed = head.replace(thoughts, _HOLE.format(place)) + tag + rest
        if tag and thoughts and self._is_same(chat.replaced(place, content=changed), text):
            left_out["thoughts"] += 1

    @cached_property
    def _templates(self) -> dict[bool, _Template]:
        """For conversations without tools, and with them."""
        try:
            return {with_tools: _template(self._tokenizer, with_tools) for with_tools in (False, True)}
        except ValueError as error:
            raise RejectedRow("chat_template", str(error).partition("\n")[0]) from None

    def _rendered(self, chat: _Chat, prompt: bool = False, **options: bool) -> _Text:
        try:
            return self._written(chat, prompt, **options)
        except RejectedRow:
            # DeepSeek's templates expect arguments of tools as JSON text, most others as objects
            as_text = chat.with_arguments_as_text()
            if as_text == chat:
                raise
            return self._written(as_text, prompt, **options)

    def _written(self, chat: _Chat, prompt: bool, **options: bool) -> _Text:
        template = self._templates[chat.tools is not None]
        names: dict[str, Any] = self._tokenizer.special_tokens_map | options
        is_marking = template.has_generation and not prompt
        try:
            result: Any = render_jinja_template(
                [chat.messages],
                tools=chat.tools,
                chat_template=template.text,
                return_assistant_tokens_mask=is_marking,
                add_generation_prompt=prompt,
                **names,
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RejectedRow("chat_template", str(error).partition("\n")[0]) from None
        (rendered,), generated = result
        return self._marked(rendered, generated[0]) if is_marking else _Text(self.special.marked(rendered), None)

    def _marked(self, rendered: str, spans: list[Span]) -> _Text:
        text, generated, done = "", [], 0
        for start, end in spans:
            text += self.special.marked(rendered[done:start])
            begin, done = len(text), end
            text += self.special.marked(rendered[start:end])
            generated.append((begin, len(text)))
        return _Text(text + self.special.marked(rendered[done:]), generated)


def _content(message: Message) -> str:
    return message["content"] or ""


def _with_null(message: Message) -> Message:
    """With null for an empty text beside calls of tools."""
    return message | {"content": None} if message.get("tool_calls") and not message["content"] else message


def _with_arguments_as_text(call: Any) -> Any:
    function = call["function"]
    return call | {"function": function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _template(tokenizer: PreTrainedTokenizerBase, with_tools: bool) -> _Template:
    text = tokenizer.get_chat_template(tools=[] if with_tools else None)
    return _Template(FIXED_DATE + text, bool(_GENERATION.search(text)))


def _border(text: str, prompts: Sequence[str], place: int) -> int:
    """Where the prompt for the answer at this place ends. An empty thinking block belongs to the prompt."""
    ends = [len(prompt) for prompt in prompts if text.startswith(prompt)]
    if not ends:
        raise RejectedRow("chat_template", f"its prompt for message {place + 1} is not how it begins that answer")
    return max(ends)


def _in_whole(whole: str, own: str, answer: Answer, prompts: Sequence[str], apart: bool) -> Answer | None:
    """The same answer in the whole conversation. None if the template writes it in another way there."""
    if whole.startswith(own[: answer.end]):
        return answer
    if apart or not any(whole.startswith(prompt) for prompt in prompts):
        return None
    start, there = _border(own, prompts, answer.place), _border(whole, prompts, answer.place)
    shift = there - start
    if whole[there : answer.end + shift] != own[start : answer.end]:
        return None
    return replace(answer, spans=[(begin + shift, stop + shift) for begin, stop in answer.spans])


def _renamed(function: Any, name: str) -> Any:
    """A tool, or the call of one, by another name."""
    if "function" in function:
        return function | {"function": function["function"] | {"name": name}}
    return function | {"name": name}
