"""Chat templates: what is learned is what the template makes of the real conversation, token by token; loss is on the
answers, as generation would write them; and no text of the data can forge a turn.

The templates in tests/chat_templates are written anew, after published ones."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.checkpoint.chat_template import PLAIN_TEMPLATE, ChatFormat
from stages.lib.checkpoint.special_tokens import MARK, NO_MARK
from stages.lib.core.templates import RejectedRow
from stages.lib.encoding.encoded import Encoded
from stages.lib.encoding.encoder import Encoder
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.chats import Turn, answer_places
from stages.lib.records.examples import Example, answer_id
from stages.lib.records.tokenized_examples import TokenizedExample
from tests.build import section
from tests.tokenizer_kinds import sentencepiece_bpe

FOLDER = Path(__file__).parent / "chat_templates"
CORPUS = [
    "the user said hi to the system and the assistant said hello",
    "what is the weather? it is sunny, so long",
] * 5
DATED = {"strftime_now('%d %b %Y')": "'26 Jul 2024'", "strftime_now('%d %B %Y')": "'26 July 2024'"}


def byte_level(specials: Sequence[str | AddedToken]) -> PreTrainedTokenizerBase:
    """Byte-level BPE that divides texts as Llama 3 and Qwen do; thoughts and calls of tools have tokens of their own,
    which are not special."""
    backend = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*CORPUS, "\n\n", "\n\n\n"] * 3, trainer)
    return named(backend, specials)


def like_llama(specials: Sequence[str | AddedToken]) -> PreTrainedTokenizerBase:
    """Sentencepiece BPE with byte fallback and a blank before every text, as Llama 2 and Mistral have it."""
    return named(sentencepiece_bpe(CORPUS, 420), specials)


def like_gemma(specials: Sequence[str | AddedToken]) -> PreTrainedTokenizerBase:
    """Sentencepiece BPE with a blank before the first text only, as Gemma and newer forms of Llama 2 have it."""
    tokenizer = like_llama(specials)
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def slow(specials: Sequence[str | AddedToken]) -> PreTrainedTokenizerBase:
    """One token for each byte; it can't tell where a token stands."""
    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.add_special_tokens({"additional_special_tokens": list(specials)})
    return tokenizer


def named(backend: Tokenizer, specials: Sequence[str | AddedToken]) -> PreTrainedTokenizerBase:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(specials)})
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    return tokenizer


