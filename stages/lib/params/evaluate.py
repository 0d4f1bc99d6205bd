"""Section `evaluate`: the conventions of the scores, and what they must reach."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, FiniteFloat, field_validator, model_validator

from stages.lib.core.params import Section
from stages.lib.core.process import UserError

Metric = Literal[
    "bleu",
    "chrf",
    "chrf++",
    "ter",
    "rouge",
    "nist",
    "cider",
    "parent",
    "gleu",
    "exact_match",
    "token_f1",
    "answer_overlap",
    "accuracy",
    "macro_f1",
]

# metrics that have other scores than one of their own name; the first one leads
_SCORES: Mapping[str, tuple[str, ...]] = {
    "rouge": ("rougeL", "rouge1", "rouge2", "rougeLsum"),
    "answer_overlap": ("answer_rougeL", "answer_bleu1"),
}
_ALWAYS = (
    *("perplexity", "bits_per_byte", "slot_error", "slot_missing", "slot_invented", "unsupported"),
    *("semantic_similarity", "source_similarity", "fluency_bits_per_byte"),
    *("ece", "brier", "empty", "never_ended", "repeated_4grams", "copied_from_source", "memorised", "screened"),
    "general_bits_per_byte",
)


def scores_of(metric: str) -> tuple[str, ...]:
    """The names of a metric's scores, the leading one first."""
    return _SCORES.get(metric, (metric,))


class Task(Section):
    """The part of a scenario."""

    metrics: list[Metric]
    bleu_tokenizer: Literal["13a", "none", "char", "intl", "zh"] = "13a"
    bleu_lowercase: bool = False
    chrf_lowercase: bool = False
    ter_case_sensitive: bool = False
    rouge_words: Literal["ascii", "unicode"] = "ascii"
    rouge_stemmer: bool = False
    goals: dict[str, FiniteFloat] = Field(default_factory=dict)
    selective_accuracy: Annotated[float, Field(gt=0, lt=100)] | None = None

    @field_validator("metrics")
    @classmethod
    def _each_once(cls, metrics: list[Metric]) -> list[Metric]:
        if repeated := sorted({metric for metric in metrics if metrics.count(metric) > 1}):
            raise ValueError(f"{', '.join(repeated)} stands there more than once")
        return metrics

    @model_validator(mode="after")
    def _goals_of_known_scores(self) -> Self:
        chosen = [name for metric in self.metrics for name in scores_of(metric)] + list(_ALWAYS)
        every = {name for metric in get_args(Metric) for name in scores_of(metric)}
        for name in self.goals:
            if name not in chosen:
                remedy = "add its metric to `metrics`" if name in every else f"there are {', '.join(chosen)}"
                raise ValueError(f"goals: `{name}` is no score of this scenario; {remedy}")
        return self

    @model_validator(mode="after")
    def _selective_accuracy_of_right_and_wrong(self) -> Self:
        if self.selective_accuracy is not None and not {"accuracy", "exact_match"} & set(self.metrics):
            raise ValueError("selective_accuracy: needs `accuracy` or `exact_match` among the metrics")
        return self


class Evaluate(Task):
    of_scenario = frozenset(Task.model_fields)

    sentence_encoder: Annotated[str, Field(min_length=1)] | None
    sentence_encoder_revision: str
    sentence_encoder_folder: str
    seen_in_training: bool
    screen_words: bool
    screen_classes: list[str]
    screen_folder: str
    shown_predictions: Annotated[int, Field(ge=1)]
    fail_on_missed_goal: bool


def check_selective(settings: Evaluate, has_validation: bool) -> None:
    """Raises UserError where a threshold is wanted and validation, which chooses it, has no predictions."""
    if settings.selective_accuracy is not None and not has_validation:
        raise UserError(
            "params.yaml: evaluate -> selective_accuracy: validation chooses the threshold, and has no predictions; "
            "write `validation: true` in predict of the scenario"
        )
