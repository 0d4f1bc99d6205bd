"""A score in a form that can be resampled, and what many metrics share: means and n-grams."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stages.lib.scores.formulas import FORMULAS, Numbers


@dataclass(frozen=True)
class Score:
    """A score of N predictions: a formula of the sum of their statistics.

    Every metric here has this form (of BLEU, the statistics are counts of n-grams), so a score of any choice of the
    predictions is one sum. `signature` says how the statistics were counted: two scores of different signatures can't
    be compared.
    """

    statistics: Numbers  # (N, K)
    formula: str  # a name in FORMULAS
    each: Numbers  # (N): the score of each prediction alone
    signature: str
    higher_is_better: bool = True

    @property
    def value(self) -> float:
        return float(FORMULAS[self.formula](self.statistics.sum(0)))


def mean_score(each: Iterable[float], signature: str, higher_is_better: bool = True) -> Score:
    """The mean of one number for each prediction."""
    values = np.fromiter(each, np.float64)
    statistics = np.stack([values, np.ones_like(values)], 1)
    return Score(statistics, "ratio", values, signature, higher_is_better)


def ratio_score(
    parts: Iterable[float], wholes: Iterable[float], signature: str, higher_is_better: bool = True
) -> Score:
    """The sum of the parts over the sum of the wholes. A prediction whose whole is 0 has 0 of its own."""
    statistics = np.stack([np.fromiter(parts, np.float64), np.fromiter(wholes, np.float64)], 1)
    return Score(statistics, "ratio", FORMULAS["ratio"](statistics), signature, higher_is_better)


def mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected)


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence. Words of the first that the second lacks are skipped, as most are where
    a short text is compared with a long one."""
    known = set(second)
    row = [0] * (len(second) + 1)
    for word in first:
        if word in known:
            above, row = row, [0]
            for place, other in enumerate(second, start=1):
                row.append(above[place - 1] + 1 if word == other else max(above[place], row[-1]))
    return row[-1]


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + n]) for start in range(len(words) - n + 1))
