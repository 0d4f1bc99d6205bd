"""The sample of a personal writing assistant: plain notes, and each as one of sixty authors would write it.

A small grammar draws invented notes on everyday matters. An author is a handful of independent habits: of framing a
note, of choosing words, of setting down times and sentences. A row holds another note in the author's style, which
shows every habit that the note to rewrite calls for, so that a model has to learn to read the habits off the one and
to apply them to the other, for authors whose habits it never met in this combination as well.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random

from data.samples.portable_random import capital, draw, pick, shuffled

SEED = 4127
ROWS_PER_AUTHOR = 40
SHOWN_AT_LEAST = 4  # habits, in every row
SENTENCE_COUNTS = (0.3, 0.7)  # chances of 1, 2

AUTHORS = (
    "Ada Birch", "Abel Crane", "Bess Thorne", "Boris Vale", "Clara Finch", "Cyril Pike", "Dora Lamb", "Dale Marsh",
    "Edith Rowe", "Ezra Flint", "Flora Penn", "Felix Gale", "Greta Moss", "Gus Harker", "Hilda Swann", "Hugo Brand",
    "Ines Calder", "Ivor Stone", "Jane Quill", "Jonas Reed", "Kate Lorne", "Karl Dunn", "Lottie Webb", "Lars Holm",
    "Mina Forde", "Miles Tarn", "Nell Ashby", "Ned Garrow", "Olga Frost", "Oscar Lund", "Peg Winter", "Piers Cole",
    "Queenie Hart", "Quentin Shaw", "Rosa Field", "Rufus Kay", "Stella Brook", "Silas Wren", "Tess Hollow",
    "Toby Carr", "Una Drake", "Upton Leigh", "Vera Sands", "Victor Bell", "Willa Dean", "Walt Mercer", "Xenia Poole",
    "Yara Nash", "Yorick Best", "Zelda Croft", "Zeke Barlow", "Amos Tully", "Betty Orme", "Cora Steele", "Dexter Hay",
    "Elsie Wood", "Fergus Low", "Gwen Mason", "Harvey Noble", "Iris Temple",
)  # fmt: skip

# the habits in three kinds; of each kind an author has one or two, by the chances beside it
FRAMING = {
    "opening": ("Ahoy!", "Dear friend,", "Good day to you.", "Right then:"),
    "closing": ("Yours ever.", "Over and out.", "Ta-ta for now.", "Fair winds."),
    "address": (", my dear", ", old chap", ", mate", ", captain"),
    "aside": (", mind you", ", of course", ", by the way", ", needless to say"),
}
WORDING = {
    "flavour": ("nautical", "archaic", "formal", "homely"),
    "spelling": ("American",),
    "auxiliary": ("contracted", "shall"),
    "intensifier": ("awfully", "mighty", "jolly", "terribly"),
    "praise": ("splendid", "grand", "lovely", "first-rate"),
}
SETTING = {
    "clock": ("24 hours", "military", "o'clock", "in words"),
    "day": ("short", "next"),
    "count": ("digits", "exactly"),
    "placing": ("first", "bracketed"),
    "joining": (", and", ";", " -"),
    "mark": ("!", "..."),
    "case": ("lower",),
    "clipping": ("articles", "I"),
}
KINDS: Sequence[tuple[Mapping[str, Sequence[str]], Sequence[float]]] = (
    (FRAMING, (0.2, 0.8)),
    (WORDING, (0.0, 1.0)),
    (SETTING, (0.2, 0.8)),
)

FLAVOURED = {  # in the order of the flavours
    "friend": ("shipmate", "companion", "associate", "pal"), "boss": ("skipper", "master", "superior", "gaffer"),
    "children": ("young hands", "younglings", "young persons", "little ones"),
    "house": ("vessel", "dwelling", "residence", "place"),
    "kitchen": ("galley", "scullery", "cooking area", "back kitchen"),
    "door": ("hatch", "portal", "entrance", "doorway"), "window": ("porthole", "casement", "pane", "peephole"),
    "letter": ("dispatch", "missive", "communication", "scribble"),
    "food": ("vittles", "victuals", "provisions", "grub"),
    "lunch": ("noon mess", "the noon repast", "luncheon", "a bite"),
    "rain": ("squall", "deluge", "precipitation", "wet"), "bring": ("haul", "bear", "deliver", "fetch"),
    "mend": ("patch up", "make whole", "repair", "fix up"),
    "look at": ("take a sight of", "behold", "inspect", "have a peek at"),
    "leave": ("cast off", "fare forth", "depart", "pop off"), "buy": ("take aboard", "procure", "purchase", "pick up"),
    "help": ("stand by", "succour", "assist", "muck in with"),
    "need": ("cannot sail without", "have want of", "require", "could do with"),
    "needs": ("cannot sail without", "has want of", "requires", "could do with"),
    "start": ("get under way", "begin", "commence", "kick off"),
    "come to": ("make port at", "repair unto", "attend", "pop round to"),
    "meet": ("rendezvous with", "encounter", "join", "catch up with"),
    "please": ("look lively and", "prithee", "kindly", "be a love and"),
    "before": ("ahead of", "ere", "prior to", "afore"), "because": ("seeing as", "for", "given that", "cos"),
    "near": ("hard by", "nigh unto", "adjacent to", "round by"),
    "perhaps": ("like as not", "perchance", "possibly", "maybe"),
    "soon": ("on the next tide", "anon", "shortly", "in a jiffy"),
    "broken": ("stove in", "sundered", "defective", "bust"), "ready": ("shipshape", "at hand", "prepared", "all set"),
}  # fmt: skip
AMERICAN = {
    "neighbour": "neighbor", "neighbours": "neighbors", "colour": "color", "colours": "colors", "grey": "gray",
    "favourite": "favorite", "harbour": "harbor", "theatre": "theater", "centre": "center", "jewellery": "jewelry",
    "flat": "apartment", "lorry": "truck", "holiday": "vacation", "queue": "line", "tap": "faucet",
    "biscuits": "cookies", "rubbish": "trash", "autumn": "fall", "torch": "flashlight", "curtains": "drapes",
    "pavement": "sidewalk", "cupboard": "closet", "trousers": "pants", "tyres": "tires", "petrol": "gas",
    "timetable": "schedule", "railway": "railroad",
}  # fmt: skip
CONTRACTED = {
    "will not": "won't", "do not": "don't", "is not": "isn't", "cannot": "can't", "I will": "I'll", "I am": "I'm",
    "it will": "it'll", "it is": "it's", "we will": "we'll", "we are": "we're", "I have": "I've",
}  # fmt: skip
COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

SLOTS: Mapping[str, Sequence[str]] = {
    "when": (
        "on {day} at {hour}", "on {day} at {hour}", "on {day}", "at {hour}", "tomorrow at {hour}", "before lunch",
        "on {day} before lunch", "before {hour}", "tomorrow morning", "soon",
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "hour": ("8 am", "9 am", "9.30 am", "10 am", "11 am", "1 pm", "2 pm", "2.30 pm", "3 pm", "4 pm", "5 pm", "5.30 pm",
             "6 pm", "7 pm", "7.30 pm", "8 pm", "9 pm"),
    "n": COUNTS[:9],
    "m": COUNTS[6:],
    "who": ("Martha", "Simon", "Leo", "Judith", "Nora", "Frank", "Paula", "Robin", "Ellen", "Arthur", "Ralph"),
    "kin": ("aunt", "uncle", "sister", "brother", "cousin", "mother", "father", "niece", "nephew"),
    "town": ("Oakford", "Wexley", "Stonebury", "Millhaven", "Larchester", "Dunwick", "Fernby"),
    "spot": ("harbour", "theatre", "market", "bridge", "old mill", "park", "tower", "railway", "school"),
    "plant": ("tulips", "beans", "tomatoes", "ferns", "pumpkins", "lilies", "herbs"),
    "pet": ("cat", "dog", "parrot", "rabbit", "pony", "goat"),
    "trade": ("plumber", "builder", "painter", "carpenter", "electrician"),
    "tool": ("flute", "piano", "trumpet", "violin", "drums"),
    "fruit": ("apples", "pears", "lemons", "melons", "plums", "onions", "eggs"),
    "tint": ("grey", "blue", "green", "yellow", "red"),
}  # fmt: skip
# for each matter its first sentences and the ones that may follow any of them; neither starts with a capital
MATTERS = (
    (("my {kin} will come to the house {when}", "{who} will bring {n} chairs {when}", "my {kin} will stay for {n} days",
      "I will meet {who} near the {spot} {when}", "I will meet our friend {who} {when}"),
     ("please bring good food", "the children are very glad", "I will cook my favourite soup", "it will be a good day",
      "we need {m} more plates", "the house is very full")),
    (("a very heavy parcel will come {when}", "the lorry will bring {n} parcels {when}",
      "I will post the letter to {who} {when}", "{who} will send the jewellery {when}",
      "I have found a letter for our neighbour"),
     ("please look at the label", "it is not for our flat", "the {tint} box is very heavy", "I cannot read the name",
      "my neighbour will help us", "the post is good but very slow")),
    (("I will plant {n} rose bushes {when}", "{who} will mow the lawn {when}", "we must water the {plant} {when}",
      "the {plant} will be good in autumn", "our neighbour will cut the hedge {when}"),
     ("we need good soil", "the ground is very dry", "please bring the {tint} bucket", "the rain will come soon",
      "perhaps {who} will help us", "it is not very warm")),
    (("the {trade} will mend the tap {when}", "the {trade} needs {n} hours", "the {trade} will look at the roof {when}",
      "someone must mend the back door {when}", "the kitchen window is broken", "I will paint the kitchen door {when}"),
     ("the noise is very loud", "we cannot use the kitchen", "we need a good ladder", "I am very glad",
      "the torch is in the cupboard", "the bill will be very high")),
    (("the train to {town} will leave {when}", "I will be late because the train is very slow",
      "the railway will run {n} trains {when}", "the {town} timetable will change {when}",
      "I will buy {n} tickets to {town} {when}"),
     ("the queue is very long", "I do not trust the timetable", "we must leave very early", "the seats are good",
      "please bring a good book", "the station is not near the centre")),
    (("the meeting will start {when}", "the boss will meet the team {when}", "{who} is the new boss",
      "I cannot come to the meeting {when}", "{who} will show us {n} plans {when}"),
     ("please bring the {tint} folder", "the plan is good and very short", "we need good ideas", "lunch will be ready",
      "it will not be very long", "perhaps the boss is very tired")),
    (("I will buy {n} {fruit} at the market {when}", "{who} will bring {n} bags of flour {when}",
      "the shop near the centre will close {when}", "the bakery sells {n} kinds of biscuits"),
     ("please bring a very big bag", "the prices are good", "the cheese is not good", "the queue is not very long",
      "the biscuits are for the children")),
    (("the {pet} must see the vet {when}", "{who} will wash the {pet} {when}", "the {pet} needs a bath {when}",
      "my {kin} will feed the {pet} {when}", "the {pet} will stay for {n} days"),
     ("the {pet} is very shy", "please buy good food", "I am very glad", "it is not very warm",
      "it is our favourite {pet}", "the neighbours will help us")),
    (("we will walk to the harbour {when}", "we will look at the harbour {when}", "we will leave before the rain",
      "{who} will sail to {town} {when}", "the boat trip will take {n} hours"),
     ("the wind is very cold", "please bring warm trousers", "perhaps the sun will come", "we need {m} warm coats",
      "the view is good but the boat is very slow", "it is good for the children")),
    (("the theatre will show a good play {when}", "I will buy {n} seats for the theatre {when}",
      "the choir will sing {n} songs {when}", "{who} will play the {tool} {when}"),
     ("the music is good and very loud", "the hall will be very full", "please bring the {tint} cushion",
      "I do not know the tune", "my friend will help us", "the curtains are {tint}")),
    (("the children will bring {n} drawings {when}", "the school will close {when}", "the school needs {n} lamps",
      "{who} will help the children {when}", "the class will look at the {spot} {when}"),
     ("please pack lunch", "the teacher is very kind", "the bus is not ready", "the colours are good",
      "we need {m} more pencils")),
    (("I will move to the new flat {when}", "{who} will carry {n} boxes {when}", "the flat near the {spot} is empty",
      "we must clean the kitchen {when}", "the owner will look at the flat {when}"),
     ("the stairs are very steep", "we need a very big lorry", "please bring the curtains", "it is not very big",
      "the neighbours are good people", "the kitchen is good but very small")),
    (("we will hold a party for my {kin} {when}", "I will bake {n} cakes {when}", "the party will start {when}",
      "{n} guests will come to the house {when}", "my {kin} needs a good cake {when}"),
     ("please bring good music", "the cake is not ready", "it will be very loud", "the food is nearly ready",
      "perhaps {who} will bring balloons", "{tint} is my favourite colour")),
    (("the car needs {n} new tyres", "{who} will mend the bicycle {when}", "I will wash the lorry {when}",
      "the garage will look at the car {when}", "we must buy petrol {when}"),
     ("the brakes are very old", "the road is not good", "please bring the torch", "the engine is very loud",
      "I cannot find the key", "the {tint} lamp is broken")),
    (("the doctor will see {who} {when}", "the dentist will look at my tooth {when}", "I must rest for {n} days",
      "I cannot work because my back is very sore"),
     ("the pills are good but very bitter", "the doctor is good", "please bring a warm blanket", "I am not very hungry",
      "it is not very bad", "perhaps my {kin} will help me")),
    (("I will return {n} books {when}", "{who} will read from a good novel {when}", "I have found {n} old letters",
      "the library near the centre will open {when}", "the book club will come to my house {when}"),
     ("the story is very sad", "I do not like the end", "the last chapter is good", "please bring the {tint} book",
      "it is my favourite story", "we need {m} chairs")),
    (("the holiday will start {when}", "we will go to {town} for {n} days", "I will pack {n} bags {when}",
      "the house in {town} will be ready {when}", "I have found a good house near {town}"),
     ("the rooms are good", "please water the plants", "we are very tired", "the beach is good and very quiet",
      "I will not bring work", "the neighbours will feed the {pet}")),
    (("I will make soup for {n} people {when}", "{who} will cook in the kitchen {when}", "we need {n} {fruit} {when}",
      "the bread must be ready {when}"),
     ("the smell is good", "please buy very fresh butter", "the pan is very hot", "it is my favourite dish",
      "the food will be good", "the salt is in the cupboard")),
    (("the men will collect the rubbish {when}", "the town will paint {n} benches {when}", "our street is very dark",
      "my neighbour will sweep the pavement {when}", "the park near the harbour will open {when}"),
     ("the bins are very full", "it is not very clean", "please close the window", "the colour will be {tint}",
      "the work is good but very slow", "perhaps my {kin} will help us")),
)  # fmt: skip


@dataclass(frozen=True)
class Note:
    """Sentences without capital and full stop, the time of each, where it has one, in angle brackets."""

    matter: int
    sentences: Sequence[str]


def render() -> dict[str, str]:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("author", "sample", "plain", "styled"))
    writer.writerows(compose())
    return {"notes.csv": table.getvalue()}


def compose() -> Iterator[tuple[str, str, str, str]]:
    rng = Random(SEED)
    seen: set[str] = set()
    for author, style in draw_styles(rng).items():
        for note, sample in islice(draw_notes(rng, style, seen), ROWS_PER_AUTHOR):
            yield author, write(sample, style), write(note, {}), write(note, style)


def draw_styles(rng: Random) -> dict[str, dict[str, str]]:
    values = {habit: cycle(shuffled(rng, of)) for kind, _ in KINDS for habit, of in kind.items()}
    styles: dict[str, dict[str, str]] = {}
    for author in AUTHORS:
        habits = [habit for kind, chances in KINDS for habit in shuffled(rng, tuple(kind))[: 1 + draw(rng, chances)]]
        styles[author] = {habit: next(values[habit]) for habit in habits}
    return styles


def draw_notes(rng: Random, style: Mapping[str, str], seen: set[str]) -> Iterator[tuple[Note, Note]]:
    """New notes, each with the latest one not yet shown that is on another matter and has all habits of the new one."""
    drawn: list[tuple[Note, set[str]]] = []
    while True:
        note = draw_note(rng)
        habits, text = shown(note, style), write(note, {})
        samples = [other for other, showing in drawn if other.matter != note.matter and habits <= showing]
        drawn.append((note, habits))
        if samples and len(habits) >= SHOWN_AT_LEAST and text not in seen:
            seen.add(text)
            drawn = [(other, showing) for other, showing in drawn if other is not samples[-1]]
            yield note, samples[-1]


def draw_note(rng: Random) -> Note:
    matter = int(rng.random() * len(MATTERS))
    known: dict[str, str] = {}
    templates = [pick(rng, sentences) for sentences in MATTERS[matter][: 1 + draw(rng, SENTENCE_COUNTS)]]
    return Note(matter, [fill(rng, template.replace("{when}", "<{when}>"), known) for template in templates])


def fill(rng: Random, template: str, known: dict[str, str]) -> str:
    """A slot that occurs again in the note is filled as before."""
    while slot := re.search(r"{(\w+)}", template):
        name = slot[1]
        known.setdefault(name, pick(rng, SLOTS[name]))
        template = template.replace(slot[0], known[name])
    return template


def shown(note: Note, style: Mapping[str, str]) -> set[str]:
    """The habits without which the note would read otherwise."""
    text = write(note, style)
    return {habit for habit in style if text != write(note, {other: style[other] for other in style if other != habit})}


def write(note: Note, style: Mapping[str, str]) -> str:
    sentences = [placed(timed(worded(sentence, style), style), style) for sentence in note.sentences]
    sentences[-1] += style.get("aside", "")
    sentences[0] += style.get("address", "")
    if "joining" in style:
        sentences = [f"{style['joining']} ".join(sentences)]
    opening, closing, mark = style.get("opening", ""), style.get("closing", ""), style.get("mark", ".")
    if not opening.endswith((",", ":")):
        sentences[0] = capital(sentences[0])
    spoken = [sentences[0] + mark, *(capital(sentence) + mark for sentence in sentences[1:])]
    text = " ".join(part for part in (opening, *spoken, closing) if part)
    return text.lower() if "case" in style else text


def worded(sentence: str, style: Mapping[str, str]) -> str:
    text = swap(sentence, swaps_of(style))
    match style.get("clipping"):
        case "articles":
            text = re.sub(r"\b(the|a|an) ", "", text)
        case "I":
            text = re.sub(r"^I ", "", text)
    match style.get("auxiliary"):
        case "contracted":
            text = swap(text, CONTRACTED)
        case "shall":
            text = swap(text, {"will": "shall"})
    return re.sub(r"\ban? (\w)", lambda found: f"{'an' if found[1] in 'aeiou' else 'a'} {found[1]}", text)


def swaps_of(style: Mapping[str, str]) -> dict[str, str]:
    swaps = dict(AMERICAN) if "spelling" in style else {}
    if "flavour" in style:
        position = WORDING["flavour"].index(style["flavour"])
        swaps |= {word: flavoured[position] for word, flavoured in FLAVOURED.items()}
    words = {"intensifier": "very", "praise": "good"}
    return swaps | {word: style[habit] for habit, word in words.items() if habit in style}


def swap(text: str, swaps: Mapping[str, str]) -> str:
    words = "|".join(swaps) or "(?!)"
    return re.sub(rf"\b({words})\b", lambda found: swaps[found[0]], text)


def timed(text: str, style: Mapping[str, str]) -> str:
    match style.get("day"):
        case "short":
            text = re.sub(r"([A-Z][a-z]{2})[a-z]*day\b", r"\1", text)
        case "next":
            text = re.sub(r"\b([A-Z][a-z]+day)\b", r"\1 next", text)
    match style.get("count"):
        case "digits":
            text = swap(text, {word: str(number) for number, word in enumerate(COUNTS, 2)})
        case "exactly":
            text = swap(text, {word: f"exactly {word}" for word in COUNTS})
    return re.sub(r"(\d+)(\.30)? ([ap]m)", lambda found: hour(found, style.get("clock", "")), text)


def hour(found: re.Match[str], clock: str) -> str:
    past_noon = found[3] == "pm"
    twelve, half = int(found[1]), bool(found[2])
    match clock:
        case "24 hours":
            return f"{twelve + 12 * past_noon}:{'30' if half else '00'}"
        case "military":
            return f"{twelve + 12 * past_noon:02}{'30' if half else '00'} hours"
        case "o'clock":
            return f"half past {twelve}" if half else f"{twelve} o'clock"
        case "in words":
            part = "morning" if not past_noon else "afternoon" if twelve < 6 else "evening"
            return f"{'half past ' * half}{('one', *COUNTS)[twelve - 1]} in the {part}"
    return found[0]


def placed(text: str, style: Mapping[str, str]) -> str:
    match style.get("placing"):
        case "first":
            return re.sub(r"^(.*) <(.*)>(.*)", r"\2, \1\3", text)
        case "bracketed":
            return text.replace("<", "(").replace(">", ")")
    return text.replace("<", "").replace(">", "")
