"""How plain transformers asks a model with the very ids that tokenize makes: prompt.json, and the chat template of the
exported tokenizer.

Tokenizers differ in what they put around a text, and templates in what they write before an answer. So several ways to
ask are tried on some sources, and the first one that gives the right ids is taken.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from sys import maxsize
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from stages.lib.checkpoint.chat_template import FIXED_DATE
from stages.lib.checkpoint.special_tokens import SpecialTokens
from stages.lib.encoding.text_encoder import TextEncoder
from stages.lib.inference.prompts import Asked, Prompts
from stages.lib.inference.settings import Settings
from stages.lib.ingest.cleaning import Cleaner
from stages.lib.records.chats import Turn
from stages.lib.records.examples import Example

PROMPT = "prompt.json"

_SOURCE = "{source}"
_SOURCES = ("name: Alice; role: a tester", "Größe: «12 µm», 日本語 🙂\n\n- and a second line.", " after a blank", "x")
_CONVERSATIONS = (
    [("user", _SOURCES[0])],
    [("user", _SOURCES[1]), ("assistant", "Good."), ("user", "Why?")],
    [("system", "Be brief."), ("user", _SOURCES[0]), ("assistant", "Ja, bitte! 🙂"), ("user", _SOURCES[1])],
)
_THINKING = ("", "{% set enable_thinking = false %}", "{% set enable_thinking = true %}")
# the wording of tokenize.prompt around what users say, for a template that follows
_WORDED = (
    "{% set worded = namespace(messages=[]) %}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% set message = dict(message, content=PROMPT | replace('{source}', message['content'])) %}{% endif %}"
    "{% set worded.messages = worded.messages + [message] %}{% endfor %}{% set messages = worded.messages %}"
)
_TURNS = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}"
    "{% else %}{{ PROMPT | replace('{source}', message['content']) }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class PlainPrompt:
    """`template` is a text with {source} in it, and `add_special_tokens` the tokenizer's argument for it; None where a
    model is asked with messages only. `chat_template` is that of the exported tokenizer, which asks with messages; None
    for models that are not causal. It `is_exact` if it has given the ids of tokenize for all sources that were tried.
    """

    template: str | None
    add_special_tokens: bool
    chat_template: str | None
    is_exact: bool = False

    def as_json(self, settings: Settings) -> dict[str, Any]:
        """The content of prompt.json."""
        return {
            "template": self.template,
            "add_special_tokens": self.add_special_tokens,
            "max_source_tokens": settings.tokenize.max_source_tokens,
            "truncation": settings.tokenize.truncation,
            "labels": [label._asdict() for label in settings.labels],
        }

    def apply(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Changes a tokenizer into the one to export. Where the prompt needs no special token in its text, those that a
        source names stay plain text, as in training."""
        if self.chat_template is not None:  # a causal model
            tokenizer.chat_template = self.chat_template
            _set(tokenizer, "padding_side", "left")  # so that a text begins right after its prompt
        text = None if self.template is None else self.template + (self.chat_template or "")
        splits = text is not None and not SpecialTokens(tokenizer).are_in(text)
        _set(tokenizer, "split_special_tokens", splits)

    def asks_as(self, tokenizer: PreTrainedTokenizerBase, tried: "_Tried") -> bool:
        try:
            return all(ids == tried.ids for ids in self._ids(tokenizer, tried))
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
            return False

    def _ids(self, tokenizer: Any, tried: "_Tried") -> Iterator[list[int]]:
        if self.template is not None:
            text = self.template.replace(_SOURCE, tried.messages[-1]["content"])
            yield list(tokenizer(text, add_special_tokens=self.add_special_tokens)["input_ids"])
        if self.chat_template is not None:
            yield list(tokenizer.apply_chat_template(tried.messages, add_generation_prompt=True)["input_ids"])


class _Tried(NamedTuple):
    messages: list[dict[str, str]]
    ids: list[int]  # that tokenize makes of them


