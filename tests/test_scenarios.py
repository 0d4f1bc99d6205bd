"""Every scenario of params.yaml with every family that can do it: all stages run on a part of its sample, with narrow
models. The saved models give the same predictions in plain transformers."""

import math
import shutil
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from stages import evaluate, predict, predict_base, prepare, tokenize, train, tune_hyperparameters
from stages.lib.core.files import read_json, read_jsonl
from stages.lib.core.params import read_section
from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate, scores_of
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.params.train import FitSettings, Train
from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.records.examples import Question, read_examples
from stages.lib.records.predictions import Prediction, read_predictions, write_predictions
from tests.build import PARAMS, PROJECT, params_of

SCENARIOS: dict[str, Any] = YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")["scenarios"]
NARROW: dict[str, Any] = YAML(typ="safe", pure=True).load(PARAMS)["architectures"]
ARCHITECTURES = [name for name in NARROW if name != "checkpoint"]
FREE_TEXT = {"content_generation"}  # has no source, which an encoder would read
CASES = [
    (scenario, architecture)
    for scenario in SCENARIOS
    for architecture in ARCHITECTURES
    if architecture == "gpt2" or scenario not in FREE_TEXT
]
ROWS = 100
NEW_TOKENS = 6


def part_of_the_sample(scenario: str, folder: Path) -> None:
    """Evenly spaced lines of every file, after the header if it has one."""
    folder.mkdir(parents=True)
    for file in (PROJECT / "data/raw" / scenario).iterdir():
        header, *rows = file.read_text("utf-8").splitlines(keepends=True)
        some = [*([header] if file.suffix == ".csv" else []), *rows[:: max(len(rows) // ROWS, 1)]]
        (folder / file.name).write_text("".join(some), "utf-8")


def params_for(scenario: str, folder: Path, architecture: str = "gpt2") -> Path:
    """Narrow models with room for the texts of every scenario; a few updates."""
    room = {"gpt2": {"n_positions": 512}, "bert": {"max_position_embeddings": 512}}
    architectures = {name: settings | room.get(name, {}) for name, settings in NARROW.items()}
    edits: dict[str, Any] = {"train__epochs": 0.2, "fit__evals_per_run": 1, "tune_hyperparameters__trials": 0}
    return params_of(scenario, folder, model__architecture=architecture, architectures=architectures, **edits)


@cache
def prepared(scenario: str, folder: Path) -> Path:
    """What the prepare stage makes of a part of the sample: the same for every architecture."""
    folder = folder / scenario
    part_of_the_sample(scenario, folder / "raw")
    prepare.run(read_section(Prepare, params_for(scenario, folder)), 1, folder / "raw", folder / "prepare")
    return folder / "prepare"


def run_tokenize(params: Path, data: Path) -> None:
    settings = read_section(Tokenize, params).model_copy(update={"max_truncated_fraction": 1.0})
    tokenize.run(settings, read_section(Model, params), None, data / "prepare", data / "tokenize")


def run_training(params: Path, data: Path, scratch: Path) -> None:
    fit, model, machine = read_section(Fit, params), read_section(Model, params), read_section(Machine, params)
    ids, tuned = data / "tokenize", data / "tune_hyperparameters"
    search = read_section(TuneHyperparameters, params)
    tune_hyperparameters.run(search, fit, model, machine, ids, tuned, scratch)
    settings = FitSettings(**dict(fit), **dict(read_section(Train, params)))
    train.run(settings, model, machine, ids, tuned / "best.json", data / "train", scratch)


def decoding(params: Path) -> Predict:
    return read_section(Predict, params).model_copy(update={"max_new_tokens": NEW_TOKENS})


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenarios")


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest, top: Path) -> Path:
    """All stages for a scenario and an architecture, run once for all tests; the folder of their outputs."""
    return run_all(*request.param, top)


@cache
def run_all(scenario: str, architecture: str, top: Path) -> Path:
    folder = top / f"{scenario}-{architecture}"
    data, scratch = folder / "data", folder / "scratch"
    scratch.mkdir(parents=True)
    shutil.copytree(prepared(scenario, top), data / "prepare")
    params = params_for(scenario, folder, architecture)
    run_tokenize(params, data)
    run_training(params, data, scratch)
    texts, machine = data / "prepare/test", read_section(Machine, params)
    model = read_section(Model, params)
    trained, target, state = data / "train", data / "predict", scratch / "predict"
    validation = data / "prepare/validation" if decoding(params).validation else None
    predict.run(decoding(params), model, machine, texts, data / "tokenize", trained, target, state, validation)
    write_predictions(data / "predict_base/predictions.jsonl", [])
    evaluate.run(read_section(Evaluate, params), scenario, data, data / "metrics", data / "evaluate")
    return data


every_case = pytest.mark.parametrize("data", CASES, indirect=True, ids=["-".join(case) for case in CASES])


def scenario_of(data: Path) -> str:
    return data.parent.name.partition("-")[0]


@every_case
def test_all_stages_run_and_the_metrics_of_the_scenario_are_computed(data: Path) -> None:
    scores = read_json(data / "metrics/scores.json")["scores"]
    metrics = SCENARIOS[scenario_of(data)]["evaluate"]["metrics"]
    named = {name for metric in metrics for name in scores_of(metric)} - {"rougeLsum"}  # no reference has a newline
    has_labels = bool(SCENARIOS[scenario_of(data)]["prepare"].get("labels"))
    assert set(scores) >= named | (set() if has_labels else {"perplexity", "bits_per_byte"})
    assert ("perplexity" in scores) != has_labels
    assert all(math.isfinite(scores[name]["score"]) for name in named)


@every_case
def test_predictions_that_are_right_or_wrong_are_compared_with_their_probabilities(data: Path) -> None:
    found = read_json(data / "metrics/scores.json")
    scenario = SCENARIOS[scenario_of(data)]
    is_judged = bool({"accuracy", "exact_match"} & set(scenario["evaluate"]["metrics"]))
    assert ("ece" in found["scores"]) == bool(found["confidence"]) == is_judged
    assert bool(found["labels"]) == bool(scenario["prepare"].get("labels"))
    assert ("scaled" in found["confidence"]) == bool(scenario["predict"].get("validation"))


@every_case
def test_the_few_scores_of_dvc_are_chosen_by_task(data: Path) -> None:
    found = read_json(data / "metrics/evaluate.json")
    assert found["task"] == scenario_of(data)
    truth = {"data_to_text": {"slot_error"}, "question_answering": {"unsupported"}}
    assert truth.get(scenario_of(data), set()) <= set(found)
    assert 4 <= len(found) <= 11


@every_case
def test_every_test_question_has_a_prediction(data: Path) -> None:
    asked = [question for example in read_examples(data / "prepare/test") for question in example.questions()]
    found = list(read_predictions(data / "predict/predictions.jsonl"))
    assert len(found) > 4
    rejected = sum(row["split"] == "test" for row in read_jsonl(data / "tokenize/report/rejected.jsonl"))
    assert len(asked) - rejected <= len(found) <= len(asked)
    if labels := SCENARIOS[scenario_of(data)]["prepare"].get("labels"):
        assert {prediction.prediction for prediction in found} <= set(labels.values())


BASE_CASES = [*(("data_to_text", architecture) for architecture in ARCHITECTURES), ("sentiment_analysis", "bert")]


@pytest.mark.parametrize("data", BASE_CASES, indirect=True, ids=["-".join(case) for case in BASE_CASES])
def test_the_model_before_training_predicts_for_the_same_questions(data: Path, tmp_path: Path) -> None:
    params = data.parent / "params.yaml"
    model, machine = read_section(Model, params), read_section(Machine, params)
    texts, state = data / "prepare/test", tmp_path / "state"
    predict_base.run(decoding(params), model, machine, 1, texts, data / "tokenize", tmp_path, state)
    before, after = (list(read_predictions(folder / "predictions.jsonl")) for folder in (tmp_path, data / "predict"))
    assert [(own.id, own.references, own.reference_tokens) for own in before] == [
        (own.id, own.references, own.reference_tokens) for own in after
    ]
    # a few updates have changed the loss on every question
    assert all(one.reference_nats != other.reference_nats for one, other in zip(before, after, strict=True))


def first_predictions(data: Path) -> Iterator[tuple[Question, Prediction]]:
    by_id = {prediction.id: prediction for prediction in read_predictions(data / "predict/predictions.jsonl")}
    asked = (question for example in read_examples(data / "prepare/test") for question in example.questions())
    return islice(((question, by_id[question.id]) for question in asked if question.id in by_id), 4)


def prompt_of(scenario: str, question: Question) -> str:
    prompt: str = SCENARIOS[scenario]["tokenize"].get("prompt", "{source}\n")
    return prompt.replace("{source}", question.source)


GREEDY = [case for case in CASES if "strategy" not in SCENARIOS[case[0]]["predict"]]
WRITES = [case for case in GREEDY if "labels" not in SCENARIOS[case[0]]["prepare"]]
CAUSAL = [case for case in WRITES if case[1] == "gpt2"]
ENCODER_DECODER = [case for case in WRITES if case[1] != "gpt2"]


@pytest.mark.parametrize("data", CAUSAL, indirect=True, ids=[scenario for scenario, _ in CAUSAL])
def test_a_causal_model_writes_the_same_in_a_plain_pipeline(data: Path) -> None:
    generate = pipeline("text-generation", str(data / "train/model"), device="cpu")
    for question, prediction in first_predictions(data):
        prompt: Any = prompt_of(scenario_of(data), question)
        if scenario_of(data) == "dialogue":
            parts = (line.partition(": ") for line in question.source.split("\n"))
            prompt = [{"role": role, "content": text} for role, _, text in parts]
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "return_full_text": False}
        (found,) = generate(prompt, **options)
        assert found["generated_text"].strip() == prediction.prediction


@pytest.mark.parametrize("data", ENCODER_DECODER, indirect=True, ids=["-".join(case) for case in ENCODER_DECODER])
def test_an_encoder_decoder_writes_the_same_in_plain_transformers(data: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(data / "train/model")
    network: Any = AutoModelForSeq2SeqLM.from_pretrained(data / "train/model")
    for question, prediction in first_predictions(data):
        ids = tokens(prompt_of(scenario_of(data), question), return_tensors="pt", return_token_type_ids=False)
        found = network.generate(**ids, max_new_tokens=NEW_TOKENS)
        assert str(tokens.decode(found[0], skip_special_tokens=True)).strip() == prediction.prediction


@pytest.mark.parametrize("data", [("sentiment_analysis", "bert")], indirect=True)
def test_a_classifier_chooses_the_same_in_a_plain_pipeline(data: Path) -> None:
    choose = pipeline("text-classification", str(data / "train/model"), device="cpu")
    for question, prediction in first_predictions(data):
        assert choose(prompt_of("sentiment_analysis", question))[0]["label"] == prediction.prediction


@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_free_text_for_a_model_that_reads_a_source_is_refused(architecture: str, top: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared("content_generation", top), tmp_path / "prepare")
    with pytest.raises(UserError, match=r"free text \(a scenario without source\) needs a causal model"):
        run_tokenize(params_for("content_generation", tmp_path, architecture), tmp_path)
