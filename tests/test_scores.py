"""Scores: known values, several references, the conventions in a signature, and diagnostics of broken output."""

import math
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate, Metric
from stages.lib.records.predictions import Prediction
from stages.lib.scores.diagnostics import diagnostics, properties
from stages.lib.scores.model_losses import model_losses
from stages.lib.scores.registry import text_scores
from stages.lib.scores.score import Score
from tests.build import prediction, section

# sacreBLEU's README, "Using SacreBLEU from Python": with both references BLEU 48.53 and chrF2 59.73; without the
# first reference of the first text BLEU 29.44
DOG = [
    prediction("The dog bit the man.", "The dog bit the man.", "The dog had bit the man."),
    prediction("It wasn't surprising.", "It was not unexpected.", "No one was surprised."),
    prediction("The man had just bitten him.", "The man bit him first.", "The man had bitten the dog."),
]
DOG_UNEVEN = [prediction("The dog bit the man.", "The dog had bit the man."), *DOG[1:]]

ALL_SCORES = {"bleu", "chrf", "rouge1", "rouge2", "rougeL"}


def scores(predictions: list[Prediction], **overrides: Any) -> dict[str, Score]:
    return text_scores(predictions, section(Evaluate, **{"metrics": ["bleu", "chrf", "rouge"], **overrides}))


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


def test_bleu_and_chrf_equal_those_of_sacrebleus_readme() -> None:
    found = values(DOG)
    assert (found["bleu"], found["chrf"]) == (48.53, 59.73)


def test_texts_may_have_different_numbers_of_references() -> None:
    padded: Any = [
        ["The dog had bit the man.", "It was not unexpected.", "The man bit him first."],
        [None, "No one was surprised.", "The man had bitten the dog."],
    ]
    by_hand = BLEU().corpus_score([own.prediction for own in DOG_UNEVEN], padded).score
    first_only = BLEU().corpus_score([own.prediction for own in DOG_UNEVEN], padded[:1]).score
    found = scores(DOG_UNEVEN)["bleu"]
    assert found.value == pytest.approx(by_hand)
    assert round(found.value, 2) == 29.44
    assert found.value > first_only + 1
    assert "nrefs:var" in found.signature


# rouge-score's README compares these two. Counted by hand: 6 of 8 and of 9 words are shared, 2 of 7 and of 8 word
# pairs, and "the quick brown jumps the" is the longest common subsequence
FOX = "The quick brown fox jumps over the lazy dog"
QUICK = "The quick brown dog jumps on the log."


@pytest.mark.parametrize(
    ("name", "precision", "recall"),
    [("rouge1", 6 / 8, 6 / 9), ("rouge2", 2 / 7, 2 / 8), ("rougeL", 5 / 8, 5 / 9)],
)
def test_rouge_is_the_f1_of_the_counts(name: str, precision: float, recall: float) -> None:
    f1 = 2 * precision * recall / (precision + recall)
    assert scores([prediction(QUICK, FOX)])[name].value == pytest.approx(100 * f1)


@pytest.mark.parametrize("references", [(FOX, "nothing like it"), ("nothing like it", FOX)])
def test_rouge_counts_the_best_reference(references: tuple[str, str]) -> None:
    alone, among = values([prediction(QUICK, FOX)]), values([prediction(QUICK, *references)])
    assert {name: among[name] for name in ALL_SCORES if "rouge" in name} == {
        name: alone[name] for name in ALL_SCORES if "rouge" in name
    }


def test_rouge_is_the_mean_over_texts() -> None:
    assert values([prediction("a b", "a b", "c d", "e f"), prediction("x", "y")])["rouge1"] == 50.0


