"""The predict stages: the prompts, and the numbers of each prediction."""

import json
import re
from collections.abc import Callable, Sequence
from math import exp, log1p
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from stages import predict, predict_base
from stages.lib.core.files import read_json, write_json
from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Decoder, Prompt, decode
from stages.lib.models.losses import ExampleLosses
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
    machine: Machine | None = None,
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
    out = {"target": folder / "out", "folder": folder / "state"}
    predict.run(params, scratch_model(tiny.ARCHITECTURE), machine or section(Machine), **paths, **out)
    return list(read_predictions(folder / "out/predictions.jsonl"))


SMALL = 120  # tokens of a batch, so that all facts have several


def of_all_facts(folder: Path, architecture: str = "gpt2", **overrides: Any) -> bytes:
    """What the stage writes, in small batches. Two facts have two references."""
    tokens = tiny.tokenizer(tiny.ARCHITECTURES[architecture][1])
    rows = [tiny.example(tokens, fact) for fact in tiny.FACTS]
    rows[1:1] = [rows[0]._replace(target_ids=rows[0].target_ids[2:])]
    examples = [Example(fact, fact, [tiny.text(fact)]) for fact in tiny.FACTS]
    batches = {"machine": section(Machine, generation_batch_tokens=SMALL)}
    predictions(folder, tokens, examples, rows, rows[0].source_ids, architecture, **batches | overrides)
    return b"".join((folder / "out" / name).read_bytes() for name in ("predictions.jsonl", "no_input.json"))


@pytest.mark.parametrize(("architecture", "strategy"), [("gpt2", "sample"), ("t5", "greedy")])
def test_a_killed_run_goes_on_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, strategy: str
) -> None:
    done, parts = list[int](), list[int]()
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "decode", recorded(Decoder.decode, parts))
        patched.setattr(ExampleLosses, "__call__", recorded(ExampleLosses.__call__, parts))
        unbroken = of_all_facts(tmp_path / "unbroken", architecture, strategy=strategy)
    monkeypatch.setattr(Decoder, "decode", dying(Decoder.decode, done))
    monkeypatch.setattr(ExampleLosses, "__call__", dying(ExampleLosses.__call__, done))
    kills = 0
    while True:
        done.clear()
        try:
            killed = of_all_facts(tmp_path / "killed", architecture, strategy=strategy)
            break
        except Killed:
            assert not (tmp_path / "killed/out").exists()
            kills += 1
    assert killed == unbroken
    assert kills == len(parts) - 1 > 2


class Killed(BaseException):
    pass


def dying(compute: Callable[..., Any], done: list[int]) -> Callable[..., Any]:
    """Does one part, and dies in the next."""

    def work(self: Any, part: Sequence[int]) -> Any:
        if done:
            raise Killed
        done.append(len(part))
        return compute(self, part)

    return work


def recorded(compute: Callable[..., Any], counts: list[int]) -> Callable[..., Any]:
    """Notes the number of items of each part."""

    def work(self: Any, part: Sequence[int]) -> Any:
        counts.append(len(part))
        return compute(self, part)

    return work


def of_both_splits(folder: Path, test: Sequence[str], validation: Sequence[str]) -> dict[str, list[Prediction]]:
    """Predictions for facts, in small batches."""
    tokens = tiny.tokenizer()
    tokens.save_pretrained(folder / "model")
    tiny.model(tokens).save_pretrained(folder / "model")
    for texts, ids, facts in (("texts", "test", test), ("other", "validation_answers", validation)):
        write_examples(folder / texts, [Example(fact, fact, [tiny.text(fact)]) for fact in facts])
        write_tokenized_examples(folder / "ids" / ids, [[tiny.example(tokens, fact) for fact in facts]])
    write_label_ids(folder / "ids/label_ids.json", [])
    write_json(folder / "ids/no_input.json", {"source_ids": None})
    params, model = section(Predict, strategy="sample"), scratch_model(tiny.ARCHITECTURE)
    machine = section(Machine, generation_batch_tokens=SMALL // 2)
    paths = {"texts": folder / "texts", "ids": folder / "ids", "trained": folder, "validation": folder / "other"}
    out = {"target": folder / "out", "folder": folder / "state"}
    predict.run(params, model, machine, **paths, **out)
    return {name: list(read_predictions(folder / f"out/{name}.jsonl")) for name in ("predictions", "validation")}


def test_validation_is_predicted_as_test_is_also_after_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, others = tiny.FACTS[:5], tiny.FACTS[5:]
    first, second = of_both_splits(tmp_path / "1", some, others), of_both_splits(tmp_path / "2", others, some)
    for one, other in ((first, second), (second, first)):
        assert [own.id for own in one["validation"]] == [own.id for own in other["predictions"]]
        assert [(own.prediction, own.confidence, own.references) for own in one["validation"]] == [
            (own.prediction, own.confidence, own.references) for own in other["predictions"]
        ]
        assert {own.reference_tokens for own in one["validation"]} == {0}
    done = list[int]()
    monkeypatch.setattr(Decoder, "decode", dying(Decoder.decode, done))
    kills = 0
    while True:
        done.clear()
        try:
            assert of_both_splits(tmp_path / "killed", some, others) == first
            break
        except Killed:
            kills += 1
            assert not (tmp_path / "killed/out").exists()
    assert kills > 2


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_two_processes_predict_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    alone = of_all_facts(tmp_path / "alone", architecture)
    texts = list[int]()
    monkeypatch.setattr(Decoder, "decode", recorded(Decoder.decode, texts))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(FileNotFoundError):  # the other one writes
        of_all_facts(tmp_path / "shared", architecture)
    assert 0 < sum(texts) < len(tiny.FACTS)
    monkeypatch.setenv("RANK", "0")
    assert of_all_facts(tmp_path / "shared", architecture) == alone
    assert sum(texts) == len(tiny.FACTS) + 1


def test_before_the_work_its_size_and_cost_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_all_facts(tmp_path)
    plan, conclusion = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"predict: [\d,]+ parameters, 12 texts of at most 8 tokens, references of \d+ tokens; "
        r"about \d+ s and \d+\.\d GiB of memory",
        plan,
    )
    assert conclusion.startswith("predict: 12 predictions, ")


