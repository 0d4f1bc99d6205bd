"""How plain transformers asks: prompt.json and the exported chat template give the ids of tokenize."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from stages.lib.checkpoint.tokenizers import load_checkpoint_tokenizer
from stages.lib.core.files import write_json
from stages.lib.core.templates import RejectedRow
from stages.lib.inference.plain_prompt import PlainPrompt, plain_prompt
from stages.lib.inference.prompts import Prompts
from stages.lib.inference.settings import Settings
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from tests import tiny
from tests.build import section
from tests.test_chat_template import FORMS, Maker, byte_level, cached, like_gemma, like_llama, tokenizer_of

DIALOGUE = {"source": None, "target": None, "messages": "messages"}
FREE_TEXT = {"source": None, "target": "{text}"}
SOURCES = ["Ada; job: «poet»", "two\n\nlines, 日本 🙂", "a", "naïve  text  "]


def settings(model_class: str = "causal", prepare: dict[str, Any] | None = None, **tokenize: Any) -> Settings:
    own = section(Prepare, **(prepare or {})), section(Tokenize, **tokenize)
    return Settings("task", *own, {"class": model_class}, section(Predict), [], None)


def exported(tokenizer: PreTrainedTokenizerBase, own: Settings) -> tuple[PlainPrompt, Any]:
    """How to ask, and the exported tokenizer."""
    prompt, copy = plain_prompt(tokenizer, own), deepcopy(tokenizer)
    prompt.apply(copy)
    assert prompt.is_exact
    return prompt, copy


def of_tokenize(tokenizer: PreTrainedTokenizerBase, own: Settings, rows: list[dict[str, Any]]) -> Iterator[list[int]]:
    prompts = Prompts(tokenizer, own)
    for asked in prompts.ask([prompts.example(row) for row in rows]):
        assert not isinstance(asked, RejectedRow)
        yield asked.ids


def by_chat(tokenizer: Any, *turns: str) -> list[int]:
    """The user and the assistant in turn."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


def by_text(tokenizer: Any, prompt: PlainPrompt, source: str) -> list[int]:
    assert prompt.template is not None
    text = prompt.template.replace("{source}", source)
    return list(tokenizer(text, add_special_tokens=prompt.add_special_tokens)["input_ids"])


@pytest.mark.parametrize("name", FORMS)
def test_a_conversation_is_asked_as_in_training(name: str) -> None:
    """Also where a template thinks by default, or writes the date of today."""
    own = settings(prepare=DIALOGUE)
    _, tokenizer = exported(tokenizer_of(name), own)
    talks = [["Hello?"], ["Hello?", "Hi.", "And «now»,\nwhat?"]]
    rows = [
        {"messages": [{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(own)]} for own in talks
    ]
    assert [by_chat(tokenizer, *talk) for talk in talks] == list(of_tokenize(tokenizer_of(name), own, rows))


@pytest.mark.parametrize("prompt", ["{source}", "Task: {source}\nAnswer shortly, {source}"])
@pytest.mark.parametrize("name", FORMS)
def test_what_a_user_says_gets_the_wording_of_the_prompt(name: str, prompt: str) -> None:
    own = settings(as_chat=True, prompt=prompt)
    _, tokenizer = exported(tokenizer_of(name), own)
    expected = of_tokenize(tokenizer_of(name), own, [{"facts": source} for source in SOURCES])
    assert [by_chat(tokenizer, source.strip()) for source in SOURCES] == list(expected)


@pytest.mark.parametrize("prompt", ["{source}\n", "Say:\n{source} or {source}: ", "<s>[{source}]\n"])
@pytest.mark.parametrize("make", [byte_level, like_llama, like_gemma])
def test_a_source_is_asked_as_text_and_as_chat(make: Maker, prompt: str) -> None:
    """A chat template that the model had for other tasks is not in the way."""
    own, before = settings(prompt=prompt), cached(make)
    how, tokenizer = exported(before, own)
    expected = list(of_tokenize(before, own, [{"facts": source} for source in SOURCES]))
    assert [by_text(tokenizer, how, source.strip()) for source in SOURCES] == expected
    assert [by_chat(tokenizer, source.strip()) for source in SOURCES] == expected


@pytest.mark.parametrize("make", [byte_level, like_llama, like_gemma])
def test_free_text_begins_after_a_start_token(make: Maker) -> None:
    own, before = settings(prepare=FREE_TEXT, prompt="{source}"), cached(make)
    how, tokenizer = exported(before, own)
    expected = list(of_tokenize(before, own, [{"text": source} for source in SOURCES]))
    assert [by_text(tokenizer, how, source.strip()) for source in SOURCES] == expected
    assert {ids[0] for ids in expected} == {before.bos_token_id}


@pytest.mark.parametrize(
    ("model_class", "family"), [("causal", "causal"), ("seq2seq", "seq2seq"), ("classifier", "encoder")]
)
def test_special_tokens_in_a_source_stay_text(model_class: str, family: Any) -> None:
    own, before = settings(model_class), tiny.tokenizer(family)
    how, tokenizer = exported(before, own)
    (expected,) = of_tokenize(before, own, [{"facts": "it ends <|end|> here"}])
    assert by_text(tokenizer, how, "it ends <|end|> here") == expected
    assert expected.count(before.eos_token_id) == (model_class != "causal")


def test_training_goes_on_with_the_chat_template_of_before(tmp_path: Path) -> None:
    """That of the exported folder would put the wording of the old task into the prompts of the new one."""
    before = tokenizer_of("chatml")
    own = replace(settings(as_chat=True, prompt="Task: {source}"), chat_template=before.chat_template)
    _, tokenizer = exported(before, own)
    tokenizer.save_pretrained(tmp_path)
    assert "Task" in AutoTokenizer.from_pretrained(tmp_path).chat_template
    write_json(tmp_path / "settings.json", own.as_json())
    write_json(tmp_path / "config.json", {"model_type": "gpt2"})
    model = section(Model, name="folder", folder=str(tmp_path), architecture="checkpoint", scratch=None)
    assert load_checkpoint_tokenizer(model).chat_template == before.chat_template


def test_a_conversation_of_other_models_is_a_text() -> None:
    own, before = settings("seq2seq", prepare=DIALOGUE, prompt="{source}\nassistant:"), tiny.tokenizer("seq2seq")
    how, tokenizer = exported(before, own)
    messages = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}]
    (expected,) = of_tokenize(before, own, [{"messages": [*messages, {"role": "user", "content": "And now?"}]}])
    assert by_text(tokenizer, how, "user: Hello?\nassistant: Hi.\nuser: And now?") == expected