def test_rouge_of_lines_is_there_where_references_have_lines() -> None:
    lines = scores([prediction("c d\na b", "a b\nc d")])
    # no sequence of both texts has more than two words, but each line has its equal
    assert (lines["rougeL"].value, lines["rougeLsum"].value) == (50.0, 100.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("\u0915\u093f", "\u0915\u0940", id="hindi-vowels"),
        pytest.param("\u0e01\u0e34", "\u0e01\u0e35", id="thai-vowels"),
        pytest.param("\u0643\u064e\u062a\u064e\u0628\u064e", "\u0643\u064f\u062a\u0650\u0628\u064e", id="arabic"),
        pytest.param("\u0645\u06cc\u200c\u0631\u0648\u0645", "\u0645\u06cc \u0631\u0648\u0645", id="persian-joiner"),
        pytest.param("cafe\u0301", "cafe", id="combining-accent"),
    ],
)
def test_rouge_of_unicode_words_tells_words_apart_by_their_marks(one: str, other: str) -> None:
    conventions = {"metrics": ["rouge"], "rouge_words": "unicode"}
    assert values([prediction(one, one)], **conventions)["rougeL"] == 100
    assert values([prediction(one, other)], **conventions)["rougeL"] < 100


def test_each_metric_has_its_own_setting_for_case() -> None:
    def found(**overrides: Any) -> dict[str, Score]:
        return scores([prediction(FOX.upper(), FOX)], metrics=["bleu", "chrf", "ter"], **overrides)

    usual, changed = found(), found(bleu_lowercase=True, chrf_lowercase=True, ter_case_sensitive=True)
    assert [score.value > 99 for score in usual.values()] == [False, False, False]
    assert [score.value > 99 for score in changed.values()] == [True, True, True]
    assert [name for name in usual if "case:lc" in usual[name].signature] == ["ter"]
    assert [name for name in changed if "case:lc" in changed[name].signature] == ["bleu", "chrf"]


def test_the_stemmer_changes_scores_and_signatures() -> None:
    runs = [prediction("dogs running", "dog runs")]
    kept, stemmed = scores(runs)["rouge1"], scores(runs, rouge_stemmer=True)["rouge1"]
    assert (kept.value, stemmed.value) == (0.0, 100.0)
    assert kept.signature != stemmed.signature


@pytest.mark.parametrize("tokenizer", ["13a", "none", "char", "intl", "zh"])
def test_every_score_has_a_signature_with_its_conventions(tokenizer: str) -> None:
    found = scores(DOG, bleu_tokenizer=tokenizer) | model_losses(DOG)
    assert set(found) == ALL_SCORES | {"perplexity", "bits_per_byte"}
    assert all(score.signature for score in found.values())
    assert f"tok:{tokenizer}|" in found["bleu"].signature
    assert all("version:" in found[name].signature for name in ("bleu", "chrf"))
    assert "rouge-score:" in found["rougeL"].signature


def test_an_empty_prediction_scores_0() -> None:
    assert values([prediction("", FOX)]) == dict.fromkeys(ALL_SCORES, 0.0)


def test_a_near_miss_ranks_above_nonsense() -> None:
    own = [prediction(text, "something else", FOX) for text in (FOX, QUICK, "zzz")]
    perfect, near, nonsense = scores(own, metrics=["chrf"])["chrf"].each
    assert perfect > near > nonsense


def only(metric: str, *predictions: Prediction) -> dict[str, float]:
    return values(list(predictions), metrics=[metric])


def test_ter_counts_edits_and_a_move_as_one() -> None:
    assert only("ter", prediction("a b c d e f g h i j", "a b c d x f g h i j")) == {"ter": 10.0}
    assert only("ter", prediction("d e f g h i j a b c", "a b c d e f g h i j")) == {"ter": 10.0}
    shouted = [prediction("A B C D", "a b c d")]
    assert values(shouted, metrics=["ter"]) == {"ter": 0.0}
    assert values(shouted, metrics=["ter"], ter_case_sensitive=True) == {"ter": 100.0}


def test_ter_of_many_texts_is_shared_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [prediction(f"a b {n} c", "a b c", f"c {n} a") for n in range(7)]
    alone = scores(few * 2, metrics=["ter"])["ter"]
    monkeypatch.setattr("stages.lib.scores.bleu_chrf_ter._TEXTS_AT_ONCE", 4)
    monkeypatch.setattr("stages.lib.scores.bleu_chrf_ter._SHARED_CELLS", 0)
    shared = scores(few * 2, metrics=["ter"])["ter"]
    assert shared.statistics.tolist() == alone.statistics.tolist()


