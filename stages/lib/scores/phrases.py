"""Which phrases of a text tell which value of a field: learned from examples, without a list of synonyms."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import comb, log
from typing import Any, TypeAlias

import numpy as np

from stages.lib.scores.folded_words import BREAK, Words
from stages.lib.scores.formulas import Numbers

Integers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Booleans: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

LONGEST = 4  # words of a phrase

_MOST_WORDS = 4_000_000  # of the texts that are learned from, for the memory
_MOST_VALUES = 200  # of a field; the rarer ones count as one
_FEWEST_TEXTS = 10  # with a phrase, or of a value: fewer teach nothing
_MOST_SIMILAR, _FEW_SIMILAR = 3, 2  # values that one phrase may tell; with values that are only somewhat alike

# How often the texts of a value have a phrase, compared with those of the value that has it most often:
_SIMILAR = 1 / 16  # so often, and the phrase tells this value, too, if it tells few
_RARE = 1 / 8  # so often, and the phrase tells this value, too, or it tells none
_VERY_RARE = 1 / 50  # the same for the phrases that are chosen first
_SAME = 1 / 20  # of the expected frequency: a field that lowers it so far has a part in the phrase

_SIGNIFICANT = 14.0  # nats: by luck one phrase of a million seems to tell a value
_UNLIKELY = 7.0  # nats: by luck one of a thousand

_ABSENT = 0  # the code of the texts whose source lacks the field


@dataclass(frozen=True)
class Labelled:
    """The words of a text, the value of each field that its source has, and the fields whose phrase is looked for."""

    words: Sequence[str]
    values: Mapping[str, str]
    untold: Collection[str]


@dataclass(frozen=True)
class _Telling:
    """The codes of the values that a phrase tells, and the texts by which it was judged."""

    codes: frozenset[int]
    texts: Integers


Phrases: TypeAlias = dict[Words, dict[str, tuple[str, ...]]]  # phrase -> field -> values that it tells, likeliest first
_Told: TypeAlias = dict[Words, _Telling]


def learn_phrases(texts: Sequence[Labelled]) -> Phrases:
    """The phrases (up to four words) that tell a value of a field. Such a phrase

    - occurs far more often where the source has the value than where it has another or none, beyond luck. It may tell
      a few similar values ("cheap": "low" and "under 20").
    - is needed: it finds texts of its value that no more frequent phrase finds. "is for families" is not needed to
      tell that dogs are welcome, even if "and dogs alike" always follows.
    - or contains a needed phrase, and tells otherwise ("not cheap").
    """
    texts = _bounded(texts)
    places = {words: found for level in _levels(texts) for words, found in level}
    fields = {name: _field(texts, name) for name in sorted({name for text in texts for name in text.untold})}
    told = {name: _told_by_all(places, field) for name, field in fields.items()}
    phrases: Phrases = defaultdict(dict)
    for name, field in fields.items():
        own = {words: one for words, one in told[name].items() if not _explained(words, name, told, fields)}
        for words in sorted(_needed(own, field)):
            phrases[words][name] = _likeliest_first(own[words], field)
    return dict(phrases)


@dataclass(frozen=True)
class _Field:
    codes: Integers  # of each text: the number of its value
    untold: Booleans  # of each text
    counts: Integers  # of each code: its texts
    values: Sequence[str]  # of each code; "" for _ABSENT and for the last, which stands for all rare values

    def frequencies(self, texts: Integers, forgiven: int = 0) -> Numbers:
        """Of each code: the share of its texts that is among these."""
        return (np.bincount(self.codes[texts], minlength=len(self.counts)) - forgiven) / np.maximum(self.counts, 1)

    def has(self, codes: frozenset[int]) -> Booleans:
        """Of each text: whether it has one of these codes."""
        chosen = np.zeros(len(self.counts), np.bool_)
        chosen[list(codes)] = True
        return chosen[self.codes]


def _bounded(texts: Sequence[Labelled]) -> Sequence[Labelled]:
    """Evenly chosen texts, as many as memory allows."""
    size = sum(len(text.words) for text in texts)
    return texts[:: max(-(-size // _MOST_WORDS), 1)]


def _field(texts: Sequence[Labelled], name: str) -> _Field:
    counts = Counter(text.values[name] for text in texts if name in text.values)
    common = sorted((value for value in counts if counts[value] >= _FEWEST_TEXTS), key=lambda v: (-counts[v], v))
    values = ["", *common[:_MOST_VALUES], ""]
    code = {value: number for number, value in enumerate(values) if value}
    codes = np.array([code.get(text.values[name], len(values) - 1) if name in text.values else 0 for text in texts])
    untold = np.array([name in text.untold for text in texts])
    return _Field(codes, untold, np.bincount(codes, minlength=len(values)), values)


def _levels(texts: Sequence[Labelled]) -> Iterator[Iterator[tuple[Words, Integers]]]:
    """The phrases of each length with the texts that have them. A longer phrase can only be as frequent as its parts,
    so each level is built from the one before."""
    flat = [word for text in texts for word in (*text.words, BREAK)]
    owner = np.repeat(np.arange(len(texts)), [len(text.words) + 1 for text in texts])
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys((BREAK, *flat)))}
    unigrams = np.array([vocabulary[word] for word in flat])
    grams = unigrams
    for length in range(1, LONGEST + 1):
        level, grams = _frequent(grams, owner, flat, length)
        yield level
        following = np.append(grams[1:], 0)
        last = np.append(unigrams[length:], np.zeros(length, np.int64))
        grams = np.where((grams > 0) & (following > 0), grams * len(vocabulary) + last, 0)


def _frequent(
    grams: Integers, owner: Integers, flat: Sequence[str], length: int
) -> tuple[Iterator[tuple[Words, Integers]], Integers]:
    """The phrases in enough texts, and at each position the number of its phrase, from 1; 0 where there is none."""
    _, first, grams = np.unique(np.append(0, grams), return_index=True, return_inverse=True)
    grams, first = grams[1:], first - 1
    pairs = np.unique(grams * len(owner) + owner)
    phrase, text = pairs // len(owner), pairs % len(owner)
    counts = np.bincount(phrase, minlength=len(first))
    counts[0] = 0
    kept = np.flatnonzero(counts >= _FEWEST_TEXTS)
    renumbered = np.zeros(len(first), np.int64)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    words = (tuple(flat[first[number] : first[number] + length]) for number in kept)
    texts = np.split(text[renumbered[phrase] > 0], np.cumsum(counts[kept])[:-1])
    return zip(words, texts, strict=False), renumbered[grams]


def _told_by_all(places: Mapping[Words, Integers], field: _Field) -> _Told:
    told = _telling(places, field)
    return _as_their_parts(told | _rescued(places, field, told), field)


def _telling(places: Mapping[Words, Integers], field: _Field) -> _Told:
    if not places:
        return {}
    size = len(field.counts)
    phrase = np.repeat(np.arange(len(places)), [len(texts) for texts in places.values()])
    codes = field.codes[np.concatenate(list(places.values()))]
    table = np.bincount(phrase * size + codes, minlength=len(places) * size).reshape(-1, size)
    rows = zip(places.items(), _told(table, field), strict=True)
    return {
        words: _Telling(frozenset(np.flatnonzero(told).tolist()), texts) for (words, texts), told in rows if told.any()
    }


def _told(table: Integers, field: _Field) -> Booleans:
    """Texts with each phrase (P) by value (V) -> which values the phrase tells (P, V), mostly none."""
    frequencies = table / np.maximum(field.counts, 1)
    best = frequencies.max(1, keepdims=True)
    most = max(1, min(_MOST_SIMILAR, (len(field.values) - 2) // 2))
    told = frequencies >= _RARE * best
    similar = frequencies >= _SIMILAR * best
    similar[:, [_ABSENT, -1]] = False
    told |= similar & (similar.sum(1, keepdims=True) <= min(most, _FEW_SIMILAR))
    several = told.sum(1)
    noise = np.where(told, 0, table - 1) / np.maximum(field.counts, 1)  # one text is forgiven, since people err
    clear = (noise.max(1) <= _RARE * best[:, 0]) & (several <= most) & ~told[:, _ABSENT] & ~told[:, -1]
    choices = np.log([comb(len(field.values), number) for number in range(len(field.values) + 1)])[several]
    clear &= _surprise(table, told, field) - choices >= _SIGNIFICANT
    return told & clear[:, None]


def _surprise(table: Integers, told: Booleans, field: _Field) -> Numbers:
    """The logarithm of how unlikely it is that so many of a phrase's texts have these values, if the phrase had nothing
    to do with them (P): Chernoff's bound of the binomial distribution."""
    texts = np.maximum(table.sum(1), 1)
    share = (table * told).sum(1) / texts
    chance = np.clip((told * field.counts).sum(1) / field.counts.sum(), 1e-9, 1 - 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(share > 0, share * np.log(share / chance), 0)
        outside = np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - chance)), 0)
    return np.where(share > chance, texts * (inside + outside), 0)


