"""Scores against the libraries and scripts that papers quote, on thousands of random and adversarial texts.

Where no library is at hand, the definition is written out once more, as plainly as possible.
"""

import math
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from nltk.translate.bleu_score import sentence_bleu  # type: ignore[import-untyped]
from nltk.translate.nist_score import corpus_nist  # type: ignore[import-untyped]
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.registry import text_scores
from stages.lib.scores.score import Score
from tests.build import prediction, section

LATIN = ["the", "a", "an", "The", "cat's", "cat,", "sat.", "mat!", "3.5", "1,000", "U.S.", "don't", "e-mail", "naïve",
         "Łódź", "STRASSE", "&", "&amp;", "<b>", "£20-25", "_x_"]  # fmt: skip
MARKS = ["cafe\u0301", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0643\u064e\u062a\u064e\u0628", "\u200d", "\U0001f600"]
UNSPACED = ["\u5317\u4eac", "\u3092", "\u3002", "iPhone\u8cb7\u3046", "\u0e44\u0e17\u0e22", "\uff01"]
BLANKS = ["", " ", "\n", "  \t", "\u00a0", "\u3000"]


@cache
def pairs(pieces: str = "any", count: int = 2500) -> list[Prediction]:
    chance = random.Random(1)
    words = LATIN if pieces == "latin" else LATIN * 2 + MARKS + UNSPACED
    return [_pair(chance, words, str(number)) for number in range(count)]


def _pair(chance: random.Random, words: Sequence[str], name: str) -> Prediction:
    references = [_text(chance, words) for _ in range(chance.choice([1, 1, 1, 2, 3, 5]))]
    text = chance.choice([_changed(chance, words, chance.choice(references)), _text(chance, words)])
    equal = chance.random() < 0.1
    return prediction(references[-1] if equal else text, *references, source=_changed(chance, words, text), id=name)


def _text(chance: random.Random, words: Sequence[str]) -> str:
    few = chance.choice([words, words[:4]])  # often the same few words
    found = chance.choices(few, k=chance.choice([0, 1, 1, 2, 3, 4, 5, 8, 12, 20]))
    return chance.choice([" ", " ", " ", "  ", "\n", ""]).join([*found, *chance.choices([".", " .", *BLANKS], k=1)])


def _changed(chance: random.Random, words: Sequence[str], text: str) -> str:
    own = text.split(" ")
    for _ in range(chance.randint(0, 3)):
        place = chance.randrange(len(own) + 1)
        own[place : place + chance.randint(0, 2)] = chance.choices([*words, own[0].upper()], k=chance.randint(0, 2))
        own = own or [""]
    return " ".join(own)


def scores(predictions: list[Prediction], metric: str, **conventions: Any) -> dict[str, Score]:
    return text_scores(predictions, section(Evaluate, metrics=[metric], **conventions))


def assert_equal(found: Score, whole: float, each: Sequence[float]) -> None:
    differences = np.abs(found.each - np.array(each)) > 1e-9
    assert not differences.any(), f"{differences.sum()} texts differ, the first is {differences.argmax()}"
    assert found.value == pytest.approx(whole, abs=1e-9)


def columns(predictions: list[Prediction]) -> Any:
    most = max(len(own.references) for own in predictions)
    return [[own.references[n] if n < len(own.references) else None for own in predictions] for n in range(most)]


def by_sacrebleu(metric: Any, alone: Any, predictions: list[Prediction]) -> tuple[float, list[float]]:
    """The corpus and each text."""
    whole = metric.corpus_score([own.prediction for own in predictions], columns(predictions)).score
    return whole, [alone.sentence_score(own.prediction, own.references).score for own in predictions]


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("tokenizer", ["13a", "none", "char", "intl", "zh"])
def test_bleu_is_that_of_sacrebleu(tokenizer: str, lowercase: bool) -> None:
    own = pairs()[int(lowercase) :: 2]
    conventions: Any = {"tokenize": tokenizer, "lowercase": lowercase}
    whole, each = by_sacrebleu(BLEU(**conventions), BLEU(effective_order=True, **conventions), own)
    found = scores(own, "bleu", bleu_tokenizer=tokenizer, bleu_lowercase=lowercase)
    assert_equal(found["bleu"], whole, each)


@pytest.mark.parametrize(("metric", "word_order"), [("chrf", 0), ("chrf++", 2)])
@pytest.mark.parametrize("lowercase", [False, True])
def test_chrf_is_that_of_sacrebleu(metric: str, word_order: int, lowercase: bool) -> None:
    own = pairs()[int(lowercase) :: 2]
    theirs = CHRF(word_order=word_order, lowercase=lowercase)
    whole, each = by_sacrebleu(theirs, theirs, own)
    assert_equal(scores(own, metric, chrf_lowercase=lowercase)[metric], whole, each)


@pytest.mark.parametrize("case_sensitive", [False, True])
def test_ter_is_that_of_sacrebleu(case_sensitive: bool) -> None:
    own = pairs()[int(case_sensitive) : 2000 : 2]
    theirs = TER(case_sensitive=case_sensitive)
    whole, each = by_sacrebleu(theirs, theirs, own)
    assert_equal(scores(own, "ter", ter_case_sensitive=case_sensitive)["ter"], whole, each)


@pytest.mark.parametrize(("name", "theirs"), [("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())])
def test_corpora_of_one_or_two_texts_have_the_values_of_sacrebleu(name: str, theirs: Any) -> None:
    """Few have sequences of four words that are right, and many are blank."""
    for start in range(0, 400, 2):
        own = pairs()[start : start + 1 + start % 4 // 2]
        whole = theirs.corpus_score([pair.prediction for pair in own], columns(own)).score
        assert scores(own, name)[name].value == pytest.approx(whole, abs=1e-9), own


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_that_of_rouge_score(stemmer: bool) -> None:
    own = pairs()[int(stemmer) :: 2]
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=stemmer)
    theirs = [scorer.score_multi(pair.references, pair.prediction) for pair in own]
    found = scores(own, "rouge", rouge_stemmer=stemmer)
    for name in names:
        each = [100 * score[name].fmeasure for score in theirs]
        assert_equal(found[name], float(np.mean(each)), each)


def normalised(text: str) -> str:
    """SQuAD: lower case, no punctuation, no articles, single blanks."""
    kept = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def squad_f1(answer: str, truth: str, two_empty: float) -> float:
    own, wanted = normalised(answer).split(), normalised(truth).split()
    if not own or not wanted:
        return two_empty * (own == wanted)
    same = sum((Counter(own) & Counter(wanted)).values())
    precision, recall = same / len(own), same / len(wanted)
    return 2 * precision * recall / (precision + recall) if same else 0.0


def best(predictions: list[Prediction], compare: Callable[[str, str], float]) -> list[float]:
    return [100 * max(compare(own.prediction, reference) for reference in own.references) for own in predictions]


def test_exact_match_is_that_of_both_versions_of_squad() -> None:
    each = best(pairs(), lambda answer, truth: float(normalised(answer) == normalised(truth)))
    assert_equal(scores(pairs(), "exact_match")["exact_match"], float(np.mean(each)), each)


def test_token_f1_is_that_of_squad_2_and_that_of_1_1_where_a_text_has_a_word() -> None:
    own = pairs("latin")
    each = best(own, lambda answer, truth: squad_f1(answer, truth, two_empty=1.0))
    assert_equal(scores(own, "token_f1")["token_f1"], float(np.mean(each)), each)
    wordy = [pair for pair in own if normalised(pair.prediction)]
    each = best(wordy, lambda answer, truth: squad_f1(answer, truth, two_empty=0.0))
    assert_equal(scores(wordy, "token_f1")["token_f1"], float(np.mean(each)), each)


def rouge_l(answer: str, truths: Sequence[str]) -> float:
    """pycocoevalcap: the largest precision and the largest recall, beta 1.2. It splits at each single blank."""
    own, wanted = answer.split(" "), [truth.split(" ") for truth in truths]
    common = [longest_common(tuple(own), tuple(truth)) for truth in wanted]
    precision = max(length / len(own) for length in common)
    recall = max(length / len(truth) for length, truth in zip(common, wanted, strict=True))
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision) if precision and recall else 0.0


def longest_common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    @cache
    def length(i: int, j: int) -> int:
        if not i or not j:
            return 0
        return length(i - 1, j - 1) + 1 if one[i - 1] == other[j - 1] else max(length(i - 1, j), length(i, j - 1))

    return length(len(one), len(other))


@pytest.mark.filterwarnings("ignore::UserWarning")  # nltk: no pair of words is right, which has no weight here
def test_answer_overlap_is_that_of_tweetqas_evaluator() -> None:
    own = pairs("latin")
    texts = [(normalised(pair.prediction), list(map(normalised, pair.references))) for pair in own]
    found = scores(own, "answer_overlap")
    bleu1 = [
        100 * sentence_bleu([t.split() for t in truths], text.split(), weights=(1, 0, 0, 0)) for text, truths in texts
    ]
    assert_equal(found["answer_bleu1"], float(np.mean(bleu1)), bleu1)
    rouge = [100 * rouge_l(text, truths) for text, truths in texts]
    assert_equal(found["answer_rougeL"], float(np.mean(rouge)), rouge)


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def gleu_counts(text: str, source: str, reference: str) -> Iterator[int]:
    """The script of Napoles et al.: n-grams of the source that the reference lacks altogether count against a text."""
    own, before, wanted = text.split(), source.split(), reference.split()
    yield from (len(own), len(wanted))
    for n in range(1, 5):
        lacked = {ngram: count for ngram, count in ngrams(before, n).items() if ngram not in ngrams(wanted, n)}
        right = (ngrams(own, n) & ngrams(wanted, n)).total() - (ngrams(own, n) & Counter(lacked)).total()
        yield from (max(right, 0), max(len(own) + 1 - n, 0))


def gleu_of(counts: Sequence[float]) -> float:
    if not all(counts):
        return 0.0
    logs = [math.log(right / every) for right, every in zip(counts[2::2], counts[3::2], strict=True)]
    return 100 * math.exp(min(0, 1 - counts[1] / counts[0]) + sum(logs) / 4)


def test_gleu_is_that_of_its_authors_script() -> None:
    own = [pair for pair in pairs("latin") if len(pair.references) > 1][:500]
    counts = [[[*gleu_counts(p.prediction, p.source, reference)] for reference in p.references] for p in own]
    draws = []
    for draw in range(500):
        chance = random.Random(draw * 101)
        drawn = [of_text[int(chance.random() * len(of_text))] for of_text in counts]
        draws.append(gleu_of([sum(column) for column in zip(*drawn, strict=True)]))
    each = [float(np.mean([gleu_of([count or 1 for count in row]) for row in of_text])) for of_text in counts]
    assert_equal(scores(own, "gleu")["gleu"], float(np.mean(draws)), each)
    single = [prediction(p.prediction, p.references[0], source=p.source) for p in pairs("latin")]
    sums = map(sum, zip(*(gleu_counts(p.prediction, p.source, p.references[0]) for p in single), strict=True))
    assert scores(single, "gleu")["gleu"].value == pytest.approx(gleu_of(list(sums)))


def test_nist_of_single_references_is_that_of_nltk() -> None:
    own = [prediction(pair.prediction, pair.references[0]) for pair in pairs()]
    words = [(pair.prediction.lower().split(), pair.references[0].lower().split()) for pair in own]
    theirs = corpus_nist([[truth] for _, truth in words], [text for text, _ in words])
    assert scores(own, "nist", bleu_tokenizer="none")["nist"].value == pytest.approx(theirs, abs=1e-9)


def test_nist_of_several_references_is_that_of_mteval() -> None:
    """By hand. For the outputs of E2E's challenge, the same code gives the published values, 8.6094 for TGen."""
    own = [prediction("a b a", "a b", "a a c d"), prediction("c", "c e")]
    # frequency in the references: a 3, b 1, c 2, d 1, e 1 of 8 words; (a b) 1, (a a) 1
    words = [2 * math.log2(8 / 3) + math.log2(8 / 1), math.log2(8 / 2)]
    information = sum(words) / 4 + math.log2(3 / 1) / 2
    length, wanted = 4, 8 * 2 / 3  # three references of two texts have eight words
    penalty = math.exp(math.log(0.5) / math.log(1.5) ** 2 * math.log(length / wanted) ** 2)
    assert scores(own, "nist", bleu_tokenizer="none")["nist"].value == pytest.approx(information * penalty)


def cider_d(texts: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]]) -> list[float]:
    """Vedantam et al. 2015, section 4, with the Gaussian of word pairs as in pycocoevalcap."""
    holders = Counter(
        ngram for _, own in texts for ngram in set().union(*(ngrams(words, n) for words in own for n in range(1, 5)))
    )

    def weights(words: Sequence[str], n: int) -> dict[tuple[str, ...], float]:
        return {g: count * math.log(len(texts) / max(1, holders[g])) for g, count in ngrams(words, n).items()}

    def likeness(text: Sequence[str], reference: Sequence[str], n: int) -> float:
        own, wanted = weights(text, n), weights(reference, n)
        product = sum(min(own[g], wanted[g]) * wanted[g] for g in own.keys() & wanted.keys())
        norm = math.sqrt(sum(w**2 for w in own.values())) * math.sqrt(sum(w**2 for w in wanted.values()))
        longer = ngrams(text, 2).total() - ngrams(reference, 2).total()
        return product / (norm or 1) * math.exp(-(longer**2) / (2 * 6**2))

    return [10 * float(np.mean([likeness(text, r, n) for r in own for n in range(1, 5)])) for text, own in texts]


def test_cider_is_that_of_pycocoevalcap_on_the_same_words() -> None:
    own = pairs()[:1000]
    stripped = str.maketrans("", "", ".,:;?!-'\"`()[]{}")

    def words(text: str) -> list[str]:
        return [word for word in text.lower().split() if word.translate(stripped)]

    each = cider_d([(words(pair.prediction), list(map(words, pair.references))) for pair in own])
    assert_equal(scores(own, "cider", bleu_tokenizer="none")["cider"], float(np.mean(each)), each)
