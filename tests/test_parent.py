"""PARENT: against its definition, by hand, and on what it is for: facts that are invented, references that diverge."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.registry import text_scores
from stages.lib.scores.score import Score
from tests.build import prediction, section

SOURCE = "name: The Mill; area: riverside; kind: pub; food: French"
ENOUGH = 20  # sources of one form, so that they are taken for fields


def parent(predictions: Sequence[Prediction], **conventions: Any) -> Score:
    return text_scores(predictions, section(Evaluate, metrics=["parent"], **conventions))["parent"]


def score_of(text: str, *references: str, source: str = SOURCE, **conventions: Any) -> float:
    return parent([prediction(text, *references, source=source)] * ENOUGH, **conventions).value


def by_definition(text: Sequence[str], reference: Sequence[str], values: Sequence[Sequence[str]]) -> float:
    """Dhingra et al. 2019, section 3, with word overlap and the smoothing of the authors' scripts."""
    lexicon = {word for value in values for word in value}

    def counts(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def entailed(ngram: tuple[str, ...]) -> float:
        return len([word for word in ngram if word in lexicon]) / len(ngram)

    def in_other(ngram: tuple[str, ...], one: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> float:
        return min(one[ngram], other[ngram]) / one[ngram]

    def precision(n: int) -> float:
        own, wanted = counts(text, n), counts(reference, n)
        right = [(p := in_other(g, own, wanted)) * own[g] + (1 - p) * entailed(g) * own[g] for g in own]
        return sum(right) / sum(own.values()) if own else 0.0

    def recall(n: int) -> float:
        own, wanted = counts(text, n), counts(reference, n)
        whole = sum(entailed(g) * wanted[g] for g in wanted)
        return sum(in_other(g, wanted, own) * entailed(g) * wanted[g] for g in wanted) / whole if whole else 1.0

    def told(words: Sequence[str]) -> float:
        @cache
        def longest(i: int, j: int, value: tuple[str, ...]) -> int:
            if 0 in (i, j):
                return 0
            if value[i - 1] == words[j - 1]:
                return 1 + longest(i - 1, j - 1, value)
            return max(longest(i - 1, j, value), longest(i, j - 1, value))

        return sum(longest(len(value), len(words), tuple(value)) / len(value) for value in values) / len(values)

    def over_orders(orders: Sequence[float], without_words: float) -> float:
        return math.exp(sum(math.log(one or 1e-5) / 4 for one in orders)) if orders[0] else without_words

    p = over_orders([precision(n) for n in range(1, 5)], without_words=0)
    of_reference = over_orders([recall(n) for n in range(1, 5)], without_words=1e-5)
    trust = told(reference)  # 1 - lambda
    r = math.exp(trust * math.log(of_reference) + (1 - trust) * math.log(told(text) or 1e-5))
    return 100 * 2 * p * r / (p + r)


def random_case(chance: random.Random, number: int) -> Prediction:
    """Few different words, so that they repeat, cross fields and come in other orders; blank and short texts."""
    words = ["The", "the", "Mill", "old", "riverside", "pub", "3.5", "£20-25", "a", "Łódź", "is", "in", "1890", ","]

    def some(most: int, least: int = 0) -> list[str]:
        few = chance.choice([words, words[:4]])
        return chance.choices(few, k=chance.randint(least, most))

    names = chance.choice(["abcdef", "abcdef", "aabcde"])  # a field may have two values
    values = [some(chance.choice([1, 2, 8]), least=1) for _ in range(chance.randint(1, 6))]
    source = "; ".join(f"{name}: {' '.join(value)}" for name, value in zip(names, values, strict=False))
    references = [" ".join(some(chance.choice([0, 3, 15, 40]))) for _ in range(chance.choice([1, 1, 2, 5]))]
    joined = " is ".join(" ".join(value) for value in values)
    copied = " ".join(word for word in chance.choice(references).split() if chance.random() < 0.8)
    text = chance.choice([" ".join(some(20)), joined, copied, copied, references[-1], "", " ", "The", source])
    return prediction(text, *references, source=source, id=str(number))


def test_it_is_that_of_the_definition() -> None:
    chance = random.Random(1)
    own = [random_case(chance, number) for number in range(800)]
    found = parent(own, bleu_tokenizer="none")
    wanted = []
    for case in own:
        values = [field.partition(": ")[2].lower().split() for field in case.source.split("; ")]
        texts = [text.lower().split() for text in (case.prediction, *case.references)]
        wanted.append(max(by_definition(texts[0], reference, values) for reference in texts[1:]))
    assert [case.id for case, one, other in zip(own, found.each, wanted, strict=True) if abs(one - other) > 1e-9] == []
    assert found.value == pytest.approx(sum(wanted) / len(wanted), abs=1e-9)
    assert len({round(value, 6) for value in wanted}) > 300  # not only texts that are all wrong or all right


def test_known_value() -> None:
    found = score_of("The mill is in riverside", "the mill serves good beer", source="name: The Mill; area: riverside")
    precision = (3 / 5 * 2 / 4 * (4 / 3) / 3 * 1 / 2) ** (1 / 4)
    of_reference = (2 / 2 * 1 / 1.5 * 1e-5 * 1e-5) ** (1 / 4)
    of_fields, weight = (2 / 2 + 1 / 1) / 2, 1 - (2 / 2 + 0 / 1) / 2
    recall = of_reference ** (1 - weight) * of_fields**weight
    assert found == pytest.approx(100 * 2 * precision * recall / (precision + recall))


def test_a_text_that_equals_a_reference_with_all_fields_scores_100() -> None:
    text = "The Mill is a French pub at the riverside."
    assert score_of(text, "Nothing of the kind.", text) == 100
    assert score_of(text.upper(), text) == 100


def test_a_text_that_invents_facts_scores_lower() -> None:
    reference = "The Mill is a pub with French food at the riverside"
    invented = f"{reference} and hosts live music on Sundays"
    left_out = "The Mill is a pub with French food"
    assert score_of(reference, reference) > score_of(left_out, reference) > 0
    assert score_of(reference, reference) > score_of(invented, reference) + 10
    assert score_of("Bingo", reference) == 0


def test_a_text_that_repeats_a_divergent_reference_does_not_win() -> None:
    reference = "The Mill is a pub run by John Smith since 1890"
    true = "The Mill is a pub riverside French"
    assert score_of(true, reference) > score_of(reference, reference)
    bleu = section(Evaluate, metrics=["bleu"])
    of_true, of_reference = (text_scores([prediction(text, reference)], bleu)["bleu"] for text in (true, reference))
    assert of_true.value < of_reference.value


def test_the_tokenizer_is_a_convention_of_the_score() -> None:
    mill, pub = "\u5317\u4eac\u70e4\u9e2d", "\u6d77\u6dc0"
    text, reference, source = f"{mill}\u5728{pub}\u3002", f"{pub}\u7684{mill}\u3002", f"a: {mill}; b: {pub}"
    assert score_of(text, reference, source=source, bleu_tokenizer="zh") > 50
    assert score_of(text, reference, source=source) == 0
    own = [prediction(text, reference, source=source)] * ENOUGH
    assert parent(own).signature != parent(own, bleu_tokenizer="zh").signature


def test_a_source_without_fields_leaves_the_reference_to_count() -> None:
    fields = [prediction("The Mill", "The Mill", source=SOURCE)] * 99
    each = parent([*fields, prediction("an old mill here", "an old mill here", source="no fields")]).each
    assert each[-1] == 100
    blank = [prediction("a text", "", source="name: The Mill; area: <skipped>")] * ENOUGH
    assert parent(blank).value == 0


@pytest.mark.parametrize(
    ("source", "count"),
    [("", ENOUGH), ("The mill is an old pub, and it has a garden.", ENOUGH), (SOURCE, ENOUGH - 1)],
    ids=["none", "prose", "few"],
)
def test_sources_that_are_no_fields_are_named(source: str, count: int) -> None:
    with pytest.raises(UserError) as raised:
        parent([prediction("a text", "a text", source=source)] * count)
    assert raised.value.lines == [
        "evaluate -> metrics: parent needs sources that are fields with values, such as "
        "`name: The Mill; area: riverside`, and at least 20 of them"
    ]
