"""What a comparison says, in one sentence."""

from collections.abc import Iterable, Mapping
from typing import Any

from stages.lib.reports.numbers import decimals

Figures = Mapping[str, Any]


def verdict(first: str, second: str, scores: Mapping[str, Figures], examples: int) -> str:
    """The sentence about some scores of two revisions. `scores` are as `comparing.compare` describes them."""
    same = [name for name, own in scores.items() if own["ties"] == examples]
    if len(same) == len(scores):
        return f"{second} and {first} have the same {', '.join(same)} on each of {examples} examples"
    differing = {name: own for name, own in scores.items() if name not in same}
    sentence = _of_differing(first, second, differing, examples)
    return f"{sentence}; the same {', '.join(same)} on each example" if same else sentence


def _of_differing(first: str, second: str, scores: Mapping[str, Figures], examples: int) -> str:
    by_verdict = {
        word: [name for name, own in scores.items() if own["verdict"] == word]
        for word in ("better", "worse", "undecided")
    }
    better, worse, undecided = by_verdict.values()
    if not better and not worse:
        least = ", ".join(f"{_least(own)} {name}" for name, own in scores.items())
        return (
            f"No difference between {second} and {first} is shown: {_told(scores, scores)}; "
            f"this test set of {examples} examples shows differences of {least} or more"
        )
    if better and worse:
        start = f"{second} is better than {first} in {_told(better, scores)}, and worse in {_told(worse, scores)}"
    else:
        start = f"{second} is {'better' if better else 'worse'} than {first}: {_told(better or worse, scores)}"
    return start + (f"; no difference shown: {_told(undecided, scores)}" if undecided else "")


def _told(names: Iterable[str], scores: Mapping[str, Figures]) -> str:
    """`bleu +2.9 (95 % interval 1.1 to 4.8, p 0.002 of 4 scores), chrf +1.0 (0.2 to 1.8, p 0.03)`: the first tells what
    the numbers are."""
    told = [_change(scores[name], name) for name in names]
    of_several = f" of {len(scores)} scores" if len(scores) > 1 else ""
    told[0] = told[0].replace("(", "(95 % interval ", 1).replace(")", f"{of_several})")
    return ", ".join(told)


def _change(score: Figures, name: str) -> str:
    digits = decimals(score["first"], score["low"], score["high"])
    interval = f"{score['low']:z.{digits}f} to {score['high']:z.{digits}f}"
    return f"{name} {score['difference']:+z.{digits}f} ({interval}, p {score['p_holm']:.2g})"


def _least(score: Figures) -> str:
    return f"{score['smallest_difference']:.{decimals(score['first'], score['low'], score['high'])}f}"
