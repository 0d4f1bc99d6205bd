"""Where the marks of a chart stand: in percent of its width, so that it fits any screen. The templates draw the SVG."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stages.lib.reports.numbers import in_words

_MARGIN = 2.0  # percent on both sides, so that no mark is cut
_WIDE_RATIO = 20  # a perplexity that was higher by more is drawn on a logarithmic scale
_TICKS = 4
_MOST_POINTS = 400  # of a curve: more than a screen shows


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` -> percent of a chart's width. `low` may be the larger one."""

    low: float
    high: float
    logarithmic: bool = False

    def at(self, value: float) -> str:
        return f"{_MARGIN + self.share(value) * (100 - 2 * _MARGIN):.2f}%"

    def share(self, value: float) -> float:
        """From 0 to 1; what lies outside is drawn at the edge."""
        low, high, value = (math.log(n) if self.logarithmic else n for n in (self.low, self.high, value))
        return min(max((value - low) / (high - low), 0.0), 1.0) if high != low else 0.0


class Mark(NamedTuple):
    """Something to compare a score with."""

    kind: str  # before | ceiling | floor | goal
    name: str
    value: float


def marks_of(score: Mapping[str, Any], goal: Mapping[str, Any] | None) -> list[Mark]:
    marks = [Mark("floor", in_words(name), value) for name, value in score.get("floors", {}).items()]
    if score.get("before_training") is not None:
        marks.insert(0, Mark("before", "before training", score["before_training"]))
    if score.get("ceiling") is not None:
        marks.append(Mark("ceiling", "ceiling", score["ceiling"]))
    return [*marks, Mark("goal", "goal", goal["goal"])] if goal else marks


def score_scale(score: Mapping[str, Any], marks: Iterable[Mark]) -> Scale:
    """Holds the score, its interval and all marks. It starts at 0, but for perplexities that differ much; where all
    could be shares, it ends at 1, so that a sign of broken output near 0 looks like that."""
    numbers = [*_known(score, "score", "low", "high"), *(mark.value for mark in marks)]
    low, high = min(numbers), max(numbers)
    if score["better"] == "lower" and low >= 1 and high > _WIDE_RATIO * score["score"]:
        return Scale(1, high, logarithmic=True)
    return Scale(min(low, 0), 1 if low >= 0 and high <= 1 else high)


def results_scale(rows: Iterable[Mapping[str, Any]], whole: float) -> Scale:
    """Common to the rows of a breakdown; holds the result of all examples, `whole`."""
    ends = [whole, *(end for row in rows for end in _known(row, "low", "high", "result"))]
    return Scale(min(ends), max(ends))


def difference_scale(rows: Iterable[Mapping[str, Any]], better: str) -> Scale:
    """0 in the middle, better on the right."""
    ends = [end for row in rows for end in _known(row, "low", "high", "difference", "smallest_difference")]
    widest = max(map(abs, ends), default=0) * 1.05 or 1.0
    return Scale(widest, -widest) if better == "lower" else Scale(-widest, widest)


def _known(row: Mapping[str, Any], *names: str) -> list[float]:
    return [row[name] for name in names if row.get(name) is not None]


class Series(NamedTuple):
    name: str
    points: str  # of a polyline in a box of 100 by 100
    last: tuple[float, float]  # percent from the left, percent from the top
    last_value: float


class Point(NamedTuple):
    kind: str  # complete | pruned | chosen, or front | off
    title: str
    x: float
    y: float


class Chart(NamedTuple):
    series: list[Series]
    points: list[tuple[Point, float, float]]  # with percent from the left, percent from the top
    across: list[tuple[float, float]]  # percent from the left, x
    down: list[tuple[float, float]]  # percent from the top, y


def chart(lines: Mapping[str, Sequence[Sequence[float]]], points: Sequence[Point] = ()) -> Chart | None:
    """Lines of (x, y) and single points; x is a count, from 0, and y from the lowest to the highest. None if there is
    nothing to draw."""
    lines = {name: places for name, places in lines.items() if places}
    every = [*(place for places in lines.values() for place in places), *((own.x, own.y) for own in points)]
    if not every:
        return None
    heights = [place[1] for place in every]
    ticks = list(_ticks(min(heights), max(heights)))
    across = Scale(0, max(place[0] for place in every))
    down = Scale(max(*ticks, max(heights)), min(*ticks, min(heights)))
    return Chart(
        [_series(name, places, across, down) for name, places in lines.items()],
        [(own, 100 * across.share(own.x), 100 * down.share(own.y)) for own in points],
        [(100 * across.share(x), x) for x in _ticks(0, across.high) if x <= across.high and x.is_integer()],
        [(100 * down.share(y), y) for y in ticks],
    )


def _series(name: str, points: Sequence[Sequence[float]], across: Scale, down: Scale) -> Series:
    drawn = list(points[:: -(-len(points) // _MOST_POINTS)])
    if drawn[-1] != points[-1]:
        drawn.append(points[-1])
    places = [(100 * across.share(x), 100 * down.share(y)) for x, y in drawn]
    return Series(name, " ".join(f"{x:.2f},{y:.2f}" for x, y in places), places[-1], points[-1][1])


def _ticks(low: float, high: float) -> Iterator[float]:
    """Round numbers, from the last one not above `low` to the first one not below `high`."""
    rough = (high - low or abs(high) or 1) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    for number in range(math.floor(low / step), math.ceil(high / step) + 1):
        yield float(f"{number * step:.10g}")