def _rescued(places: Mapping[Words, Integers], field: _Field, told: _Told) -> _Told:
    """Phrases that tell a value unless the words around them tell otherwise ("cheap", but "neither cheap nor dear").

    Such a phrase is judged by the texts that are left when those are set aside in which the other words of a longer
    phrase tell a value by themselves, or the longer phrase contradicts.
    """
    around: dict[Words, list[Words]] = defaultdict(list)
    for longer in told:
        for part in _parts(longer):
            if part not in told:
                around[part].append(longer)
    left = {}
    for words, phrases in around.items():
        texts = _apart(places[words], [places[longer] for longer in phrases if _alone(longer, words, told)], field)
        best = int(field.frequencies(texts).argmax())
        left[words] = _apart(texts, [places[longer] for longer in phrases if best not in told[longer].codes], field)
    return _telling({words: texts for words, texts in left.items() if len(texts) >= _FEWEST_TEXTS}, field)


def _apart(texts: Integers, others: Sequence[Integers], field: _Field) -> Integers:
    kept = np.ones(len(field.codes), np.bool_)
    for other in others:
        kept[other] = False
    return texts[kept[texts]]


def _alone(longer: Words, words: Words, told: _Told) -> bool:
    """Whether what stands before or after the words tells a value without them."""
    start = next(i for i in range(len(longer)) if longer[i : i + len(words)] == words)
    before, after = longer[:start], longer[start + len(words) :]
    return any(rest in told or any(part in told for part in _parts(rest)) for rest in (before, after))


