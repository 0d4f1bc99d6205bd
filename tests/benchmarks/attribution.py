"""Whether the words that tell a fact lean on the words of the source that state it: for gradient times input and for
occlusion, on the model of the run in this folder.

Run: `python -m tests.benchmarks.attribution [EXAMPLES]`, in the folder of a finished run of `data_to_text`. A slot is a
field of a source that words of a text tell. It is found if of all fields of the source its own has the most weight for
these words. Methods differ in what makes one number of the products of a token, and one of the words of a field. One of
each kind is chosen on references of validation, and then measured on predictions for test. EXAMPLES are drawn at random
from each split (all). "Any field" is what a blind choice finds.
"""

import random
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from stages.lib.attribution.explainer import Explainer
from stages.lib.attribution.gradients import source_gradients
from stages.lib.attribution.occlusion import occlusion
from stages.lib.attribution.words import Word
from stages.lib.inference.trained import Trained, of_run
from stages.lib.models.layouts import Layout, choose_layout
from stages.lib.records.examples import Example, read_examples
from stages.lib.records.predictions import Prediction, read_predictions
from stages.lib.records.tokenized_examples import TokenizedExample
from stages.lib.scores.resampling import intervals
from stages.lib.scores.score import ratio_score
from stages.lib.scores.slots import Slots
from tests.build import prediction

DATA = Path("data")
CHANCE = "any field"

Pair = tuple[Prediction, Example]
Weights = Mapping[str, Tensor]  # method -> (target tokens, fields)

# gradients and embeddings, (S, width) -> weights (S)
_OF_GRADIENT: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "signed": lambda gradient, input_: (gradient * input_).sum(-1),
    "absolute": lambda gradient, input_: (gradient * input_).abs().sum(-1),
    "L2": lambda gradient, input_: (gradient * input_).norm(dim=-1),
    "from-mean": lambda gradient, input_: (gradient * (input_ - input_.mean(0))).sum(-1),
}
_OF_FIELD: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda weights: weights.sum(1),
    "largest": lambda weights: weights.max(1).values,
}


def main(most: int) -> None:
    model, drawn = of_run(), random.Random(1)
    slots = Slots.learn((own.source, own.targets) for own in read_examples(DATA / "prepare/train"))
    assert slots is not None, "the sources of this run are no fields with values"
    validation = [
        (prediction(own.targets[0], id=own.id, source=own.source), own)
        for own in read_examples(DATA / "prepare/validation")
    ]
    examples = {own.id: own for own in read_examples(DATA / "prepare/test")}
    test = [(own, examples[own.id]) for own in read_predictions(DATA / "predict/predictions.jsonl")]
    slots = slots.knowing(own.source for own, _ in (*validation, *test))
    bench = Bench(model, slots)
    first = bench.measure("validation", _some(validation, most, drawn))
    kinds = ("gradient", "occlusion", CHANCE)
    best = [max((own for own in first if own.startswith(kind)), key=lambda own: first[own]) for kind in kinds]
    bench.measure("test", _some(test, most, drawn), best)


def _some(pairs: Sequence[Pair], most: int, drawn: random.Random) -> list[Pair]:
    return drawn.sample(list(pairs), min(most, len(pairs)))


class Bench:
    def __init__(self, model: Trained, slots: Slots) -> None:
        self._model, self._slots, self._explainer = model, slots, Explainer(model)
        self._layout: Layout | None = None

    def measure(self, split: str, pairs: Sequence[Pair], methods: Collection[str] = ()) -> dict[str, float]:
        """Prints and returns the share of told slots that each method finds, or only some of the methods."""
        hits: dict[str, list[float]] = {}
        told = list[int]()
        for own, example in tqdm(pairs, split, unit=" texts"):
            found = list(self._found(own, example))
            told.append(len(found))
            for method in found[0] if found else ():
                hits.setdefault(method, [0] * (len(told) - 1))
            for method, of_examples in hits.items():
                of_examples.append(sum(each[method] for each in found))
        groups = [own.group for own, _ in pairs]
        chosen = methods or hits.keys()
        scores = {name: ratio_score(own, told, "", True) for name, own in hits.items() if name in chosen}
        for name, interval in intervals(scores, groups).items():
            share = scores[name].value
            print(f"{split}: {name:<28} {share:.3f} ({interval.low:.3f} to {interval.high:.3f}) of {sum(told):,} slots")
        return {name: score.value for name, score in scores.items()}

    def _found(self, own: Prediction, example: Example) -> Iterator[dict[str, float]]:
        """For each told slot, whether each method finds its field."""
        tokenized = self._explainer.tokenized(own, example)
        told = self._slots.places(own.source, own.prediction)
        if tokenized is None or not told:
            return
        source, written = self._explainer.words(own, tokenized)
        fields = _fields(own.source, source)
        weights = self._weights(tokenized, source, list(fields.values()))
        for field, places in told.items():
            words = [word for word in written if any(word.start < end and start < word.end for start, end in places)]
            tokens = [token for word in words for token in word.tokens]
            is_found = {
                method: list(fields)[int(each[tokens].sum(0).argmax())] == field for method, each in weights.items()
            }
            yield {**is_found, CHANCE: 1 / len(fields)}

    def _weights(self, tokenized: TokenizedExample, source: Sequence[Word], fields: Sequence[Sequence[int]]) -> Weights:
        """Of each field, whose words are given by their places, for each target token."""
        network = self._model.network
        layout = self._layout = self._layout or choose_layout(network, [tokenized], pack=False)
        embeddings, gradients = source_gradients(network, tokenized)
        of_tokens = {f"gradient {name}": list[Tensor]() for name in _OF_GRADIENT}
        for gradient in gradients:
            for name, weigh in _OF_GRADIENT.items():
                of_tokens[f"gradient {name}"].append(weigh(gradient, embeddings))
        tokens = [[token for place in field for token in source[place].tokens] for field in fields]
        of_words = {name: _of_words(torch.stack(own), source) for name, own in of_tokens.items()}
        of_words["occlusion"] = occlusion(network, tokenized, [word.tokens for word in source], layout)[1]
        found = {
            f"{name}, {how}": torch.stack([join(weights[:, list(field)]) for field in fields], 1)
            for name, weights in of_words.items()
            for how, join in _OF_FIELD.items()
        }
        return {**found, "occlusion, whole": occlusion(network, tokenized, tokens, layout)[1]}


def _of_words(weights: Tensor, words: Sequence[Word]) -> Tensor:
    return torch.stack([weights[:, word.tokens].sum(1) for word in words], 1)


def _fields(text: str, source: Sequence[Word]) -> dict[str, list[int]]:
    """The places of the words of each field of `name: The Mill; area: riverside`."""
    found: dict[str, list[int]] = {}
    for field in re.finditer(r"(?:^|; )([^:;]+): [^;]+", text):
        words = [place for place, word in enumerate(source) if word.start < field.end() and field.start(1) < word.end]
        found.setdefault(field[1], []).extend(words)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else sys.maxsize)
