"""Spans of training text in predictions: what a model may say because it has learned it by heart.

Texts are compared by N words in a row, of which one may differ. So a span that was changed in one word is found like
one that was not. In scripts without blanks between words, a character is a word.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from stages.lib.overlap.hashed_ngrams import POWERS, N, word_hashes, words_of
from stages.lib.overlap.minhash import Hashes

Numbers = np.ndarray[Any, np.dtype[np.int64]]


class Span(NamedTuple):
    """At least N words of a text, in lower case and without punctuation, and a training example that has the first N of
    them."""

    text: str
    example: str


class MemorisedSpans:
    """Finds spans of training targets in texts, however much training text there is: it is read in parts.

    Args:
        texts: predictions.
        sources: what each of them was written from. What a text may have from its own source is no span.
    """

    def __init__(self, texts: Sequence[str], sources: Sequence[str]) -> None:
        self._words = [words_of(text) for text in texts]
        windows = _windows(self._words)
        self._text, self._start = windows.text, windows.start
        # a prediction often says what others say, so a window is looked up once
        self._keys, self._places = zip(
            *(np.unique(column, return_inverse=True) for column in windows.hashes.T), strict=True
        )
        self._examples = [np.full(len(keys), -1) for keys in self._keys]
        self._ids: list[str] = []
        self._in_source = _is_in_source(windows, sources)

    def read(self, targets: Sequence[tuple[str, str]]) -> None:
        """Compares the texts with training targets, each the id of its example and its text."""
        windows = _windows([words_of(text) for _, text in targets])
        for keys, found, column in zip(self._keys, self._examples, windows.hashes.T, strict=True):
            places = np.searchsorted(keys, column)
            places[places == len(keys)] = 0
            hits = np.flatnonzero(keys[places] == column) if len(keys) else np.empty(0, np.int64)
            new = hits[found[places[hits]] < 0][::-1]  # the first of several examples is named
            found[places[new]] = windows.text[new] + len(self._ids)
        self._ids += [name for name, _ in targets]

    def spans(self) -> list[list[Span]]:
        """Those of each text, in their order."""
        examples = np.stack(
            [own[places] for own, places in zip(self._examples, self._places, strict=True)], 1, dtype=np.int64
        )
        is_found = (examples.max(1, initial=-1) >= 0) & ~self._in_source
        spans: list[list[Span]] = [[] for _ in self._words]
        for text, start, end, window in _joined(self._text, self._start, np.flatnonzero(is_found)):
            example = self._ids[int(examples[window][examples[window] >= 0].min())]
            spans[text].append(Span(" ".join(self._words[text][start:end]), example))
        return spans


class _Windows(NamedTuple):
    """All W runs of N words. hashes (W, N): in column n without the word n, so that it may differ. text (W): the number
    of the text; start (W): the place of the first word in it."""

    hashes: Hashes
    text: Numbers
    start: Numbers


def _windows(texts: Sequence[Sequence[str]]) -> _Windows:
    lengths = np.array([len(own) for own in texts], np.int64)
    hashes = word_hashes([word for own in texts for word in own])
    if len(hashes) < N:
        return _Windows(np.empty((0, N), np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
    text = np.repeat(np.arange(len(texts)), lengths)
    start = np.arange(len(hashes)) - np.repeat(lengths.cumsum() - lengths, lengths)
    is_within = text[: -N + 1] == text[N - 1 :]
    terms = np.lib.stride_tricks.sliding_window_view(hashes, N)[is_within] * POWERS
    return _Windows(
        terms.sum(1, dtype=np.uint64)[:, None] - terms, text[: -N + 1][is_within], start[: -N + 1][is_within]
    )


def _is_in_source(windows: _Windows, sources: Sequence[str]) -> Any:
    """(W) of bool: whether a window is in the source of its text."""
    found = np.zeros(len(windows.text), bool)
    own_source = _windows([words_of(source) for source in sources])
    for text in np.unique(own_source.text):
        # the windows of a text are neighbours
        rows, others = (slice(*np.searchsorted(side.text, (text, text + 1))) for side in (windows, own_source))
        pairs = zip(windows.hashes[rows].T, own_source.hashes[others].T, strict=True)
        found[rows] = np.any([np.isin(own, other) for own, other in pairs], axis=0)
    return found


def _joined(text: Numbers, start: Numbers, windows: Numbers) -> Iterator[tuple[int, int, int, int]]:
    """Text, first word, end and first window of each span: windows that overlap are one."""
    begin = end = own = first = -1
    for window in windows.tolist():
        if text[window] != own or start[window] >= end:
            if own >= 0:
                yield own, begin, end, first
            own, begin, first = int(text[window]), int(start[window]), window
        end = int(start[window]) + N
    if own >= 0:
        yield own, begin, end, first
