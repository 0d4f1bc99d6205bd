"""The sample of question answering: short invented texts about two people, events, animals or things, and questions.

Each text tells two or three facts of either, so that an answer has a rival of its own kind; "she" or "it" refers back.
A model has to find whom or what a question is about, often asked in other words than those of the text, and to copy
the right span. One question in ten calls its subject by a fact that stands in another sentence.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import NamedTuple

from data.samples.portable_random import capital, draw, pick, shuffled

SEED = 8821
CONTEXTS = 700
SENTENCES = (3, 4, 5)

# chances: of 2, 3, 4 questions; of asking for a value, for the subject, for a value of a subject that is described
QUESTION_COUNTS = (0.2, 0.6, 0.2)
QUESTION_KINDS = (0.57, 0.28, 0.15)


class Fact(NamedTuple):
    """Wordings have {v} for the value, and {s}, {o}, {of} for a subject: she, her, her."""

    values: Sequence[str]
    clauses: Sequence[str]
    questions: Sequence[str]
    reverse: str  # asks for the subject; as a relative clause it describes one


FEMALE = ("Mira", "Ada", "Lena", "Wilma", "Tess", "Noor", "Ruth", "Ilse", "Paula", "Greta", "Yuki", "Carla", "Hanna",
          "Odile", "Fiona", "Marta", "Zofia", "Amina", "Elsa", "Vera")  # fmt: skip
MALE = ("Jon", "Otto", "Ravi", "Hugo", "Simon", "Karim", "Piet", "Luca", "Edgar", "Milan", "Tobin", "Owen", "Felix",
        "Bruno", "Jasper", "Anton", "Kenji", "Rolf", "Dario", "Abel")  # fmt: skip
SURNAMES = ("Holt", "Frost", "Brandt", "Finch", "Okoro", "Lind", "Marsh", "Castell", "Pereira", "Vance", "Thorne",
            "Ito", "Halloran", "Berg", "Nowak", "Quist", "Alder", "Rossi", "Keane", "Falk", "Mbeki")  # fmt: skip
PEOPLE = tuple(f"{first} {last}" for first in (*FEMALE, *MALE) for last in SURNAMES)
TOWNS = ("Ashby", "Nordhaven", "Pellworth", "Quarrington", "Saltmere", "Dunmore", "Ferrow", "Larkhill", "Oxley", "Cray",
         "Brackwater", "Thornby", "Millbrook", "Eastvale", "Hollin", "Stavely", "Ravensea", "Tarn")  # fmt: skip
RIDES = ("ferry", "night bus", "express train", "mail boat", "coach", "tram")
NAMES = {
    "pet": ("Biscuit", "Pepper", "Thimble", "Captain", "Nutmeg", "Button", "Clover", "Rusty", "Domino", "Juniper",
            "Waffle", "Bramble", "Sooty", "Ginger", "Sprout", "Pickle", "Tinker", "Mocha", "Pebble"),
    "event": ("seed fair", "lantern walk", "choir concert", "chess evening", "pottery class", "book sale", "barn dance",
              "poetry night", "cake contest", "kite workshop", "puppet show", "cheese tasting", "quiz night",
              "bird walk", "toy market", "jazz evening", "flower show", "ghost tour"),
    "object": ("silver jug", "oak chest", "brass clock", "red carpet", "stone lion", "glass bowl", "ivory comb",
               "iron key", "blue vase", "leather mask", "wooden horse", "marble bust", "copper kettle", "painted fan",
               "gold ring", "bronze bell", "velvet coat", "walnut desk"),
    "ride": tuple(f"{ride} to {town}" for ride in RIDES for town in TOWNS),
}  # fmt: skip
Forms = tuple[str, str, str]  # she, her, her
FEMININE, MASCULINE, NEUTER = ("she", "her", "her"), ("he", "him", "his"), ("it", "it", "its")
RELATIONS = {FEMININE: ("sister", "aunt", "niece", "friend", "cousin", "neighbour"),
             MASCULINE: ("brother", "uncle", "nephew", "friend", "cousin", "neighbour")}  # fmt: skip
JOBS = ("a baker", "an architect", "a beekeeper", "a clockmaker", "an optician", "a gardener", "a nurse", "a cook",
        "a plumber", "a translator", "a pilot", "an engineer", "a librarian", "a tailor", "a vet", "a carpenter",
        "an editor", "a dentist", "a glassblower", "a lawyer", "a weaver", "a barber", "a florist")  # fmt: skip
DAYS = tuple(f"on {day}day" for day in ("Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun"))
TIMES = ("at noon", "at six", "at seven", "at eight", "at nine", "at ten", "at half past six", "at half past seven",
         "at half past eight", "at a quarter to eight", "at a quarter past nine", "at a quarter past ten")  # fmt: skip
YEARS = tuple(f"in {year}" for year in range(1612, 1930, 7))
NUMBERS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
           "twelve": "12", "fifteen": "15", "twenty": "20", "thirty": "30", "forty": "40", "ninety": "90"}  # fmt: skip
PRICES = tuple(f"{number} pounds" for number in NUMBERS)
MINUTES = tuple(f"{number} minutes" for number, digits in NUMBERS.items() if len(digits) == 2)
MINUTES = tuple(f"{number} minutes" for number, digits in NUMBERS.items() if len(digits) == 2)
LEADS = ("a", "an", "the", "at", "by", "from", "in", "on", "under", "near")

# of each kind of subject
# of each kind of subject
FACTS = {
    "person": {
        "job": Fact(JOBS, ("{s} is {v}", "{s} works as {v}", "{s} earns a living as {v}", "{s} has found work as {v}"),
                    ("What does {s} do for a living?", "What is the job of {s}?"), "Who works as {v}?"),
        "home": Fact(tuple(f"in {town}" for town in TOWNS),
                     ("{s} lives {v}", "{s} has a small house {v}", "{of} home is {v}", "{s} rents a room {v}"),
                     ("Where does {s} live?", "In which town is the home of {s}?"), "Who lives {v}?"),
        "start": Fact(TIMES, ("{s} starts work {v}", "{of} working day begins {v}", "every day {s} starts work {v}"),
                      ("When does {s} start work?", "At what time does {s} begin to work?"), "Who starts work {v}?"),
        "travel": Fact(("by tram", "by bicycle", "by bus", "by boat", "by scooter", "by train", "by car"),
                       ("{s} goes to work {v}", "{s} travels to work {v}", "most days {s} goes to work {v}"),
                       ("How does {s} get to work?", "How does {s} travel to work?"), "Who goes to work {v}?"),
        "hobby": Fact(("old maps", "postcards", "teapots", "sea shells", "buttons", "wooden toys", "pocket watches",
                       "stamps", "door keys", "feathers", "silver spoons", "fossils", "marbles", "crime novels"),
                      ("{s} collects {v}", "{s} has shelves full of {v}", "{of} rooms are full of {v}"),
                      ("What does {s} collect?", "Which things does {s} collect?"), "Who collects {v}?"),
    },
    "event": {
        "day": Fact(DAYS, ("{s} takes place {v}", "{s} is {v}", "{v} {s} takes place"),
                    ("On which day is {s}?", "On what day does {s} take place?"), "Which event takes place {v}?"),
        "place": Fact(("in the town hall", "in the old mill", "at the harbour", "in the school yard", "by the canal",
                       "in the library", "in the orchard", "in the fire station", "in the tea room"),
                      ("{s} is held {v}", "people meet for {o} {v}", "{s} can be found {v}"),
                      ("Where is {s} held?", "Where do people meet for {s}?"), "Which event is held {v}?"),
        "time": Fact(TIMES, ("{s} begins {v}", "{s} opens {v}", "{v} {s} begins"),
                     ("When does {s} begin?", "At what time does {s} start?"), "Which event begins {v}?"),
        "price": Fact(PRICES, ("{s} costs {v}", "tickets for {o} cost {v}", "guests pay {v} for {o}"),
                      ("How much is a ticket for {s}?", "What does {s} cost?"), "Which event costs {v}?"),
        "host": Fact(PEOPLE, ("{s} is run by {v}", "{v} runs {o}", "{of} host is {v}"),
                     ("Who runs {s}?", "Who is the host of {s}?"), "Which event is run by {v}?"),
    },
    "object": {
        "year": Fact(YEARS, ("{s} was made {v}", "{s} was finished {v}", "somebody made {o} {v}"),
                     ("In which year was {s} made?", "When was {s} made?"), "Which object was made {v}?"),
        "finder": Fact(PEOPLE, ("{s} was found by {v}", "{v} found {o}", "{of} finder was {v}"),
                       ("Who found {s}?", "By whom was {s} found?"), "Which object was found by {v}?"),
        "place": Fact(("in the cellar", "in the tower", "in the east wing", "by the window", "near the stairs",
                       "in a glass case", "in the entrance hall", "by the fireplace", "in the long gallery"),
                      ("{s} stands {v}", "{s} is kept {v}", "visitors see {o} {v}"),
                      ("Where is {s} kept?", "Where do visitors see {s}?"), "Which object is kept {v}?"),
        "origin": Fact(tuple(f"from {town}" for town in TOWNS),
                       ("{s} comes {v}", "{s} was brought here {v}", "a ship brought {o} {v}"),
                       ("Where does {s} come from?", "From which town is {s}?"), "Which object comes {v}?"),
    },
    "pet": {
        "kind": Fact(("a goat", "a parrot", "a donkey", "a hedgehog", "an otter", "a pony", "a goose", "a rabbit",
                      "a tortoise", "an owl", "a hamster", "a llama", "a ferret", "a sheepdog"),
                     ("{s} is {v}", "{s} is {v} of many talents", "{s} is {v} from the hills"),
                     ("What kind of animal is {s}?", "What sort of creature is {s}?"), "Which animal is {v}?"),
        "owner": Fact(PEOPLE, ("{s} belongs to {v}", "{v} owns {o}", "{of} owner is {v}"),
                      ("Who owns {s}?", "To whom does {s} belong?"), "Which animal belongs to {v}?"),
        "bed": Fact(("in the barn", "in a basket", "by the stove", "under the stairs", "in the bathtub", "in a drawer",
                     "on the sofa", "under a bench", "in the hay", "on an old coat"),
                    ("{s} sleeps {v}", "{of} bed is {v}", "at night {s} lies {v}"),
                    ("Where does {s} sleep?", "Where does {s} spend the night?"), "Which animal sleeps {v}?"),
        "food": Fact(("carrots", "cold porridge", "blueberries", "pears", "cheese", "oat biscuits", "cabbage",
                      "pumpkin seeds", "boiled eggs", "apples", "honey", "radishes"),
                     ("{s} loves to eat {v}", "{of} favourite food is {v}", "{s} begs for {v}"),
                     ("What does {s} like to eat?", "What is the favourite food of {s}?"),
                     "Which animal loves to eat {v}?"),
    },
    "ride": {
        "time": Fact(TIMES, ("{s} leaves {v}", "{s} sets off {v}", "{v} {s} leaves"),
                     ("When does {s} leave?", "At what time does {s} set off?"), "Which one leaves {v}?"),
        "stop": Fact(("from pier two", "from platform nine", "from the castle gate", "from the north quay",
                      "from pier five", "from platform four", "from the old depot", "from the corn market"),
                     ("{s} departs {v}", "{s} sets out {v}", "people take {o} {v}"),
                     ("Where does {s} depart from?", "From where does {s} set out?"), "Which one departs {v}?"),
        "length": Fact(MINUTES, ("{s} takes {v}", "{s} arrives after {v}", "the journey with {o} takes {v}"),
                       ("How long does {s} take?", "How long is the journey with {s}?"), "Which one takes {v}?"),
        "fare": Fact(PRICES, ("{s} costs {v}", "a seat on {o} costs {v}", "passengers pay {v} for {o}"),
                     ("How much is a seat on {s}?", "What do passengers pay for {s}?"), "Which one costs {v}?"),
    },
}  # fmt: skip
REMARKS = (
    "The post office opens {}.", "The library closes {}.", "The bells ring {}.", "Lunch is served {}.",
    "The sun was out all day.", "Nobody was in a hurry.", "It had rained in the night.", "The kettle was on.",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    kind: str
    name: str
    short: str
    pronouns: Forms
    facts: Mapping[str, str]
    relation: str = ""  # to the other person: Mira Holt's brother


@dataclass(frozen=True)
class Sentence:
    text: str
    told: Mapping[str, str]


def render() -> dict[str, str]:
    rows = [json.dumps(row, ensure_ascii=False) for row in compose()]
    return {"questions.jsonl": "".join(f"{row}\n" for row in rows)}


def compose() -> Iterator[dict[str, object]]:
    rng = Random(SEED)
    for _ in range(CONTEXTS):
        subjects = draw_subjects(rng)
        sentences = tell(rng, subjects)
        context = " ".join(sentence.text for sentence in sentences)
        for question, answers in draw_questions(rng, subjects, sentences):
            # what stands in the text comes first
            answers.sort(key=lambda answer: answer not in context)
            yield {"context": context, "question": question, "answers": answers}


def draw_subjects(rng: Random) -> list[Subject]:
    """Two of a kind, most of their facts of the same kinds, none with the same value."""
    kind = pick(rng, ("person", *FACTS))
    keys = shuffled(rng, tuple(FACTS[kind]))[:3]
    values = {key: shuffled(rng, FACTS[kind][key].values) for key in keys}
    subjects: list[Subject] = []
    for place, count in enumerate(shuffled(rng, (2, pick(rng, (2, 3))))):
        name, short, pronouns = draw_name(rng, kind, [subject.short for subject in subjects])
        facts = {key: values[key][place] for key in shuffled(rng, keys)[:count]}
        is_related = kind == "person" and place == 1 and rng.random() < 0.4
        relation = f"{subjects[0].name}'s {pick(rng, RELATIONS[pronouns])}" if is_related else ""
        subjects.append(Subject(kind, name, short, pronouns, facts, relation))
    return subjects


def draw_name(rng: Random, kind: str, taken: Sequence[str]) -> tuple[str, str, Forms]:
    if kind == "person":
        first_names, pronouns = pick(rng, ((FEMALE, FEMININE), (MALE, MASCULINE)))
        first = pick(rng, [name for name in first_names if name not in taken])
        return f"{first} {pick(rng, SURNAMES)}", first, pronouns
    names = [name if kind == "pet" else f"the {name}" for name in NAMES[kind]]
    name = pick(rng, [name for name in names if name.partition(" to ")[0] not in taken])
    return name, name.partition(" to ")[0], NEUTER


def tell(rng: Random, subjects: Sequence[Subject]) -> list[Sentence]:
    first, second = subjects
    is_mixed = not second.relation and rng.random() < 0.35
    is_clear = not is_mixed or first.pronouns != second.pronouns
    relative = f"{first.pronouns[2]} {second.relation.rpartition(' ')[2]} " if second.relation else ""
    blocks = [tell_of(rng, first, first.name, is_clear), tell_of(rng, second, f"{relative}{second.name}", is_clear)]
    pairs = zip_longest(*blocks) if is_mixed else [(*blocks[0], *blocks[1])]
    sentences = [sentence for pair in pairs for sentence in pair if sentence]
    if len(sentences) < min(SENTENCES) or (len(sentences) < max(SENTENCES) and rng.random() < 0.25):
        remark = Sentence(pick(rng, REMARKS).format(pick(rng, TIMES)), {})
        sentences.insert(pick(rng, (0, len(sentences))), remark)
    return sentences


def tell_of(rng: Random, subject: Subject, intro: str, is_clear: bool) -> list[Sentence]:
    groups: list[list[str]] = []
    for key in subject.facts:
        if groups and len(groups[-1]) == 1 and rng.random() < 0.45:
            groups[-1].append(key)
        else:
            groups.append([key])
    sentences: list[Sentence] = []
    for group in groups:
        name = subject.short if sentences else intro
        is_pronoun = sentences and is_clear and rng.random() < 0.85
        forms = subject.pronouns if is_pronoun else (name, name, f"{name}'s")
        text = phrase(rng, subject, group, forms, is_first=not sentences)
        sentences.append(Sentence(f"{capital(text)}.", {key: subject.facts[key] for key in group}))
    return sentences


def phrase(rng: Random, subject: Subject, keys: Sequence[str], forms: Forms, is_first: bool) -> str:
    clauses = [pick(rng, FACTS[subject.kind][key].clauses).replace("{v}", subject.facts[key]) for key in keys]
    first, last = clauses[0], clauses[-1]
    if len(clauses) == 1:
        return filled(first, forms)
    if not all(clause.startswith("{s} ") for clause in clauses):
        return f"{filled(first, forms)}, and {filled(last, subject.pronouns)}"
    predicates = [clause.removeprefix("{s} ") for clause in clauses]
    if is_first and subject.kind != "pet" and rng.random() < 0.4:
        who = "who" if subject.kind == "person" else "which"
        return f"{forms[0]}, {who} {predicates[0]}, {predicates[1]}"
    return f"{forms[0]} {' and '.join(predicates)}"


def filled(clause: str, forms: Forms) -> str:
    return clause.format(s=forms[0], o=forms[1], of=forms[2])


def draw_questions(
    rng: Random, subjects: Sequence[Subject], sentences: Sequence[Sentence]
) -> Iterator[tuple[str, list[str]]]:
    topics = shuffled(rng, [(subject, key) for subject in subjects for key in subject.facts])
    for subject, key in topics[: 2 + draw(rng, QUESTION_COUNTS)]:
        kind, fact, value = draw(rng, QUESTION_KINDS), FACTS[subject.kind][key], subject.facts[key]
        descriptions = describe(subject, key, sentences)
        if kind == 2 and descriptions:
            yield pick(rng, fact.questions).format(s=pick(rng, descriptions)), wordings(value)
        elif kind == 1:
            is_relation = subject.relation and key == next(iter(subject.facts))
            question = f"Who is {subject.relation}?" if is_relation else fact.reverse.format(v=value)
            yield question, list(dict.fromkeys((*wordings(subject.name), subject.short)))
        else:
            yield pick(rng, fact.questions).format(s=pick(rng, (subject.name, subject.short))), wordings(value)


def describe(subject: Subject, key: str, sentences: Sequence[Sentence]) -> list[str]:
    """What the subject may be called by what is told in other sentences than the one that tells the key."""
    told = [sentence.told for sentence in sentences if sentence.told.items() & subject.facts.items()]
    others = [other for facts in told if key not in facts for other in facts]
    described = [clause_of(FACTS[subject.kind][other].reverse, subject.facts[other]) for other in others]
    return [*described, subject.relation] if subject.relation and key not in told[0] else described


def clause_of(question: str, value: str) -> str:
    lead, _, rest = value.partition(" ")
    if lead in ("a", "an"):
        return f"the {rest}"
    clause = question.format(v=value).removesuffix("?")
    who, _, predicate = clause.removeprefix("Which ").partition(" ")
    return f"the person who {predicate}" if who == "Who" else f"the {who} that {predicate}"


def wordings(value: str) -> list[str]:
    lead, _, rest = value.partition(" ")
    if lead in NUMBERS:
        return [value, f"{NUMBERS[lead]} {rest}"]
    return [value, rest] if lead in LEADS else [value]
