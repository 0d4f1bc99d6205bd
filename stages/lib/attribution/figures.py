"""An explanation as a page shows it: pieces of texts, marks of how strong a weight is, and sentences."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # they import torch, which a wrong command line should not wait for
    from torch import Tensor

    from stages.lib.attribution.explainer import Explanation
    from stages.lib.attribution.words import Word

_SURE = ((0.95, "very sure"), (0.8, "sure"), (0.6, "fairly sure"), (0.4, "not very sure"), (0.0, "unsure"))
# A mark is 1 to 4, and 0 for none: by how many times less likely a written word is without the source word,
TIMES = (1.25, 2.0, 5.0, 20.0)
_SHARES = (0.1, 0.25, 0.5, 0.75)  # and by the share of the largest weight where weights have no such meaning
_SIGNS_AROUND = re.compile(r"^\W+|\W+$")
_MOST_TIMES = 1000
_MOST_NAMED = 4  # source words in a sentence
_UNSURE, _MOST_UNSURE = 0.5, 5


def explained(own: "Explanation", source: str, text: str) -> dict[str, Any]:
    """`source` and `written`: pieces [{text, word: its number, or None between words}], of which those of the source
    have is_read and those written have sure, from 0 to 1. `views`, by leaving words out and by the gradient: {name: [of
    the whole text, then of each written word: {marks: {number of a source word: 1 to 4}, sentence}]}. `unsure`:
    [(written word, sure)]. `agreeing` of `leaning`: in so many of the written words that lean on a source word, both
    methods have the same one first."""
    sure = [math.exp(min(value, 0.0)) for value in own.log_probabilities]
    names = [f"{_named(word)} ({percent(value)} sure)" for word, value in zip(own.written, sure, strict=True)]
    left_out, gradient = own.occlusion, own.gradient
    views = {
        "left_out": [
            _view(left_out.clamp(min=0).sum(0), own.source, "Over the whole text, it leaned most on {}."),
            *(_left_out(*each, own.source) for each in zip(left_out, names, strict=True)),
        ],
        "gradient": [
            _view(gradient.sum(0), own.source, "Over the whole text, its gradient is largest for {}."),
            *(
                _view(weights, own.source, f"{name}: its gradient is largest for {{}}.")
                for weights, name in zip(gradient, names, strict=True)
            ),
        ],
    }
    leaning = [row for row, view in enumerate(views["left_out"][1:]) if view["marks"]]
    unsure = sorted((value, place) for place, value in enumerate(sure) if value < _UNSURE)[:_MOST_UNSURE]
    return {
        "source": [
            {"text": piece, "word": number, "is_read": number is None or own.source[number].is_read}
            for piece, number in _pieces(source, own.source)
        ],
        "written": [
            {"text": piece, "word": number, "sure": 1.0 if number is None else sure[number]}
            for piece, number in _pieces(text, own.written)
        ],
        "views": views,
        "unsure": [(_named(own.written[place]), percent(value)) for value, place in unsure],
        "agreeing": sum(int(left_out[row].argmax()) == int(gradient[row].argmax()) for row in leaning),
        "leaning": len(leaning),
    }


def sure_in_words(probability: float) -> str:
    return next(words for least, words in _SURE if probability >= least)


def percent(share: float) -> str:
    """From 0 to 1. Only what is certain is 100 %."""
    rounded = round(100 * share)
    if rounded in (0, 100) and share != rounded / 100:
        return "over 99 %" if rounded else "under 1 %"
    return f"{rounded} %"


def _pieces(text: str, words: Sequence["Word"]) -> Iterator[tuple[str, int | None]]:
    """The text in pieces, and of each the number of its word."""
    place = 0
    for number, word in enumerate(words):
        if word.start > place:
            yield text[place : word.start], None
        yield text[word.start : word.end], number
        place = word.end
    if place < len(text):
        yield text[place:], None


def _left_out(weights: "Tensor", name: str, source: Sequence["Word"]) -> dict[str, Any]:
    """Of one written word. Weights are (source words), in nats."""
    times = weights.clamp(min=0).exp()
    marks = {number: mark for number, value in enumerate(times.tolist()) if (mark := _mark(value, TIMES))}
    strongest = sorted(marks, key=lambda number: -float(times[number]))[:_MOST_NAMED]
    told = [f"without {_named(source[number])} {_times(float(times[number]))} less likely" for number in strongest]
    if not told:
        return {"marks": {}, "sentence": f"{name}: no single word of the source mattered much to it."}
    return {"marks": marks, "sentence": f"{name}: {', '.join(told)}."}


def _named(word: "Word") -> str:
    """Without the punctuation around it."""
    return f"“{_SIGNS_AROUND.sub('', word.text) or word.text}”"


def _times(factor: float) -> str:
    if factor > _MOST_TIMES:
        return f"over {_MOST_TIMES:,} times"
    return f"{factor:.0f} times" if factor >= 10 else f"{factor:.1f} times"


def _view(weights: "Tensor", source: Sequence["Word"], sentence: str) -> dict[str, Any]:
    """Of weights (source words), from 0 on, whose unit says nothing to a reader."""
    largest = float(weights.max()) if len(weights) else 0.0
    if not largest:
        return {"marks": {}, "sentence": sentence.format("no word of the source")}
    shares = (weights / largest).tolist()
    marks = {number: mark for number, value in enumerate(shares) if (mark := _mark(value, _SHARES))}
    strongest = sorted(marks, key=lambda number: -shares[number])[:_MOST_NAMED]
    return {"marks": marks, "sentence": sentence.format(", ".join(_named(source[number]) for number in strongest))}


def _mark(value: float, least: Sequence[float]) -> int:
    return sum(value >= own for own in least)