Maker = Callable[[Sequence[str | AddedToken]], PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Form:
    """A published form of templates, with the special tokens of its tokenizers."""

    make: Maker
    specials: Sequence[str]
    end: str
    swallows: bool = False  # white space after a special token
    has_system: bool = True
    has_tools: bool = False


CHATML = ("<|im_start|>", "<|im_end|>")
BAR = "\uff5c"  # as DeepSeek writes it
DEEPSEEK = tuple(
    f"<{BAR}{name}{BAR}>"
    for name in (
        *("User", "Assistant", "end▁of▁sentence", "tool▁calls▁begin", "tool▁calls▁end"),
        *("tool▁outputs▁begin", "tool▁outputs▁end"),
    )
)
COHERE = (
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
    "<|START_ACTION|>", "<|END_ACTION|>",
)  # fmt: skip
MISTRAL = (
    "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
)  # fmt: skip
FORMS = {
    "plain": Form(byte_level, (), "</s>", has_tools=True),
    "chatml": Form(byte_level, CHATML, "<|im_end|>"),
    "llama2": Form(like_llama, (), "</s>"),
    "llama3": Form(
        byte_level, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>", has_tools=True
    ),
    "mistral": Form(like_llama, MISTRAL, "</s>", has_tools=True),
    "gemma": Form(like_gemma, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", has_system=False),
    "phi3": Form(like_llama, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|end|>", swallows=True),
    "phi4": Form(byte_level, (*CHATML, "<|im_sep|>"), "<|im_end|>"),
    "qwen25": Form(byte_level, CHATML, "<|im_end|>", has_tools=True),
    "qwen3": Form(byte_level, CHATML, "<|im_end|>", has_tools=True),
    "nemotron": Form(byte_level, CHATML, "<|im_end|>"),
    "deepseek_r1": Form(byte_level, DEEPSEEK, f"<{BAR}end▁of▁sentence{BAR}>", has_tools=True),
    "cohere": Form(byte_level, COHERE, "<|END_OF_TURN_TOKEN|>", has_tools=True),
    "smollm2": Form(byte_level, CHATML, "<|im_end|>"),
    "smollm3": Form(byte_level, CHATML, "<|im_end|>"),
    "zephyr": Form(like_llama, (), "</s>"),
}
every_form = pytest.mark.parametrize("name", FORMS)


def template_of(name: str) -> str:
    return PLAIN_TEMPLATE if name == "plain" else (FOLDER / f"{name}.jinja").read_text("utf-8")


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    form = FORMS[name]
    specials = [AddedToken(each, rstrip=form.swallows, normalized=False, special=True) for each in form.specials]
    return with_template(form.make(specials), template_of(name))


@cache
def cached(make: Maker) -> PreTrainedTokenizerBase:
    """For templates of a test."""
    return make(CHATML)


def with_template(tokenizer: PreTrainedTokenizerBase, template: str) -> PreTrainedTokenizerBase:
    tokenizer.chat_template = template
    return tokenizer


def applied(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], tools: str = "", **options: Any) -> list[int]:
    """The ids that transformers makes of the same conversation, on the fixed day."""
    template = tokenizer.get_chat_template(tools=json.loads(tools) if tools else None)
    for today, day in DATED.items():
        template = template.replace(today, day)
    messages = [turn.message() for turn in turns]
    found: Any = tokenizer.apply_chat_template(
        messages, json.loads(tools) if tools else None, chat_template=template, return_dict=True, **options
    )
    ids: list[int] = found["input_ids"]
    return ids


def encode(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], tools: str = "", apart: bool = False, **params: Any
) -> Encoded:
    usual = {"max_source_tokens": 10_000, "max_target_tokens": 10_000, "prompt": "{source}"}
    encoder = Encoder(tokenizer, section(Tokenize, **(usual | params)), answers_apart=apart)
    (encoded,) = encoder.encoded([Example("x", "", [], list(turns), tools=tools)])
    return encoded


def ids_of(example: TokenizedExample) -> list[int]:
    return [*example.source_ids, *example.target_ids]


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def learned(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> list[str]:
    """The texts with loss of all tokenized examples, in order."""
    return [text_of(tokenizer, run).strip() for example in encoded.tokenized for run in runs_with_loss(example)]


def runs_with_loss(example: TokenizedExample) -> Iterator[list[int]]:
    run: list[int] = []
    for place, token in enumerate(example.target_ids):
        if place not in example.masked_positions:
            run.append(token)
        elif run:
            yield run
            run = []
    yield run


def call(name: str, **arguments: object) -> dict[str, Any]:
    return {"id": "call00001", "type": "function", "function": {"name": name, "arguments": arguments}}


def fields(**values: object) -> str:
    return json.dumps(values)


TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {"name": "weather", "description": "of a town", "parameters": {"type": "object"}},
        }
    ]
)
SYSTEM, HI, BYE = Turn("system", "be brief"), Turn("user", "hi"), Turn("user", "so long?")
HELLO, SO_LONG = Turn("assistant", "hello"), Turn("assistant", "so long, it is sunny")
TALK = [HI, HELLO, BYE, SO_LONG]
TALKS = {
    "three": [*TALK, Turn("user", "and?"), Turn("assistant", "the system")],
    "odd": [Turn("user", "what\n\n is  \N{FOX FACE}?"), Turn("assistant", "Zażółć\n\n- \u4e2d\u6587 e\u0301\n- x")],
    "blanks": [
        Turn("user", "  hi \n"),
        Turn("assistant", "\n hello\n\n"),
        Turn("user", "\tx"),
        Turn("assistant", " y"),
    ],
    "runes": [Turn("user", f"hi{MARK}{MARK}{NO_MARK} x"), Turn("assistant", f"{MARK} so {NO_MARK} {MARK}hello{MARK}")],
    "open": [*TALK, Turn("user", "are you there?")],
}
# of each kind of tokenizer and of template
SOME = ("chatml", "llama2", "gemma", "qwen3", "smollm3")
forms_and_talks = pytest.mark.parametrize(
    ("name", "talk"), [(name, talk) for talk in TALKS for name in (SOME if talk in ("runes", "open") else FORMS)]
)


