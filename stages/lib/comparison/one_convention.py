"""Scores that depend on what the training examples have taught: two runs with other training data, scored alike."""

from dataclasses import replace

from stages.lib.comparison.run import Run
from stages.lib.scores.faithfulness import faithfulness
from stages.lib.scores.score import Score
from stages.lib.scores.slots import Slots

_LEARNED = "slot_error"


def scored_alike(first: Run, second: Run) -> tuple[Run, Run]:
    """The runs; if their facts were checked by different phrases, they are checked again by those that the training
    examples of the first teach. Else more training data could not be compared with less.

    Raises:
        UserError: the training examples are not at hand.
    """
    learned = [run.scored.scores.get(_LEARNED) for run in (first, second)]
    if None in learned or len({score.signature for score in learned if score}) == 1:
        return first, second
    slots = Slots.learn((own.source, own.references) for own in first.train())
    if slots is None:
        return first, second
    slots = slots.knowing(own.source for run in (first, second) for own in run.predictions)
    return _with(first, faithfulness(first.predictions, slots)), _with(second, faithfulness(second.predictions, slots))


def _with(run: Run, scores: dict[str, Score]) -> Run:
    return replace(run, scored=replace(run.scored, scores={**run.scored.scores, **scores}))
