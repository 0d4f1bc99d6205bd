"""Texts that are bound to choices or to a JSON schema, with models that were never trained: nothing but the constraint
can make their texts right."""

import json
from collections.abc import Sequence
from importlib import util
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Decoded, Prompt, decode
from stages.lib.generation.sampling import sample_seed
from stages.lib.generation.settings import generation_config
from stages.lib.models.families import interface_of
from stages.lib.params.predict import Predict, check_form
from stages.lib.records.tokenized_examples import Label
from tests import tiny
from tests.build import section
from tests.random_weights import widely_drawn
from tests.tokenizer_kinds import sentencepiece_bpe

CHOICES = ["cup", "cup that is red", "a hat", "door", "Größe 日"]
FAMILIES = ["gpt2", "phi3", "t5", "bart", "m2m_100", "bert"]
# prepares its inputs in its own way, so that `generate` of transformers decodes it
PHI3: dict[str, Any] = {"model_type": "phi3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
STRATEGIES: list[dict[str, Any]] = [
    {"strategy": "greedy"},
    {"strategy": "greedy", "repetition_penalty": 1.7},
    {"strategy": "beam", "beams": 4, "candidates": 3},
    {"strategy": "sample", "temperature": 2.0, "top_p": 0.9},
]
PLACE = {
    "type": "object",
    "properties": {
        "is": {"enum": ["cup", "hat", None]},
        "n": {"type": "integer", "minimum": 1, "maximum": 20},
        "of": {"type": "array", "items": {"type": "string", "maxLength": 2}, "maxItems": 2},
    },
    "required": ["is", "n", "of"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # an untrained model would write blanks on and on
}


def untrained(name: str) -> tuple[Any, Any]:
    architecture, family = (tiny.ARCHITECTURES | {"phi3": (PHI3 | {"intermediate_size": 64}, "causal")})[name]
    tokens = tiny.tokenizer(family)
    return tokens, widely_drawn(tiny.model(tokens, architecture=architecture)).eval()


def two_words() -> Any:
    """A tokenizer in the manner of BERT, which knows `a` and `ab`."""
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "a": 2, "##b": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", pad_token="[UNK]")


def asked(tokens: PreTrainedTokenizerBase, facts: Sequence[str] = (*tiny.FACTS[:3], "quiet")) -> list[Prompt]:
    return [Prompt(tokens(fact + "\n")["input_ids"], fact) for fact in facts]


def texts_of(found: Sequence[Decoded]) -> list[list[tuple[str, str]]]:
    return [[(own.text, own.finish_reason) for own in each.candidates or [each]] for each in found]


@pytest.mark.parametrize("name", FAMILIES)
def test_choices_are_those_of_generate_that_is_told_the_allowed_tokens(name: str) -> None:
    tokens, network = untrained(name)
    before = ""
    if name == "m2m_100":  # some models write the code of a language before a text
        network.generation_config.forced_bos_token_id = 77
        before = tokens.decode([77])
    choices = [tokens(choice, add_special_tokens=False)["input_ids"] for choice in CHOICES]
    own = network.generation_config
    for strategy in STRATEGIES:
        params = section(Predict, max_new_tokens=20, choices=CHOICES, **strategy)
        found = decode(network, tokens, asked(tokens), params, 200, None)
        for prompt, each in zip(asked(tokens), texts_of(found), strict=True):
            inputs = interface_of(network).generation_inputs(network, [prompt.ids], int(tokens.pad_token_id))
            first = (1 if network.config.is_encoder_decoder else len(prompt.ids)) + bool(own.forced_bos_token_id)

            def allowed(_: int, ids: torch.Tensor, first: int = first) -> list[int]:
                written = ids[first:].tolist()
                rest = [choice[len(written) :] for choice in choices if choice[: len(written)] == written]
                return [after[0] if after else own.eos_token_id for after in rest] or [own.pad_token_id]

            torch.manual_seed(sample_seed(params.seed, prompt.key))
            written = network.generate(
                **inputs,
                generation_config=generation_config(own, params),
                num_return_sequences=params.candidates,
                prefix_allowed_tokens_fn=allowed,
            )
            expected = [tokens.decode(ids, skip_special_tokens=True).strip() for ids in written[:, first:]]
            assert each == [(before + text, "end") for text in expected]
            assert {text.removeprefix(before) for text, _ in each} <= set(CHOICES)


def test_a_beam_search_finds_the_likeliest_choice_where_it_keeps_all() -> None:
    """As a model chooses among labels."""
    tokens, network = untrained("gpt2")
    end = network.generation_config.eos_token_id
    labels = [Label(text, [*tokens(text, add_special_tokens=False)["input_ids"], end]) for text in CHOICES]
    facts = [*tiny.FACTS, "quiet", "a hat", "Größe"]
    params = section(Predict, max_new_tokens=20, strategy="beam", beams=5, length_penalty=0.0)
    expected = decode(network, tokens, asked(tokens, facts), params, None, None, labels)
    params = params.model_copy(update={"choices": CHOICES})
    found = decode(network, tokens, asked(tokens, facts), params, None, None)
    assert [own.text for own in found] == [own.text for own in expected]
    assert len({own.text for own in found}) > 1


@pytest.mark.parametrize("name", ["gpt2", "phi3", "m2m_100"])
def test_json_obeys_its_schema(name: str) -> None:
    pytest.importorskip("llguidance")
    tokens, network = untrained(name)
    found = list[str]()
    for strategy in STRATEGIES:
        params = section(Predict, max_new_tokens=35, json_schema=PLACE, **strategy)
        together, alone = (decode(network, tokens, asked(tokens), params, size, None) for size in (10_000, 1))
        assert texts_of(together) == texts_of(alone)
        for text, reason in (own for each in texts_of(together) for own in each):
            assert text.startswith("{")
            if reason == "end":
                jsonschema.validate(json.loads(text), PLACE)
                found.append(text)
    assert len(set(found)) > 3


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_the_likeliest_token_that_the_schema_allows_is_taken(name: str) -> None:
    """Of a schema whose texts can be listed: numbers. Their digits are written in any tokens."""
    pytest.importorskip("llguidance")
    tokens, network = untrained(name)
    schema = {"type": "integer", "minimum": 7, "maximum": 112}
    texts = [blank + str(number) for number in range(7, 113) for blank in ("", " ")]
    beginnings = {text[:length] for text in texts for length in range(1, 5)}
    own = network.generation_config
    ends, pieces = {own.eos_token_id}, [tokens.decode([token]) for token in range(len(tokens))]
    params = section(Predict, max_new_tokens=9, json_schema=schema)
    for prompt, found in zip(asked(tokens), decode(network, tokens, asked(tokens), params, None, None), strict=True):
        inputs = interface_of(network).generation_inputs(network, [prompt.ids], int(tokens.pad_token_id))
        written, ids = "", [own.decoder_start_token_id] if name == "bart" else prompt.ids
        while True:
            inputs["decoder_input_ids" if name == "bart" else "input_ids"] = torch.tensor([ids])
            inputs.pop("attention_mask", None)
            with torch.no_grad():
                order = network(**inputs).logits[0, -1].argsort(descending=True).tolist()
            token = next(
                token
                for token in order
                if token != own.pad_token_id
                and (written in texts if token in ends else pieces[token] and written + pieces[token] in beginnings)
            )
            if token in ends:
                break
            ids, written = [*ids, token], written + pieces[token]
        assert (found.text, found.finish_reason) == (written.strip(), "end")


def test_a_form_that_has_fewer_texts_than_candidates_is_told() -> None:
    pytest.importorskip("llguidance")
    tokens, network = untrained("gpt2")
    own = {"strategy": "beam", "beams": 5, "candidates": 5, "length_penalty": -1.0}
    params = section(Predict, max_new_tokens=5, json_schema={"const": 1}, **own)
    with pytest.raises(UserError, match="predict -> candidates: there are fewer than 5 texts of the form; lower it"):
        decode(network, tokens, asked(tokens, ["quiet"]), params, None, None)


def test_any_of_several_end_tokens_ends_a_text_that_is_complete() -> None:
    tokens, network = untrained("gpt2")
    own = network.generation_config
    own.eos_token_id = [own.eos_token_id, tokens("q", add_special_tokens=False)["input_ids"][0]]
    with torch.no_grad():
        network.lm_head.weight[own.eos_token_id[1]] *= 3  # often the likeliest, but no text has it
    for form in ({"choices": ["hat", "red"]}, {"json_schema": {"enum": ["hat", "red"]}}):
        for strategy in STRATEGIES[:1] + STRATEGIES[3:]:
            params = section(Predict, max_new_tokens=20, **form, **strategy)
            found = decode(network, tokens, asked(tokens, tiny.FACTS), params, None, None)
            assert {own.text.strip('"') for own in found} <= {"hat", "red"}
            assert {own.finish_reason for own in found} == {"end"}


def test_a_text_that_is_cut_is_told() -> None:
    pytest.importorskip("llguidance")
    tokens, network = untrained("gpt2")
    params = section(Predict, max_new_tokens=5, json_schema=PLACE)
    assert {own.finish_reason for own in decode(network, tokens, asked(tokens), params, None, None)} == {"length"}


def test_tokenizers_that_put_a_blank_before_a_text_write_json() -> None:
    pytest.importorskip("llguidance")
    examples = [*tiny.FACTS, json.dumps({"a": [1, True, "b c"]})]
    content = json.loads(sentencepiece_bpe(examples, 400).to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # no bytes
    backend = Tokenizer.from_str(json.dumps(content))
    tokens: Any = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<unk>")
    network = widely_drawn(tiny.model(tokens)).eval()
    params = section(Predict, max_new_tokens=35, json_schema=PLACE)
    found = decode(network, tokens, asked(tokens), params, None, None)
    for own in found:
        if own.finish_reason == "end":
            jsonschema.validate(json.loads(own.text), PLACE)
    assert {own.finish_reason for own in found} >= {"end"}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"choices": []}, "choices\n.*at least 1 item"),
        ({"choices": ["yes", " no"]}, "choices -> 1: ' no' is blank, or has blanks at an end"),
        ({"choices": ["yes", ""]}, "choices -> 1: '' is blank"),
        ({"choices": ["yes", "no", "yes"]}, "choices -> 2: 'yes' is there twice"),
        ({"choices": ["yes"], "json_schema": {}}, "choices: not together with json_schema"),
        ({"choices": ["yes"], "stop": ["e"]}, "choices: not together with stop"),
        ({"json_schema": {}, "min_new_tokens": 2}, "json_schema: not together with min_new_tokens"),
        ({"json_schema": {}, "no_repeat_ngram_size": 2}, "json_schema: not together with no_repeat_ngram_size"),
        (
            {"choices": ["yes", "no"], "strategy": "beam", "candidates": 3},
            "candidates: at most as many as choices, which is 2",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        section(Predict, **{"max_new_tokens": 8} | settings)


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ({"type": "objct"}, "predict -> json_schema: Invalid type: objct"),
        ({"$ref": "#/$defs/place"}, "predict -> json_schema: Pointer '/$defs/place' does not exist"),
        ({"type": "array", "uniqueItems": True}, "predict -> json_schema: Unimplemented keys"),
        ({"const": {1, 2}}, "predict -> json_schema: this is no JSON"),
    ],
)
def test_a_schema_that_can_not_be_kept_is_told_in_a_line(schema: dict[str, Any], line: str) -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(UserError) as error:
        check_form(section(Predict, json_schema=schema), has_labels=False)
    (told,) = error.value.lines
    assert told.startswith(line)


