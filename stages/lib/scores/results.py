"""Everything that is measured on the predictions of one run: scores with intervals, bounds, parts, goals, notes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate, scores_of
from stages.lib.records.examples import Question
from stages.lib.records.predictions import Prediction
from stages.lib.scores.bleu_chrf_ter import chrf
from stages.lib.scores.bounds import CEILING, bound_predictions
from stages.lib.scores.breakdowns import NEAR_DUPLICATES, Part, breakdowns
from stages.lib.scores.calibration import calibration_scores, ece_by_chance, judged
from stages.lib.scores.chrf_correlation import Correlation, chrf_correlations
from stages.lib.scores.confidence import Confidence, confidence
from stages.lib.scores.diagnostics import diagnostics, properties
from stages.lib.scores.faithfulness import details, faithfulness
from stages.lib.scores.flags import Flags, flags
from stages.lib.scores.fluency import FLUENCY, NOT_ASKED, FluencyScores
from stages.lib.scores.general_text import GENERAL, GeneralText
from stages.lib.scores.goals import Goal, check_goals
from stages.lib.scores.labels import LabelScores, label_scores, notes_on_labels
from stages.lib.scores.model_losses import model_losses
from stages.lib.scores.registry import text_scores
from stages.lib.scores.resampling import CONFIDENCE, Interval, compare_scores, intervals
from stages.lib.scores.score import Score
from stages.lib.scores.seen_in_training import SeenInTraining
from stages.lib.scores.semantic_similarity import RELEVANCE, source_similarity
from stages.lib.scores.slots import Slots

TRUTH = ("slot_error", "unsupported")  # what no metric of wording sees; a run has one of them
MOST_TRAIN_EXAMPLES = 100_000  # from which facts, floors and seen values are learned

NO_ANSWERS = "test has no answers, so nothing was scored"

_BEYOND_WORDING = (FLUENCY, RELEVANCE, "semantic_similarity")
_MOST_BOUND_EXAMPLES = 1000  # more would take as long as the scores themselves, for numbers that are only looked at
_LEADING_METRICS = 2
_MOST_UNTRUE = 0.1  # of the references
_FEW_GROUPS = 20


@dataclass(frozen=True)
class Results:
    """`headline` names the few scores that stand for the run. `before` holds the values before training; `bounds` of
    the leading scores the ceiling and floors, by the names that bounds.py explains, and `ceilings` the intervals of
    those ceilings that are scores of the references; `labels` has the scores of each label, the worst first, and
    `confidence` what probabilities are worth, where the task has these; `correlations` say whether scores say more than
    chrF. Without answers in the test split there are only scores that need none, and nothing that is derived from the
    others."""

    predictions: Sequence[Prediction]
    groups: int
    scores: dict[str, Score]
    diagnostics: dict[str, Score]
    properties: dict[str, float]
    intervals: dict[str, Interval]  # of the scores and diagnostics
    ceilings: dict[str, Interval]
    correlations: dict[str, Correlation]
    labels: list[LabelScores]
    confidence: Confidence | None
    general_text: GeneralText | None
    headline: list[str]
    before: dict[str, float]
    bounds: dict[str, dict[str, float]]
    parts: list[Part]
    goals: dict[str, Goal]
    faults: list[list[str]]  # of each prediction: what it tells wrongly
    flags: list[list[str]]  # and what else somebody should look at
    ranking: str  # the score that ranks predictions with equally many faults
    ranks: list[float]  # of each prediction: this score; all equal without answers
    notes: list[str]

    @property
    def examples(self) -> int:
        return len(self.predictions)

    @property
    def has_answers(self) -> bool:
        return any(own.references for own in self.predictions)


def measure(
    after: Sequence[Prediction],
    before: Sequence[Prediction],
    train: Sequence[Question],
    labels: Sequence[str],
    no_input: str | None,
    params: Evaluate,
    seen: SeenInTraining | None = None,
    fluent: FluencyScores = NOT_ASKED,
    general: GeneralText | None = None,
    validation: Sequence[Prediction] = (),
) -> Results:
    """Measures a run on the test split. If nobody knows its answers, what needs none is measured.

    Args:
        after: predictions of the trained model.
        before: those of the model before training, for the same examples; or none.
        train: training examples, or a sample of them.
        labels: the words that a prediction can be; none for free text.
        no_input: what the trained model writes without a source, if there is a source.
        seen: what the predictions of the trained model have in common with all training examples; None: not looked for.
        fluent: how another model expects the predictions of the trained one.
        general: what the trained model has forgotten.
        validation: predictions of the trained model for validation, or none.

    Raises:
        UserError: the predictions before training are of other examples, there is a goal for a score that this task has
            not, a metric can't read the sources, or the sentence encoder can't be loaded.
    """
    _check_same_examples(after, before)
    marked = Flags([[] for _ in after], {}, {}) if labels else flags(after, seen, params)
    signs, groups = diagnostics(after, bool(labels)) | marked.scores, [own.group for own in after]
    if not any(own.references for own in after):
        return _without_answers(after, labels, params, signs, marked, fluent, general)
    slots = None if labels else Slots.learn((own.source, own.references) for own in train)
    slots = slots and slots.knowing(own.source for own in after)
    scores, earlier = (_scores(side, params, labels, slots) if side else {} for side in (after, before))
    scores |= fluent.of_predictions
    found = intervals(scores | signs, groups)
    of_references = {} if labels else _relevance_of_references(after, params) | fluent.of_references
    _check_names_of_goals(params, [*found, *([GENERAL] if general else [])])
    some = after[:: -(-len(after) // _MOST_BOUND_EXAMPLES)]
    bounds = _bounds(bound_predictions(some, train, labels, no_input), params, labels, slots)
    headline = list(_headline(scores, bounds, params))
    # of texts chrF, which unlike BLEU is never 0 for a near miss
    ranking = headline[0] if labels and headline else "chrf"
    by_chrf = scores.get("chrf") or chrf(after, params)["chrf"]
    headline_scores = {name: scores[name] for name in headline}
    of_labels = label_scores(after, labels) if labels or "macro_f1" in params.metrics else []
    told, on_validation = judged(after, params, labels), judged(validation, params, labels)
    trusted = confidence(told, on_validation, params.selective_accuracy) if told else None
    near_duplicates = seen.near_duplicates if seen else []
    broken_down = list(breakdowns(after, headline_scores, train, near_duplicates))
    return Results(
        predictions=after,
        groups=len(set(groups)),
        scores=scores,
        diagnostics=signs,
        properties={} if labels else properties(after),
        intervals=found,
        ceilings=intervals(of_references, groups),
        correlations={} if labels else chrf_correlations(_beyond_wording(scores), by_chrf, groups),
        labels=of_labels,
        confidence=trusted,
        general_text=general,
        headline=headline,
        before={name: score.value for name, score in earlier.items()},
        bounds={
            **bounds,
            **{name: {CEILING: share} for name, share in marked.of_references.items()},
            **{name: {CEILING: score.value} for name, score in of_references.items()},
            **({"ece": {CEILING: ece_by_chance(told)}} if told else {}),
        },
        parts=broken_down,
        goals=_goals(params, scores | signs, found, len(after), general),
        faults=[details(own, slots) if set(TRUTH) & set(headline) else [] for own in after],
        flags=marked.lines,
        ranking=ranking,
        ranks=scores.get(ranking, by_chrf).each.tolist(),
        notes=[
            *_notes(headline_scores, found, bounds, len(set(groups))),
            *_without_gain(headline_scores, earlier, groups),
            *_near_duplicates(near_duplicates, broken_down),
            *notes_on_labels(of_labels),
            *(trusted.notes(found["ece"]) if trusted else ()),
            *_forgotten(general),
        ],
    )


def _without_answers(
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    params: Evaluate,
    signs: dict[str, Score],
    marked: Flags,
    fluent: FluencyScores,
    general: GeneralText | None,
) -> Results:
    """What can be measured where nobody knows the answers."""
    groups = [own.group for own in predictions]
    scores = {} if labels else source_similarity(predictions, params) | fluent.of_predictions
    found = intervals(scores | signs, groups)
    return Results(
        predictions=predictions,
        groups=len(set(groups)),
        scores=scores,
        diagnostics=signs,
        properties={} if labels else properties(predictions),
        intervals=found,
        ceilings={},
        correlations={},
        labels=[],
        confidence=None,
        general_text=general,
        headline=[],
        before={},
        bounds={},
        parts=[],
        goals=_goals(params, scores | signs, found, len(predictions), general),
        faults=[[] for _ in predictions],
        flags=marked.lines,
        ranking="",
        ranks=[0.0] * len(predictions),
        notes=[NO_ANSWERS, *_forgotten(general)],
    )


def _check_same_examples(after: Sequence[Prediction], before: Sequence[Prediction]) -> None:
    if before and [own.id for own in before] != [own.id for own in after]:
        raise UserError("evaluate: predict and predict-base have predictions for other examples; run `make repro`")


def _check_names_of_goals(params: Evaluate, found: Sequence[str]) -> None:
    if unknown := sorted(params.goals.keys() - set(found)):
        raise UserError(
            f"evaluate -> goals: {name}: this run has no such score; it has {', '.join(found)}" for name in unknown
        )


def _goals(
    params: Evaluate,
    scores: Mapping[str, Score],
    found: Mapping[str, Interval],
    examples: int,
    general: GeneralText | None,
) -> dict[str, Goal]:
    goals = check_goals(params.goals, scores, found, examples)
    if general and GENERAL in goals:
        own = check_goals({GENERAL: params.goals[GENERAL]}, {GENERAL: general.score}, {GENERAL: general.interval}, 0)
        goals[GENERAL] = replace(own[GENERAL], needs=0)  # no number of test examples decides what was forgotten
    return goals


def _scores(
    predictions: Sequence[Prediction], params: Evaluate, labels: Sequence[str], slots: Slots | None
) -> dict[str, Score]:
    """A label tells no facts, and its loss is that of a choice among few: labels have the scores of texts alone."""
    texts, told = text_scores(predictions, params), judged(predictions, params, labels)
    texts |= calibration_scores(told) if told else {}
    if labels:
        return texts
    return texts | source_similarity(predictions, params) | faithfulness(predictions, slots) | model_losses(predictions)


def _relevance_of_references(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    return source_similarity([replace(own, prediction=own.references[0]) for own in predictions], params)


def _beyond_wording(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Those that may say what chrF does not."""
    return {name: scores[name] for name in _BEYOND_WORDING if name in scores}


