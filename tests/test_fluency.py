"""Fluency by a language model, relevance by a sentence encoder, and whether they say more than chrF."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from transformers import PreTrainedTokenizerBase

from stages.lib.core.files import read_json
from stages.lib.core.process import UserError
from stages.lib.generation.language_model import fluency_model
from stages.lib.generation.plain_texts import fluency_losses
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.records.predictions import Prediction
from stages.lib.records.text_losses import Fluency, read_fluency, write_fluency
from stages.lib.scores.chrf_correlation import chrf_correlations
from stages.lib.scores.fluency import FLUENCY, fluency_scores
from stages.lib.scores.resampling import rank_correlation
from stages.lib.scores.score import mean_score
from tests import tiny
from tests.build import prediction, scratch_model, section
from tests.test_evaluate import PREDICT, SETTINGS, TEXTS, apart, evaluate
from tests.test_forgetting import by_hand
from tests.test_predict import of_all_facts
from tests.test_scores import encoder as encoder  # a fixture

SOME = ["A red cup.", "", "Look, a blue boat on the quiet river!", "A red cup."]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a causal model."""
    folder, tokens = tmp_path_factory.mktemp("judge"), tiny.tokenizer()
    tiny.model(tokens, seed=2).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def asked(judge: Path) -> dict[str, Any]:
    return {"fluency_model": "folder", "fluency_model_folder": str(judge)}


def losses(predictions: Sequence[Prediction], judge: Path, folder: Path) -> list[Fluency]:
    params = section(Predict, **asked(judge))
    model = fluency_model(scratch_model(tiny.ARCHITECTURE), params)
    assert model is not None
    return fluency_losses(predictions, model, params, None, folder)


@pytest.fixture
def tokens() -> PreTrainedTokenizerBase:
    return tiny.tokenizer()


