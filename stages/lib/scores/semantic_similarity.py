"""Semantic similarity, whatever the wording: the cosine of sentence embeddings (Reimers and Gurevych 2019)."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.lib.core.process import UserError
from stages.lib.params.evaluate import Evaluate
from stages.lib.records.predictions import Prediction
from stages.lib.scores.score import Score, mean_score


def semantic_similarity(predictions: Sequence[Prediction], params: Evaluate) -> dict[str, Score]:
    """Mean cosine (-100 to 100) of each text and its nearest reference; no score where params names no encoder.

    Raises:
        UserError: sentence-transformers is not installed, or no encoder has that name or is in that folder.
    """
    if params.sentence_encoder is None:
        return {}
    is_folder = params.sentence_encoder == "folder"
    place = params.sentence_encoder_folder if is_folder else params.sentence_encoder
    if is_folder and not (Path(place) / "config.json").is_file():
        raise UserError(f"evaluate -> sentence_encoder_folder: no config.json in {place}: not the folder of an encoder")
    encode = _encoder(place, None if is_folder else params.sentence_encoder_revision)
    flat = [reference for own in predictions for reference in own.references]
    texts, references = encode([own.prediction for own in predictions]), iter(encode(flat))
    each = (
        100 * max(float(text @ next(references)) for _ in own.references)
        for text, own in zip(texts, predictions, strict=True)
    )
    name = Path(place).name if is_folder else place
    how = f"encoder:{name}|refs:best|sentence-transformers:{version('sentence-transformers')}"
    return {"semantic_similarity": mean_score(each, how)}


@cache
def _encoder(place: str, revision: str | None) -> Any:
    """Texts -> unit vectors."""
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
    return lambda texts: encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