def _headline(
    scores: Mapping[str, Score], bounds: Mapping[str, Mapping[str, float]], params: Evaluate
) -> Iterator[str]:
    leading = [scores_of(metric)[0] for metric in params.metrics[:_LEADING_METRICS]]
    for name in (*leading, *TRUTH, "bits_per_byte"):
        # where even the references do badly, it is no fault: all nouns of German look like names
        if name in scores and (name not in TRUTH or bounds[name][CEILING] < _MOST_UNTRUE):
            yield name


def _bounds(
    variants: Mapping[str, Sequence[Prediction]], params: Evaluate, labels: Sequence[str], slots: Slots | None
) -> dict[str, dict[str, float]]:
    """Leading score -> ceiling and floors; of faithfulness the ceiling alone, since the source itself is always true.
    TER is left out: it takes long where nothing is right."""
    metrics = [metric for metric in params.metrics[:_LEADING_METRICS] if metric != "ter"]
    only = params.model_copy(update={"metrics": metrics, "sentence_encoder": None})
    found = {bound: text_scores(variant, only) for bound, variant in variants.items()}
    leading = [scores_of(metric)[0] for metric in metrics]
    truth = {} if labels else faithfulness(variants[CEILING], slots)
    return {
        **{name: {bound: scores[name].value for bound, scores in found.items()} for name in leading},
        **{name: {CEILING: score.value} for name, score in truth.items()},
    }


