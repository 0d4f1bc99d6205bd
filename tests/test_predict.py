"""The predict stages: the prompts, and the numbers of each prediction."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from stages import predict, predict_base
from stages.lib.core.files import read_json, write_json
from stages.lib.core.process import UserError
from stages.lib.params.fit import Adapters
from stages.lib.params.machine import Machine
from stages.lib.params.predict import Predict
from stages.lib.records.chats import Turn
from stages.lib.records.examples import Example, write_examples
from stages.lib.records.predictions import Prediction, read_predictions
from stages.lib.records.tokenized_examples import Label, TokenizedExample, write_label_ids, write_tokenized_examples
from tests import tiny
from tests.build import params_of, scratch_model, section
from tests.test_saving import base_of, save_moved


def predictions(
    folder: Path,
    tokens: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    tokenized: list[TokenizedExample],
    no_input: list[int] | None = None,
    architecture: str = "gpt2",
    labels: Sequence[Label] = (),
    **overrides: Any,
) -> list[Prediction]:
    """Runs the stage with an untrained model."""
    tokens.save_pretrained(folder / "model")
    network = tiny.model(tokens, 1, tiny.ARCHITECTURES[architecture][0], labels=[label.word for label in labels])
    network.save_pretrained(folder / "model")
    write_examples(folder / "texts", examples)
    write_tokenized_examples(folder / "ids/test", [tokenized])
    write_label_ids(folder / "ids/label_ids.json", labels)
    write_json(folder / "ids/no_input.json", {"source_ids": no_input})
    params = section(Predict, **overrides)
    paths = {"texts": folder / "texts", "ids": folder / "ids", "trained": folder}
    predict.run(params, scratch_model(tiny.ARCHITECTURE), section(Machine), target=folder / "out", **paths)
    return list(read_predictions(folder / "out/predictions.jsonl"))


def test_an_adapter_predicts_as_the_network_that_was_trained(tmp_path: Path) -> None:
    saved = save_moved(base_of("gpt2", tmp_path / "base"), tmp_path, adapters=Adapters())
    write_examples(tmp_path / "texts", [Example(fact, fact, [tiny.text(fact)]) for fact in tiny.FACTS])
    write_tokenized_examples(tmp_path / "ids/test", [saved.examples])
    write_label_ids(tmp_path / "ids/label_ids.json", [])
    write_json(tmp_path / "ids/no_input.json", {"source_ids": None})
    paths = {"texts": tmp_path / "texts", "ids": tmp_path / "ids", "trained": tmp_path, "target": tmp_path / "out"}
    predict.run(section(Predict, max_new_tokens=4), saved.base, section(Machine), **paths)
    losses = [found.reference_nats for found in read_predictions(tmp_path / "out/predictions.jsonl")]
    assert losses == pytest.approx(saved.losses.tolist(), rel=1e-4)


def test_a_rejected_reference_counts_neither_in_loss_nor_in_tokens_nor_in_bytes(tmp_path: Path) -> None:
    """Its bytes without its loss would give too few bits per byte."""
    tokens = tiny.tokenizer()
    first, second = tiny.FACTS[:2]
    too_long = "words " * 50
    examples = [Example(first, first, [too_long, tiny.text(first)]), Example(second, second, [tiny.text(second)])]
    tokenized = [tiny.example(tokens, source) for source in (first, second)]
    recorded = predictions(tmp_path, tokens, examples, tokenized)
    assert [p.references for p in recorded] == [example.targets for example in examples]
    assert [p.reference_bytes for p in recorded] == [len(tiny.text(source)) for source in (first, second)]
    assert [p.reference_tokens for p in recorded] == [len(example.target_ids) for example in tokenized]


def test_predictions_before_training_are_those_of_the_base_model(tmp_path: Path) -> None:
    """The same predictions as those of the predict stage with the saved base model of the same seed."""
    tokens = tiny.tokenizer()
    examples = [Example(source, source, [tiny.text(source)]) for source in tiny.FACTS]
    expected = predictions(tmp_path, tokens, examples, [tiny.example(tokens, source) for source in tiny.FACTS])
    tokens.save_pretrained(tmp_path / "ids/tokenizer")
    model, target = scratch_model(tiny.ARCHITECTURE), tmp_path / "base"
    settings = section(Predict), model, section(Machine)
    predict_base.run(*settings, seed=1, texts=tmp_path / "texts", ids=tmp_path / "ids", target=target)
    assert list(read_predictions(target / "predictions.jsonl")) == expected


def test_predictions_before_training_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params_of("data_to_text", tmp_path, predict_base__enabled=False)
    monkeypatch.chdir(tmp_path)
    predict_base.main()
    assert list(read_predictions(tmp_path / "data/predict_base/predictions.jsonl")) == []


def test_group_and_metadata_of_an_example_are_those_of_its_predictions(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    first, second = tiny.FACTS[:2]
    examples = [Example(first, first, ["A"], [], "authors", {"author": "Ann"}), Example(second, second, ["B"])]
    recorded = predictions(tmp_path, tokens, examples, [tiny.example(tokens, source) for source in (first, second)])
    assert [(p.group, p.metadata) for p in recorded] == [("authors", {"author": "Ann"}), (second, {})]


def test_the_round_trip_is_the_first_reference_as_the_tokenizer_can_write_it(tmp_path: Path) -> None:
    """All of it where it was split, and without the second reference."""
    tokens = tiny.tokenizer()
    source, text = tiny.FACTS[0], tiny.text(tiny.FACTS[0])
    one = tiny.example(tokens, source)
    pieces = [one._replace(target_ids=one.target_ids[:4]), one._replace(target_ids=one.target_ids[4:])]
    other = one._replace(target_ids=tiny.example(tokens, tiny.FACTS[3]).target_ids)
    (only,) = predictions(tmp_path, tokens, [Example(source, source, [f"{text}\ufeff", "other"])], [*pieces, other])
    assert only.round_trip == text


def test_without_a_source_the_model_is_asked_once(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    source = tiny.FACTS[0]
    examples, tokenized = [Example(source, source, ["A"])], [tiny.example(tokens, source)]
    predictions(tmp_path, tokens, examples, tokenized)
    assert read_json(tmp_path / "out/no_input.json") == {"prediction": None}
    (asked,) = predictions(tmp_path, tokens, examples, tokenized, no_input=tokenized[0].source_ids)
    assert read_json(tmp_path / "out/no_input.json") == {"prediction": asked.prediction}


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_test_split_that_nothing_can_be_compared_with_is_reported(tmp_path: Path, text: str) -> None:
    tokens = tiny.tokenizer()
    source = tiny.FACTS[0]
    tokenized = [tiny.example(tokens, source)] if text else []
    with pytest.raises(UserError, match="predict: no example of the test split can be predicted and compared") as error:
        predictions(tmp_path, tokens, [Example(source, source, [text])], tokenized)
    assert len(error.value.lines) == 1


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "bert"])
def test_without_answers_each_source_has_a_prediction_and_no_loss(tmp_path: Path, architecture: str) -> None:
    """The same texts as with answers."""
    tokens = tiny.tokenizer(tiny.ARCHITECTURES[architecture][1])
    labels = [Label("bad", [0]), Label("good", [1])] if architecture == "bert" else []
    asked = [TokenizedExample(source, tokens(source)["input_ids"], [], [], 0) for source in tiny.FACTS]
    answered = [example._replace(target_ids=[1]) for example in asked]
    settings: dict[str, Any] = {"architecture": architecture, "labels": labels}
    texts = [
        predictions(tmp_path / name, tokens, [Example(own.id, own.id, references) for own in asked], ids, **settings)
        for name, references, ids in (("blind", [], asked), ("answered", ["good"], answered))
    ]
    assert [(p.id, p.prediction) for p in texts[0]] == [(p.id, p.prediction) for p in texts[1]]
    without = {(*p.references, p.round_trip, p.reference_nats, p.reference_tokens, p.reference_bytes) for p in texts[0]}
    assert without == {("", 0.0, 0, 0)}


CALL = json.dumps({"tool_calls": [{"function": {"name": "weather", "arguments": {"place": "York"}}}]})
THOUGHT = json.dumps({"reasoning_content": "It rains."})


@pytest.mark.parametrize(
    ("answer", "form", "reference"),
    [
        (Turn("assistant", "", True, CALL), "[call weather York]", "[call weather York]"),
        (Turn("assistant", "Take a cup.", True, THOUGHT), "(It rains.) Take a cup.", "(It rains.) Take a cup."),
        (Turn("assistant", "Take a cup.", True, CALL), "Take a cup. [call weather]", "Take a cup. [call weather]"),
        (Turn("assistant", "Take a cup."), "Take a mug.", "Take a cup."),
        (Turn("assistant", "Take a cup.", True, json.dumps({"name": "Ann"})), "Ann: cup", "Take a cup."),
    ],
)
def test_thoughts_and_calls_are_expected_in_the_form_that_the_template_gave_them(
    tmp_path: Path, answer: Turn, form: str, reference: str
) -> None:
    """The first answer, without thoughts and calls, keeps the reference of the data."""
    tokens = tiny.tokenizer()
    turns = [Turn("user", "Hello"), Turn("assistant", "Hi."), Turn("user", "And now?"), answer]
    ids = [[*tokens(text)["input_ids"], tokens.eos_token_id] for text in ("Hi there.", form)]
    tokenized = [
        TokenizedExample(f"talk-{number}", tokens("Hello")["input_ids"], own, [], 1)
        for number, own in enumerate(ids, start=1)
    ]
    first, second = predictions(tmp_path, tokens, [Example("talk", "", ["Hi."], turns)], tokenized)
    assert (first.references, first.round_trip) == (["Hi."], "Hi there.")
    assert (second.references, second.round_trip) == ([reference], form)


@pytest.mark.parametrize(("new_tokens", "is_truncated"), [(8, True), (30, False)])
def test_free_text_is_continued_from_its_prefix_and_compared_with_the_next_tokens_of_all_pieces(
    tmp_path: Path, new_tokens: int, is_truncated: bool
) -> None:
    tokens = tiny.tokenizer()
    ids = [*tokens(tiny.text(tiny.FACTS[0]) * 2)["input_ids"], tokens.eos_token_id]
    end = tokens.eos_token_id
    pieces = [
        TokenizedExample("doc", [end], ids[:10], [], 20),
        TokenizedExample("doc", [end, *ids[6:10]], ids[10:], [], 16),
    ]
    text = tiny.text(tiny.FACTS[0]) * 2
    (only,) = predictions(
        tmp_path, tokens, [Example("doc", "", [text])], pieces, prefix_tokens=4, max_new_tokens=new_tokens
    )
    given, following = (
        str(tokens.decode(part, skip_special_tokens=True)) for part in (ids[:4], ids[4 : 4 + new_tokens])
    )
    assert only.source == given
    assert only.references == [following.strip()] == [only.round_trip]
    assert (only.reference_truncated, only.reference_tokens, only.reference_bytes) == (
        is_truncated,
        len(ids),
        36,
    )


def test_prefix_and_reference_do_not_end_inside_a_character(tmp_path: Path) -> None:
    """To the tokenizer of the tests, each of these characters is three tokens."""
    tokens = tiny.tokenizer()
    text = "\u6771\u4eac\u90fd\u5927\u962a\u5e9c" * 2
    ids = tokens(text)["input_ids"]
    assert len(ids) >= 3 * len(text)
    piece = TokenizedExample("doc", [tokens.eos_token_id], [*ids, tokens.eos_token_id], [], len(text.encode()))
    (only,) = predictions(tmp_path, tokens, [Example("doc", "", [text])], [piece], prefix_tokens=4, max_new_tokens=10)
    assert (only.source, only.references) == (text[:2], [text[2:5]])
