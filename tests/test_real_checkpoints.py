"""Real pretrained checkpoints through the real stages, on a few rows of the samples. Unlike the tiny models of other
tests, they know something before training, have weights in bfloat16, a chat template, and a pad token that also ends
texts.

TEXTGEN_CHECKPOINTS is a folder with what `python -m stages.tools.fetch_checkpoint NAME FOLDER/NAME` lays out.
"""

import os
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from stages import predict, predict_base, prepare
from stages.lib.core.files import read_json
from stages.lib.core.params import read_section
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.params.prepare import Prepare
from stages.lib.records.predictions import Prediction, read_predictions
from stages.lib.records.tokenized_examples import TokenizedDataset
from tests.build import PROJECT, params_of
from tests.test_scenarios import run_tokenize, run_training

FOLDER = os.environ.get("TEXTGEN_CHECKPOINTS")
CAUSAL, ENCODER = "smollm2-135m-instruct", "minilm-l6"
NEW_TOKENS = 64
HELD_OUT = 8  # rows of validation, and of test

pytestmark = [
    pytest.mark.checkpoints,
    pytest.mark.skipif(FOLDER is None, reason="TEXTGEN_CHECKPOINTS names no folder with pretrained checkpoints"),
]


class Case(NamedTuple):
    checkpoint: str
    scenario: str
    learning_rate: float
    rows: int  # of train
    as_chat: bool = False


CASES = {
    "plain": Case(CAUSAL, "data_to_text", 5e-4, rows=32),
    "chat": Case(CAUSAL, "data_to_text", 5e-4, rows=32, as_chat=True),
    "labels": Case(CAUSAL, "sentiment_analysis", 3e-4, rows=32),
    "classifier": Case(ENCODER, "sentiment_analysis", 2e-4, rows=512),  # its head is new
}


def each(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("run", [CASES[name] for name in names], indirect=True, ids=names)


class Run(NamedTuple):
    case: Case
    checkpoint: Path
    data: Path

    @property
    def saved(self) -> Path:
        return self.data / "train/model"

    def predictions(self, stage: str) -> list[Prediction]:
        return list(read_predictions(self.data / stage / "predictions.jsonl"))

    def prompt(self, source: str) -> Any:
        """What a user gives a plain pipeline."""
        if self.case.as_chat:
            return [{"role": "user", "content": f"{source}\n"}]
        return f"{source}\nsentiment: " if self.case.scenario == "sentiment_analysis" else f"{source}\n"


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages but evaluate, with the model before training too. pytest keeps the last one for the next test."""
    case: Case = request.param
    checkpoint, data = Path(str(FOLDER)) / case.checkpoint, tmp_path_factory.mktemp("run")
    (data / "scratch").mkdir()
    write_rows(case, data / "raw")
    params = params_of(
        case.scenario,
        data,
        model__folder=str(checkpoint),
        tokenize__as_chat=case.as_chat,
        tune_hyperparameters__trials=0,
        fit__learning_rate=case.learning_rate,
        fit__batch_size=4,
        fit__evals_per_run=2,
        train__epochs=1,
    )
    files = {split: f"{split}.csv" for split in ("train", "validation", "test")}
    prepare.run(read_section(Prepare, params).model_copy(update=files), 1, data / "raw", data / "prepare")
    run_tokenize(params, data)
    run_training(params, data, data / "scratch")
    decoding = read_section(Predict, params).model_copy(update={"max_new_tokens": NEW_TOKENS})
    model, machine = read_section(Model, params), read_section(Machine, params)
    texts, ids = data / "prepare/test", data / "tokenize"
    scratch = data / "scratch"
    predict_base.run(decoding, model, machine, 1, texts, ids, data / "predict_base", scratch / "predict_base")
    predict.run(decoding, model, machine, texts, ids, data / "train", data / "predict", scratch / "predict")
    return Run(case, checkpoint, data)


def write_rows(case: Case, folder: Path) -> None:
    """The first rows of the sample, divided among three files: one line is one row."""
    folder.mkdir()
    (file,) = (PROJECT / "data/raw" / case.scenario).glob("*.csv")
    header, *rows = file.read_text("utf-8").splitlines(keepends=True)
    remaining = iter(rows)
    for split, count in (("train", case.rows), ("validation", HELD_OUT), ("test", HELD_OUT)):
        (folder / f"{split}.csv").write_text("".join([header, *islice(remaining, count)]), "utf-8")


def loss(predictions: list[Prediction]) -> float:
    """Nats a target token, on the references."""
    return sum(own.reference_nats for own in predictions) / sum(own.reference_tokens for own in predictions)


@each(*CASES)
def test_training_takes_the_loss_on_unseen_sources_far_below_that_of_the_checkpoint(run: Run) -> None:
    before, after = loss(run.predictions("predict_base")), loss(run.predictions("predict"))
    assert after < before * 0.7


@each("plain", "chat", "labels")
def test_plain_transformers_finds_the_validation_loss_in_the_saved_model(run: Run) -> None:
    network: Any = AutoModelForCausalLM.from_pretrained(run.saved).eval()
    nats, tokens = 0.0, 0
    for example in TokenizedDataset(run.data / "tokenize/validation"):
        ids = torch.tensor([[*example.source_ids, *example.target_ids]])
        labels = torch.tensor([[-100] * len(example.source_ids) + example.target_ids])
        with torch.no_grad():
            nats += float(network(input_ids=ids, labels=labels).loss) * len(example.target_ids)
        tokens += len(example.target_ids)
    reported = read_json(run.data / "train/report/stats.json")["validation_loss"]["best"]
    assert nats / tokens == pytest.approx(reported, rel=1e-3)


@each("plain", "chat")
def test_plain_transformers_writes_the_same_texts(run: Run) -> None:
    generate = pipeline("text-generation", str(run.saved), device="cpu")
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "return_full_text": False}
    for prediction in run.predictions("predict")[:4]:
        (found,) = generate(run.prompt(prediction.source), **options)
        assert found["generated_text"].strip() == prediction.prediction


@each("classifier")
def test_plain_transformers_chooses_the_same_labels(run: Run) -> None:
    choose = pipeline("text-classification", str(run.saved), device="cpu")
    for prediction in run.predictions("predict"):
        assert choose(run.prompt(prediction.source))[0]["label"] == prediction.prediction


@each("plain", "chat")
def test_texts_end_although_the_end_token_is_the_pad_token(run: Run) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run.saved)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert all(own.finish_reason == "end" for own in run.predictions("predict"))


@each("plain", "chat", "labels")
def test_the_chat_template_is_kept(run: Run) -> None:
    before, after = (AutoTokenizer.from_pretrained(folder).chat_template for folder in (run.checkpoint, run.saved))
    assert after == before
    assert "<|im_start|>" in after
