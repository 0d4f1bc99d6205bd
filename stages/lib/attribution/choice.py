"""Which predictions are worth explaining: a fair choice, not only the best or the worst."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stages.lib.records.predictions import Prediction

_SEED = 1


class Chosen(NamedTuple):
    place: int  # of a prediction
    title: str
    why: str  # a sentence: it is shown


def choose(
    predictions: Sequence[Prediction], ranks: Sequence[float], flags: Sequence[Sequence[str]], count: int
) -> list[Chosen]:
    """In turn: drawn at random, always in the same way; the worst, the best, the least sure, flagged. Where one kind
    has no more, the others fill up; no prediction is shown twice.

    Args:
        ranks: of each prediction, the higher the better; all equal where nobody knows the answers.
        flags: what somebody should look at in each prediction.
    """
    places = range(len(predictions))
    drawn = random.Random(_SEED).sample(places, len(places))
    sureness = {place: own.confidence for place, own in enumerate(predictions) if own.confidence is not None}
    by_rank = sorted(places, key=lambda place: ranks[place]) if len(set(ranks)) > 1 else []
    kinds = [
        [Chosen(place, "At random", "It was drawn by lot from all texts.") for place in drawn],
        [Chosen(place, "One of the worst", "It is among the least like what people wrote.") for place in by_rank],
        [Chosen(place, "One of the best", "It is among the most like what people wrote.") for place in by_rank[::-1]],
        [
            Chosen(place, "One of the least sure", "The model gave it one of the lowest chances of all its texts.")
            for place in sorted(sureness, key=sureness.__getitem__)
        ],
        [
            Chosen(place, "Flagged", "It was drawn by lot from those that were flagged.")
            for place in drawn
            if flags[place]
        ],
    ]
    return list(_first_of_each(kinds, count))


def _first_of_each(kinds: Sequence[Sequence[Chosen]], count: int) -> Iterator[Chosen]:
    """So many, one of each kind in turn."""
    queues, seen = [iter(kind) for kind in kinds], set[int]()
    while queues and len(seen) < count:
        for queue in list(queues):
            found = next((own for own in queue if own.place not in seen), None)
            if found is None:
                queues.remove(queue)
            elif len(seen) < count:
                seen.add(found.place)
                yield found
