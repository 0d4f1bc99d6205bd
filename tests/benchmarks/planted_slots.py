"""How many planted errors the check of facts finds, and how often it accuses a true text.

Missing, invented and wrong facts are planted into true texts: the text is that of other facts than the source. Texts of
the sample come from its grammar, by a seed of their own. E2E (Novikova et al. 2017) has held-out references in which
patterns find every fact and no other, and texts of a template.

    python -m tests.benchmarks.planted_slots [E2E_FOLDER]

The folder holds trainset.csv, devset.csv and testset_w_refs.csv, with columns mr and ref.
"""

import csv
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeAlias

from data.samples.data_to_text import (
    EATING_NAMES,
    EATING_VALUES,
    FOODS,
    KINDS,
    LANDMARKS,
    STAYING_NAMES,
    STAYING_VALUES,
    draw_facts,
    draw_texts,
)
from stages.lib.scores.slots import Slots

Facts: TypeAlias = dict[str, str]
Examples: TypeAlias = dict[str, list[str]]  # source -> references

SAMPLE = Path("data/raw/data_to_text/places.csv")
PLANTED = 600  # of each kind
UNSEEN = ("Zorbo Palace", "The Crimson Yak", "Quellmar", "Vintry Steps")  # names that no data has


@dataclass(frozen=True)
class Planted:
    """`error` is what the check must report, as `field: value`: the missing or the invented fact, or a wrong one and
    what the text tells instead. `kind` is true for a text without an error."""

    kind: str
    facts: Facts  # of the source
    text: str
    error: tuple[str, ...] = ()


def main() -> None:
    report("sample", learned(read(SAMPLE, "facts", "text")), sample_source, sample_texts(PLANTED))
    for folder in map(Path, sys.argv[1:]):
        slots = learned(read(folder / "trainset.csv", "mr", "ref"))
        held_out = read(folder / "devset.csv", "mr", "ref") | read(folder / "testset_w_refs.csv", "mr", "ref")
        report("E2E, references", slots, e2e_source, reference_texts(held_out, PLANTED))
        report("E2E, template", slots, e2e_source, template_texts(held_out, PLANTED))


def read(path: Path, source: str, target: str) -> Examples:
    examples: Examples = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            examples[row[source]].append(row[target])
    return examples


def learned(examples: Examples) -> Slots:
    slots = Slots.learn(examples.items())
    assert slots, "the sources are no facts"
    return slots


def report(title: str, slots: Slots, write: Callable[[Facts], str], texts: Sequence[Planted]) -> None:
    count = Counter(one.kind for one in texts)
    found = Counter(one.kind for one in texts if is_found(slots, write, one))
    true = [one for one in texts if one.kind == "true"]
    accused = sum(slots.check(write(one.facts), one.text).errors for one in true)
    facts = sum(len(one.facts) for one in true)
    print(title)
    for kind in ("missing", "invented", "wrong"):
        print(f"  {count[kind]:5} {kind:<9}{100 * found[kind] / count[kind]:6.2f} % found")
    print(f"  {count['true']:5} true     {100 - 100 * found['true'] / count['true']:6.2f} % accused")
    print(f"  {facts:5} facts    {100 * accused / facts:6.2f} % accused")


def is_found(slots: Slots, write: Callable[[Facts], str], one: Planted) -> bool:
    """For a true text: whether nothing is found."""
    checked = slots.check(write(one.facts), one.text)
    if one.kind == "true":
        return not checked.errors
    singles = checked.missing if one.kind == "missing" else checked.invented
    reported = checked.wrong if one.kind == "wrong" else [(fact,) for fact in singles]
    return any(all(map(_same, one.error, facts)) for facts in reported)


def _same(planted: str, reported: str) -> bool:
    """Values that E2E's writers use for each other may be reported for each other."""
    (field, value), (other, told) = planted.split(": ", 1), reported.split(": ", 1)
    return field == other and alike(value, told)


# The sample


def sample_source(facts: Facts) -> str:
    return "; ".join(f"{field}: {value}" for field, value in facts.items())


def sample_texts(number: int, seed: int = 1) -> list[Planted]:
    """So many true texts, and texts with each kind of error."""
    rng = Random(seed)
    return [one for _ in range(number) for one in _planted_in_sample(rng, draw_facts(rng))]


