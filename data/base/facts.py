"""Makes examples that need copying from the corpus: `python facts.py EXAMPLES`, in this folder, before `dvc repro`.

A small model learns to follow its input from inputs that it can't know by heart. There are four kinds of examples:

- a sentence of the corpus (two sixths), whose source tells some of its phrases as fields;
- fields about a thing with a made-up name (two sixths), put into words;
- such fields in one notation (a sixth), copied in another;
- a question about such a thing (a sixth), told before it as fields or in words.

Names are new in each example, and fields have one of several notations.

Reads:  corpus/*.jsonl.xz, but for the held-out files and the share-alike one.
Writes: corpus/facts.jsonl.xz: `facts` and `text`.
"""

import json
import lzma
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random

from texts import CORPUS, documents
from tqdm import tqdm

TARGET = CORPUS / "facts.jsonl.xz"
SEED = 1
WORDS = (6, 30)  # of a sentence of the corpus
PHRASE_WORDS = 4  # of a phrase, at most

Fields = list[tuple[str, str]]

NOTATIONS: tuple[Callable[[Fields], str], ...] = (
    lambda fields: "; ".join(f"{key}: {value}" for key, value in fields),
    lambda fields: "\n".join(f"{key}: {value}" for key, value in fields),
    lambda fields: ", ".join(f"{key}[{value}]" for key, value in fields),
    lambda fields: ", ".join(f"{key} = {value}" for key, value in fields),
    lambda fields: " | ".join(f"{key} | {value}" for key, value in fields),
    lambda fields: json.dumps(dict(fields), ensure_ascii=False),
)
_ONSETS = (
    "b", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gl", "gr", "h", "j", "k", "l", "m", "n", "p", "pl",
    "qu", "r", "s", "sc", "sh", "sl", "st", "t", "th", "tr", "v", "w", "z",
)  # fmt: skip
_VOWELS = (
    "a", "a", "a", "e", "e", "e", "i", "i", "o", "o", "u", "ai", "ea", "ee", "oo", "ou",
)  # fmt: skip
_CODAS = (
    "", "", "", "ck", "d", "g", "l", "ld", "lk", "ll", "m", "n", "nd", "ng", "nt", "r", "rd", "rk", "rn", "rt", "s",
    "sk", "ss", "st", "t", "th", "x",
)  # fmt: skip
_PLACES = (
    "Street", "Lane", "House", "Court", "Bridge", "Park", "Hill", "Green", "Tower", "Hall", "Yard", "Square",
    "Gate", "Road", "Mill", "Station",
)  # fmt: skip
_SMALL = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "for", "from", "had", "has", "have", "he",
    "her", "him", "his", "i", "if", "in", "into", "is", "it", "its", "may", "me", "my", "no", "not", "of", "on",
    "or", "our", "said", "she", "so", "than", "that", "the", "their", "them", "then", "there", "these", "they",
    "this", "to", "up", "us", "was", "we", "were", "what", "when", "which", "who", "will", "with", "would", "you",
    "your",
))  # fmt: skip
_BEFORE_A_PHRASE = frozenset((
    "about", "after", "at", "before", "by", "for", "from", "in", "into", "like", "near", "of", "on", "over", "to",
    "under", "with",
))  # fmt: skip


class Words:
    """Words of the corpus by what they are used as, drawn evenly."""

    def __init__(self, texts: Sequence[str]) -> None:
        nouns, pairs, names = Counter[str](), Counter[str](), Counter[str]()
        for text in texts:
            nouns.update(re.findall(r"\b(?:the|a|an) ([a-z]{3,11})(?=[.,;])", text))
            pairs.update(re.findall(r"\b(?:the|a|an) ([a-z]{3,11} [a-z]{3,11})(?=[.,;])", text))
            names.update(re.findall(r"(?<=[a-z,] )([A-Z][a-z]{2,10})\b", text))
        self.nouns = sorted(word for word, count in nouns.items() if count >= 5)
        known = frozenset(self.nouns)
        split = [pair.split() for pair, count in sorted(pairs.items()) if count >= 2]
        self.adjectives = sorted({first for first, second in split if second in known and first not in _SMALL})
        self.names = sorted(word for word, count in names.items() if count >= 3)