@pytest.mark.parametrize(
    ("answer", "truth", "exact", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0, 1.0),
        ("in Paris", "Paris", 0.0, 2 / 3),
        ("Paris, France", "Lyon, France", 0.0, 1 / 2),
        ("a a a", "the an", 1.0, 1.0),  # articles do not count
        ("a", "b", 0.0, 0.0),
        ("Paris Paris", "Paris", 0.0, 2 / 3),  # a word counts as often as it is in both
        ("theatre", "atre", 0.0, 0.0),  # an article is a whole word
        ("...", "the", 1.0, 1.0),  # neither has a word, as in SQuAD 2.0
        ("\u5317\u4eac\u5e02", "\u5317\u4eac", 0.0, 4 / 5),  # a character counts where there are no blanks
        ("iPhone\u8cb7\u3046", "iphone\u58f2\u308b", 0.0, 1 / 3),
    ],
)
def test_answers_are_compared_as_squad_does(answer: str, truth: str, exact: float, f1: float) -> None:
    own = prediction(answer, "nothing like it", truth)
    assert only("exact_match", own) == {"exact_match": 100 * exact}
    assert only("token_f1", own)["token_f1"] == pytest.approx(100 * f1, abs=0.01)


def test_answer_overlap_counts_all_answers_at_once() -> None:
    """Each word is right in one of them. 2 of 3 words are a subsequence of one, which is all of the shortest."""
    found = only("answer_overlap", prediction("old stone mill", "old mill", "x stone y z"))
    assert found == {
        "answer_bleu1": 100.0,
        "answer_rougeL": pytest.approx(100 * 2.44 * (2 / 3) / (1 + 1.44 * 2 / 3), abs=0.01),
    }


