"""Which facts of its source a text tells, which it leaves out and which it invents: learned from training examples."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, islice
from typing import TypeAlias

from stages.lib.scores.facts import Facts, form_of
from stages.lib.scores.folded_words import BREAK, Words, folded, spelled_words, word_matches, words_of
from stages.lib.scores.phrases import LONGEST, Labelled, Phrases, learn_phrases

_VERBATIM = 0.9  # of the texts of a value have it in its own words: then nothing else is learned about it
_RARE = 1 / 8  # so often at most, in comparison, texts with another value of the field have these words
_FEWEST_TEXTS = 10  # of a value: fewer teach nothing
_TELLABLE = 0.75  # of the training texts must tell a value, else it isn't asked for

_MOST_TEXTS, _CALIBRATION_TEXTS = 100_000, 10_000  # evenly chosen ones
# Words mislead if they occur in training texts whose source says otherwise:
_UNASKED = 0.05  # of their occurrences are in texts whose source lacks the field
_BESIDE, _FEWEST_BESIDE = 0.002, 3  # of the texts that tell a value have the words of another one, too

Slot: TypeAlias = tuple[str, str]  # a field, and its value in lower-case words
Text: TypeAlias = tuple[list[Slot], list[str]]  # the facts of a source, and the words of a reference
# words, their field, the value that the source has instead or "", and whether the same sentence tells that value
Contradiction: TypeAlias = tuple[Words, str, str, bool]


@dataclass(frozen=True)
class SlotCheck:
    """Facts as `field: value`. A wrong fact is a missing one in whose place the text tells another value: both are
    among the missing and the invented, and count as one error (Wen et al. 2015)."""

    told: list[str]
    missing: list[str]
    invented: list[str]
    wrong: list[tuple[str, str]]

    @property
    def slots(self) -> int:
        return len(self.told) + len(self.missing)

    @property
    def errors(self) -> int:
        return len(self.missing) + len(self.invented) - len(self.wrong)


@dataclass(frozen=True)
class _Evidence:
    """The words of a text from `start` on, which tell one of these values of a field."""

    start: int
    words: Words
    field: str
    values: tuple[str, ...]  # the likeliest first

    @property
    def end(self) -> int:
        return self.start + len(self.words)

    @property
    def place(self) -> tuple[int, Words]:
        return self.start, self.words

    def tells(self, slot: Slot) -> bool:
        return self.field == slot[0] and slot[1] in self.values

    def overrules(self, other: "_Evidence") -> bool:
        """Tells the same more precisely, or tells otherwise in more words around ("cheap" in "not cheap")."""
        if self.field != other.field:
            return False
        otherwise = {*self.values}.isdisjoint(other.values)
        return {*self.values} < {*other.values} or (self.contains(other) and otherwise)

    def contains(self, other: "_Evidence") -> bool:
        return self.start <= other.start and other.end <= self.end

    def begins_otherwise(self, other: "_Evidence") -> bool:
        """Begins before these words, ends among them, and tells otherwise."""
        crosses = self.start < other.start < self.end
        return crosses and self.field == other.field and {*self.values}.isdisjoint(other.values)


@dataclass(frozen=True)
class _Names:
    """Words of values that tell them, whatever stands around."""

    slots: Mapping[Words, tuple[Slot, ...]]

    def find(self, words: Sequence[str], own: Mapping[Words, tuple[Slot, ...]]) -> Iterator[_Evidence]:
        """From left to right, the longest first: "Swan" is not told by "Swan Pond". `own` are additional names."""
        own_starts = {name[0] for name in own}
        longest = max(self._longest, *map(len, own), 0)
        place = 0
        while place < len(words):
            begins = words[place] in self.starts or words[place] in own_starts
            ends = range(min(place + longest, len(words)), place, -1) if begins else ()
            names = (tuple(words[place:end]) for end in ends)
            name = next((name for name in names if name in own or name in self.slots), None)
            for field, value in (own.get(name) or self.slots[name]) if name else ():
                yield _Evidence(place, name or (), field, (value,))
            place += len(name or " ")

    @cached_property
    def starts(self) -> frozenset[str]:
        return frozenset(name[0] for name in self.slots)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.slots), default=0)


@dataclass(frozen=True)
class Slots:
    """What training examples teach about how facts are told.

    Most values of a verbatim field are told in their own words, as names are; so is any value that training lacks. The
    other values are told by phrases.
    """

    read: Callable[[str], Facts]
    verbatim: frozenset[str]  # fields
    names: _Names
    phrases: Phrases
    tellable: Mapping[Slot, bool]  # of the values in enough training texts: whether enough of them tell it
    misleading: frozenset[Contradiction]  # those that are none, as people write so
    vocabulary: frozenset[str]  # words of training texts outside names
    capitalised: frozenset[str]  # those of them that are capitalised inside a sentence
    introduced: Mapping[str, str]  # word -> the field whose names and numbers follow it most often
    naming: Sequence[str]  # the verbatim fields of names and numbers, the most frequent first
    shown: Mapping[Slot, str]  # the values as sources spell them

    @classmethod
    def learn(cls, examples: Iterable[tuple[str, Sequence[str]]]) -> "Slots | None":
        """From sources and their references. None if the sources are not fields with values, or have no reference.
        Free text, which may be mixed into train, teaches nothing."""
        examples = [(source, references) for source, references in examples if source]
        read = form_of([source for source, _ in examples])
        if read is None:
            return None
        pairs = [(read(source), references) for source, references in examples]
        every = [(facts, text) for facts, references in pairs for text in references if facts]
        raw = every[:: len(every) // _MOST_TEXTS + 1]
        texts = [(_slots(facts), words_of(text)) for facts, text in raw]
        if not texts:
            return None
        verbatim, names = _told_in_own_words(texts)
        named = [list(names.find(words, {})) for _, words in texts]
        labelled = [_labelled(*text, found) for text, found in zip(texts, named, strict=True)]
        shown = _shown(facts for facts, _ in pairs)
        introduced, naming = _introduced(texts, named, shown, verbatim)
        slots = cls(
            read=read,
            verbatim=verbatim,
            names=names,
            phrases=learn_phrases(labelled),
            tellable={},
            misleading=frozenset(),
            vocabulary=frozenset(word for text in labelled for word in text.words),
            capitalised=frozenset(_capitalised(raw, labelled)),
            introduced=introduced,
            naming=naming,
            shown=shown,
        )
        return _calibrated(slots, texts[:: len(texts) // _CALIBRATION_TEXTS + 1])

    def knowing(self, sources: Iterable[str]) -> "Slots":
        """Also finds the names in these sources, which training may lack."""
        facts = [self.read(source) for source in sources]
        new = {slot: None for own in facts for slot in _slots(own) if self._is_new(slot)}
        return replace(
            self,
            names=_Names({**self.names.slots, **{_words(slot): self._owners(slot) for slot in new}}),
            shown={**_shown(facts), **self.shown},
        )

    def check(self, source: str, text: str) -> SlotCheck:
        facts = self.read(source)
        slots, words = _slots(facts), words_of(text)
        evidence = self.evidence(slots, words)
        told = [slot for slot in slots if self.is_told(slot, words, evidence)]
        missing = [slot for slot in slots if slot not in told and self.tellable.get(slot, slot[0] in self.verbatim)]
        invented = self._contradictions(slots, missing, words, evidence)
        invented += self._strange(source, text, missing, evidence)
        invented += self._last_resort(missing, invented, words, evidence)
        shown = _shown([facts])

        def show(slot: Slot) -> str:
            return f"{slot[0]}: {shown.get(slot) or self.shown.get(slot, slot[1])}"

        return SlotCheck(
            list(map(show, told)),
            list(map(show, missing)),
            list(map(show, invented)),
            [(show(lost), show(new)) for lost, new in _replaced(missing, invented)],
        )

    def places(self, source: str, text: str) -> dict[str, list[tuple[int, int]]]:
        """Field of each fact of the source that words of the text tell -> the first character of such words, and the
        one after the last."""
        matches, slots = list(word_matches(text)), _slots(self.read(source))
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for one in self.evidence(slots, [folded(match[0]) for match in matches]):
            if any(one.tells(slot) for slot in slots):
                found[one.field].append((matches[one.start].start(), matches[one.end - 1].end()))
        return dict(found)

    def evidence(self, slots: Sequence[Slot], words: Sequence[str]) -> list[_Evidence]:
        """What the words of a text tell; `slots` are the facts of its source."""
        named = list(self.names.find(words, {_words(slot): self._owners(slot) for slot in slots if self._is_new(slot)}))
        masked = _masked(words, named)
        phrases = [
            _Evidence(start, phrase, field, values)
            for start in range(len(masked))
            for end in range(start + 1, min(start + LONGEST, len(masked)) + 1)
            if (phrase := tuple(masked[start:end])) in self.phrases
            for field, values in self.phrases[phrase].items()
        ]
        own = [  # a value of several words tells itself, unless words around it tell otherwise
            _Evidence(start, _words(slot), slot[0], (slot[1],))
            for slot in slots
            if slot[0] not in self.verbatim and " " in slot[1]
            for start in _places(words, _words(slot))
        ]
        phrases += [one for one in own if not any(other.begins_otherwise(one) for other in phrases)]
        return named + [one for one in phrases if not any(other.overrules(one) for other in phrases)]

    @cached_property
    def fingerprint(self) -> str:
        """Tells apart what was learned from different examples: 8 hexadecimal digits."""
        learned = (sorted(self.names.slots.items()), sorted(self.phrases.items()), sorted(self.misleading))
        return sha256(repr(learned).encode()).hexdigest()[:8]

    def is_told(self, slot: Slot, words: Sequence[str], evidence: Sequence[_Evidence]) -> bool:
        """By evidence; or, where nothing tells of a verbatim field, by its value."""
        of_field = [one for one in evidence if one.field == slot[0]]
        if of_field:
            return any(one.tells(slot) for one in of_field)
        return slot[0] in self.verbatim and bool(_places(_masked(words, evidence), _words(slot)))

    def _is_new(self, slot: Slot) -> bool:
        return slot[0] in self.verbatim and slot not in self.tellable

    def _owners(self, slot: Slot) -> tuple[Slot, ...]:
        return tuple(dict.fromkeys((*self.names.slots.get(_words(slot), ()), slot)))

    def _contradictions(
        self, slots: Sequence[Slot], missing: Sequence[Slot], words: Sequence[str], evidence: Sequence[_Evidence]
    ) -> list[Slot]:
        """Values that are told and no fact: each name, and of phrases one for each field, the most precise. Words
        that mislead, or are part of words that tell another fact, count only where the fact itself is missing."""
        lost, values = {field for field, _ in missing}, dict(slots)
        invented: dict[tuple[int, Words] | str, Slot] = {}
        right = [one for one in evidence if any(one.tells(slot) for slot in slots)]
        unfitting = _unfitting(slots, words, evidence)
        for one, beside in sorted(unfitting, key=lambda pair: (len(pair[0].values), -len(pair[0].words))):
            value = values.get(one.field, "")
            if one.field not in lost and (one.words, one.field, value, beside) in self.misleading:
                continue
            if value and one.field not in lost and any(other.contains(one) for other in right):
                continue
            if beside and one.field not in self.verbatim and " " in value and _near(one, value, evidence):
                continue  # "dogs are not allowed", where "dogs" alone tells that they are welcome
            key = one.place if one.field in self.verbatim else one.field
            likely = one.field in lost or one.field == self._introduced_by(words, one.start)
            if key not in invented or (likely and key == one.place):  # a name may be known from several fields
                invented[key] = one.field, _named_value(one, words)
        return list(dict.fromkeys(invented.values()))

    def _strange(
        self, source: str, text: str, missing: Sequence[Slot], evidence: Sequence[_Evidence]
    ) -> Iterator[Slot]:
        """Names and numbers that neither the source nor any training text has: a new word, or several of which one is
        new with a capital. They are told in place of a missing one, else in the field whose names the word before
        introduces."""
        spelled = spelled_words(text)
        words = [folded(word) for word in spelled]
        known = set(words_of(source))
        told = {place for one in evidence for place in range(one.start, one.end)}
        proper = [(w[0].isupper() or w[0].isdigit()) and place not in told for place, w in enumerate(spelled)]
        unknown = [is_ and w not in known for is_, w in zip(proper, words, strict=True)]
        new = [is_ and w not in self.vocabulary for is_, w in zip(unknown, words, strict=True)]
        strange = [
            is_new or (is_ and spelled[i][1:].islower() and words[i] not in self.capitalised and not _opens(words, i))
            for i, (is_new, is_) in enumerate(zip(new, unknown, strict=True))
        ]
        lost = [field for field in self.naming if field in {field for field, _ in missing}]
        for start, end in self._runs(words, proper, strange) if self.naming else ():
            if end - start == 1 and not new[start]:
                continue  # an ordinary word with a capital
            # a single capital at the start of a sentence says nothing, unless a name is missing
            if lost or end - start > 1 or not _opens(words, start) or spelled[start][0].isdigit():
                fields, likely = lost or self.naming, self._introduced_by(words, start)
                yield likely if likely in fields else fields[0], " ".join(spelled[start:end])

    def _runs(self, words: Sequence[str], proper: Sequence[bool], strange: Sequence[bool]) -> Iterator[tuple[int, int]]:
        """Starts and ends of names with a strange word: the capitalised words around it. At the start of a sentence
        only some belong to the name ("The", but not "Near")."""
        end = 0
        for place in (place for place, is_ in enumerate(strange) if is_):
            if place < end:
                continue
            start, before, end = place, end, place + 1
            while (
                start > before
                and proper[start - 1]
                and (not _opens(words, start - 1) or words[start - 1] in self.names.starts)
            ):
                start -= 1
            while end < len(words) and proper[end]:
                end += 1
            yield start, end

    def _last_resort(
        self, missing: Sequence[Slot], invented: Sequence[Slot], words: Sequence[str], evidence: Sequence[_Evidence]
    ) -> Iterator[Slot]:
        """Where a verbatim fact is missing and nothing told in its place: a known value that the text has after all."""
        masked = _masked(words, evidence)
        replaced = {field for field, _ in invented}
        for field in dict.fromkeys(field for field, _ in missing if field in self.verbatim and field not in replaced):
            found = (slot for slot in self.tellable if slot[0] == field and _places(masked, _words(slot)))
            yield from islice(found, 1)

    def _introduced_by(self, words: Sequence[str], start: int) -> str:
        return self.introduced.get(words[start - 1] if start else BREAK, "")


def _slots(facts: Facts) -> list[Slot]:
    return list(dict.fromkeys((field, key) for field, value in facts if (key := _key(value))))


def _key(value: str) -> str:
    return " ".join(word for word in words_of(value) if word != BREAK)


def _words(slot: Slot) -> Words:
    return tuple(slot[1].split(" "))


def _shown(many: Iterable[Facts]) -> dict[Slot, str]:
    return {(field, _key(value)): value for facts in many for field, value in facts}


def _told_in_own_words(texts: Sequence[Text]) -> tuple[frozenset[str], _Names]:
    """The verbatim fields, and the values whose words tell them and no other value of their field."""
    owners: dict[Words, dict[Slot, None]] = defaultdict(dict)
    for slot in dict.fromkeys(slot for slots, _ in texts for slot in slots):
        owners[_words(slot)][slot] = None
    candidates = _Names({words: tuple(slots) for words, slots in owners.items()})
    given, told, misled, fields = Counter[Slot](), Counter[Slot](), Counter[Slot](), Counter[str]()
    for slots, words in texts:
        said = {slot for one in candidates.find(words, {}) for slot in owners[one.words]}
        own, present = set(slots), {field for field, _ in slots}
        given.update(own)
        fields.update(present)
        told.update(own & said)
        misled.update(slot for slot in said - own if slot[0] in present)
    told_in_field, given_in_field = Counter[str](), Counter[str]()
    for slot in given:
        told_in_field[slot[0]] += told[slot]
        given_in_field[slot[0]] += given[slot]
    verbatim = frozenset(field for field in fields if told_in_field[field] >= _VERBATIM * given_in_field[field])

    def in_own_words(slot: Slot) -> bool:
        if misled[slot] * given[slot] > _RARE * told[slot] * (fields[slot[0]] - given[slot]):
            return False
        return told[slot] >= _VERBATIM * given[slot] if given[slot] >= _FEWEST_TEXTS else slot[0] in verbatim

    names = {words: tuple(filter(in_own_words, slots)) for words, slots in owners.items()}
    return verbatim, _Names({words: slots for words, slots in names.items() if slots})


def _masked(words: Sequence[str], named: Iterable[_Evidence]) -> list[str]:
    masked = list(words)
    for one in named:
        masked[one.start : one.end] = [BREAK] * len(one.words)
    return masked


def _labelled(slots: Sequence[Slot], words: Sequence[str], named: Sequence[_Evidence]) -> Labelled:
    values = dict(reversed(slots))  # of several values of a field the first
    untold = {slot[0] for slot in values.items() if not any(one.tells(slot) for one in named)}
    return Labelled(_masked(words, named), values, untold)


def _capitalised(raw: Sequence[tuple[Facts, str]], labelled: Sequence[Labelled]) -> Iterator[str]:
    """Words outside names that are capitalised though no sentence begins, and numbers."""
    for (_, text), masked in zip(raw, labelled, strict=True):
        before = BREAK
        for spelled, word in zip(spelled_words(text), masked.words, strict=True):
            if word != BREAK and before != BREAK and not spelled[0].islower():
                yield word
            before = folded(spelled)


def _introduced(
    texts: Sequence[Text], named: Sequence[Sequence[_Evidence]], shown: Mapping[Slot, str], verbatim: frozenset[str]
) -> tuple[dict[str, str], list[str]]:
    """The word before names and numbers -> their most frequent field; and all these fields, the most frequent first."""
    fields, before = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for (slots, words), found in zip(texts, named, strict=True):
        for one, slot in ((one, slot) for one in found for slot in slots if one.tells(slot)):
            if slot[0] in verbatim and (shown[slot][0].isupper() or shown[slot][0].isdigit()):
                fields[slot[0]] += 1
                before[words[one.start - 1] if one.start else BREAK][slot[0]] += 1
    introduced = {word: counts.most_common(1)[0][0] for word, counts in before.items()}
    return introduced, [field for field, _ in fields.most_common()]


def _calibrated(slots: Slots, texts: Sequence[Text]) -> Slots:
    """Tries on training texts which facts their writers leave out, and which words they use beside other values, or
    where the source lacks the field."""
    given, told = Counter[Slot](), Counter[Slot]()
    right, wrong = Counter[tuple[Words, str]](), Counter[Contradiction]()
    for own, words in texts:
        evidence = slots.evidence(own, words)
        values = dict(slot for slot in own if slots.is_told(slot, words, evidence))
        untold = {field for field, _ in own} - values.keys()
        given.update(own)
        told.update(values.items())
        right.update({(one.words, one.field) for one in evidence if any(one.tells(slot) for slot in own)})
        unfitting = (pair for pair in _unfitting(own, words, evidence) if pair[0].field not in untold)
        wrong.update({(one.words, one.field, values.get(one.field, ""), beside) for one, beside in unfitting})

    def misleads(words: Words, field: str, value: str, beside: bool) -> bool:
        count = wrong[words, field, value, beside]
        if value:
            return count >= _FEWEST_BESIDE and count > _BESIDE * told[field, value]
        return count > _UNASKED * (count + right[words, field])

    return replace(
        slots,
        tellable={slot: told[slot] >= _TELLABLE * given[slot] for slot in given if given[slot] >= _FEWEST_TEXTS},
        misleading=frozenset(one for one in wrong if misleads(*one)),
    )


def _unfitting(
    slots: Sequence[Slot], words: Sequence[str], evidence: Sequence[_Evidence]
) -> Iterator[tuple[_Evidence, bool]]:
    """Evidence that tells none of these facts, and is not the very words of one. And whether its sentence tells the
    fact of its field, too."""
    own = {_words(slot) for slot in slots}
    sentences = list(accumulate(word == BREAK for word in words))
    right = [one for one in evidence if any(one.tells(slot) for slot in slots)]
    places, told = {one.place for one in right}, {(one.field, sentences[one.start]) for one in right}
    for one in evidence:
        if not any(one.tells(slot) for slot in slots) and not (one.place in places and one.words in own):
            yield one, (one.field, sentences[one.start]) in told


def _near(one: _Evidence, value: str, evidence: Sequence[_Evidence]) -> bool:
    """Whether the value's own words stand near."""
    return any(" ".join(other.words) == value and abs(other.start - one.start) <= LONGEST for other in evidence)


def _places(words: Sequence[str], value: Words) -> list[int]:
    """Where the value starts."""
    starts = range(len(words) - len(value) + 1)
    return [start for start in starts if tuple(words[start : start + len(value)]) == value]


def _named_value(one: _Evidence, words: Sequence[str]) -> str:
    """The value whose own words the text has, else the likeliest."""
    text = f" {' '.join(words)} "
    return next((value for value in one.values if f" {value} " in text), one.values[0])


def _opens(words: Sequence[str], place: int) -> bool:
    """Whether the word stands first in its sentence."""
    return not place or words[place - 1] == BREAK


def _replaced(missing: Sequence[Slot], invented: Sequence[Slot]) -> Iterator[tuple[Slot, Slot]]:
    left = list(invented)
    for lost in missing:
        new = next((slot for slot in left if slot[0] == lost[0]), None)
        if new:
            left.remove(new)
            yield lost, new
