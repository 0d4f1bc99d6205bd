"""Good enough, or not yet: each goal of the scenario against the score and its interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stages.lib.scores.resampling import Interval
from stages.lib.scores.score import Score


@dataclass(frozen=True)
class Goal:
    """`needs`: how many test examples would decide it, if the score stayed the same. 0 if it is decided, or if
    no number would. `score` is None if it was not measured."""

    goal: float
    score: float | None
    verdict: Literal["reached", "missed", "undecided", "not measured"]
    needs: int


def check_goals(
    goals: Mapping[str, float], scores: Mapping[str, Score], found: Mapping[str, Interval], examples: int
) -> dict[str, Goal]:
    """A goal is reached if the whole interval of the score is on its good side, and missed if it is on the other."""
    return {
        name: _checked(goal, scores[name], found[name], examples)
        if name in scores
        else Goal(goal, None, "not measured", 0)
        for name, goal in goals.items()
    }


def _checked(goal: float, score: Score, interval: Interval, examples: int) -> Goal:
    worst, best = (interval.low, interval.high) if score.higher_is_better else (-interval.high, -interval.low)
    wanted = goal if score.higher_is_better else -goal
    if worst >= wanted or best < wanted:
        return Goal(goal, score.value, "reached" if worst >= wanted else "missed", 0)
    distance = abs(score.value - goal)
    half = (interval.high - interval.low) / 2
    # an interval shrinks with the root of the number of examples
    ratio = half / distance if distance else math.inf
    needs = int(float(f"{examples * ratio**2:.2g}")) if math.isfinite(ratio) else 0
    return Goal(goal, score.value, "undecided", max(needs, examples + 1) if needs else 0)
