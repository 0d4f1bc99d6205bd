"""Two runs, example by example: what both have scored by the same conventions. Examples are paired by their id."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stages.lib.comparison.run import Run
from stages.lib.core.process import UserError
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score
from stages.lib.scores.scored import Scored

_SHOWN = 3
_EXCERPT = 60  # characters


@dataclass(frozen=True)
class Pairs:
    """The examples that both runs have, in one order, with the scores that can be compared. `refused` has a line for
    each other score."""

    first: Scored
    second: Scored
    predictions: list[tuple[Prediction, Prediction]]
    only_in_first: int
    only_in_second: int
    refused: dict[str, str]


def paired(first: Run, second: Run) -> Pairs:
    """The examples that two runs have in common.

    Raises:
        UserError: the runs are of different tasks, have no two groups of examples in common, or were scored against
            other test data.
    """
    if first.task != second.task:
        raise UserError(
            f"{first.name} is a run of {first.task}, {second.name} of {second.task}: their scores can't be compared"
        )
    places = {example: place for place, example in enumerate(second.scored.ids)}
    rows = [(row, places[example]) for row, example in enumerate(first.scored.ids) if example in places]
    if not rows:
        raise UserError(f"{first.name} and {second.name} have no test example in common: the test data differ")
    predictions = [(first.predictions[row], second.predictions[other]) for row, other in rows]
    own, others = first.scored.chosen([row for row, _ in rows]), second.scored.chosen([other for _, other in rows])
    _refuse_other_data(first.name, second.name, own, others, predictions)
    refused = dict(_refused(first.name, second.name, own.scores, others.scores))
    # where the runs group differently, the coarser groups: they claim less
    groups = min(own.groups, others.groups, key=lambda groups: len(set(groups)))
    if len(set(groups)) == 1:
        raise UserError(
            f"{first.name} and {second.name}: the common test examples are one group ({len(rows)} of one conversation, "
            "context or author), so no difference can be told from luck: test on more groups"
        )
    return Pairs(
        first=_kept(own, refused, groups),
        second=_kept(others, refused, groups),
        predictions=predictions,
        only_in_first=len(first.scored.ids) - len(rows),
        only_in_second=len(second.scored.ids) - len(rows),
        refused=refused,
    )


def _refuse_other_data(
    first: str, second: str, own: Scored, others: Scored, predictions: Sequence[tuple[Prediction, Prediction]]
) -> None:
    differing = [
        pair for pair, one, other in zip(predictions, own.content, others.content, strict=True) if one != other
    ]
    if differing:
        raise UserError(
            [
                f"the test data of {first} and {second} differ: of {len(predictions)} examples that both have, "
                f"{len(differing)} have another source or other references",
                *(_other_content(first, second, *pair) for pair in differing[:_SHOWN]),
            ]
        )


def _other_content(first: str, second: str, one: Prediction, other: Prediction) -> str:
    what, before, after = (
        ("source", one.source, other.source)
        if one.source != other.source
        else ("references", " | ".join(one.references), " | ".join(other.references))
    )
    start = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    shown = [text[max(start - _EXCERPT // 2, 0) :][:_EXCERPT] for text in (before, after)]
    return f"  example {one.id}: {what} in {first}: {shown[0]!r}, in {second}: {shown[1]!r}"


def _refused(
    first: str, second: str, own: Mapping[str, Score], others: Mapping[str, Score]
) -> Iterator[tuple[str, str]]:
    """Each score that only one has, or that was computed otherwise, with a line about it."""
    for name in dict.fromkeys([*own, *others]):
        if name not in own or name not in others:
            yield name, f"{name}: only {first if name in own else second} has it"
        elif difference := _other_conventions(own[name], others[name]):
            yield name, f"{name}: computed in two ways: {first} has {difference[0]}, {second} {difference[1]}"


def _other_conventions(own: Score, other: Score) -> tuple[str, str] | None:
    """What differs in how two scores were computed."""
    one, two = (_conventions(score) for score in (own, other))
    if one == two:
        return None
    parts = [[part for part in mine if part not in yours] for mine, yours in ((one, two), (two, one))]
    return "|".join(parts[0]) or "less", "|".join(parts[1]) or "less"


def _conventions(score: Score) -> list[str]:
    better = "higher" if score.higher_is_better else "lower"
    # the same text has as many tokens only by the same tokenizer
    tokens = [f"tokens:{score.statistics[:, 1].sum():.0f}"] if score.formula == "perplexity" else []
    return [
        *score.signature.split("|"),
        *(f"formula:{score.formula}", f"better:{better}", f"statistics:{score.statistics.shape[1]}", *tokens),
    ]


def _kept(side: Scored, refused: Collection[str], groups: list[str]) -> Scored:
    return replace(side, groups=groups, scores={name: own for name, own in side.scores.items() if name not in refused})