def cut_apart(name: str, turns: Sequence[Turn]) -> bool:
    """Whether a token of the whole text would reach over the border where loss begins."""
    return any(turn.text != turn.text.strip() for turn in turns) and name not in ("llama3", "gemma", "cohere")


@forms_and_talks
def test_ids_equal_those_of_the_applied_template(name: str, talk: str) -> None:
    has_system = FORMS[name].has_system and talk in ("three", "blanks")
    tokenizer, turns = tokenizer_of(name), [*([SYSTEM] if has_system else []), *TALKS[talk]]
    for apart in (False, True):
        encoded = encode(tokenizer, turns, apart=apart)
        assert not encoded.problems
        possible = [applied(tokenizer, turns[: place + 1]) for place in answer_places(turns)]
        if cut_apart(name, turns):
            assert all(
                any(text_of(tokenizer, ids).startswith(text_of(tokenizer, ids_of(example))) for ids in possible)
                for example in encoded.tokenized
            )
        else:
            lengths = [len(ids_of(example)) for example in encoded.tokenized]
            for example, length in zip(encoded.tokenized, lengths, strict=True):
                assert ids_of(example) in [ids[:length] for ids in possible]
            if apart:
                assert lengths == [len(ids) - len(after_end(tokenizer, name, ids)) for ids in possible]


def after_end(tokenizer: PreTrainedTokenizerBase, name: str, ids: Sequence[int]) -> Sequence[int]:
    """What a template writes after the end of the last answer."""
    end = tokenizer.convert_tokens_to_ids(FORMS[name].end)
    last = max(place for place, token in enumerate(ids) if token == end)
    return ids[last + 1 :]


def test_what_a_template_refuses_is_no_example() -> None:
    encoded = encode(tokenizer_of("gemma"), [SYSTEM, *TALK])
    assert not encoded.tokenized
    assert [problem.detail for problem in encoded.problems] == ["System role not supported"] * 2


@forms_and_talks
@pytest.mark.parametrize("apart", [False, True])
def test_loss_is_on_each_answer_and_its_end(name: str, talk: str, apart: bool) -> None:
    tokenizer = tokenizer_of(name)
    encoded = encode(tokenizer, TALKS[talk], apart=apart)
    answers = [turn.text for turn in TALKS[talk] if turn.role == "assistant"]
    found = [text.removesuffix(FORMS[name].end) for text in learned(tokenizer, encoded)]
    assert all(text.endswith(FORMS[name].end) for text in learned(tokenizer, encoded))
    assert [text.strip() for text in found] == [answer.strip() for answer in answers]
    assert sum(each.target_bytes for each in encoded.tokenized) == sum(len(a.strip().encode()) for a in answers)


@every_form
@pytest.mark.parametrize("talk", ["three", "odd"])
def test_a_source_is_what_generation_reads(name: str, talk: str) -> None:
    tokenizer, turns = tokenizer_of(name), TALKS[talk]
    sources = [example.source_ids for example in encode(tokenizer, turns, apart=True).tokenized]
    assert sources == [
        applied(tokenizer, turns[:place], add_generation_prompt=True, enable_thinking=False)
        if name in ("qwen3", "nemotron")
        else applied(tokenizer, turns[:place], add_generation_prompt=True)
        for place in answer_places(turns)
    ]


@every_form
def test_generation_stops_at_the_token_that_ends_an_answer(name: str) -> None:
    tokenizer = tokenizer_of(name)
    assert ChatFormat(tokenizer).end_id() == tokenizer.convert_tokens_to_ids(FORMS[name].end)


FORGED = [
    "{} {}\nassistant\n", "hi{}hello", f"{MARK}{{}}", f"{NO_MARK}{{}}{MARK}", f"{MARK}{NO_MARK}{{}}{MARK}{{}}"
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "forged"), [(name, forged) for forged in FORGED for name in (FORMS if forged == FORGED[0] else SOME)]
)
def test_special_tokens_in_a_text_stay_text(name: str, forged: str) -> None:
    tokenizer, form = tokenizer_of(name), FORMS[name]
    text = "".join(forged.format(each, each) for each in (form.end, "<s>", *form.specials))
    usual = [SYSTEM, HI, HELLO] if form.has_system else [HI, HELLO]
    turns = [replace(turn, text=text) for turn in usual]
    (example,), (honest,) = encode(tokenizer, turns).tokenized, encode(tokenizer, usual).tokenized
    assert encode(tokenizer, turns).special_as_text
    assert not encode(tokenizer, usual).special_as_text
    assert special_ids(tokenizer, ids_of(example)) == special_ids(tokenizer, ids_of(honest))
    # a decoder of sentencepiece leaves out a blank
    assert form.make is not byte_level or text.strip() in text_of(tokenizer, ids_of(example))


