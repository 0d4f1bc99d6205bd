"""Scores: known values, all references, the conventions that a signature names, and the signs of broken output."""

import math
from typing import Any

import pytest
from sacrebleu.metrics.bleu import BLEU

from stages.evaluate import model_scores
from stages.lib.params.evaluate import Evaluate
from stages.lib.predictions import Prediction
from stages.lib.scores import Score, sentence_chrf, signs, text_scores
from tests.build import prediction, section

# sacreBLEU's README, "Using SacreBLEU from Python": with both references BLEU 48.53 and chrF2 59.73; without the
# first reference of the first text BLEU 29.44
DOG = [
    prediction("The dog bit the man.", "The dog bit the man.", "The dog had bit the man."),
    prediction("It wasn't surprising.", "It was not unexpected.", "No one was surprised."),
    prediction("The man had just bitten him.", "The man bit him first.", "The man had bitten the dog."),
]
DOG_UNEVEN = [prediction("The dog bit the man.", "The dog had bit the man."), *DOG[1:]]

ALL_SCORES = {"bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum"}


def scores(predictions: list[Prediction], **overrides: Any) -> dict[str, Score]:
    usual = {"lowercase": False, "bleu_tokenizer": "13a", "rouge_stemmer": False}
    return text_scores(predictions, section(Evaluate, **{**usual, **overrides}))


def values(predictions: list[Prediction], **overrides: Any) -> dict[str, float]:
    return {name: round(score.value, 2) for name, score in scores(predictions, **overrides).items()}


@pytest.mark.parametrize(
    ("text", "conventions"),
    [
        pytest.param("The quick brown fox jumps over the lazy dog.", {}, id="english"),
        pytest.param("Zażółć gęślą jaźń, pchnąć w tę łódź jeża.", {}, id="polish"),
        pytest.param(
            "\u654f\u6377\u7684\u68d5\u8272\u72d0\u72f8\u8df3\u8fc7\u61d2\u72d7\u3002",
            {"bleu_tokenizer": "zh", "rouge_words": "unicode"},
            id="chinese",
        ),
    ],
)
def test_a_text_that_equals_a_reference_scores_100(text: str, conventions: dict[str, str]) -> None:
    found = values([prediction(text, "Another one of some length.", text)], **conventions)
    assert found == dict.fromkeys(ALL_SCORES, 100.0)


def test_bleu_and_chrf_are_those_of_sacrebleus_readme() -> None:
    found = values(DOG)
    assert (found["bleu"], found["chrf"]) == (48.53, 59.73)


def test_references_may_differ_in_number() -> None:
    padded: Any = [
        ["The dog had bit the man.", "It was not unexpected.", "The man bit him first."],
        [None, "No one was surprised.", "The man had bitten the dog."],
    ]
    by_hand = BLEU().corpus_score([own.prediction for own in DOG_UNEVEN], padded).score
    first_only = BLEU().corpus_score([own.prediction for own in DOG_UNEVEN], padded[:1]).score
    found = scores(DOG_UNEVEN)["bleu"]
    assert found.value == by_hand
    assert round(found.value, 2) == 29.44
    assert found.value > first_only + 1
    assert "nrefs:var" in found.signature


# rouge-score's README compares these two; by hand: 6 of 8 and of 9 words are the reference's, 2 of 7 and of 8 pairs,
# and "the quick brown jumps the" is the longest common subsequence
FOX = "The quick brown fox jumps over the lazy dog"
QUICK = "The quick brown dog jumps on the log."


@pytest.mark.parametrize(
    ("name", "precision", "recall"),
    [("rouge1", 6 / 8, 6 / 9), ("rouge2", 2 / 7, 2 / 8), ("rougeL", 5 / 8, 5 / 9), ("rougeLsum", 5 / 8, 5 / 9)],
)
def test_rouge_is_the_f1_of_the_counts(name: str, precision: float, recall: float) -> None:
    f1 = 2 * precision * recall / (precision + recall)
    assert scores([prediction(QUICK, FOX)])[name].value == pytest.approx(100 * f1)


@pytest.mark.parametrize("references", [(FOX, "nothing like it"), ("nothing like it", FOX)])
def test_rouge_takes_the_best_reference(references: tuple[str, str]) -> None:
    alone, among = values([prediction(QUICK, FOX)]), values([prediction(QUICK, *references)])
    assert {name: among[name] for name in ALL_SCORES if "rouge" in name} == {
        name: alone[name] for name in ALL_SCORES if "rouge" in name
    }


def test_rouge_is_the_mean_over_texts_and_not_over_references() -> None:
    assert values([prediction("a b", "a b", "c d", "e f"), prediction("x", "y")])["rouge1"] == 50.0