def test_without_the_library_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(
        "stages.lib.params.predict.find_spec", lambda name: None if name == "llguidance" else find(name)
    )
    with pytest.raises(UserError, match=r"predict -> json_schema: .* run `make setup EXTRAS=json`"):
        check_form(section(Predict, json_schema={}), has_labels=False)
    check_form(section(Predict, choices=["yes"]), has_labels=False)


def test_a_model_with_labels_takes_no_form() -> None:
    with pytest.raises(UserError, match=r"predict -> choices: this scenario chooses among its labels"):
        check_form(section(Predict, choices=["yes"]), has_labels=True)


def test_choices_that_the_model_can_not_write_are_told_together() -> None:
    params = section(Predict, max_new_tokens=4, choices=["ab", "a cup", "a a a a"])
    with pytest.raises(UserError) as error:
        decode(tiny.model(tiny.tokenizer()), two_words(), [Prompt([2], "")], params, None, None)
    assert error.value.lines == [
        "predict -> choices: the tokenizer of this model writes 'a cup' as 'a'; write the choice so, or take another",
        "predict -> choices: 'a a a a' has 4 tokens, and its end is one more; raise max_new_tokens, which is 4",
    ]


def test_a_tokenizer_that_can_not_write_json_is_refused() -> None:
    pytest.importorskip("llguidance")
    params = section(Predict, json_schema=PLACE)
    with pytest.raises(UserError, match="predict -> json_schema: the tokenizer of this model can't write JSON"):
        decode(tiny.model(tiny.tokenizer()), two_words(), [Prompt([2], "")], params, None, None)