@pytest.mark.parametrize(
    ("answer", "bleu1", "rouge_l"),
    [
        ("the old mill", 1.0, 1.0),
        # one of two words, as long as the reference; (1 + 1.44) * 0.25 / (0.5 + 1.44 * 0.5)
        ("old barn", 1 / 2, 1 / 2),
        # all words right, half as long: the brevity penalty exp(1 - 2/1); R 1/2, P 1
        ("mill", math.exp(-1), 2.44 * 0.5 / (0.5 + 1.44)),
        ("mill old", 1.0, 1 / 2),
        ("barn", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_answer_overlap_is_computed_as_in_tweetqa(answer: str, bleu1: float, rouge_l: float) -> None:
    found = only("answer_overlap", prediction(answer, "The old mill.", "x y z"))
    assert found == {
        "answer_bleu1": pytest.approx(100 * bleu1, abs=0.01),
        "answer_rougeL": pytest.approx(100 * rouge_l, abs=0.01),
    }


def test_gleu_subtracts_ngrams_of_the_source_that_the_reference_lacks() -> None:
    # by hand, as in gleu.py by the authors of the paper: 1-grams (4 - 1) / 5, 2-grams (2 - 2) / 4, and so on
    left = prediction("he go to school today", "he goes to school today", source="he go to school today")
    assert only("gleu", left) == {"gleu": 0.0}
    source = "she see the tall man at the old gate by the mill"
    reference = "she sees the tall man at the old gate by the mill"
    # 12 words; n-grams that the reference has, minus those of the source that it lacks, over all n-grams
    precisions = [(11 - 1) / 12, (9 - 2) / 11, (8 - 2) / 10, (7 - 2) / 9]
    by_hand = 100 * math.exp(sum(map(math.log, precisions)) / 4)
    assert only("gleu", prediction(source, reference, source=source))["gleu"] == pytest.approx(by_hand, abs=0.01)
    assert only("gleu", prediction(reference, reference, source=source)) == {"gleu": 100.0}


def test_gleu_of_two_references_is_between_the_values_of_each_and_repeatable() -> None:
    text, one, other = "a b c d e f", "a b c d e f", "a b c d x y"
    low, high = (only("gleu", prediction(text, reference))["gleu"] for reference in (other, one))
    both = only("gleu", prediction(text, one, other))["gleu"]
    assert low < both < high
    assert both == only("gleu", prediction(text, one, other))["gleu"]


def test_accuracy_compares_texts_exactly_but_for_blanks_around_them() -> None:
    own = [
        prediction("Paris", "paris"),
        prediction("a b ", "x", " a b"),
        prediction("a  b", "a b"),
        prediction("c", "c\n"),
    ]
    assert only("accuracy", *own) == {"accuracy": 50.0}


def test_macro_f1_counts_a_rare_label_as_much_as_a_frequent_one() -> None:
    own = [prediction("good", "good")] * 98 + [prediction("good", "bad"), prediction("bad", "bad")]
    # good: 98 right of 99 predicted and 98 actual; bad: 1 right of 1 predicted and 2 actual
    by_hand = (2 * 98 / (99 + 98) + 2 * 1 / (1 + 2)) / 2
    assert only("macro_f1", *own)["macro_f1"] == pytest.approx(100 * by_hand, abs=0.01)
    assert only("macro_f1", prediction("neutral", "good"), prediction("good ", " good"))["macro_f1"] == 33.33


def test_macro_f1_has_the_same_statistics_whatever_a_model_calls_its_labels() -> None:
    sure, talkative = (scores([prediction(text, "good"), prediction("bad", "bad")], metrics=["macro_f1"])["macro_f1"]
                       for text in ("good", "well, good"))  # fmt: skip
    assert sure.statistics.shape == talkative.statistics.shape
    assert sure.signature == talkative.signature
    assert (sure.value, round(talkative.value, 2)) == (100.0, 33.33)


@pytest.mark.parametrize("text", ["", " ", "\n", "a"])
@pytest.mark.parametrize("reference", ["", " ", "\n", "a"])
def test_every_metric_has_a_value_for_blank_texts(text: str, reference: str) -> None:
    metrics = [name for name in get_args(Metric) if name != "parent"]  # which needs sources of fields
    found = scores([prediction(text, reference)], metrics=metrics)
    found |= diagnostics([prediction(text, reference)], labels=False)
    assert all(math.isfinite(score.value) and np.isfinite(score.each).all() for score in found.values())
    if not text.strip() and not reference.strip():
        assert (found["ter"].value, found["exact_match"].value, found["token_f1"].value) == (0.0, 100.0, 100.0)


def test_tokenised_text_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert values([prediction("a b c d .", "a b c d .")] * 100, metrics=["bleu"], bleu_tokenizer="none") == {
        "bleu": 100
    }
    assert not caplog.records


def test_only_metrics_that_a_scenario_names_are_computed() -> None:
    assert set(only("chrf", *DOG)) == {"chrf"}
    assert scores(DOG, metrics=[]) == {}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder of random weights. Texts of the same words have equal embeddings."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "the", "old", "mill", "a", "quiet", "place"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 32}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model("bert", vocab_size=len(words), max_position_embeddings=32, **sizes)
    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def test_semantic_similarity_is_100_for_equal_texts_and_counts_the_nearest_reference(encoder: Path) -> None:
    given = {"sentence_encoder": "folder", "sentence_encoder_folder": str(encoder), "metrics": []}
    same = scores([prediction("the old mill", "a quiet place", "the old mill")], **given)["semantic_similarity"]
    other = scores([prediction("the old mill", "a quiet place")], **given)["semantic_similarity"]
    assert same.value == pytest.approx(100, abs=0.01)
    assert other.value < 99
    assert f"encoder:{encoder.name}|" in same.signature


def test_a_missing_library_for_encoders_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"needs sentence-transformers; pip install .*\[semantic\]"):
        scores(DOG, sentence_encoder="someone/encoder")


def test_a_missing_encoder_is_reported_in_one_line(tmp_path: Path) -> None:
    given = {"sentence_encoder": "folder", "sentence_encoder_folder": str(tmp_path), "metrics": []}
    with pytest.raises(UserError, match=r"evaluate -> sentence_encoder_folder: no config.json in"):
        scores(DOG, **given)


@pytest.mark.parametrize(
    ("name", "predictions", "value"),
    [
        pytest.param("empty", [prediction("", "x"), prediction(" \n", "x"), prediction("a", "x")], 2 / 3, id="empty"),
        pytest.param(
            "never_ended", [prediction("a", "x", finish_reason="length"), prediction("a", "x")], 1 / 2, id="cut"
        ),
        pytest.param("repeated_4grams", [prediction("a b c d a b c d", "x")], 1 / 5, id="repeated"),
        pytest.param("repeated_4grams", [prediction("a b c d e f", "x")], 0.0, id="nothing-repeated"),
        pytest.param("repeated_4grams", [prediction("a a a a a", "x"), prediction("a", "x")], 1 / 4, id="short-counts"),
        pytest.param("repeated_4grams", [prediction("\u54c8" * 13, "x")], 9 / 10, id="repeated-character"),
        pytest.param("copied_from_source", [prediction("a b c d", "x", source="0 a b c d 1")], 1.0, id="copy"),
        pytest.param("copied_from_source", [prediction("a b c d e", "x", source="a b c d")], 1 / 2, id="half-a-copy"),
        pytest.param("copied_from_source", [prediction("a b c", "x", source="a b c")], 0.0, id="too-short-for-a-copy"),
        pytest.param(
            "copied_from_source",
            [prediction("\u6771\u4eac\u90fd\u306eX", "x", source="\u6771\u4eac\u90fd\u306e")],
            1 / 2,
            id="copied-characters",
        ),
    ],
)
def test_diagnostics_have_known_values(name: str, predictions: list[Prediction], value: float) -> None:
    assert diagnostics(predictions, labels=False)[name].value == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "predictions", "value"),
    [
        pytest.param("distinct_1", [prediction("a b", "x"), prediction("a c", "x")], 3 / 4, id="over-all-texts"),
        pytest.param("distinct_2", [prediction("a b", "x"), prediction("a b a", "x")], 2 / 3, id="pairs-of-one-text"),
        pytest.param("distinct_1", [prediction("\u54c8" * 4, "x")], 1 / 4, id="characters"),
        pytest.param("distinct_2", [prediction("", "x")], 0.0, id="nothing"),
        pytest.param("length_ratio", [prediction("a b c d", "x", "x y z v w", "x y z v w u")], 4 / 5, id="nearest"),
        pytest.param("length_ratio", [prediction("a b", "x y z", "x")], 2 / 1, id="shorter-of-two-as-near"),
        pytest.param("length_ratio", [prediction("a", "x"), prediction("", "x y z")], 1 / 4, id="ratio-of-sums"),
    ],
)
def test_properties_have_known_values(name: str, predictions: list[Prediction], value: float) -> None:
    assert properties(predictions)[name] == pytest.approx(value)