def plain_prompt(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> PlainPrompt:
    """
    Args:
        tokenizer: of tokenize.
    """
    whole = settings.tokenize.model_copy(update={"max_source_tokens": maxsize, "max_target_tokens": maxsize})
    prompts = Prompts(tokenizer, replace(settings, tokenize=whole))
    is_chat = settings.family == "causal" and (settings.tokenize.as_chat or prompts.is_conversation)
    tried = list(_conversations(prompts) if is_chat and prompts.is_conversation else _sources(prompts))
    candidates = list(_chats(tokenizer, settings) if is_chat else _texts(tokenizer, settings, prompts.is_free_text))
    exported = deepcopy(tokenizer)
    for candidate in candidates:
        candidate.apply(exported)
        if all(candidate.asks_as(exported, each) for each in tried):
            return replace(candidate, is_exact=True)
    return candidates[0]


def _sources(prompts: Prompts) -> Iterator[_Tried]:
    """As prepare leaves them."""
    texts = list(map(Cleaner(prompts.params.clean, prompts.params.mask), _SOURCES))
    examples = [Example("", "", [text]) if prompts.is_free_text else Example("", text, []) for text in texts]
    return _tried([[{"role": "user", "content": text}] for text in texts], prompts, examples)


def _conversations(prompts: Prompts) -> Iterator[_Tried]:
    """Those that the chat template accepts."""
    turns = [[Turn(role, text, has_loss=False) for role, text in own] for own in _CONVERSATIONS]
    examples = [Example("", "", ["-"], [*own, Turn("assistant", "-")]) for own in turns]
    return _tried([[turn.message() for turn in own] for own in turns], prompts, examples)


def _tried(messages: Iterable[list[dict[str, str]]], prompts: Prompts, examples: Sequence[Example]) -> Iterator[_Tried]:
    for own, asked in zip(messages, prompts.ask(examples), strict=True):
        if isinstance(asked, Asked):
            yield _Tried(own, asked.ids)


def _texts(tokenizer: PreTrainedTokenizerBase, settings: Settings, is_free_text: bool) -> Iterator[PlainPrompt]:
    """By the tokenizer's own special tokens, or with them as text. Tokenizers such as Llama 2's put a blank before a
    text that is encoded alone, and none after a special token."""
    prompt, (before, after) = settings.tokenize.prompt, TextEncoder(tokenizer).frame
    if is_free_text and not before:
        before = [int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)]
    start = "".join(tokenizer.convert_ids_to_tokens(before))
    start = "" if prompt.startswith(start) else start
    if settings.family != "causal":
        end = "".join(tokenizer.convert_ids_to_tokens(after))
        yield PlainPrompt(prompt, True, None)
        yield PlainPrompt(f"{start}{prompt}{end}", False, None)
        return
    starts = list(dict.fromkeys((start, f"{start} ")))
    for template, is_added in ((prompt, True), *((f"{own}{prompt}", False) for own in starts)):
        for own in starts:
            before_all = _filled("{{ START }}", START=own) if own else ""
            yield PlainPrompt(template, is_added, before_all + _filled(_TURNS, PROMPT=prompt))


def _chats(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Iterator[PlainPrompt]:
    """The template of training, with what it got there: a fixed date, whether to think, and the wording of the prompt
    around what users say."""
    template, prompt = str(tokenizer.get_chat_template()), settings.tokenize.prompt
    date = FIXED_DATE if "strftime_now" in template else ""
    is_worded = settings.tokenize.as_chat and settings.prepare.source is not None and prompt != _SOURCE
    wording = _filled(_WORDED, PROMPT=prompt) if is_worded else ""
    for thinking in _THINKING:
        yield PlainPrompt(None, False, f"{date}{thinking}{wording}{template}")


def _set(tokenizer: PreTrainedTokenizerBase, name: str, value: object) -> None:
    setattr(tokenizer, name, value)
    tokenizer.init_kwargs[name] = value  # else it would not be saved


def _filled(template: str, **texts: str) -> str:
    """With these texts, as literals of Jinja, for their names."""
    for name, text in texts.items():
        template = template.replace(name, json.dumps(text, ensure_ascii=False))
    return template
