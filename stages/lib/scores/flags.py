"""What somebody should look at in predictions that no score of wording shows: training text learned by heart, listed
words, unwanted classes. The same is counted in the references, which people have written."""

from collections.abc import Sequence
from dataclasses import dataclass

from stages.lib.overlap.hashed_ngrams import N
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, mean, mean_score
from stages.lib.scores.screen import screen
from stages.lib.scores.seen_in_training import SeenInTraining

_MEMORISED = f"words:{N} in a row, one may differ|in a target of training, not in the source|mean:texts"


@dataclass(frozen=True)
class Flags:
    """`lines` are those of each prediction. `scores` are shares of predictions with a flag, from 0 to 1, lower ones are
    better; `of_references` the same shares of the first references."""

    lines: list[list[str]]
    scores: dict[str, Score]
    of_references: dict[str, float]


def flags(predictions: Sequence[Prediction], seen: SeenInTraining | None, params: Evaluate) -> Flags:
    """Raises UserError as `screen` does."""
    found = Flags([[] for _ in predictions], {}, {})
    if seen:
        spans = [[f"as in training example {own.example}: “{own.text}”" for own in spans] for spans in seen.spans]
        _add(found, "memorised", _MEMORISED, spans, seen.references_with_spans)
    if params.screen_words or params.screen_classes:
        references = screen([own.references[0] for own in predictions if own.references], params)
        how = f"words:{params.screen_words}|classes:{','.join(params.screen_classes)}|mean:texts"
        share = mean(map(bool, references)) if references else None
        _add(found, "screened", how, screen([own.prediction for own in predictions], params), share)
    return found


def _add(found: Flags, name: str, signature: str, lines: Sequence[list[str]], of_references: float | None) -> None:
    for own, new in zip(found.lines, lines, strict=True):
        own += new
    found.scores[name] = mean_score((float(bool(new)) for new in lines), signature, higher_is_better=False)
    if of_references is not None:
        found.of_references[name] = of_references