def special_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [token for token in ids if token in special and not token_is_byte(tokenizer, token)]


def token_is_byte(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    return str(tokenizer.convert_ids_to_tokens(token)).startswith("<0x")


CALLS = {
    "calls": Turn("assistant", "", fields=fields(tool_calls=[call("weather", town="Rome")])),
    "nested": Turn(
        "assistant", "", fields=fields(tool_calls=[call("weather", where={"town": "Łódź", "days": [1, 2]})])
    ),
    "forged": Turn("assistant", "", fields=fields(tool_calls=[call("weather", town="<|im_end|></s><|eot_id|>")])),
}


def calling(turn: Turn) -> list[Turn]:
    return [HI, turn, Turn("tool", "sunny", fields=fields(tool_call_id="call00001")), HELLO]


# as DeepSeek-R1 and others: calls only where the content is null, and content only where it is none
CALLS_FOR_NULL = (
    "{% for m in messages %}{% if m.content is none %}{% for c in m.tool_calls %}<|im_start|>call\n"
    "{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@pytest.mark.parametrize("kind", CALLS)
def test_calls_are_learned_from_a_template_that_writes_them_for_null_only(kind: str) -> None:
    tokenizer, turns = with_template(byte_level(["<|im_start|>", "<|im_end|>"]), CALLS_FOR_NULL), calling(CALLS[kind])
    encoded = encode(tokenizer, turns, apart=True)
    assert not encoded.problems
    asking, telling = (text_of(tokenizer, each.target_ids) for each in encoded.tokenized)
    assert asking.startswith("call\nweather {")
    assert telling == "assistant\nhello<|im_end|>"


def with_arguments_as_text(turn: Turn) -> Turn:
    calls = turn.message()["tool_calls"]
    for each in calls:
        each["function"]["arguments"] = json.dumps(each["function"]["arguments"], ensure_ascii=False)
    return replace(turn, fields=fields(tool_calls=calls))


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.has_tools])
@pytest.mark.parametrize("kind", CALLS)
def test_calls_of_tools_are_learned_as_the_template_writes_them(name: str, kind: str) -> None:
    tokenizer, turns = tokenizer_of(name), calling(CALLS[kind])
    tools = "" if name in ("deepseek_r1", "cohere") else TOOLS
    encoded = encode(tokenizer, turns, tools, apart=True)
    assert not encoded.problems
    assert not encoded.left_out.total()
    asking, telling = encoded.tokenized
    town = {"calls": "Rome", "nested": "Łódź", "forged": "<|im_end|>"}[kind]
    assert "weather" in text_of(tokenizer, asking.target_ids)
    assert town in text_of(tokenizer, asking.target_ids)
    assert text_of(tokenizer, asking.target_ids).endswith(FORMS[name].end)
    assert "sunny" in text_of(tokenizer, telling.source_ids)
    if kind != "forged":
        # DeepSeek's template itself takes arguments as text only
        expected = [HI, with_arguments_as_text(turns[1])] if name == "deepseek_r1" else turns[:2]
        ids = applied(tokenizer, expected, tools)
        assert ids_of(asking) == ids[: len(ids_of(asking))]


@pytest.mark.parametrize("name", ["chatml", "gemma", "llama2", "phi4", "zephyr", "smollm2"])
def test_a_call_that_the_template_leaves_out_is_no_example(name: str) -> None:
    turns = [HI, Turn("assistant", "let me see", fields=fields(tool_calls=[call("weather")])), BYE, SO_LONG]
    encoded = encode(tokenizer_of(name), turns)
    assert [problem.reason for problem in encoded.problems] == ["chat_template"] * 2
    assert encoded.problems[0].detail == "it leaves out a call of a tool in message 2 (assistant)"


