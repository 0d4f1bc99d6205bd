"""Explains some predictions of the finished run on one page: `python -m stages.tools.explain [IDS ...]`.

For each, the page shows what the model wrote and which words of the source it leaned on, how sure it was, what a person
wrote, the most similar training example, and what was flagged. Open it in a browser; it needs no network.

Without IDS, it takes some at random, some of the worst and of the best, of the least sure, and of the flagged ones. IDS
are those of predictions, as the report or data/predict/predictions.jsonl names them.
"""

import math
from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from stages.lib.attribution.choice import Chosen, choose
from stages.lib.attribution.figures import TIMES, explained, percent, sure_in_words
from stages.lib.core.files import read_json, write_text
from stages.lib.core.params import read_section
from stages.lib.core.process import UserError, launch
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.examples import Example, Question, read_examples, read_labels, some_questions
from stages.lib.records.predictions import Prediction, read_predictions
from stages.lib.reports.pages import explained_page
from stages.lib.reports.predictions import shortened
from stages.lib.scores.bleu_chrf_ter import chrf
from stages.lib.scores.bounds import Nearest
from stages.lib.scores.faithfulness import details
from stages.lib.scores.flags import flags
from stages.lib.scores.results import MOST_TRAIN_EXAMPLES, TRUTH
from stages.lib.scores.seen_in_training import seen_in_training
from stages.lib.scores.slots import Slots
from stages.tools.arguments import parser_of

DATA = Path("data")
PREDICTIONS = DATA / "predict/predictions.jsonl"
SCORES = Path("metrics/scores.json")

_IN_PLAIN_WORDS = {
    "missing ": "It leaves out ",
    "invented ": "It says, and the source does not: ",
    "not in the source: ": "It says, and the source does not: ",
    "as in training example ": "It repeats training example ",
}


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.examples < 1:
        raise UserError(f"--examples {arguments.examples}: at least 1 is needed")
    for path in (PREDICTIONS, SCORES):
        if not path.is_file():
            raise UserError(f"{path}: not there; run `make repro`, or `dvc checkout` if it has been made")
    predictions = list(read_predictions(PREDICTIONS))
    _check_known(arguments.ids, predictions)
    page = explain(predictions, arguments.ids, arguments.examples, read_section(Evaluate))
    try:
        write_text(arguments.output, page)
    except OSError as error:
        raise UserError(f"{arguments.output}: {error.strerror}") from None
    print(f"{arguments.output}: open it in a browser")


def explain(predictions: Sequence[Prediction], ids: Sequence[str], count: int, params: Evaluate) -> str:
    """The page.

    Raises:
        UserError: a stage has not run, or the model can't be loaded or can't compute an example.
    """
    # heavy: not before the command line is known to be right
    from stages.lib.attribution.explainer import Explainer
    from stages.lib.inference.trained import of_run
    from stages.lib.models.devices import configure_gpu, place_network

    model = of_run()
    findings = _findings(predictions, params)
    chosen = _asked_for(ids, predictions) or choose(predictions, findings.ranks, findings.flags, count)
    explainer, examples = Explainer(model), _examples({predictions[own.place].id for own in chosen})
    configure_gpu()
    place_network(model.network, "explain")
    shown = []
    for number, (place, title, why) in enumerate(tqdm(chosen, "explain", unit=" texts"), 1):
        own = predictions[place]
        found = explainer.explain(own, examples[own.id])
        shown.append(
            {
                "number": number,
                "id": own.id,
                "title": title,
                "why": why,
                "source": shortened(own.source),
                "prediction": shortened(own.prediction),
                "references": list(map(shortened, own.references)),
                "sure": _how_sure(own, predictions, bool(model.settings.labels)),
                "flags": findings.flags[place],
                "nearest": findings.nearest(own),
                "explained": found and explained(found, own.source, own.prediction),
            }
        )
    about = {"task": model.settings.scenario, "model": model.settings.train["model"], "total": len(predictions)}
    return explained_page({**about, "times": TIMES, "examples": shown})


def _check_known(ids: Sequence[str], predictions: Sequence[Prediction]) -> None:
    known = {own.id for own in predictions}
    if unknown := [name for name in ids if name not in known]:
        raise UserError(
            f"{unknown[0]}: no prediction has this id; data/evaluate/report.html and {PREDICTIONS} have the ids"
        )