def _as_their_parts(told: _Told, field: _Field) -> _Told:
    """A longer phrase tells what its part tells, unless it is frequent enough to show that it tells less."""
    settled: _Told = {}
    for words in sorted(told, key=len):
        one = told[words]
        wider = [settled[part] for part in _parts(words) if part in settled and one.codes < settled[part].codes]
        kept = all(_narrows(one, part, field) for part in wider)
        codes = one.codes if kept else max((part.codes for part in wider), key=len)
        settled[words] = _Telling(codes, one.texts)
    return settled


def _narrows(one: _Telling, wider: _Telling, field: _Field) -> bool:
    found, before = (np.bincount(field.codes[of.texts], minlength=len(field.counts)) for of in (one, wider))
    few = list(one.codes)
    scale = found[few].sum() / max(before[few].sum(), 1)
    return all(_fewer_than_luck(found[code], scale * before[code]) for code in wider.codes - one.codes)


def _fewer_than_luck(found: float, expected: float) -> bool:
    """Chernoff's bound of the Poisson distribution is under a thousandth."""
    return found < expected and expected - found + (found * log(found / expected) if found else 0) >= _UNLIKELY


def _explained(words: Words, name: str, told: Mapping[str, _Told], fields: Mapping[str, _Field]) -> bool:
    """Whether the phrase is due to another field which goes together with this one ("noodles" in all restaurants, if
    only restaurants have noodles)."""
    one = told[name][words]
    own = fields[name].has(one.codes)
    rivals = [fields[other].has(told[other][words].codes) for other in told if other != name and words in told[other]]
    return any(_suffices(one.texts, rival, own) and not _suffices(one.texts, own, rival) for rival in rivals)


def _suffices(texts: Integers, cause: Booleans, other: Booleans) -> bool:
    """Whether texts with the cause have the phrase as often without the other as with it, as far as can be seen."""
    with_other, without = cause & other, cause & ~other
    expected = with_other[texts].sum() / max(with_other.sum(), 1) * without.sum()
    return bool(expected < _UNLIKELY or without[texts].sum() >= _SAME * expected)


def _needed(told: _Told, field: _Field) -> set[Words]:
    needed: set[Words] = set()
    for code in range(1, len(field.values) - 1):
        left = (field.codes == code) & field.untold
        for rare in (_VERY_RARE, _RARE):
            for size in range(1, _MOST_SIMILAR + 1):  # the most specific phrases first
                of = {words: one for words, one in told.items() if code in one.codes and len(one.codes) == size}
                needed.update(_cover(of, left, rare, field))
    return needed | {words for words in told if _contradicts(words, needed, told)}


def _contradicts(words: Words, needed: set[Words], told: _Told) -> bool:
    """Whether a part of the phrase tells otherwise, and no shorter phrase around that part corrects it."""
    inside = [part for part in _parts(words) if part in told]
    return any(
        not any(told[part].codes.isdisjoint(told[other].codes) and part in _parts(other) for other in inside)
        for part in inside
        if part in needed and told[part].codes.isdisjoint(told[words].codes)
    )


def _cover(told: _Told, left: Booleans, rare: float, field: _Field) -> Iterator[Words]:
    """The phrase first that finds most of the texts left, and so on; of equal ones the shortest, with the longest
    words. Each is judged by the texts that those before it have left, and takes what it finds out of them."""
    queue = [(-len(one.texts), len(words), -sum(map(len, words)), words) for words, one in told.items()]
    heapify(queue)
    while queue:
        _, *rank, words = heappop(queue)
        found = int(left[told[words].texts].sum())
        if found < _FEWEST_TEXTS:
            continue
        again = (-found, rank[0], rank[1], words)
        if queue and again > queue[0]:  # others were chosen since: it may not be the first now
            heappush(queue, again)
        elif _frequency_elsewhere(told[words], field) <= rare * found / left.sum():
            left[told[words].texts] = False
            yield words


def _frequency_elsewhere(one: _Telling, field: _Field) -> float:
    """The highest with a value that the phrase does not tell; one text of each is forgiven, since people err."""
    frequencies = field.frequencies(one.texts, forgiven=1)
    frequencies[list(one.codes)] = 0
    return float(frequencies.max())


def _likeliest_first(one: _Telling, field: _Field) -> tuple[str, ...]:
    frequencies = field.frequencies(one.texts)
    return tuple(field.values[code] for code in sorted(one.codes, key=lambda code: (-frequencies[code], code)))


def _parts(words: Words) -> Iterator[Words]:
    for length in range(1, len(words)):
        yield from (words[start : start + length] for start in range(len(words) - length + 1))
