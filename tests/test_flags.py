"""Training text in predictions, test examples nearly as in training, listed words, unwanted classes: what is planted is
found, and nothing else."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.examples import Question
from stages.lib.records.predictions import Prediction
from stages.lib.scores.flags import flags
from stages.lib.scores.screen import screen
from stages.lib.scores.seen_in_training import seen_in_training
from tests.build import prediction, section

VOCABULARY = [f"word{number}" for number in range(2000)]
SPAN = 13  # words
PLANTED = 500


def words(drawn: random.Random, count: int) -> list[str]:
    return drawn.choices(VOCABULARY, k=count)


def question(source: str, *references: str) -> Question:
    return Question("known", source, list(references), "known")


def spans_of(text: str, training: str, source: str = "") -> list[str]:
    found = seen_in_training([prediction(text, "a reference", source=source)], [question("asked", training)])
    return [span.text for span in found.spans[0]]


def test_every_planted_span_of_training_is_found_changed_in_one_word_or_not() -> None:
    drawn = random.Random(1)
    train = [question(" ".join(words(drawn, 5)), " ".join(words(drawn, 40))) for _ in range(1000)]
    texts = []
    for number in range(2 * PLANTED):
        text = words(drawn, 20)
        if number % 2:
            known = drawn.choice(train).references[0].split()
            start = drawn.randrange(len(known) - SPAN + 1)
            span = known[start : start + SPAN]
            if number % 4 == 1:
                span[drawn.randrange(SPAN)] = "changed"
            text[drawn.randrange(20) : 0] = span
        texts.append(prediction(" ".join(text).capitalize() + ".", " ".join(words(drawn, 30))))
    found = seen_in_training(texts, train)
    assert [bool(spans) for spans in found.spans] == [number % 2 == 1 for number in range(2 * PLANTED)]
    assert found.references_with_spans == 0


def test_a_span_is_shown_as_a_whole_with_its_training_example() -> None:
    training = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen."
    [own] = seen_in_training([prediction(f"Yes: {training.upper()}", "no")], [question("asked", training)]).spans
    assert [(span.text.removeprefix("yes "), span.example) for span in own] == [
        (training.lower().rstrip("."), "known"),
    ]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        pytest.param("a b c d e f g h i j k", "", id="short"),
        pytest.param("a b c d e f g h i j k l m", "told: a b c d e f g h i j k l m", id="from its own source"),
        pytest.param("a b c x e f g h y j k l m", "", id="two words differ"),
        pytest.param("", "", id="empty"),
    ],
)
def test_other_texts_have_no_span(text: str, source: str) -> None:
    assert spans_of(text, "a b c d e f g h i j k l m n o p", source) == []


def test_spans_are_found_in_scripts_without_blanks() -> None:
    training = "東京は日本の首都であり、世界で最も人口の多い都市圏の一つです。"
    assert spans_of(f"はい、{training}", training)
    assert not spans_of("はい、京都は古い町です。", training)


def test_the_references_say_how_much_training_text_people_write() -> None:
    known = " ".join(f"w{number}" for number in range(20))
    texts = [prediction("other", known), prediction("other", "another")]
    found = flags(texts, seen_in_training(texts, [question("asked", known)]), section(Evaluate, metrics=[]))
    assert found.of_references == {"memorised": 0.5}
    assert found.scores["memorised"].value == 0


def contaminated(drawn: random.Random, known: Question) -> Prediction:
    """The same, or with one word of the reference changed."""
    reference = known.references[-1].split()
    if drawn.random() < 0.5:
        reference[drawn.randrange(len(reference))] = "changed"
    return prediction("any", " ".join(reference).upper(), source=known.source)


def test_every_test_example_that_is_nearly_as_in_training_is_found() -> None:
    drawn = random.Random(2)
    train = [
        question(" ".join(words(drawn, 8)), " ".join(words(drawn, 25)), " ".join(words(drawn, 25))) for _ in range(1000)
    ]
    planted = [contaminated(drawn, known) for known in drawn.sample(train, PLANTED)]
    same_source = [prediction("any", " ".join(words(drawn, 25)), source=known.source) for known in train[:PLANTED]]
    assert seen_in_training(planted, train).near_duplicates == [True] * PLANTED
    assert seen_in_training(same_source, train).near_duplicates == [False] * PLANTED


def test_without_answers_test_examples_are_compared_by_their_sources() -> None:
    texts = [prediction("any", source="where is the old mill"), prediction("any", source="what else is there to see")]
    found = seen_in_training(texts, [question("Where is the old mill?", "by the river")])
    assert found.near_duplicates == [True, False]
    assert found.references_with_spans is None


def screened(folder: Path, texts: Sequence[str], **overrides: Any) -> list[list[str]]:
    return screen(texts, section(Evaluate, metrics=[], screen_folder=str(folder), **overrides))


def test_every_listed_word_is_found_and_no_other(tmp_path: Path) -> None:
    drawn = random.Random(3)
    listed = VOCABULARY[:40]
    (tmp_path / "words.txt").write_text("\n".join([*listed, "Very  Bad", ""]))
    others = [word for word in VOCABULARY if word not in listed]
    texts = [drawn.choices(others, k=20) for _ in range(2 * PLANTED)]
    for text in texts[::2]:
        text[drawn.randrange(20)] = drawn.choice(['"{}!"', "{}", "({})"]).format(drawn.choice(listed).upper())
    found = screened(tmp_path, list(map(" ".join, texts)), screen_words=True)
    assert [bool(lines) for lines in found] == [True, False] * PLANTED
    assert screened(tmp_path, ["a very bad, VERY BAD end", "bad, very"], screen_words=True) == [
        ["listed word: very bad"],
        [],
    ]


@pytest.mark.parametrize("content", [None, "\n  \n"])
def test_a_missing_or_empty_list_is_reported_in_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "words.txt").write_text(content)
    with pytest.raises(UserError, match=r"evaluate -> screen_words: .*words\.txt"):
        screened(tmp_path, ["text"], screen_words=True)


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose classifier calls every text `toxic`, whatever its words."""
    folder = tmp_path_factory.mktemp("screen")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "the", "mill"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 16}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder / "classifier")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    labels = {"id2label": {0: "fine", 1: "toxic"}, "label2id": {"fine": 0, "toxic": 1}}
    config = AutoConfig.for_model("bert", vocab_size=4, max_position_embeddings=16, **sizes, **labels)
    network: Any = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.tensor([0.0, 3.0]))
    network.save_pretrained(folder / "classifier")
    return folder


def test_a_classifier_flags_the_classes_that_are_named(classified: Path) -> None:
    texts = ["the mill", "a longer text than the classifier can read " * 20, ""]
    assert screened(classified, texts, screen_classes=["toxic"]) == [["toxic: 0.95"]] * 3
    assert screened(classified, texts, screen_classes=["fine"]) == [[]] * 3


def test_a_class_that_the_classifier_has_not_is_reported(classified: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no class rude; it has fine, toxic"):
        screened(classified, ["text"], screen_classes=["rude"])
    with pytest.raises(UserError, match=r"evaluate -> screen_classes: no config.json in"):
        screened(tmp_path, ["text"], screen_classes=["rude"])
