"""Which words of its source each word of a text leans on, by occlusion and by gradient times input."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stages.lib.attribution.gradients import gradient_times_input
from stages.lib.attribution.occlusion import log_probabilities, occlusion
from stages.lib.attribution.words import Word, words_of
from stages.lib.encoding.encoder import Encoder
from stages.lib.encoding.text_encoder import TextEncoder
from stages.lib.inference.trained import Trained
from stages.lib.models.layouts import Layout, choose_layout
from stages.lib.records.chats import Turn, answer_places
from stages.lib.records.examples import Example, answer_id
from stages.lib.records.predictions import Prediction
from stages.lib.records.tokenized_examples import TokenizedExample

_MOST_PARTS = 100  # of a source that are left out one by one: in a longer one, neighbours are left out together
_JOINTS = ("", " ", "\n")  # between the opening of a free text and what the model adds, which predictions are without


@dataclass(frozen=True)
class Explanation:
    """`occlusion` and `gradient` are (written words, source words), in nats. Of occlusion, positive numbers speak for
    the written word; a gradient has no sign. `log_probabilities` are those of the written words, each the sum of its
    tokens'."""

    source: list[Word]
    written: list[Word]
    log_probabilities: list[float]
    occlusion: Tensor
    gradient: Tensor


class Explainer:
    """Of the texts of one trained model, whose weights become float32.

    A text is encoded anew, as tokenize would encode it as a target.
    """

    def __init__(self, model: Trained) -> None:
        model.network.float()
        self.network, self._tokenizer = model.network, model.tokenizer
        self._labels = [label.word for label in model.settings.labels]
        whole = model.settings.tokenize.model_copy(update={"max_target_tokens": sys.maxsize})
        self._encoder = Encoder(self._tokenizer, whole, model.settings.family, self._labels, answers_apart=True)
        self._layout: Layout | None = None  # it takes some passes to find

    def explain(self, prediction: Prediction, example: Example) -> Explanation | None:
        """None where the model wrote nothing.

        Args:
            example: whose question the prediction answers.
        """
        tokenized = self.tokenized(prediction, example)
        if tokenized is None:
            return None
        source, written = self.words(prediction, tokenized)
        if self._layout is None:
            self._layout = choose_layout(self.network, [tokenized], pack=False)
        parts = _parts(source)
        tokens = [[token for place in part for token in source[place].tokens] for part in parts]
        of_tokens, by_part = occlusion(self.network, tokenized, tokens, self._layout)
        occluded = torch.zeros(len(of_tokens), len(source), dtype=torch.float64)
        for part, weights in zip(parts, by_part.T, strict=True):
            occluded[:, part] = weights[:, None] / len(part)  # words that are left out together share what this costs
        gradient = gradient_times_input(self.network, tokenized).cpu()
        return Explanation(
            source,
            written,
            [float(of_tokens[word.tokens].sum()) for word in written],
            _summed(occluded, written, 0),
            _summed(_summed(gradient, source, 1), written, 0),
        )

    def tokenized(self, prediction: Prediction, example: Example) -> TokenizedExample | None:
        """The prediction as the target of its source; None where the model wrote nothing."""
        if not prediction.prediction.strip():
            return None
        if not (example.source or example.turns):
            return self._continuation(prediction, example)
        (encoded,) = self._encoder.encoded([_answered(prediction, example)])
        return encoded.tokenized[0] if encoded.tokenized else None

    def words(self, prediction: Prediction, tokenized: TokenizedExample) -> tuple[list[Word], list[Word]]:
        """Those of the source and of the prediction. A label is one word."""
        source, text = words_of(prediction.source, tokenized.source_ids, self._tokenizer), prediction.prediction
        if text in self._labels:
            return source, [Word(text, 0, len(text), list(range(len(tokenized.target_ids))))]
        return source, words_of(text, tokenized.target_ids, self._tokenizer)

    def _continuation(self, prediction: Prediction, example: Example) -> TokenizedExample:
        """The opening of a free text as source. Predictions have no blanks around them, so the likeliest joint is
        taken."""
        before = self._encoder.encoded([example])[0].tokenized[0].source_ids
        texts = TextEncoder(self._tokenizer)
        opening, *continuations = texts.ids(
            [prediction.source, *(joint + prediction.prediction for joint in _JOINTS)], special=False
        )
        candidates = [TokenizedExample("", [*before, *opening], ids, [], 0) for ids in continuations]
        found = log_probabilities(self.network, candidates, "single")
        return max(zip(found, candidates, strict=True), key=lambda pair: float(pair[0].sum()))[1]


def _answered(prediction: Prediction, example: Example) -> Example:
    """The example with the prediction as its only answer."""
    if not example.turns:
        return replace(example, targets=[prediction.prediction])
    names = [answer_id(example.id, number) for number, _ in enumerate(answer_places(example.turns))]
    place = answer_places(example.turns)[names.index(prediction.id)]
    before = [replace(turn, has_loss=False) for turn in example.turns[:place]]
    return replace(example, targets=[prediction.prediction], turns=[*before, Turn("assistant", prediction.prediction)])


def _parts(source: Sequence[Word]) -> list[list[int]]:
    """Places of the words with tokens, alone or with their neighbours."""
    read = [place for place, word in enumerate(source) if word.tokens]
    size = -(-len(read) // _MOST_PARTS) or 1
    return [read[start : start + size] for start in range(0, len(read), size)]


def _summed(weights: Tensor, words: Sequence[Word], dimension: int) -> Tensor:
    """Weights of tokens along a dimension -> weights of words."""
    sums = [
        weights.index_select(dimension, torch.tensor(word.tokens, dtype=torch.long)).sum(dimension) for word in words
    ]
    size = [*weights.shape]
    size[dimension] = 0
    return torch.stack(sums, dimension) if sums else weights.new_zeros(size)