def _notes(
    scores: Mapping[str, Score],
    found: Mapping[str, Interval],
    bounds: Mapping[str, Mapping[str, float]],
    groups: int,
) -> Iterator[str]:
    """What a reader of the numbers would overlook."""
    for name, score in scores.items():
        if score.formula == "bleu" and score.statistics[:, -1].sum() == 0:
            yield f"{name}: no prediction has four words, so it is 0 whatever they say; choose chrf or exact_match"
    if groups < _FEW_GROUPS:
        yield f"{groups} independent groups of examples are too few for a sure score; test on more"
    for name in (name for name in TRUTH if name in bounds and name not in scores):
        share = bounds[name][CEILING]
        yield f"{name} says little here: of the references too, {share:.2g} would count as untrue"
    for name in (name for name in scores if name in bounds and groups > 1):
        yield from _at_floor(name, scores[name], found[name], bounds[name])


def _at_floor(name: str, score: Score, interval: Interval, bounds: Mapping[str, float]) -> Iterator[str]:
    """A line if the score is not surely better than its highest floor."""
    sign = 1 if score.higher_is_better else -1
    floors = [(sign * value, value, bound) for bound, value in bounds.items() if bound != CEILING]
    if not floors:
        return
    _, value, bound = max(floors)
    if interval.low <= value <= interval.high:
        yield f"{name}: {score.value:.4g} is near its floor, {value:.4g} of {bound}"
    elif sign * value > sign * score.value:
        yield f"{name}: {score.value:.4g} is worse than its floor, {value:.4g} of {bound}"


def _without_gain(scores: Mapping[str, Score], earlier: Mapping[str, Score], groups: Sequence[str]) -> Iterator[str]:
    """Scores that training has not made better."""
    common = {name: earlier[name] for name in scores if name in earlier} if len(set(groups)) > 1 else {}
    for name, own in compare_scores(common, scores, groups).items():
        is_better = own.difference > 0 if scores[name].higher_is_better else own.difference < 0
        if own.p_value >= 1 - CONFIDENCE:
            yield f"{name}: no gain over the model before training is shown ({own.first:.4g} -> {own.second:.4g})"
        elif not is_better:
            yield f"{name}: worse than the model before training ({own.first:.4g} -> {own.second:.4g})"


def _near_duplicates(of_examples: Sequence[bool], parts: Sequence[Part]) -> Iterator[str]:
    """A line if training has seen test examples nearly word for word."""
    if count := sum(of_examples):
        without = next((part for part in parts if (part.by, part.value) == (NEAR_DUPLICATES, "no")), None)
        rest = f"; without them, {without.score} is {without.result:.4g}" if without else ""
        yield f"{count} of {len(of_examples)} test examples are nearly the same as a training example{rest}"


def _forgotten(general: GeneralText | None) -> Iterator[str]:
    if general:
        yield f"{GENERAL}: {general.says}"
