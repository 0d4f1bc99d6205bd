"""Sources that others begin with: each question of a conversation begins with the questions and answers before it."""

from collections.abc import Sequence
from itertools import pairwise

from transformers import PreTrainedModel


def longest_continuations(network: PreTrainedModel, sources: Sequence[Sequence[int]]) -> list[int]:
    """For each source, the place of the longest one that begins with it, or is equal to it, or its own.

    What a causal network keeps of the longer one contains what it keeps of the shorter one. An encoder reads a source
    as a whole, so there only equal sources count.
    """
    order = sorted(range(len(sources)), key=lambda place: list(sources[place]))
    longest = list(range(len(sources)))
    # in this order, a source is followed at once by those that begin with it
    for place, following in reversed(list(pairwise(order))):
        own, other = sources[place], sources[following]
        if list(own) == list(other[: len(own)]) and (len(own) == len(other) or not network.config.is_encoder_decoder):
            longest[place] = longest[following]
    return longest
