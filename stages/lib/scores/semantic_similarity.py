"""Likeness of meaning, whatever the wording: the cosine of sentence embeddings (Reimers and Gurevych 2019)."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, mean_score

RELEVANCE = "source_similarity"


def semantic_similarity(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Mean cosine (-100 to 100) of each text and its nearest reference; no score where params names no encoder.

    Raises:
        UserError: sentence-transformers is not installed, or no encoder has that name or is in that folder.
    """
    likeness = _likeness(predictions, [own.references for own in predictions], "refs:best", params)
    return {} if likeness is None else {"semantic_similarity": likeness}


def source_similarity(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Mean cosine (-100 to 100) of each text and its source: how relevant it is. No score where params names no
    encoder.

    Raises:
        UserError: as `semantic_similarity`.
    """
    likeness = _likeness(predictions, [[own.source] for own in predictions], "source", params)
    return {} if likeness is None else {RELEVANCE: likeness}


def _likeness(
    predictions: Sequence[Prediction], others: Sequence[Sequence[str]], what: str, params: Evaluate
) -> Score | None:
    """Of each text and the nearest of its others."""
    if params.sentence_encoder is None:
        return None
    is_folder = params.sentence_encoder == "folder"
    place = params.sentence_encoder_folder if is_folder else params.sentence_encoder
    if is_folder and not (Path(place) / "config.json").is_file():
        raise UserError(f"evaluate -> sentence_encoder_folder: no config.json in {place}: not the folder of an encoder")
    encoder = _encoder(place, None if is_folder else params.sentence_encoder_revision)
    vectors = encoder.vectors([own.prediction for own in predictions] + [text for own in others for text in own])
    each = (
        100 * max(float(vectors[own.prediction] @ vectors[text]) for text in near)
        for own, near in zip(predictions, others, strict=True)
    )
    name = Path(place).name if is_folder else place
    return mean_score(each, f"encoder:{name}|{what}|sentence-transformers:{version('sentence-transformers')}")


class _Encoder:
    """Texts -> unit vectors; it encodes each text once in a run."""

    def __init__(self, encode: Any) -> None:
        self._encode, self._known = encode, dict[str, Any]()

    def vectors(self, texts: Sequence[str]) -> dict[str, Any]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, self._encode(new, normalize_embeddings=True, show_progress_bar=False), strict=True)
        return self._known


@cache
def _encoder(place: str, revision: str | None) -> _Encoder:
    try:
        from sentence_transformers import SentenceTransformer  # an extra, and seconds to import
    except ImportError:
        raise UserError(
            'evaluate -> sentence_encoder: needs sentence-transformers; pip install -e ".[semantic]"'
        ) from None
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    try:
        encoder = SentenceTransformer(place, revision=revision, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        line = str(error).strip().partition("\n")[0]
        raise UserError(f"evaluate -> sentence_encoder: can't load {place}: {line}") from None
    return _Encoder(encoder.encode)