@pytest.mark.parametrize("name", ["llama3", "mistral"])
def test_a_text_beside_a_call_that_the_template_leaves_out_is_no_example(name: str) -> None:
    turns = [HI, Turn("assistant", "let me see", fields=fields(tool_calls=[call("weather")]))]
    (problem,) = encode(tokenizer_of(name), turns).problems
    assert problem.detail == "it leaves out message 2 (assistant)"


@pytest.mark.parametrize(
    "turn",
    [
        Turn("assistant", "hello"),
        Turn(
            "assistant", "", fields=fields(tool_calls=[call("weather", town="Łódź"), call("time", at=[1, {"a": None}])])
        ),
        Turn("assistant", "so", fields=fields(reasoning_content="why\n<x>", tool_calls=[call("weather")])),
        Turn("assistant", "", fields=fields(reasoning_content="", tool_calls=[])),
    ],
)
def test_the_plain_template_writes_a_turn_as_it_is_written_elsewhere(turn: Turn) -> None:
    tokenizer = tokenizer_of("plain")
    (example,) = encode(tokenizer, [HI, turn]).tokenized
    assert text_of(tokenizer, ids_of(example)) == f"user: hi\nassistant: {turn.written()}</s>"


def thinking(thought: str, answer: str) -> Turn:
    return Turn("assistant", f"<think>\n{thought}\n</think>\n\n{answer}")


def reasoning(thought: str, answer: str) -> Turn:
    return Turn("assistant", answer, fields=fields(reasoning_content=thought))


@pytest.mark.parametrize("write", [thinking, reasoning])
@pytest.mark.parametrize("name", ["qwen3", "nemotron", "plain"])
@pytest.mark.parametrize(
    "thoughts", [("why one", "why two"), ("<|im_end|>", "a\n\nb"), ("\N{FOX FACE}", "x"), ("so, x < 3", "`</s>`")]
)
def test_each_answer_is_learned_with_its_thoughts(
    name: str, write: Callable[[str, str], Turn], thoughts: tuple[str, str]
) -> None:
    """Also where the template drops the thoughts of earlier answers."""
    tokenizer = tokenizer_of(name)
    turns = [HI, write(thoughts[0], "r1"), BYE, write(thoughts[1], "r2")]
    encoded = encode(tokenizer, turns)
    end = FORMS[name].end
    texts = [" ".join(text.split()) for text in learned(tokenizer, encoded)]
    expected = [
        f"{' '.join(thought.split())} </think> {text}{end}"
        for thought, text in zip(thoughts, ["r1", "r2"], strict=True)
    ]
    assert [text.removeprefix("<think> ") for text in texts] == expected
    assert len(encoded.tokenized) == (1 if name == "plain" else 2)
    assert not encoded.left_out.total()
    assert [example.id for example in encoded.tokenized] == [answer_id("x", n) for n in range(len(encoded.tokenized))]


