"""PARENT (Dhingra et al. 2019): what a text shares with its reference and with the fields of its source. A reference
that says other things than the source can mislead it little."""

import math
from collections import Counter
from collections.abc import Sequence, Set
from importlib.metadata import version
from typing import NamedTuple

from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.bleu_chrf_ter import lowered_words
from stages.lib.scores.facts import form_of
from stages.lib.scores.score import Score, common_subsequence, mean, mean_score, ngrams

_ORDERS = range(1, 5)
_SMOOTHING = 1e-5  # instead of a share of 0, as in the authors' scripts

Words = Sequence[str]
Ngrams = Counter[tuple[str, ...]]


def parent(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Mean F-score of the texts, each with its best reference, from 0 to 100. Texts of fewer than four words score low.

    An n-gram is entailed as far as its words are words of the table, and lambda is the one that the paper computes: the
    more of the fields a reference tells, the more it counts. Both are the defaults of the authors' script for WikiBio,
    which splits words at blanks, and of that for ToTTo, which splits them as `bleu_tokenizer: 13a` does. All words are
    in lower case. In sources of triples, a subject is a field.

    Raises:
        UserError: the sources are no fields with values, or too few to tell.
    """
    facts = form_of([own.source for own in predictions])
    if not facts:
        raise UserError(
            "evaluate -> metrics: parent needs sources that are fields with values, such as "
            "`name: The Mill; area: riverside`, and at least 20 of them"
        )
    words = lowered_words(params.bleu_tokenizer)
    each = []
    for own in predictions:
        table = _table([words(value) for _, value in facts(own.source)])
        text = _passage(words(own.prediction), table)
        each.append(100 * max(_f_score(text, _passage(words(wanted), table), table) for wanted in own.references))
    how = f"case:lc|tok:{params.bleu_tokenizer}|entails:overlap|lambda:paper|refs:best|sacrebleu:{version('sacrebleu')}"
    return {"parent": mean_score(each, how)}


class Table(NamedTuple):
    """The values of the fields, and all their words."""

    values: list[Words]
    words: Set[str]


class Passage(NamedTuple):
    """A text or a reference. For each order its n-grams, and how many of their words are in the table; and the recall
    of the fields."""

    ngrams: list[Ngrams]
    entailed: list[int]
    told: float


def _table(values: Sequence[Words]) -> Table:
    return Table([value for value in values if value], {word for value in values for word in value})


def _passage(words: Words, table: Table) -> Passage:
    """Of a source without fields, all is told."""
    counts = [Counter(ngrams(words, n)) for n in _ORDERS]
    told = mean(common_subsequence(words, value) / len(value) for value in table.values) if table.values else 1.0
    return Passage(counts, [_entailed(own, table) for own in counts], told)


def _entailed(counts: Ngrams, table: Table) -> int:
    """How many words of the n-grams are in the table. Divided by n, this is the sum of their entailments."""
    return sum(count * sum(map(table.words.__contains__, ngram)) for ngram, count in counts.items())


def _f_score(text: Passage, reference: Passage, table: Table) -> float:
    """From 0 to 1. An n-gram of the text is right if the reference has it, else as far as it is entailed; one of the
    reference is to be recalled as far as it is entailed."""
    precisions, recalls = [], []
    for place, n in enumerate(_ORDERS):
        own, shared = text.ngrams[place], text.ngrams[place] & reference.ngrams[place]
        entailed, wanted = _entailed(shared, table), reference.entailed[place]
        precisions.append((shared.total() + (text.entailed[place] - entailed) / n) / own.total() if own else 0.0)
        recalls.append(entailed / wanted if wanted else 1.0)
    precision = _geometric_mean(precisions)
    weight = 1 - reference.told  # lambda
    recall = (_geometric_mean(recalls) or _SMOOTHING) ** (1 - weight) * (text.told or _SMOOTHING) ** weight
    return 2 * precision * recall / (precision + recall)


def _geometric_mean(shares: Sequence[float]) -> float:
    """0 if that of single words is; a 0 of longer n-grams is smoothed."""
    return math.prod(share or _SMOOTHING for share in shares) ** (1 / len(shares)) if shares[0] else 0.0
