"""Training text, near-duplicates and listed words are planted into real text: how many are found, and in what time.

Run: `python -m tests.benchmarks.planted_leaks LINES`, a text file whose lines are texts, at least 4,000 of 20 words or
more. Of 500 texts each that nobody has planted anything in, those that are found wrongly are counted: by looking for
each span in the training text, word by word. The time is that of the processor, beside 20,000 training texts at most.
"""

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from stages.lib.overlap.hashed_ngrams import N, words_of
from stages.lib.overlap.minhash import jaccard, normalised, shingles
from stages.lib.records.examples import Question
from stages.lib.scores.contaminated import NEAR
from stages.lib.scores.screen import WordList
from stages.lib.scores.seen_in_training import seen_in_training
from tests.build import prediction

PLANTED = 500
MOST_TEXTS = 20_000
SHORTEST = 20  # words


def main(path: Path) -> None:
    drawn = random.Random(1)
    lines = [line for line in dict.fromkeys(path.read_text("utf-8").splitlines()) if len(line.split()) >= SHORTEST]
    drawn.shuffle(lines)
    others, known = lines[: 3 * PLANTED], lines[3 * PLANTED :][:MOST_TEXTS]
    train = [Question(str(number), "", [text], "") for number, text in enumerate(known)]
    print(f"{len(known):,} training texts, {sum(len(text.split()) for text in known):,} words")
    _spans(drawn, others, train)
    _near_duplicates(drawn, others, train)
    _words(drawn, others)


def _spans(drawn: random.Random, others: Sequence[str], train: Sequence[Question]) -> None:
    texts = [text.split() for text in others[: 2 * PLANTED]]
    for text in texts[:PLANTED]:
        words = words_of(drawn.choice(train).references[0])
        start = drawn.randrange(max(1, len(words) - N + 1))
        span = words[start : start + N]
        if drawn.random() < 0.5:
            span[drawn.randrange(len(span))] = "other"
        text[drawn.randrange(len(text)) : 0] = span
    started = time.process_time()
    spans = seen_in_training([prediction(" ".join(text)) for text in texts], train).spans
    seconds = time.process_time() - started
    held = {ngram for own in train for ngram in _ngrams(words_of(own.references[0]))}
    wrong = [own for own in spans[PLANTED:] for span in own if not held & set(_ngrams(span.text.split()))]
    as_written = sum(map(bool, spans[PLANTED:])) - len(wrong)
    print(
        f"spans of {N} words: {sum(map(bool, spans[:PLANTED]))} of {PLANTED} found; of {PLANTED} other texts "
        f"{len(wrong)} found wrongly, {as_written} have such a span by themselves; {seconds:.1f} s"
    )


def _ngrams(words: Sequence[str]) -> set[tuple[str, ...]]:
    """Those of N words, each once without each of its words."""
    runs = (tuple(words[start : start + N]) for start in range(len(words) - N + 1))
    return {(*run[:place], "", *run[place + 1 :]) for run in runs for place in range(N)}


def _near_duplicates(drawn: random.Random, others: Sequence[str], train: Sequence[Question]) -> None:
    originals = [drawn.choice(train).references[0] for _ in range(PLANTED)]
    copies = [text.split() for text in originals]
    for words in copies[::2]:
        words[drawn.randrange(len(words))] = "other"
    texts = [*map(" ".join, copies), *others[:PLANTED]]
    near = [_similarity(*pair) >= NEAR for pair in zip(originals, texts, strict=False)]
    started = time.process_time()
    found = seen_in_training([prediction("any", text) for text in texts], train).near_duplicates
    seconds = time.process_time() - started
    print(
        f"near-duplicates: {sum(found[:PLANTED])} of {PLANTED} found, {sum(near)} of which are as similar as {NEAR} to "
        f"their original; {sum(found[PLANTED:])} of {PLANTED} others; {seconds:.1f} s"
    )


def _similarity(first: str, second: str) -> float:
    return jaccard(*(pieces for [pieces] in shingles([[normalised(first)], [normalised(second)]])))


def _words(drawn: random.Random, others: Sequence[str]) -> None:
    listed = [f"listed{number}" for number in range(50)] + ["two listed words"]
    texts = [text.split() for text in others[: 2 * PLANTED]]
    for text in texts[:PLANTED]:
        text.insert(drawn.randrange(len(text)), f"({drawn.choice(listed).upper()})")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.txt"
        path.write_text("\n".join(listed))
        words = WordList(path)
    found = [bool(words.found(" ".join(text))) for text in texts]
    print(f"listed words: {sum(found[:PLANTED])} of {PLANTED} found, {sum(found[PLANTED:])} of {PLANTED} others")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