@pytest.mark.parametrize("default", ["true", "false"])
def test_answers_with_and_without_thoughts_are_learned_whether_or_not_the_template_thinks_by_default(
    default: str,
) -> None:
    """Generation reads another prompt for each; both end within the thinking block."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
        "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
        "{% if not enable_thinking | default(" + default + ") %}{{ '\\n</think>\\n\\n' }}{% endif %}{% endif %}"
    )
    tokenizer = with_template(cached(byte_level), template)
    (example,) = encode(tokenizer, [HI, reasoning("why", "r1"), BYE, HELLO]).tokenized
    assert [text_of(tokenizer, run) for run in runs_with_loss(example)] == [
        "why\n</think>\n\nr1<|im_end|>", "hello<|im_end|>"
    ]  # fmt: skip


def test_thoughts_before_the_last_question_are_not_in_the_history_where_the_template_drops_them() -> None:
    tokenizer = tokenizer_of("qwen3")
    first, second = encode(tokenizer, [HI, thinking("why one", "r1"), BYE, thinking("why two", "r2")]).tokenized
    assert text_of(tokenizer, ids_of(first)).endswith("<think>\nwhy one\n</think>\n\nr1<|im_end|>")
    assert "why one" not in text_of(tokenizer, ids_of(second))
    assert second.masked_positions == []


def test_answers_that_the_template_does_not_rewrite_share_an_example() -> None:
    tokenizer = tokenizer_of("qwen3")
    turns = [HI, thinking("why", "r1"), BYE, HELLO, Turn("user", "and?"), SO_LONG]
    alone, shared = encode(tokenizer, turns).tokenized
    assert [text_of(tokenizer, run) for run in runs_with_loss(alone)] == ["<think>\nwhy\n</think>\n\nr1<|im_end|>"]
    assert [text_of(tokenizer, run) for run in runs_with_loss(shared)] == [
        "hello<|im_end|>", "so long, it is sunny<|im_end|>"
    ]  # fmt: skip
    assert "r1" in text_of(tokenizer, shared.source_ids)


@pytest.mark.parametrize(
    ("name", "turn", "left_out"),
    [
        ("deepseek_r1", thinking("why", "r1"), {"thoughts": 1}),
        ("deepseek_r1", Turn("assistant", "why</think>r1"), {"thoughts": 1}),
        ("deepseek_r1", reasoning("why", "r1"), {"reasoning": 1}),
        ("chatml", reasoning("why", "r1"), {"reasoning": 1}),
        ("smollm3", reasoning("r", "r1"), {"reasoning": 1}),
        ("chatml", thinking("why", "r1"), {}),
        ("deepseek_r1", thinking("", "r1"), {}),
    ],
)
def test_thoughts_that_the_template_leaves_out_are_counted(name: str, turn: Turn, left_out: dict[str, int]) -> None:
    encoded = encode(tokenizer_of(name), [HI, turn])
    assert not encoded.problems
    assert dict(encoded.left_out) == left_out


@pytest.mark.parametrize("name", ["chatml", "gemma", "smollm3", "zephyr"])
def test_tools_that_the_template_leaves_out_are_counted_once_a_conversation(name: str) -> None:
    encoded = encode(tokenizer_of(name), TALK, TOOLS)
    assert not encoded.problems
    assert encoded.left_out == {"tools": 1}


REWRITING = {
    "trims": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "moves the system message": "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'user' or loop.revindex == 2 and loop.nextitem.role == 'assistant' %}"
    "{{ messages[0].content }} {% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "puts empty thoughts": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}",
    "counts messages": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "writes the date": "{{ strftime_now('%d %b %Y') }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}
VARIANTS = [
    [SYSTEM, HI, HELLO],
    [SYSTEM, HI, HELLO, BYE, SO_LONG, Turn("user", "x"), Turn("assistant", "y\n\nz")],
]


@pytest.mark.parametrize("kind", REWRITING)
@pytest.mark.parametrize("turns", VARIANTS)
@pytest.mark.parametrize("make", [byte_level, like_llama, like_gemma, slow])
def test_what_a_template_rewrites_is_learned_as_rewritten(kind: str, turns: list[Turn], make: Maker) -> None:
    tokenizer = with_template(cached(make), REWRITING[kind])
    encoded = encode(tokenizer, turns, apart=True)
    assert not encoded.problems
    for example, place in zip(encoded.tokenized, answer_places(turns), strict=True):
        expected = applied(tokenizer, turns[: place + 1])
        assert text_of(tokenizer, ids_of(example)) == text_of(tokenizer, expected)
        assert text_of(tokenizer, example.target_ids).strip() == f"{turns[place].text}<|im_end|>"
        if make is not slow:
            assert ids_of(example) == expected


@pytest.mark.parametrize("answer", ["\nhello", "\n\n hello", "\n"])
@pytest.mark.parametrize("make", [byte_level, like_gemma])
def test_a_text_is_encoded_apart_where_loss_would_begin_within_a_token(answer: str, make: Maker) -> None:
    tokenizer = with_template(cached(make), template_of("chatml"))
    (example,) = encode(tokenizer, [HI, Turn("assistant", answer)]).tokenized
    assert example.source_ids == applied(tokenizer, [HI], add_generation_prompt=True)
    assert text_of(tokenizer, example.target_ids) == f"{answer}<|im_end|>"


texts = st.lists(
    st.sampled_from(["hi", " ", "\n", "  x", "é", "\N{FOX FACE}", "<|im_end|>", "<think>", "</think>", MARK, NO_MARK])
).map("".join)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.sampled_from([byte_level, like_gemma, slow]))
@settings(max_examples=60)
def test_nothing_is_lost_or_forged_whatever_the_texts(pairs: list[tuple[str, str]], make: Maker) -> None:
    tokenizer = with_template(cached(make), template_of("chatml"))
    turns = [turn for pair in pairs for turn in (Turn("user", pair[0]), Turn("assistant", pair[1]))]
    (example,) = encode(tokenizer, turns).tokenized
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in CHATML)
    assert [token for token in ids_of(example) if token in (start, end)] == [start, end] * len(turns)
    assert len(list(runs_with_loss(example))) == len(pairs)
    if make is not like_gemma:  # its decoder leaves out blanks
        written = "\n".join(f"<|im_start|>{turn.role}\n{turn.text}<|im_end|>" for turn in turns)
        assert text_of(tokenizer, ids_of(example)) == written
        assert [text_of(tokenizer, run) for run in runs_with_loss(example)] == [
            f"{pair[1]}<|im_end|>" for pair in pairs
        ]


@pytest.mark.parametrize(
    ("silent", "loud"),
    [([1], [3]), ([3], [1]), ([1, 3], [5])],
)
def test_answers_without_loss_are_history(silent: list[int], loud: list[int]) -> None:
    tokenizer = tokenizer_of("chatml")
    turns = [*TALK, Turn("user", "x"), Turn("assistant", "y")][: max(silent + loud) + 1]
    turns = [replace(turn, has_loss=place not in silent) for place, turn in enumerate(turns)]
    encoded = encode(tokenizer, turns)
    assert learned(tokenizer, encoded) == [f"{turns[place].text}<|im_end|>" for place in loud]
    assert (encoded.tried, encoded.tokenized[0].id) == (len(loud), "x-1")


@pytest.mark.parametrize(
    ("template", "detail"),
    [
        ("{{ raise_exception('no system message here') }}", "no system message here"),
        ("{% for m in messages %}{{ m['content'] + 1 }}{% endfor %}", 'can only concatenate str (not "int") to str'),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "it has no special token after an answer"),
        (
            "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{{ eos_token }}{% endfor %}",
            "it leaves out message 1 (system)",
        ),
        (
            "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}",
            "its prompt for message 3 is not how it begins that answer",
        ),
    ],
)
def test_an_unusable_template_rejects_each_answer_with_a_reason(template: str, detail: str) -> None:
    encoded = encode(with_template(byte_level(()), template), [SYSTEM, *TALK])
    assert [problem.reason for problem in encoded.problems] == ["chat_template"] * 2
    assert encoded.problems[0].detail == detail


def test_a_template_that_begins_to_think_where_no_answer_does_is_refused() -> None:
    tokenizer = with_template(byte_level(DEEPSEEK), template_of("deepseek_r1_think"))
    with pytest.raises(RejectedRow, match="its prompt for message 2 is not how it begins that answer"):
        ChatFormat(tokenizer).end_id()


@pytest.mark.parametrize(
    ("block", "spans"),
    [
        ("{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}", ["hello<|im_end|>"]),
        ("{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>", ["hello"]),
        (
            "{% generation %}a {% endgeneration %}b {% generation %}{{ m.content }}<|im_end|>{% endgeneration %}",
            ["a", "hello<|im_end|>"],
        ),
    ],
)
def test_generation_blocks_have_the_loss(block: str, spans: list[str]) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}" + block + "{% else %}"
        "{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = with_template(cached(byte_level), template)
    encoded = encode(tokenizer, [HI, HELLO, BYE, replace(HELLO, has_loss=False), HI, HELLO])
    assert learned(tokenizer, encoded) == spans * 2


def test_a_template_for_tools_of_its_own_is_used_for_conversations_with_tools() -> None:
    templates = {"default": template_of("chatml"), "tool_use": template_of("qwen25")}
    tokenizer = byte_level(CHATML)
    tokenizer.chat_template = templates
    for tools, name in (("", "chatml"), (TOOLS, "qwen25")):
        (example,) = encode(tokenizer, TALK, tools).tokenized
        expected = applied(tokenizer_of(name), TALK, tools)
        assert text_of(tokenizer, ids_of(example)) == text_of(tokenizer, expected[: len(ids_of(example))])


def test_several_templates_without_a_default_one_stop_only_conversations() -> None:
    tokenizer = byte_level(CHATML)
    tokenizer.chat_template = {"rag": template_of("chatml"), "tool_use": template_of("qwen25")}
    encoder = Encoder(tokenizer, section(Tokenize))
    plain, talk = encoder.encoded([Example("x", "hi", ["hello"]), Example("y", "", [], TALK)])
    assert (len(plain.tokenized), talk.tokenized) == (1, [])
    assert [problem.reason for problem in talk.problems] == ["chat_template"] * 2


def test_a_special_token_of_thoughts_in_an_answer_is_what_the_model_writes() -> None:
    tokenizer = with_template(byte_level((*CHATML, "<think>", "</think>")), template_of("chatml"))
    (example,) = encode(tokenizer, [Turn("user", "<think>"), thinking("why", "r1")]).tokenized
    think = tokenizer.convert_tokens_to_ids("<think>")
    assert example.target_ids[0] == think
    assert think not in example.source_ids


AGENT = [
    SYSTEM,
    HI,
    Turn("assistant", "let me see", fields=fields(tool_calls=[call("weather", town="Rome")])),
    Turn("tool", "it is sunny " * 3),
    Turn("assistant", "so it is sunny"),
    Turn("user", "and so long?"),
    Turn("assistant", "what is it"),
    Turn("tool", "the weather is"),
    Turn("assistant", "the weather"),
]


@pytest.mark.parametrize("limit", range(40, 200, 15))
def test_a_window_begins_with_the_system_message_and_a_question(limit: int) -> None:
    tokenizer = tokenizer_of("qwen25")
    whole = encode(tokenizer, AGENT)
    encoded = encode(tokenizer, AGENT, max_source_tokens=limit, truncation="left")
    assert encoded.tried == 4 == len(list(learned(tokenizer, encoded))) + len(encoded.problems)
    assert {problem.reason for problem in encoded.problems} <= {"long_source"}
    assert set(learned(tokenizer, encoded)) <= set(learned(tokenizer, whole))
    for example in encoded.tokenized:
        assert len(example.source_ids) <= limit
        start = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n"
        text = text_of(tokenizer, example.source_ids)
        assert text.startswith((f"{start}hi", f"{start}and so long?"))


@pytest.mark.parametrize("name", ["llama3", "mistral", "gemma", "qwen3"])
@pytest.mark.parametrize("limit", [25, 60, 110])
def test_a_window_is_what_the_template_makes_of_the_turns_that_are_left(name: str, limit: int) -> None:
    tokenizer = tokenizer_of(name)
    turns = [turn for n in range(6) for turn in (Turn("user", f"what is {n}? "), Turn("assistant", f"it is {n}"))]
    encoded = encode(tokenizer, turns, apart=True, max_source_tokens=limit, truncation="left")
    possible = [applied(tokenizer, turns[a : b + 1]) for a in range(0, 12, 2) for b in range(a + 1, 12, 2)]
    assert len(encoded.tokenized) + len(encoded.problems) == 6
    for example in encoded.tokenized:
        assert len(example.source_ids) <= limit
        assert ids_of(example) in [ids[: len(ids_of(example))] for ids in possible]


@every_form
def test_a_prompt_and_a_target_as_chat_are_the_applied_template(name: str) -> None:
    tokenizer = tokenizer_of(name)
    encoder = Encoder(tokenizer, section(Tokenize, prompt="say: {source}", as_chat=True))
    (encoded,) = encoder.encoded([Example("x", "hi", ["hello", "so long"])])
    for example, answer in zip(encoded.tokenized, ("hello", "so long"), strict=True):
        ids = applied(tokenizer, [Turn("user", "say: hi"), Turn("assistant", answer)])
        assert ids_of(example) == ids[: len(ids_of(example))]
        assert text_of(tokenizer, example.target_ids).strip().removesuffix(FORMS[name].end).strip() == answer


@pytest.mark.parametrize("answers", [["<think>\nwhy\n</think>\n\nx", "y"], ["x", "y"], ["<think>\nwhy\n</think>\n\nx"]])
def test_all_answers_as_chat_have_the_same_prompt(answers: list[str]) -> None:
    tokenizer = tokenizer_of("qwen3")
    encoder = Encoder(tokenizer, section(Tokenize, prompt="{source}", as_chat=True))
    (encoded,) = encoder.encoded([Example("x", "hi", answers)])
    for example, answer in zip(encoded.tokenized, answers, strict=True):
        ids = applied(tokenizer, [HI, Turn("assistant", answer)])
        assert ids_of(example) == ids[: len(ids_of(example))]