def test_labels_have_only_diagnostics_that_mean_something() -> None:
    assert set(diagnostics([prediction("good", "bad")], labels=True)) == {"empty", "never_ended"}


def test_perplexity_and_bits_per_byte_are_of_totals_and_not_means_of_texts() -> None:
    short = prediction("", "é", reference_nats=4.0, reference_tokens=2)
    long = prediction("", "abcd", "ef", reference_nats=8.0, reference_tokens=8)
    found = model_losses([short, long])
    assert found["perplexity"].value == pytest.approx(math.exp(12 / 10))
    assert found["bits_per_byte"].value == pytest.approx(12 / math.log(2) / (2 + 4 + 2))
    mean_of_texts = (math.exp(4 / 2) + math.exp(8 / 8)) / 2
    assert abs(found["perplexity"].value - mean_of_texts) > 1
    assert found["perplexity"].each.tolist() == pytest.approx([math.exp(4 / 2), math.exp(8 / 8)])


def test_a_perplexity_beyond_floats_is_finite() -> None:
    found = model_losses([prediction("", "a", reference_nats=1e6, reference_tokens=1)])
    assert math.isfinite(found["perplexity"].value)


def test_a_uniform_model_over_bytes_has_a_loss_of_8_bits_per_byte() -> None:
    """By definition: ln 256 nats for each byte, none for the end token."""
    text = "Zażółć"
    size = len(text.encode())
    found = model_losses([prediction("", text, reference_nats=size * math.log(256), reference_tokens=size)])
    assert found["bits_per_byte"].value == pytest.approx(8)
    assert found["perplexity"].value == pytest.approx(256)