def _planted_in_sample(rng: Random, facts: Facts) -> Iterator[Planted]:
    text = draw_texts(rng, facts)[0]
    yield Planted("true", facts, text)
    field = rng.choice(list(facts))
    yield Planted("missing", facts, _text_without(rng, facts, field), (f"{field}: {facts[field]}",))
    field = rng.choice([field for field in facts if field not in ("name", "kind")])
    yield Planted("invented", _without(facts, field), text, (f"{field}: {facts[field]}",))
    field = rng.choice([field for field in facts if _others(facts, field)])
    value = rng.choice(_others(facts, field))
    told = draw_texts(rng, facts | {field: value})[0]
    yield Planted("wrong", facts, told, (f"{field}: {facts[field]}", f"{field}: {value}"))


def _without(facts: Facts, field: str) -> Facts:
    return {other: value for other, value in facts.items() if other != field}


def _text_without(rng: Random, facts: Facts, field: str) -> str:
    """Every text of the grammar has a name and a kind, so these are cut out."""
    if field not in ("name", "kind"):
        return draw_texts(rng, _without(facts, field))[0]
    text = draw_texts(rng, facts)[0]
    if field == "name":
        return text.replace(facts["name"], "this place")
    return re.sub(rf"\b({'|'.join(KINDS[facts['kind']])})\b", "place", text)


def _others(facts: Facts, field: str) -> Sequence[str]:
    """The values that the grammar could give this field instead, and for names some more."""
    eats = facts["kind"] in FOODS
    names = EATING_NAMES if eats else STAYING_NAMES
    kinds = [kind for kind in KINDS if (kind in FOODS) == eats and facts.get("food") in (None, *FOODS.get(kind, ()))]
    values = {
        **(EATING_VALUES if eats else STAYING_VALUES),
        "food": FOODS.get(facts["kind"], ()),
        "name": (*names, *UNSEEN),
        "near": (*LANDMARKS, *UNSEEN),
        "kind": kinds,
    }
    return [value for value in values[field] if value != facts[field]]


# E2E

_FRIENDLY = r"(?:family|families|child|children|kids?)[ -]?(?:friendly|oriented)"
# A reference is true if of each field it has the pattern of the fact and none of another value, or none at all
PATTERNS: Mapping[str, Mapping[str, str]] = {
    "eatType": {"restaurant": r"\brestaurant", "pub": r"\bpub", "coffee shop": r"\bcoffee shop"},
    "food": {
        food: rf"\b{food}" for food in ("Chinese", "English", "Fast food", "French", "Indian", "Italian", "Japanese")
    },
    "priceRange": {
        "cheap": r"\bcheap|low[ -]pric|inexpensive",
        "less than £20": r"less than £ ?20",
        "moderate": r"moderate(?:ly)?[ -]pric|prices? (?:range )?(?:is|are) moderate|mid[ -]pric",
        "£20-25": r"£ ?20 ?(?:-|to) ?£?25",
        "high": r"\bexpensive|high(?:ly)?[ -]pric",
        "more than £30": r"more than £ ?30",
    },
    "customer rating": {
        "low": r"low customer rating|customer rating (?:is|of) low|low(?:ly)?[ -]rated",
        "average": r"average customer rating|customer rating (?:is|of) average|average[ -]rated",
        "high": r"high customer rating|customer rating (?:is|of) high|high(?:ly)?[ -]rated",
        **{f"{stars} out of 5": f"{stars} out of 5" for stars in "135"},
    },
    "area": {"riverside": "riverside", "city centre": "city cent(?:re|er)"},
    "familyFriendly": {
        "yes": _FRIENDLY,
        "no": rf"(?:n[o't]t|non|no|un)[ -](?:a |an |very )?(?:{_FRIENDLY})|adults? only",
    },
}
ALIKE = (
    {"cheap", "less than £20"},
    {"moderate", "£20-25"},
    {"high", "more than £30", "5 out of 5"},
    {"low", "1 out of 5"},
    {"average", "3 out of 5"},
)
SENTENCES: Mapping[str, Sequence[str]] = {
    "name": ("{} is worth a visit.",),
    "eatType": ("It is a {}.", "This place is a {}."),
    "food": ("It serves {} food.", "You can eat {} food there."),
    "priceRange": ("The price range is {}.", "It has a {} price range."),
    "customer rating": ("It has a customer rating of {}.", "Its customer rating is {}."),
    "area": ("It is in the {} area.", "You find it in the {}."),
    "near": ("It is near {}.", "It is located close to {}."),
    "yes": ("It is family friendly.", "It is child friendly."),
    "no": ("It is not family friendly.", "It is not kid friendly."),
}