class Inventor:
    """Draws names, values and keys."""

    def __init__(self, words: Words, random: Random) -> None:
        self._words, self._random = words, random

    def made_up(self) -> str:
        pick = self._random.choice
        parts = [pick(_ONSETS) + pick(_VOWELS) + pick(_CODAS) for _ in range(pick((1, 2, 2, 2, 3)))]
        return "".join(parts).capitalize()

    def name(self) -> str:
        pick, words = self._random.choice, self._words
        noun, other, adjective = pick(words.nouns).title(), pick(words.nouns).title(), pick(words.adjectives).title()
        own = self.made_up() if self._random.random() < 0.6 else pick(words.names)
        return pick(
            (
                own, f"{own} {self.made_up()}", f"{own} {noun}", f"{own} {pick(_PLACES)}", f"{own}'s {noun}",
                f"The {adjective} {noun}", f"The {noun}", f"{noun} and {other}", f"{adjective} {noun}",
                f"{noun} {pick(_PLACES)}", f"St {own}'s {pick(_PLACES)}", f"The {own} {noun}",
            )
        )  # fmt: skip

    def value(self) -> str:
        pick, words = self._random.choice, self._words
        kind = self._random.random()
        if kind < 0.3:
            return self.name()
        if kind < 0.45:
            return str(self._random.choice((self._random.randrange(1, 100), self._random.randrange(1000, 2100))))
        noun = pick(words.nouns)
        return noun if kind < 0.7 else f"{pick(words.adjectives)} {noun}"

    def key(self) -> str:
        return self._random.choice(self._words.nouns)


def main(examples: int) -> None:
    texts = list(documents())
    random = Random(SEED)
    inventor = Inventor(Words(texts), random)
    sentences = in_a_notation(told_sentences(texts, inventor, random), random)
    things = in_a_notation(described_things(inventor, random), random)
    kinds = sentences, things, sentences, things, copies(inventor, random), questions(inventor, random)
    with lzma.open(TARGET, "wt", encoding="utf-8", preset=1) as file:
        for at in tqdm(range(examples), unit=" examples"):
            source, text = next(kinds[at % len(kinds)])
            file.write(json.dumps({"facts": source, "text": text}, ensure_ascii=False) + "\n")


def in_a_notation(told: Iterator[tuple[Fields, str]], random: Random) -> Iterator[tuple[str, str]]:
    for fields, text in told:
        yield random.choice(NOTATIONS)(fields), text


def told_sentences(texts: Sequence[str], inventor: Inventor, random: Random) -> Iterator[tuple[Fields, str]]:
    """Sentences of the corpus, with fields of some of their phrases, in any order. Most names are exchanged."""
    while True:
        sentences = re.split(r"(?<=[.!?]) +|\n", random.choice(texts))
        sentence = random.choice(sentences)
        if not (WORDS[0] <= len(sentence.split()) <= WORDS[1] and sentence[0].isupper() and sentence[-1] in ".!?"):
            continue
        fields, text = told(sentence, inventor, random)
        if len(fields) >= 2:
            yield fields, text


def told(sentence: str, inventor: Inventor, random: Random) -> tuple[Fields, str]:
    words, fields, keys, at = sentence.split(" "), [], set[str](), 0
    wanted = random.choice((0.4, 0.7, 1.0))  # share of the phrases that are told
    while at < len(words):
        size = phrase_length(words, at)
        if not size or random.random() > wanted:
            at += max(size, 1)
            continue
        phrase = " ".join(words[at : at + size])
        stripped = phrase.rstrip(".,;:!?")
        is_name = at > 0 and stripped[:1].isupper()
        value = inventor.name() if is_name and random.random() < 0.8 else stripped
        before = words[at - 1].lower() if at else ""
        key = before if before in _BEFORE_A_PHRASE else "name" if is_name else inventor.key()
        if value and key not in keys:
            words[at : at + size] = [value + phrase[len(stripped) :]]
            fields.append((key, value))
            keys.add(key)
            at += 1
        else:
            at += size
    random.shuffle(fields)
    return fields, " ".join(words)


def phrase_length(words: Sequence[str], at: int) -> int:
    """How many words from here are no small words, up to a mark; names end where their capitals end."""
    size, is_name = 0, at > 0 and words[at][:1].isupper()
    while at + size < len(words) and size < PHRASE_WORDS:
        word = words[at + size]
        if word.strip(".,;:!?\"'").lower() in _SMALL or not word[:1].isalnum() or "\u2014" in word:
            break
        if size and word[:1].isupper() != is_name:
            break
        size += 1
        if not word[-1].isalnum():
            break
    return size