def test_a_prediction_has_the_mean_log_probability_of_its_tokens(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    rows = [tiny.example(tokens, fact) for fact in tiny.FACTS]
    examples = [Example(fact, fact, [tiny.text(fact)]) for fact in tiny.FACTS]
    found = predictions(tmp_path, tokens, examples, rows)
    prompts = [Prompt(row.source_ids, row.id) for row in rows]
    texts = decode(tiny.model(tokens), tokens, prompts, section(Predict), None, None)
    for own, text in zip(found, texts, strict=True):
        assert own.confidence == pytest.approx(text.log_probability / text.tokens, abs=1e-4)
        assert own.prediction_tokens == text.tokens


def test_bfloat16_gives_the_same_losses_except_for_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine where it is emulated."""
    monkeypatch.setattr("stages.lib.models.devices._has_bfloat16", lambda: True)
    of_all_facts(tmp_path / "float32")
    of_all_facts(tmp_path / "bfloat16", precision="bfloat16")
    exact, rounded = (
        [own.reference_nats for own in read_predictions(tmp_path / name / "out/predictions.jsonl")]
        for name in ("float32", "bfloat16")
    )
    assert exact != rounded == pytest.approx(exact, rel=0.02)


def test_a_label_has_its_log_probability_among_the_labels(tmp_path: Path) -> None:
    tokens = tiny.tokenizer("encoder")
    labels = [Label("bad", [0]), Label("good", [1])]
    rows = [TokenizedExample(fact, tokens(fact)["input_ids"], [1], [], 4) for fact in tiny.FACTS]
    examples = [Example(fact, fact, ["good"]) for fact in tiny.FACTS]
    found = predictions(tmp_path, tokens, examples, rows, architecture="bert", labels=labels)
    for own in found:
        loss = own.reference_nats if own.prediction == "good" else -log1p(-exp(-own.reference_nats))
        assert own.confidence == pytest.approx(-loss, abs=1e-4)
    assert all(own.candidates == [] for own in found)


@pytest.mark.parametrize("strategy", ["beam", "sample"])
def test_several_candidates_are_kept_the_prediction_first(tmp_path: Path, strategy: str) -> None:
    tokens = tiny.tokenizer()
    rows = [tiny.example(tokens, fact) for fact in tiny.FACTS]
    examples = [Example(fact, fact, [tiny.text(fact)]) for fact in tiny.FACTS]
    for own in predictions(tmp_path, tokens, examples, rows, strategy=strategy, candidates=3, temperature=2.0):
        assert len(own.candidates) == 3
        assert own.candidates[0] == {"text": own.prediction, "confidence": own.confidence}
        confidences = [each["confidence"] for each in own.candidates]
        assert strategy == "beam" or confidences == sorted(confidences, reverse=True)


def test_an_adapter_predicts_as_the_network_that_was_trained(tmp_path: Path) -> None:
    saved = save_moved(base_of("gpt2", tmp_path / "base"), tmp_path, adapters=Adapters())
    write_examples(tmp_path / "texts", [Example(fact, fact, [tiny.text(fact)]) for fact in tiny.FACTS])
    write_tokenized_examples(tmp_path / "ids/test", [saved.examples])
    write_label_ids(tmp_path / "ids/label_ids.json", [])
    write_json(tmp_path / "ids/no_input.json", {"source_ids": None})
    paths = {"texts": tmp_path / "texts", "ids": tmp_path / "ids", "trained": tmp_path, "target": tmp_path / "out"}
    paths["folder"] = tmp_path / "state"
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
    texts, ids, state = tmp_path / "texts", tmp_path / "ids", tmp_path / "base_state"
    predict_base.run(*settings, seed=1, texts=texts, ids=ids, target=target, folder=state)
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