def e2e_source(facts: Facts) -> str:
    return ", ".join(f"{field}[{value}]" for field, value in facts.items())


def e2e_facts(source: str) -> Facts:
    return dict(re.findall(r"(?:^|, )([^\[]+)\[([^\]]*)\]", source))


def alike(one: str, other: str) -> bool:
    return one == other or any(one in group and other in group for group in ALIKE)


def reference_texts(examples: Examples, number: int, seed: int = 1) -> list[Planted]:
    """True references, and the same ones with the source of other facts."""
    rng, values = Random(seed), _values(examples)
    names = {*values["name"], *values["near"]}
    pairs = ((e2e_facts(source), text) for source in sorted(examples) for text in sorted(set(examples[source])))
    true = [(facts, text) for facts, text in pairs if _tells(text, facts, names)]
    chosen = rng.sample(true, min(number, len(true)))
    return [one for facts, text in chosen for one in _planted_in_source(rng, facts, text, values)]


def template_texts(examples: Examples, number: int, seed: int = 1) -> list[Planted]:
    """Texts of the facts, and of other facts."""
    rng, values = Random(seed), _values(examples)
    values |= {field: [*values[field], *UNSEEN] for field in ("name", "near")}
    sources = rng.choices(sorted(examples), k=number)
    return [one for source in sources for one in _planted_in_text(rng, e2e_facts(source), values)]


def _values(examples: Examples) -> dict[str, list[str]]:
    values: dict[str, set[str]] = defaultdict(set)
    for field, value in (fact for source in examples for fact in e2e_facts(source).items()):
        values[field].add(value)
    return {field: sorted(of) for field, of in sorted(values.items())}


def _tells(text: str, facts: Facts, names: set[str]) -> bool:
    """All the facts, and nothing else."""
    told = {name for name in names if name in text}
    longest = {name for name in told if not any(name in other for other in told - {name})}
    if longest != {facts[field] for field in ("name", "near") if field in facts}:
        return False
    for name in longest:
        text = text.replace(name, "it")
    return all(_told(text, field) == ({facts[field]} if field in facts else set()) for field in PATTERNS)


def _told(text: str, field: str) -> set[str]:
    told = {value for value, pattern in PATTERNS[field].items() if re.search(pattern, text, re.IGNORECASE)}
    return {"no"} if told == {"yes", "no"} else told


def _planted_in_source(rng: Random, facts: Facts, text: str, values: Mapping[str, Sequence[str]]) -> Iterator[Planted]:
    yield Planted("true", facts, text)
    if more := _one_more(rng, facts, values):
        yield Planted("missing", facts | dict([more]), text, (": ".join(more),))
    # without a kind of place, nearly half of E2E's writers say "restaurant": no error there
    field = rng.choice([field for field in facts if facts[field] != "restaurant"])
    yield Planted("invented", _without(facts, field), text, (f"{field}: {facts[field]}",))
    field, value = _another(rng, facts, values)
    yield Planted("wrong", facts | {field: value}, text, (f"{field}: {value}", f"{field}: {facts[field]}"))


def _planted_in_text(rng: Random, facts: Facts, values: Mapping[str, Sequence[str]]) -> Iterator[Planted]:
    yield Planted("true", facts, _templated(rng, facts))
    field = rng.choice(list(facts))
    yield Planted("missing", facts, _templated(rng, _without(facts, field)), (f"{field}: {facts[field]}",))
    if (more := _one_more(rng, facts, values)) and more[1] != "restaurant":
        yield Planted("invented", facts, _templated(rng, facts | dict([more])), (": ".join(more),))
    field, value = _another(rng, facts, values)
    told = _templated(rng, facts | {field: value})
    yield Planted("wrong", facts, told, (f"{field}: {facts[field]}", f"{field}: {value}"))


def _one_more(rng: Random, facts: Facts, values: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    absent = [field for field in values if field not in facts]
    if not absent:
        return None
    field = rng.choice(absent)
    return field, rng.choice([value for value in values[field] if value not in facts.values()])


def _another(rng: Random, facts: Facts, values: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    field = rng.choice(list(facts))
    others = [value for value in values[field] if not alike(value, facts[field]) and value not in facts.values()]
    return field, rng.choice(others)


def _templated(rng: Random, facts: Facts) -> str:
    forms = [(SENTENCES[field if field in SENTENCES else value], value) for field, value in facts.items()]
    return " ".join(rng.choice(sentences).format(value) for sentences, value in forms)


if __name__ == "__main__":
    main()
