"""The BLEU that copying reaches on the sample, on the same test inputs as the model: of a fixed template, and of the
text of the most similar training example with its values exchanged. Needs data/prepare/ of the sample.

    python -m tests.benchmarks.copying
"""

from collections.abc import Sequence
from pathlib import Path

from stages.lib.core.params import read_section
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.examples import Example, read_examples
from stages.lib.scores.registry import text_scores
from tests.build import prediction

Facts = dict[str, str]


def main() -> None:
    train, test = (list(read_examples(Path(f"data/prepare/{split}"))) for split in ("train", "test"))
    known = [(facts(example), example.targets[0]) for example in train]
    report("fixed template", [template(facts(example)) for example in test], test)
    report("nearest example, values exchanged", [exchanged(facts(example), known) for example in test], test)


def facts(example: Example) -> Facts:
    return {name: value for name, _, value in (fact.partition(": ") for fact in example.source.split("; "))}


def template(given: Facts) -> str:
    others = [f"The {name} is {value}." for name, value in given.items() if name not in ("name", "kind")]
    return " ".join([f"{given['name']} is a {given['kind']}.", *others])


def exchanged(given: Facts, known: Sequence[tuple[Facts, str]]) -> str:
    nearest, text = max(known, key=lambda entry: similarity(given, entry[0]))
    for name, value in nearest.items():
        text = text.replace(value, given.get(name, value))
    return text


def similarity(given: Facts, other: Facts) -> float:
    """The same facts count most, then facts of the same names. Additional facts of the other example count against it,
    since they stay in its text."""
    same = sum(other.get(name) == value for name, value in given.items())
    return same - sum(name not in given for name in other) + 0.5 * sum(name in other for name in given)


def report(title: str, texts: Sequence[str], test: Sequence[Example]) -> None:
    predictions = [prediction(text, *example.targets) for text, example in zip(texts, test, strict=True)]
    scores = text_scores(predictions, read_section(Evaluate))
    print(f"{title:<36}BLEU {scores['bleu'].value:.2f}   {scores['bleu'].signature}")


if __name__ == "__main__":
    main()