def test_it_is_the_loss_of_the_other_model_without_the_source(
    judge: Path, tokens: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    found = losses([prediction(text, "A hat.", source="thing: hat", id=text) for text in SOME], judge, tmp_path)
    network = tiny.model(tokens, seed=2)
    assert [own.nats for own in found] == pytest.approx([sum(by_hand(network, tokens, t)) for t in SOME], rel=1e-5)
    assert [own.bytes for own in found] == [len(text.encode()) for text in SOME]
    assert found[0].reference_nats == pytest.approx(sum(by_hand(network, tokens, "A hat.")), rel=1e-5)
    assert found[0].nats > 0


def test_predictions_that_are_the_references_reach_the_ceiling(judge: Path, tmp_path: Path) -> None:
    scores = fluency_scores(losses([prediction(text, text) for text in SOME], judge, tmp_path), "judge")
    assert scores.of_predictions[FLUENCY].value == scores.of_references[FLUENCY].value > 0


def test_a_text_of_noise_is_less_fluent_than_one_that_the_model_knows() -> None:
    noise, known = Fluency("1", 30 * math.log(2), 10, 0, 0), Fluency("2", 10 * math.log(2), 10, 0, 0)
    worse, better = (fluency_scores([own], "judge").of_predictions[FLUENCY] for own in (noise, known))
    assert (worse.value, better.value) == pytest.approx((3, 1))
    assert not worse.higher_is_better


def test_the_stage_writes_it_for_every_prediction(judge: Path, tmp_path: Path) -> None:
    of_all_facts(tmp_path, **asked(judge))
    found = list(read_fluency(tmp_path / "out/fluency.jsonl"))
    assert [own.id for own in found] == tiny.FACTS
    assert all(own.reference_nats > 0 for own in found)


def test_of_several_processes_the_main_one_does_it_alone(
    judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_all_facts(tmp_path / "alone", **asked(judge))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(FileNotFoundError):
        of_all_facts(tmp_path / "shared", **asked(judge))
    monkeypatch.setenv("RANK", "0")
    of_all_facts(tmp_path / "shared", **asked(judge))
    alone, shared = ((tmp_path / name / "out/fluency.jsonl").read_bytes() for name in ("alone", "shared"))
    assert shared == alone


@pytest.mark.parametrize(
    ("model", "params", "line"),
    [
        (scratch_model(tiny.ARCHITECTURE), {"fluency_model": "base"}, "fluency_model: own, from random weights is no"),
        (section(Model, family="encoder", architecture="checkpoint", scratch=None), {"fluency_model": "base"}, "is no"),
        (scratch_model(tiny.ARCHITECTURE), {"fluency_model": "folder", "fluency_model_folder": "no"}, "no weights"),
    ],
)
def test_a_model_that_cannot_judge_is_refused(model: Model, params: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        fluency_model(model, section(Predict, **params))


def test_the_base_can_be_the_judge_and_null_asks_for_none() -> None:
    base = section(Model, family="causal", architecture="checkpoint", scratch=None)
    assert fluency_model(base, section(Predict, fluency_model="base")) == base
    assert fluency_model(base, section(Predict, fluency_model=None)) is None


def numbers(count: int, noise: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """With ties."""
    drawn = random.Random(seed)
    first = [drawn.randrange(count // 3) for _ in range(count)]
    return np.array(first, float), np.array([round(own + drawn.gauss(0, noise * count)) for own in first], float)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
def test_the_correlation_is_spearmans_with_ties(noise: float) -> None:
    first, second = numbers(60, noise)
    found = rank_correlation(first, second, list(map(str, range(60))))
    assert found is not None
    assert found[0] == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_its_interval_is_that_of_a_bootstrap_over_the_groups() -> None:
    """Beside resamples that scipy ranks anew, in pairs of examples."""
    first, second = numbers(60, 0.2)
    groups = [str(number // 2) for number in range(60)]
    found = rank_correlation(first, second, groups)
    assert found is not None
    random_rows = np.random.default_rng(5)
    drawn = []
    for _ in range(400):
        pairs = random_rows.integers(30, size=30)
        rows = np.concatenate([2 * pairs, 2 * pairs + 1])
        drawn.append(spearmanr(first[rows], second[rows]).statistic)
    assert found[1].error == pytest.approx(np.std(drawn), rel=0.15)
    assert found[1].low < found[0] < found[1].high


def test_equal_numbers_have_no_correlation() -> None:
    assert rank_correlation(np.ones(5), np.arange(5.0), list("abcde")) is None


@pytest.mark.parametrize(("noise", "says"), [(0.01, "nearly the same as chrF"), (1.0, "something that chrF does not")])
def test_what_the_correlation_means_is_said_and_lower_can_be_better(noise: float, says: str) -> None:
    first, second = numbers(100, noise)
    groups = list(map(str, range(100)))
    scores = {"up": mean_score(second, ""), "down": mean_score(-second, "", higher_is_better=False)}
    found = chrf_correlations(scores, mean_score(first, ""), groups)
    assert found["up"].rho == pytest.approx(found["down"].rho)
    assert found["up"].says.startswith(says)


def test_empty_texts_do_not_count_in_the_correlation_of_fluency() -> None:
    own = [Fluency(str(n), n * math.log(2), 1, 1, 1) for n in range(1, 9)]
    with_empty = [*own, Fluency("empty", 0, 0, 1, 1)]
    chrf = mean_score(map(float, range(9, 0, -1)), "")
    found = chrf_correlations(fluency_scores(with_empty, "m").of_predictions, chrf, list("abcdefghi"))
    assert found[FLUENCY].rho == pytest.approx(1)


WORDS = ["the old mill", "a quiet place", "the quiet mill", "a place", "old place", "the mill a place", "quiet"]
GIVEN = [prediction(WORDS[n % 7], WORDS[n % 5], source=WORDS[n % 3]) for n in range(30)]


def evaluated(folder: Path, judge: str, encoder: Path, after: Sequence[Prediction], **params: Any) -> dict[str, Any]:
    drawn = random.Random(1)
    write_fluency(
        folder / "data/predict/fluency.jsonl",
        [Fluency(own.id, drawn.uniform(8, 20), len(own.prediction), 10.0 * bool(own.references), 12) for own in after],
    )
    named: dict[str, Any] = {"sentence_encoder": "folder", "sentence_encoder_folder": str(encoder)}
    predict = PREDICT | {"fluency_model": judge, "fluency_model_folder": "some/gpt"}
    return read_json(evaluate(folder, after, predict=predict, **named, **params) / "scores.json")


def test_evaluate_has_fluency_and_relevance_with_intervals_ceilings_and_correlations(
    encoder: Path, tmp_path: Path
) -> None:
    found = evaluated(tmp_path, "folder", encoder, apart(*GIVEN), metrics=["bleu"])  # without chrF
    for name in ("fluency_bits_per_byte", "source_similarity"):
        own = found["scores"][name]
        assert own["low"] < own["score"] < own["high"]
        assert own["ceiling_low"] <= own["ceiling"] <= own["ceiling_high"]
    assert "model:gpt|" in found["scores"]["fluency_bits_per_byte"]["signature"]
    correlations = found["chrf_correlations"]
    assert set(correlations) == {"fluency_bits_per_byte", "source_similarity", "semantic_similarity"}
    assert all(own["low"] < own["rho"] < own["high"] for own in correlations.values())
    assert correlations["semantic_similarity"]["rho"] > correlations["fluency_bits_per_byte"]["rho"]
    page = (tmp_path / "data/evaluate/report.html").read_text("utf-8")
    assert "beside chrF" in page
    assert correlations["fluency_bits_per_byte"]["says"] in page


def test_relevance_is_full_where_the_text_is_the_source(encoder: Path, tmp_path: Path) -> None:
    after = apart(*(replace(own, prediction=own.source) for own in GIVEN))
    found = evaluated(tmp_path, "base", encoder, after)["scores"]
    assert found["source_similarity"]["score"] == pytest.approx(100, abs=0.01)
    assert found["source_similarity"]["ceiling"] < 99
    assert f"model:{SETTINGS['model']}|" in found["fluency_bits_per_byte"]["signature"]


def test_where_nobody_knows_the_answers_both_are_there_without_a_ceiling(encoder: Path, tmp_path: Path) -> None:
    found = evaluated(tmp_path, "base", encoder, TEXTS)
    assert set(found["scores"]) == {"fluency_bits_per_byte", "source_similarity"}
    assert not any("ceiling" in own for own in found["scores"].values())
    assert found["chrf_correlations"] == {}


def test_labels_are_neither_fluent_nor_relevant(encoder: Path, tmp_path: Path) -> None:
    after = apart(*(prediction("a place", "a place", source=own.source) for own in GIVEN))
    named: dict[str, Any] = {"sentence_encoder": "folder", "sentence_encoder_folder": str(encoder)}
    named["metrics"] = ["accuracy"]
    found = read_json(evaluate(tmp_path, after, labels=["a place", "quiet"], **named) / "scores.json")
    assert not {"source_similarity", "fluency_bits_per_byte"} & set(found["scores"])
    assert found["chrf_correlations"] == {}


def test_each_text_is_encoded_once(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer

    encoded, encode = list[str](), SentenceTransformer.encode

    def noted(self: Any, texts: list[str], **options: Any) -> Any:
        encoded.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", noted)
    copy = tmp_path / "encoder"
    copy.symlink_to(encoder)  # another name: not the one that is in memory
    evaluated(tmp_path, "base", copy, apart(*GIVEN))
    assert sorted(encoded) == sorted(WORDS)
