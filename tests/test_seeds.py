"""The spread over seeds, the comparison of two settings with several seeds each, and the learning curve: what they say
of simulated runs, whose luck is known."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from stages.lib.comparison.learning_curve import learning_curve
from stages.lib.comparison.run import Run
from stages.lib.comparison.seeds import difference, spread
from stages.lib.comparison.series_rendering import curve_as_svg, curve_as_text, difference_as_text, spread_as_text
from stages.lib.core.process import UserError
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import mean_score
from stages.lib.scores.scored import scored
from tests.build import prediction
from tests.test_compare import lock, predictions, teaching, told

EXAMPLES = 100
TEXTS = predictions("one", EXAMPLES)
HARD = np.random.default_rng(0).normal(40, 12, EXAMPLES)  # how well models do on each example

Random = np.random.Generator


def run(quality: float, noise: Random, texts: Sequence[Prediction] = TEXTS, own: float = 6.0) -> Run:
    """A model of this quality; `own` is how differently two models of one quality do on an example."""
    values = HARD[: len(texts)] + quality + noise.normal(0, own, len(texts))
    scores = {"bleu": mean_score(values, "s"), "ter": mean_score(100 - values, "s", higher_is_better=False)}
    return Run(f"{quality}", "0123abc", lock(), (), "gpt2", ["bleu", "ter"], scored(texts, scores), texts, list)


def seeds_of(quality: float, luck: float, noise: Random, count: int = 5) -> dict[int, Run]:
    return {seed: run(quality + noise.normal(0, luck), noise) for seed in range(1, count + 1)}


def test_the_spread_is_that_of_the_runs() -> None:
    runs = seeds_of(0, 2, np.random.default_rng(1), count=3)
    figures = spread(runs)
    values = [own.scored.scores["bleu"].value for own in runs.values()]
    bleu = figures["scores"]["bleu"]
    assert list(bleu["values"]) == ["1", "2", "3"]
    assert bleu["mean"] == pytest.approx(np.mean(values), abs=1e-4)
    assert bleu["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    # 4.3027 is the quantile of Student's t with two degrees of freedom
    assert bleu["high"] - bleu["mean"] == pytest.approx(4.3027 * bleu["sd"] / math.sqrt(3), rel=1e-3)
    assert figures["seeds"] == [1, 2, 3]
    assert "Seeds 1, 2, 3 of toy on 100 test examples." in spread_as_text(figures)


@pytest.mark.parametrize(
    ("luck", "larger", "words"),
    [
        (20, "seed", "bleu: the seed is the larger part of the uncertainty: "),
        (0, "test", "bleu: the choice of test examples is the larger part of the uncertainty: "),
        (1.4, "undecided", "bleu: 12 seeds don't decide whether seed or test split is the larger part"),
    ],
)
def test_the_larger_part_of_the_uncertainty_is_named_if_it_shows(luck: float, larger: str, words: str) -> None:
    bleu = spread(seeds_of(0, luck, np.random.default_rng(2), count=12))["scores"]["bleu"]
    assert (bleu["larger"], bleu["sentence"][: len(words)]) == (larger, words)
    share = bleu["seed_share"]
    assert share["low"] < share["share"] < share["high"]


def test_seeds_that_change_nothing_are_told_so() -> None:
    one = run(0, np.random.default_rng(1))
    bleu = spread({1: one, 2: one, 3: one})["scores"]["bleu"]
    assert bleu["sentence"] == "bleu: all 3 seeds have the same score"
    assert (bleu["sd"], bleu["low"]) == (0, bleu["mean"])


def test_what_has_no_spread_is_one_line() -> None:
    one = run(0, np.random.default_rng(1))
    with pytest.raises(UserError, match="one seed has no spread: give two or more"):
        spread({1: one})
    blind = [replace(own, references=[]) for own in TEXTS]
    silent = replace(run(0, np.random.default_rng(1), blind), name="seed 1")
    with pytest.raises(UserError) as error:
        spread({1: silent, 2: silent})
    assert error.value.lines == ["seed 1, seed 1: test has no answers, so nothing was scored"]


def test_settings_that_differ_by_more_than_seeds_do_are_told_apart() -> None:
    noise = np.random.default_rng(3)
    first, second = ([*seeds_of(quality, 1, noise).values()] for quality in (0, 8))
    figures = difference(first, second)
    assert {name: own["verdict"] for name, own in figures["scores"].items()} == {"bleu": "better", "ter": "better"}
    bleu = figures["scores"]["bleu"]
    assert bleu["low"] < 8 < bleu["high"]
    assert bleu["p"] < bleu["p_holm"] < 0.05
    assert max(map(len, difference_as_text("main", "workspace", figures).splitlines())) <= 80


def test_a_difference_that_one_lucky_seed_makes_is_not_shown() -> None:
    noise = np.random.default_rng(4)
    first, second = ([run(quality, noise) for quality in own] for own in ((0, 0.5, -0.5), (12, 0, -0.4)))
    assert difference(first, second)["scores"]["bleu"]["verdict"] == "undecided"


def frequency(happens: Callable[[Random], bool], times: int = 200) -> float:
    return sum(happens(np.random.default_rng(seed)) for seed in range(times)) / times


@pytest.mark.parametrize("luck", [0, 2])
def test_equal_settings_seldom_seem_different(luck: float) -> None:
    """Where the luck of seeds and of test examples are both at work, or only the latter: at most about 5 % of errors,
    within what 200 repetitions tell."""

    def seem_different(noise: Random) -> bool:
        sides = ([*seeds_of(0, luck, noise, count=3).values()] for _ in range(2))
        return bool(difference(*sides)["scores"]["bleu"]["p"] < 0.05)

    assert 0.01 < frequency(seem_different) < 0.085


def curve_of(quality: Callable[[int], float], luck: float, noise: Random) -> dict[int, Run]:
    sizes = (50, 100, 200, 400, 800)
    return {size: run(quality(size) + noise.normal(0, luck), noise) for size in sizes}


def test_the_worth_of_twice_the_data_is_told() -> None:
    figures = learning_curve(curve_of(lambda size: 3 * math.log2(size), 0.3, np.random.default_rng(5)))
    bleu, ter = (figures["scores"][name] for name in ("bleu", "ter"))
    assert bleu["doubling"]["low"] < 3 < bleu["doubling"]["high"]
    assert bleu["sentence"].startswith("twice the data is worth about +")
    assert ter["sentence"].startswith("twice the data is worth about -")
    assert [point["examples"] for point in bleu["points"]] == [50, 100, 200, 400, 800]
    assert bleu["points"][0]["low"] < bleu["points"][0]["score"] < bleu["points"][-1]["score"]
    assert max(map(len, curve_as_text(figures).splitlines())) <= 80


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (lambda size: 0.0, "no gain of bleu from more data is shown: twice the data changes it by "),
        (lambda size: -4 * math.log2(size), "more data makes bleu worse: twice the data changes it by -"),
    ],
)
def test_a_flat_or_falling_curve_is_called_that(quality: Callable[[int], float], words: str) -> None:
    figures = learning_curve(curve_of(quality, 0.5, np.random.default_rng(6)))
    assert figures["scores"]["bleu"]["sentence"].startswith(words)


def test_two_sizes_have_points_and_no_course() -> None:
    noise = np.random.default_rng(7)
    bleu = learning_curve({100: run(0, noise), 200: run(9, noise)})["scores"]["bleu"]
    assert "doubling" not in bleu
    assert bleu["sentence"] == "bleu: two sizes show no course, from 100 to 200 examples: give three shares or more"
    with pytest.raises(UserError, match="one size has no course"):
        learning_curve({100: run(0, noise)})


def test_the_interval_of_a_doubling_holds_its_worth() -> None:
    """In about 95 of 100 cases, within what 200 repetitions tell."""

    def is_missed(noise: Random) -> bool:
        doubling = learning_curve(curve_of(math.log2, 1, noise))["scores"]["bleu"]["doubling"]
        return not doubling["low"] <= 1 <= doubling["high"]

    assert 0.01 < frequency(is_missed) < 0.085


def test_the_plot_has_a_mark_for_each_size() -> None:
    figures = learning_curve(curve_of(math.log2, 1, np.random.default_rng(8)))
    drawing = ElementTree.fromstring(curve_as_svg(figures))
    dots = [float(own.attrib["cy"]) for own in drawing.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(dots) == 2 * 5
    assert dots[4] < dots[0]  # of BLEU, the last is above the first
    assert dots[9] > dots[5]  # of TER, below


def test_facts_are_checked_alike_for_all_shares() -> None:
    """As the largest share teaches: else a share that knows few phrases would seem more faithful."""
    runs: Mapping[int, Run] = {size: told(f"{size}", 30, teaching(size)) for size in (100, 200, 400)}
    figures = learning_curve(runs)
    assert figures["refused"] == {}
    assert [point["score"] for point in figures["scores"]["slot_error"]["points"]] == [0.25] * 3


def test_examples_of_one_group_are_refused() -> None:
    texts = [prediction("", f"truth {i}", id=f"{i:04}", group="g") for i in range(EXAMPLES)]
    one = run(0, np.random.default_rng(1), texts)
    with pytest.raises(UserError, match="are one group"):
        spread({1: one, 2: one})
