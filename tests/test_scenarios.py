"""Every scenario of params.yaml with every family that can do it: all stages on a part of its sample, with narrow
models; and what was saved gives the same predictions in plain transformers."""

import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from stages import evaluate, predict, prepare, tokenize, train, tune_hyperparameters
from stages.lib.examples import Question, read_examples
from stages.lib.files import read_json
from stages.lib.params import read_section
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.params.tune_hyperparameters import TuneHyperparameters
from stages.lib.predictions import Prediction, read_predictions
from stages.lib.process import UserError
from tests.build import PARAMS, PROJECT, params_of

SCENARIOS: dict[str, Any] = YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")["scenarios"]
NARROW = YAML(typ="safe", pure=True).load(PARAMS)["model"]["architectures"]
FREE_TEXT = {"content_generation"}  # has no source, which an encoder would read
CASES = [
    (scenario, architecture)
    for scenario in SCENARIOS
    for architecture in NARROW
    if architecture == "gpt2" or scenario not in FREE_TEXT
]
ROWS = 160
# names of the scores that each metric gives
SCORES = {
    "rouge": {"rouge1", "rouge2", "rougeL", "rougeLsum"},
    "answer_overlap": {"answer_bleu1", "answer_rougeL"},
}


def part_of_the_sample(scenario: str, folder: Path) -> None:
    """Evenly spaced lines of every file, the header of a table among them."""
    for file in (PROJECT / "data/raw" / scenario).iterdir():
        header, *rows = file.read_text("utf-8").splitlines(keepends=True)
        some = [*([header] if file.suffix == ".csv" else []), *rows[:: max(len(rows) // ROWS, 1)]]
        (folder / scenario).mkdir(exist_ok=True, parents=True)
        (folder / scenario / file.name).write_text("".join(some), "utf-8")


def run_all(scenario: str, architecture: str, folder: Path) -> Path:
    """All stages; returns the folder that holds what they made."""
    part_of_the_sample(scenario, folder / "raw")
    wide = {name: {**settings, **_positions(settings)} for name, settings in NARROW.items()}
    params = params_of(
        scenario,
        folder,
        model__name="scratch",
        model__architecture=architecture,
        model__architectures=wide,
        fit__epochs=1.0,
        fit__validations=1,
        tune_hyperparameters__trials=0,
        predict__before_training=False,
    )
    data, scratch = folder / "data", folder / "scratch"
    scratch.mkdir()
    fit, model, machine = read_section(Fit, params), read_section(Model, params), read_section(Machine, params)
    prepare.run(read_section(Prepare, params), 1, folder / "raw" / scenario, data / "prepare")
    tokens = read_section(Tokenize, params).model_copy(update={"max_cut_fraction": 1.0})
    tokenize.run(tokens, model, None, data / "prepare", data / "tokenize")
    tuned = data / "tune_hyperparameters"
    search = read_section(TuneHyperparameters, params)
    tune_hyperparameters.run(search, fit, model, machine, data / "tokenize", tuned, scratch)
    train.run(fit, model, machine, data / "tokenize", tuned / "best.json", data / "train", scratch)
    decoding = read_section(Predict, params).model_copy(update={"max_new_tokens": 6})
    predict.run(
        decoding, model, machine, 1, data / "prepare/test", data / "tokenize", data / "train/model", data / "predict"
    )
    evaluate.run(read_section(Evaluate, params), data, data / "metrics")
    return data


def _positions(settings: dict[str, Any]) -> dict[str, int]:
    longest = {"gpt2": "n_positions", "bert": "max_position_embeddings"}
    return {longest[settings["model_type"]]: 512} if settings["model_type"] in longest else {}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    return {}


@pytest.fixture
def data(
    request: pytest.FixtureRequest, made: dict[tuple[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Made once for all tests of a case."""
    scenario, architecture = request.param
    if request.param not in made:
        made[request.param] = run_all(scenario, architecture, tmp_path_factory.mktemp(f"{scenario}-{architecture}"))
    return made[request.param]


every_case = pytest.mark.parametrize("data", CASES, indirect=True, ids=["-".join(case) for case in CASES])


def scenario_of(data: Path) -> str:
    return next(path.name for path in (data.parent / "raw").iterdir())


@every_case
def test_all_stages_run_and_the_metrics_of_the_scenario_are_taken(data: Path) -> None:
    scores = read_json(data / "metrics/evaluate.json")
    metrics = SCENARIOS[scenario_of(data)]["evaluate"]["metrics"]
    named = set().union(*(SCORES.get(metric, {metric}) for metric in metrics))
    assert set(scores) == named | {"perplexity", "bits_per_byte", "signs"}
    assert all(math.isfinite(scores[name]) for name in named)


@every_case
def test_every_test_question_has_a_prediction(data: Path) -> None:
    asked = [question for example in read_examples(data / "prepare/test") for question in example.questions()]
    found = list(read_predictions(data / "predict/after.jsonl"))
    assert len(found) > 10
    aside = sum(json.loads(line)["split"] == "test" for line in (data / "tokenize/set_aside.jsonl").open())
    assert len(asked) - aside <= len(found) <= len(asked)
    if labels := SCENARIOS[scenario_of(data)]["prepare"].get("labels"):
        assert {prediction.prediction for prediction in found} <= set(labels.values())


def first_predictions(data: Path) -> Iterator[tuple[Question, Prediction]]:
    by_id = {prediction.id: prediction for prediction in read_predictions(data / "predict/after.jsonl")}
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
        options = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
        (found,) = generate(prompt, **options)
        assert found["generated_text"].strip() == prediction.prediction


@pytest.mark.parametrize("data", ENCODER_DECODER, indirect=True, ids=["-".join(case) for case in ENCODER_DECODER])
def test_an_encoder_decoder_writes_the_same_in_plain_transformers(data: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(data / "train/model")
    network: Any = AutoModelForSeq2SeqLM.from_pretrained(data / "train/model")
    for question, prediction in first_predictions(data):
        ids = tokens(prompt_of(scenario_of(data), question), return_tensors="pt", return_token_type_ids=False)
        found = network.generate(**ids, max_new_tokens=6)
        assert str(tokens.decode(found[0], skip_special_tokens=True)).strip() == prediction.prediction


@pytest.mark.parametrize("data", [("sentiment_analysis", "bert")], indirect=True)
def test_a_classifier_chooses_the_same_in_a_plain_pipeline(data: Path) -> None:
    choose = pipeline("text-classification", str(data / "train/model"), device="cpu")
    for question, prediction in first_predictions(data):
        assert choose(prompt_of("sentiment_analysis", question))[0]["label"] == prediction.prediction


@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_free_text_for_a_model_that_reads_a_source_is_refused(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"free text \(a scenario without source\) needs a causal model"):
        run_all("content_generation", architecture, tmp_path)