def _asked_for(ids: Sequence[str], predictions: Sequence[Prediction]) -> list[Chosen]:
    places = {own.id: place for place, own in enumerate(predictions)}
    return [Chosen(places[name], "Asked for", "Its id was given.") for name in dict.fromkeys(ids)]


def _examples(ids: Collection[str]) -> dict[str, Example]:
    """By the ids of their questions."""
    questions = ((question.id, own) for own in read_examples(DATA / "prepare/test") for question in own.questions())
    return {name: own for name, own in questions if name in ids}


@dataclass(frozen=True)
class _Findings:
    """About each prediction: `flags`, the lines of what somebody should look at, in plain words; `ranks`, its chrF, or
    whether its label is right: all equal where nobody knows the answers."""

    flags: list[list[str]]
    ranks: list[float]
    train: list[Question]
    index: Nearest | None

    def nearest(self, own: Prediction) -> dict[str, str] | None:
        """The source and the target of the training example whose source is most alike."""
        if self.index is None or not own.source:
            return None
        found = self.train[self.index.to(own.source)]
        return {"source": shortened(found.source), "target": shortened(found.references[0])}


def _findings(predictions: Sequence[Prediction], params: Evaluate) -> _Findings:
    """As `evaluate` finds them."""
    train = some_questions(DATA / "prepare/train", MOST_TRAIN_EXAMPLES)
    index = Nearest([own.source for own in train]) if any(own.source for own in train) else None
    has_answers = any(own.references for own in predictions)
    if read_labels(DATA / "prepare/labels.json"):
        ranks = [float(own.prediction in own.references) for own in predictions]
        is_wrong = [has_answers and not rank for rank in ranks]
        return _Findings([["People chose another label."] if own else [] for own in is_wrong], ranks, train, index)
    ranks = chrf(predictions, params)["chrf"].each.tolist() if has_answers else [0.0] * len(predictions)
    return _Findings(_flags_of_texts(predictions, train, params), ranks, train, index)


def _flags_of_texts(predictions: Sequence[Prediction], train: Sequence[Question], params: Evaluate) -> list[list[str]]:
    seen = None
    if params.seen_in_training:
        every = (question for own in read_examples(DATA / "prepare/train") for question in own.questions())
        seen = seen_in_training(predictions, every)
    slots, has_faults = None, bool(set(TRUTH) & set(read_json(SCORES)["headline"]))
    if has_faults and (learned := Slots.learn((own.source, own.references) for own in train)):
        slots = learned.knowing(own.source for own in predictions)
    lines = flags(predictions, seen, params).lines
    for place, own in enumerate(predictions):
        faults = details(own, slots) if has_faults else []
        lines[place] = list(map(_in_plain_words, [*faults, *lines[place]]))
        if seen and seen.near_duplicates[place]:
            lines[place].append("Training has nearly the same example.")
        if own.finish_reason == "length" and not own.reference_truncated:
            lines[place].append("It never ended, and was cut off.")
    return lines


def _in_plain_words(line: str) -> str:
    start = next((own for own in _IN_PLAIN_WORDS if line.startswith(own)), "")
    return _IN_PLAIN_WORDS.get(start, "") + line.removeprefix(start)


def _how_sure(own: Prediction, predictions: Sequence[Prediction], is_label: bool) -> str:
    if own.confidence is None:
        return "Nobody has measured it."
    others = [other.confidence for other in predictions if other.id != own.id and other.confidence is not None]
    chance = math.exp(min(own.confidence, 0.0))
    what = (
        "it gave this label a chance of"
        if is_label
        else "on average, it gave each piece of a word that it wrote a chance of"
    )
    surer = sum(other < own.confidence for other in others)
    rank = f" It was surer of it than of {percent(surer / len(others))} of the others." if others else ""
    return f"{sure_in_words(chance).capitalize()}: {what} {percent(chance)}.{rank}"


def _parser() -> ArgumentParser:
    parser = parser_of("explain", __doc__)
    parser.add_argument("ids", nargs="*", metavar="IDS", help="of predictions")
    parser.add_argument("--examples", type=int, default=10, metavar="N", help="how many, without IDS (10)")
    parser.add_argument("--output", type=Path, default=Path("explained.html"), metavar="FILE", help="explained.html")
    return parser


if __name__ == "__main__":
    launch(main)
