"""Section `evaluate`: the conventions of the scores."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.params import Section


class Evaluate(Section):
    lowercase: bool
    bleu_tokenizer: Literal["13a", "none", "char", "intl", "zh"]
    rouge_words: Literal["ascii", "unicode"]
    rouge_stemmer: bool
    shown_predictions: Annotated[int, Field(ge=1)]
