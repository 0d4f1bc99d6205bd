"""The confirmation at full length: who takes part, who is chosen, and how sure that is."""

import pytest
from scipy.stats import ttest_ind

from stages.lib.tuning.confirmation import by_value, confirmed, finalists
from stages.lib.tuning.study import Objective, Trial

LOSS, BLEU = Objective("loss"), Objective("bleu")


def trial(number: int, value: float | None, state: str = "complete") -> Trial:
    """One that has ended; without a value, it has failed."""
    reason = "" if value is not None else "diverged"
    return Trial(number, state if value is not None else "failed", {}, value, None, 10, 1.0, reason, {})


def runs(*values: float | None) -> list[Trial]:
    return [trial(number, value) for number, value in enumerate(values)]


def numbers(trials: list[Trial]) -> list[int]:
    return [own.number for own in trials]


def test_the_best_come_first_and_of_equals_the_earlier_one() -> None:
    trials = runs(2.0, 1.0, 3.0, 1.0)
    assert numbers(by_value(trials, LOSS)) == [1, 3, 0, 2]
    assert numbers(by_value(trials, BLEU)) == [2, 0, 1, 3]


def test_none_that_was_pruned_or_failed_is_ranked() -> None:
    trials = [trial(0, 3.0), trial(1, 0.5, "pruned"), trial(2, None), trial(3, float("nan")), trial(4, 2.0)]
    assert numbers(by_value(trials, LOSS)) == [4, 0]
    assert numbers(finalists(trials, LOSS, most=3)) == [0, 4]


@pytest.mark.parametrize(("most", "expected"), [(0, []), (1, [0, 2]), (2, [0, 2, 3]), (9, [0, 2, 3, 1])])
def test_the_first_trial_is_always_among_the_finalists(most: int, expected: list[int]) -> None:
    trials = runs(9.0, 3.0, 1.0, 2.0)
    assert numbers(finalists(trials, LOSS, most)) == expected


def test_the_first_trial_is_one_of_the_finalists_once() -> None:
    assert numbers(finalists(runs(1.0, 2.0, 3.0), LOSS, most=1)) == [0, 1]
    assert numbers(finalists([trial(0, None), *runs(0, 2.0, 3.0)[1:]], LOSS, most=1)) == [1]


def test_mean_and_sd_are_those_of_the_seeds() -> None:
    finals = [trial(0, 5.0), trial(4, 4.0)]
    first, second = confirmed(finals, runs(3.0, 5.0, 4.0, 1.0, 2.0, 3.0), 3, LOSS)
    assert (first.number, first.values, first.mean, first.sd) == (4, (1.0, 2.0, 3.0), 2.0, 1.0)
    assert (second.number, second.values, second.mean, second.sd) == (0, (3.0, 5.0, 4.0), 4.0, 1.0)


def test_a_higher_score_is_better() -> None:
    finals = [trial(0, 5.0), trial(4, 4.0)]
    assert [own.number for own in confirmed(finals, runs(3.0, 5.0, 1.0, 2.0), 2, BLEU)] == [0, 4]


def test_one_seed_says_nothing_of_the_spread() -> None:
    found = confirmed([trial(0, 5.0), trial(4, 4.0)], runs(3.0, 1.0), 1, LOSS)
    assert [(own.number, own.sd, own.chance_best) for own in found] == [(4, None, None), (0, None, None)]


def test_settings_that_failed_with_a_seed_come_after_all_others() -> None:
    """What remains of their runs may be the lucky ones."""
    finals = [trial(0, 5.0), trial(4, 4.0), trial(5, 6.0)]
    found = confirmed(finals, runs(3.0, 5.0, 1.0, None, None, None), 2, LOSS)
    assert [(own.number, own.values) for own in found] == [(0, (3.0, 5.0)), (4, (1.0,))]


@pytest.mark.parametrize("objective", [LOSS, BLEU])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((2.0, 2.4, 2.2), (2.3, 2.6, 2.5)),
        ((2.0, 2.4, 2.2), (2.2, 2.0, 2.4)),
        ((2.00, 2.01), (2.40, 2.41)),
        ((1.0, 3.0, 2.0, 5.0), (2.5, 1.5, 4.0, 6.0)),
    ],
)
def test_the_chance_to_be_better_of_two_is_that_of_a_t_test(
    one: tuple[float, ...], other: tuple[float, ...], objective: Objective
) -> None:
    """With a flat prior, the chance that the true mean is lower is 1 - p of the one-sided test."""
    side = "less" if objective.metric == "loss" else "greater"
    expected = 1 - ttest_ind(one, other, alternative=side).pvalue
    found = {own.number: own for own in confirmed(runs(0, 0), runs(*one, *other), len(one), objective)}
    assert found[0].chance_best == pytest.approx(expected, abs=0.01)
    assert sum(own.chance_best or 0 for own in found.values()) == pytest.approx(1)


def test_of_three_equal_ones_each_can_be_the_best() -> None:
    found = confirmed(runs(0, 0, 0), runs(*(1.0, 2.0, 3.0) * 3), 3, LOSS)
    assert [own.chance_best for own in found] == pytest.approx([1 / 3] * 3, abs=0.015)
