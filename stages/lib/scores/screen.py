"""Predictions that somebody should look at: with a word of a list, or of a class that a classifier was taught."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.lib.core.process import UserError
from stages.lib.overlap.hashed_ngrams import words_of
from stages.lib.params.evaluate import Evaluate

WORDS, CLASSIFIER = "words.txt", "classifier"  # in evaluate.screen_folder
_BATCH = 32


class WordList:
    """Words and phrases, one a line. They are found whatever their case, and beside punctuation, as whole words."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if there is no such file, or no word in it."""
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"evaluate -> screen_words: {path} can't be read: {error}") from None
        self._phrases: dict[str, list[list[str]]] = defaultdict(list)  # by their first word
        for phrase in filter(None, map(words_of, lines)):
            self._phrases[phrase[0]].append(phrase)
        if not self._phrases:
            raise UserError(f"evaluate -> screen_words: no word in {path}; write one a line")

    def found(self, text: str) -> list[str]:
        """The listed words and phrases in a text, each once."""
        return list(dict.fromkeys(self._matches(words_of(text))))

    def _matches(self, words: Sequence[str]) -> Iterator[str]:
        for place, word in enumerate(words):
            for phrase in self._phrases.get(word, ()):
                if words[place : place + len(phrase)] == phrase:
                    yield " ".join(phrase)


def screen(texts: Sequence[str], params: Evaluate) -> list[list[str]]:
    """For each text, why it should be looked at: a line for each listed word, and one for the class.

    Raises:
        UserError: the list or the classifier can't be read, or the classifier has no such class.
    """
    folder, flags = Path(params.screen_folder), [list[str]() for _ in texts]
    if params.screen_words:
        listed = WordList(folder / WORDS)
        for own, text in zip(flags, texts, strict=True):
            own += [f"listed word: {word}" for word in listed.found(text)]
    if params.screen_classes:
        for own, (label, score) in zip(flags, _classified(texts, folder / CLASSIFIER, params), strict=True):
            if label in params.screen_classes:
                own.append(f"{label}: {score:.2f}")
    return flags


def _classified(texts: Sequence[str], folder: Path, params: Evaluate) -> Iterator[tuple[str, float]]:
    """The most likely class of each text, and its probability."""
    if not (folder / "config.json").is_file():
        raise UserError(f"evaluate -> screen_classes: no config.json in {folder}: not the folder of a classifier")
    from transformers import pipeline  # it takes seconds to import

    try:
        options = {"model_kwargs": {"use_safetensors": True}, "device": -1}
        classify: Any = pipeline("text-classification", str(folder), **options)  # type: ignore[call-overload]
    except (OSError, ValueError) as error:
        line = str(error).strip().partition("\n")[0]
        raise UserError(f"evaluate -> screen_classes: can't load {folder}: {line}") from None
    known = classify.model.config.id2label.values()
    if unknown := [name for name in params.screen_classes if name not in known]:
        raise UserError(
            f"evaluate -> screen_classes: {folder} has no class {', '.join(unknown)}; it has {', '.join(known)}"
        )
    for found in classify(list(texts), batch_size=_BATCH, truncation=True, top_k=1):
        best = found[0] if isinstance(found, list) else found
        yield best["label"], best["score"]