def test_lowercase_changes_scores_and_signatures() -> None:
    shouted = [prediction(FOX.upper(), FOX)]
    kept, lowered = scores(shouted), scores(shouted, lowercase=True)
    for name in ("bleu", "chrf"):
        assert kept[name].value < 20
        assert lowered[name].value == pytest.approx(100)
    assert "case:mixed" in kept["bleu"].signature
    assert "case:lc" in lowered["bleu"].signature
    assert kept["chrf"].signature != lowered["chrf"].signature


def test_the_stemmer_changes_scores_and_signatures() -> None:
    runs = [prediction("dogs running", "dog runs")]
    kept, stemmed = scores(runs)["rouge1"], scores(runs, rouge_stemmer=True)["rouge1"]
    assert (kept.value, stemmed.value) == (0.0, 100.0)
    assert kept.signature != stemmed.signature


@pytest.mark.parametrize("tokenizer", ["13a", "none", "char", "intl", "zh"])
def test_every_score_has_a_signature_with_its_convention(tokenizer: str) -> None:
    found = scores(DOG, bleu_tokenizer=tokenizer) | model_scores(DOG)
    assert set(found) == ALL_SCORES | {"perplexity", "bits_per_byte"}
    assert all(score.signature for score in found.values())
    assert f"tok:{tokenizer}|" in found["bleu"].signature
    assert all("version:" in found[name].signature for name in ("bleu", "chrf"))
    assert "rouge-score:" in found["rougeL"].signature


def test_an_empty_prediction_scores_0_and_is_no_crash() -> None:
    assert values([prediction("", FOX)]) == dict.fromkeys(ALL_SCORES, 0.0)


def test_a_near_miss_ranks_above_nonsense() -> None:
    ranked = sorted([FOX, QUICK, "zzz"], key=lambda text: sentence_chrf(prediction(text, "something else", FOX)))
    assert ranked == ["zzz", QUICK, FOX]


@pytest.mark.parametrize(
    ("sign", "predictions", "value"),
    [
        pytest.param("empty", [prediction("", "x"), prediction(" \n", "x"), prediction("a", "x")], 2 / 3, id="empty"),
        pytest.param("never_ended", [prediction("a", "x", stopped="length"), prediction("a", "x")], 1 / 2, id="cut"),
        pytest.param("repeated_4grams", [prediction("a b c d a b c d", "x")], 1 / 5, id="repeated"),
        pytest.param("repeated_4grams", [prediction("a b c d e f", "x")], 0.0, id="nothing-repeated"),
        pytest.param("repeated_4grams", [prediction("a a a a a", "x"), prediction("a", "x")], 1 / 4, id="short-counts"),
        pytest.param("distinct_1", [prediction("a b", "x"), prediction("a c", "x")], 3 / 4, id="distinct-over-all"),
        pytest.param("distinct_2", [prediction("a b", "x"), prediction("a b a", "x")], 2 / 3, id="pairs-of-one-text"),
        pytest.param("distinct_2", [prediction("", "x")], 0.0, id="distinct-of-nothing"),
        pytest.param("copied_from_source", [prediction("a b c d", "x", source="0 a b c d 1")], 1.0, id="copy"),
        pytest.param("copied_from_source", [prediction("a b c d e", "x", source="a b c d")], 1 / 2, id="half-a-copy"),
        pytest.param("copied_from_source", [prediction("a b c", "x", source="a b c")], 0.0, id="too-short-for-a-copy"),
        pytest.param("length_ratio", [prediction("a b c d", "x", "x y z v w", "x y z v w u")], 4 / 5, id="nearest"),
        pytest.param("length_ratio", [prediction("a b", "x y z", "x")], 2 / 1, id="shorter-of-two-as-near"),
        pytest.param("length_ratio", [prediction("a", "x"), prediction("", "x y z")], 1 / 4, id="ratio-of-sums"),
    ],
)
def test_a_sign_of_broken_output_shows(sign: str, predictions: list[Prediction], value: float) -> None:
    assert signs(predictions)[sign] == pytest.approx(value)


def test_perplexity_and_bits_are_totals_and_not_means_of_texts() -> None:
    short = prediction("", "é", reference_nats=4.0, reference_tokens=2)
    long = prediction("", "abcd", "ef", reference_nats=8.0, reference_tokens=8)
    found = model_scores([short, long])
    assert found["perplexity"].value == pytest.approx(math.exp(12 / 10))
    assert found["bits_per_byte"].value == pytest.approx(12 / math.log(2) / (2 + 4 + 2))
    mean_of_texts = (math.exp(4 / 2) + math.exp(8 / 8)) / 2
    assert abs(found["perplexity"].value - mean_of_texts) > 1


def test_a_uniform_model_over_bytes_loses_8_bits_a_byte() -> None:
    """By definition: ln 256 nats for each of the bytes, none for the end token."""
    text = "Zażółć"
    size = len(text.encode())
    found = model_scores([prediction("", text, reference_nats=size * math.log(256), reference_tokens=size)])
    assert found["bits_per_byte"].value == pytest.approx(8)
    assert found["perplexity"].value == pytest.approx(256)