def copies(inventor: Inventor, random: Random) -> Iterator[tuple[str, str]]:
    """Fields in one notation, and in another."""
    for fields, _ in described_things(inventor, random):
        one, other = random.sample(NOTATIONS, 2)
        yield one(fields), other(fields)


def questions(inventor: Inventor, random: Random) -> Iterator[tuple[str, str]]:
    """A context with a question, and the answer, which stands in the context."""
    for fields, text in described_things(inventor, random):
        key, value = random.choice(fields)
        context = text if random.random() < 0.5 else random.choice(NOTATIONS)(fields)
        asked = random.choice((f"What is the {key}?", f"{key.capitalize()}?", f"Which {key}?", f"{key}:"))
        yield f"{context}\n{asked}", value


def described_things(inventor: Inventor, random: Random) -> Iterator[tuple[Fields, str]]:
    while True:
        yield described(inventor, random)


def described(inventor: Inventor, random: Random) -> tuple[Fields, str]:
    """Fields of a thing with a made-up name, and sentences that word each of them once."""
    name, kind = inventor.name(), inventor.value() if random.random() < 0.2 else inventor.key()
    keys = dict.fromkeys(inventor.key() for _ in range(random.choice((0, 0, 1, 1, 2, 2, 3, 4, 5, 6))))
    facts = [(key, answer(random) or inventor.value()) for key in keys]
    has_kind = not facts or random.random() < 0.7
    fields = [(random.choice(("name", "name", "name", "title", "who", "label")), name)]
    fields += [(random.choice(("kind", "kind", "type", "class")), kind)] if has_kind else []
    fields += facts
    if random.random() < 0.3:
        random.shuffle(fields)
    told_facts = random.sample(facts, len(facts)) if random.random() < 0.6 else facts
    return fields, worded(name, kind if has_kind else "", told_facts, random)


def answer(random: Random) -> str:
    """Mostly none."""
    return "yes" if random.random() < 0.1 else "no" if random.random() < 0.1 else ""


def worded(name: str, kind: str, facts: Sequence[tuple[str, str]], random: Random) -> str:
    sentences, waiting, subject = [], list(facts), name
    while waiting or not sentences:
        taken, waiting = waiting[: (count := random.choice((1, 2, 2, 3)))], waiting[count:]
        claims = [claim(key, value, random) for key, value in taken]
        own = f"{article(kind)} {kind}" if kind and not sentences else ""
        sentences.append(joined(subject, own, claims, random))
        subject = random.choice(("It", "It", name, f"The {kind}" if kind else "It"))
    return " ".join(sentences)


def joined(subject: str, own: str, claims: Sequence[str], random: Random) -> str:
    rest = " and ".join([", ".join(claims[:-1]), claims[-1]]) if len(claims) > 1 else "".join(claims)
    if not own:
        return capital(f"{subject} {rest}.")
    if not rest:
        return capital(random.choice((f"{subject} is {own}.", f"{own} is called {subject}.")))
    return capital(
        random.choice(
            (
                f"{subject} is {own} that {rest}.", f"{subject}, {own}, {rest}.", f"{own} called {subject} {rest}.",
                f"{subject} is {own} and {rest}.", f"{subject} is {own}. It {rest}.",
                f"The {own.partition(' ')[2]} {subject} {rest}.", f"There is {own}, {subject}, which {rest}.",
            )
        )
    )  # fmt: skip


def claim(key: str, value: str, random: Random) -> str:
    if value == "yes":
        return random.choice((f"has {article(key)} {key}", f"allows the {key}", f"comes with {article(key)} {key}"))
    if value == "no":
        return random.choice((f"has no {key}", f"does not allow the {key}", f"comes without {article(key)} {key}"))
    return random.choice(
        (
            f"has {value} as its {key}", f"has {article(key)} {key} of {value}", f"offers {value} for the {key}",
            f"has the {key} {value}", f"gives its {key} as {value}", f"takes {value} for its {key}",
            f"is known for the {key} of {value}", f"counts {value} as the {key}",
        )
    )  # fmt: skip


def article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    main(int(sys.argv[1]))
