"""Section `evaluate`: the conventions of the scores."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.core.params import Section

Metric = Literal[
    "bleu", "chrf", "ter", "rouge", "gleu", "exact_match", "token_f1", "answer_overlap", "accuracy", "macro_f1"
]


class Task(Section):
    """The part of a scenario."""

    metrics: list[Metric]


class Evaluate(Task):
    of_scenario = frozenset(Task.model_fields)

    sentence_encoder: Annotated[str, Field(min_length=1)] | None
    sentence_encoder_revision: str
    sentence_encoder_folder: str
    lowercase: bool
    bleu_tokenizer: Literal["13a", "none", "char", "intl", "zh"]
    rouge_words: Literal["ascii", "unicode"]
    rouge_stemmer: bool
    shown_predictions: Annotated[int, Field(ge=1)]
