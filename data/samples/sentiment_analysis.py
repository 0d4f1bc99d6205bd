"""The sample of sentiment analysis: short reviews of invented outings, meals, devices, shows and the like.

A small grammar words each review for its label. Few words give the label away: "cold" is praise of lemonade and
blame of a plate, "not" and "anything but" turn what they govern, of two clauses the weightier one decides, and
praise of something bad is meant as irony. A model has to learn what a word says of what, and how clauses combine.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from random import Random

from data.samples.portable_random import draw, pick, shuffled

SEED = 4211
REVIEWS = 3000
SENTENCES = 3  # at most
LABELS = ("negative", "neutral", "positive")

# chances of: nothing, an occasion, a fact before the core; nothing, a verdict after it
OPENINGS = (0.45, 0.35, 0.20)
ENDINGS = (0.64, 0.36)
# a clause tells what happened, or calls an aspect so, or denies that it was the opposite
CLAUSES = (0.42, 0.36, 0.22)
# a core that fits praise and blame alike, or one of its label alone
CORES = (0.62, 0.38)

# what was reviewed, how one comes by it, and what it is compared with
KINDS = {
    "outing": ("boat trip, balloon ride, coach tour, harbour cruise, sleigh ride, steam train ride, ferry crossing, "
               "island tour", "booked", "last summer's"),
    "meal": ("fish soup, mushroom pie, bean stew, plum pudding, noodle soup, onion tart, Sunday roast, herb omelette, "
             "pumpkin curry", "ordered", "my aunt's"),
    "device": ("desk lamp, hand mixer, coffee mill, desk fan, sewing machine, kettle, toaster, radio, hair dryer, "
               "alarm clock", "bought", "my old one"),
    "show": ("puppet show, opera, comedy, thriller, musical, school play, circus show, ghost play",
             "saw", "last winter's"),
    "stay": ("inn, guest house, lake cabin, hunting lodge, hostel, mountain hut, farmhouse, houseboat",
             "chose", "the one across the road"),
    "visit": ("toy museum, clock museum, castle, aquarium, railway museum, sculpture garden, lighthouse, salt mine",
              "visited", "the one in the next town"),
}  # fmt: skip

# words that praise the aspect, words that blame it
ASPECTS = {
    "outing": {
        "guide": ("funny patient lively", "rude sleepy late"), "seats": ("soft wide dry", "hard narrow wet"),
        "group": ("small cheerful quiet", "large noisy silent"), "view": ("wide clear", "narrow hazy"),
        "timetable": ("reliable predictable simple", "confusing tight unpredictable"),
        "fare": ("low modest", "high steep"), "ride": ("smooth gentle long", "bumpy short rough"),
        "stops": ("long frequent", "short rare"), "commentary": ("dry short clear", "endless loud dull"),
        "route": ("unusual quiet", "dull crowded"),
    },
    "meal": {
        "bread": ("warm fresh soft", "hard stale cold"), "lemonade": ("cold sharp fizzy", "warm flat weak"),
        "portion": ("large generous", "small mean"), "bill": ("small modest", "large long"),
        "waiter": ("quick cheerful patient", "slow rude forgetful"), "plates": ("hot clean", "cold dirty"),
        "cheese": ("old strong creamy", "hard dry tasteless"), "mustard": ("hot sharp dark", "sweet weak pale"),
        "coffee": ("hot strong dark", "cold weak thin"), "napkins": ("thick soft", "thin stiff"),
    },
    "device": {
        "switch": ("firm large", "loose tiny"), "cable": ("long thick", "short thin"),
        "base": ("heavy wide steady", "light narrow wobbly"), "casing": ("thick solid", "thin flimsy cheap"),
        "instructions": ("short clear simple", "long confusing tiny"), "delivery": ("quick free", "slow late"),
        "price": ("low fair", "high steep"), "repair": ("quick cheap", "slow expensive"),
        "guarantee": ("long generous", "short worthless"), "colour": ("warm deep", "cold dull"),
    },
    "show": {
        "plot": ("unpredictable clever dark", "predictable thin slow"), "jokes": ("dry dark fresh", "old cheap stale"),
        "ending": ("unpredictable quiet moving", "predictable sudden sugary"), "set": ("simple clever", "cheap dull"),
        "actors": ("lively funny loud", "wooden silent tired"), "dialogue": ("sharp dry quick", "flat slow endless"),
        "music": ("soft wild", "shrill harsh"), "costumes": ("strange old bright", "shabby plain dull"),
        "seats": ("soft wide", "hard narrow"), "applause": ("long loud warm", "thin short weak"),
    },
    "stay": {
        "bed": ("wide firm soft", "narrow hard short"), "walls": ("thick solid", "thin damp"),
        "shower": ("hot strong", "cold weak unpredictable"), "breakfast": ("fresh large generous", "cold small dry"),
        "neighbours": ("quiet silent", "loud noisy"), "pillows": ("soft thick", "thin hard"),
        "stairs": ("wide", "steep dark narrow"), "host": ("cheerful patient", "rude forgetful slow"),
        "curtains": ("heavy thick dark", "thin short light"), "air": ("fresh dry cool", "damp stale cold"),
    },
    "visit": {
        "queue": ("short quick", "long slow"), "tickets": ("cheap", "expensive"),
        "labels": ("short clear large", "long tiny confusing"), "guards": ("helpful quiet", "rude bored loud"),
        "signs": ("clear large", "small rare confusing"), "cafe": ("quiet cheap", "crowded loud expensive"),
        "collection": ("large strange old", "small dusty thin"), "benches": ("wide frequent", "hard rare"),
        "opening hours": ("long", "short"), "light": ("soft warm", "harsh weak"),
    },
}  # fmt: skip

# what happened to our liking, and its counterpart to our annoyance
EVENTS = {
    "outing": (
        ("the captain let the children steer", "the captain shouted at the children"),
        ("we saw seals at every turn", "we saw nothing but fog"),
        ("they waited for us when we were late", "we waited for them and they were late"),
        ("there was cocoa for everyone", "there were not enough seats for everyone"),
        ("they took an extra hour for the island", "they left the island out"),
        ("the crew told us where to look", "the crew looked at us as if we were cargo")),
    "meal": (
        ("the cook came out to ask how we liked it", "the cook came out to argue with us"),
        ("they found us a table by the fire", "they gave our table by the fire to others"),
        ("they brought a second helping unasked", "they brought the wrong dish twice"),
        ("not a crumb was left over", "most of it was left over"),
        ("{it} tasted of garden herbs", "{it} tasted of the pan"),
        ("the children asked for the recipe", "the children asked to go home")),
    "device": (
        ("{it} still works after a fall down the stairs", "{it} broke after two weeks on the shelf"),
        ("{it} worked at the first try", "{it} did not work until the third try"),
        ("the spare parts came for nothing", "the spare parts never came"),
        ("even my grandfather understood {it}", "even my daughter the engineer gave up on {it}"),
        ("{it} uses next to no power", "{it} uses more power than the oven"),
        ("nothing was missing from the box", "a screw was missing from the box")),
    "show": (
        ("the children forgot to fidget", "the children began to fidget"),
        ("nobody looked at the clock", "everybody looked at the clock"),
        ("they sang one more song at the end", "they left out the song at the end"),
        ("my father cried and did not hide it", "my father slept and did not hide it"),
        ("we laughed until the lights came on", "we left before the lights came on"),
        ("not a word got lost", "half of the words got lost")),
    "stay": (
        ("we slept like bears", "we did not sleep a wink"),
        ("they kept supper warm for us", "they had eaten our supper"),
        ("they lent us boots for nothing", "they charged us for a pair of boots"),
        ("there was fresh mint by the window", "there was mould by the window"),
        ("a fire was lit for us", "nobody lit the fire"),
        ("they drove us to the station", "they had forgotten us at the station")),
    "visit": (
        ("we came for an hour and stayed for the day", "we came for the day and left after an hour"),
        ("the children could touch everything", "the children could touch nothing"),
        ("a guard told us stories that are in no book", "a guard followed us from room to room"),
        ("they opened the cellar just for us", "they had closed half of the rooms"),
        ("we had the best piece to ourselves", "the best piece was on loan"),
        ("they carried our bags up the steps", "they searched our bags at every door")),
}  # fmt: skip

FACTS = {
    "outing": ("{it} starts at the old pier", "{it} takes {n} hours", "{it} runs {n} times a week from May to October",
               "there is room for {n} dogs", "tickets are sold at the kiosk", "{it} ends where it begins"),
    "meal": ("{it} comes in a clay bowl", "{it} is on the menu from May to October", "{it} takes {n} minutes",
             "{it} is served from noon", "they make it in an iron pan", "there are {n} tables by the window"),
    "device": ("{it} comes in {n} colours", "{it} weighs {n} pounds", "the cable is at the back of {it}",
               "{it} has {n} buttons", "{it} stands next to the bread bin", "the box also holds a brush"),
    "show": ("{it} needs {n} actors", "{it} begins at {n}", "{it} is played in the old brewery",
             "the cast is from the town", "{it} runs until the end of May", "there is a break after the second act"),
    "stay": ("{it} has {n} rooms", "{it} is {n} miles from the station", "breakfast is served for {n} hours",
             "{it} is closed on Mondays in winter", "the keys hang behind the door", "there is a pond behind {it}"),
    "visit": ("{it} is closed on Mondays", "{it} has {n} floors", "bags are left at the door", "{it} opens at {n}",
              "{it} was built by a rope maker", "the tour takes {n} minutes"),
}  # fmt: skip
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")

# {for} and {against} are clauses that speak for the label and against it, {pro} and {con} are words that do
SHARED = (
    "although {against}, {for}.", "{against}, but {for}.", "{for}, and {more}.", "the {noun} {was} {pro}, and {for}.",
    "{for}. On top of that, {more}.", "true, {against}. In the end, though, {for}.", "{for}, even though {against}.",
    "I had heard that the {noun} {was} {con}. That is not so.", "I expected the {noun} to be {con}, not {pro}.",
    "nobody could call the {noun} {con}, and {for}.", "people call the {noun} {con}. I disagree.",
    "the {noun} may have been {con}, but {for}.", "it counts for little that {against} when {for}.",
    "what I remember is not that {against} but that {for}.", "{against}? Perhaps. What matters is that {for}.",
    "for everyone who wants the {noun} to be {pro}, this is the perfect {thing}.", "what a treat: {event}.",
    "whoever made sure that the {noun} {was} {pro} deserves a medal.", "the {noun} {was} {pro} rather than {con}.",
    "{it} is known for one thing: the {noun} {is} {pro}.", "{for}. The {noun} {was} {pro}, too.",
)  # fmt: skip
OWN = {
    "negative": (
        "the only thing I liked was that {against}.", "{rival} was far better than this {thing}.",
        "{it} was not half as good as {rival}.", "compared with {rival}, this {thing} was a bad joke.",
        "I wanted to like {it} and could not.", "if only the {noun} had been {con}.",
        "it began well: {against}. Then {event}, and the joy was over.", "{it} was not good at all: {for}.",
        "we had hoped that the {noun} would be {con}. We were wrong.", "a better {thing} than this is easy to find.",
        "I could not have been less pleased with {it}.", "I would rather have no {thing} than this one.",
        "had the {noun} been {con}, I would have liked {it}; as it was, I did not.",
    ),
    "neutral": (
        "the {noun} {was} neither {pro} nor {con}.", "{it} was no better and no worse than {rival}.",
        "some say that the {noun} {is} {pro}, others that the {noun2} {is2} {con2}. I have not made up my mind.",
        "I was asked whether the {noun} {was} {pro} and could not say.",
        "{fact1}. Whether the {noun} {was} {pro} I do not remember.", "{for}; {against}. In short, it evens out.",
        "{fact1}, and {fact2}.", "{fact1}. The {noun} {was} about as {pro} as elsewhere.", "{fact1}. {fact2}.",
        "my neighbour says that the {noun} {was} {pro}. I did not notice.",
        "half of us found the {noun} {pro}, the other half found the {noun2} {con2}.", "{fact1}; {fact2}.",
        "one {thing} among many: {fact1}.", "{for}, but then {against}, so I am of two minds.",
        "for all I know, the {noun} {was} {pro}. I did not pay attention.",
    ),
    "positive": (
        "the only thing I did not like was that {against}.", "{it} was far better than {rival}.",
        "{rival} was not half as good as this {thing}.", "compared with this {thing}, {rival} was a bad joke.",
        "I wanted to dislike {it} and could not.", "the {noun} could not have been less {con}.",
        "it began badly: {against}. Then {event}, and all was forgiven.", "{it} was not bad at all: {for}.",
        "we had feared that the {noun} would be {con}. We were wrong.", "a better {thing} than this is hard to find.",
        "I could not have been more pleased with {it}.", "I would rather have this {thing} than any other.",
        "had the {noun} been {con}, I would have liked {it} all the same.",
    ),
}  # fmt: skip
VERDICTS = {
    "negative": (
        "I cannot recommend it.", "You will regret it.", "I would trade it for anything.", "Not worth the money.",
        "There is little to praise.", "You will not miss anything if you do without.", "I would not choose it again.",
        "Hardly anyone had a word of praise for it.", "It leaves much to be desired.",
    ),
    "neutral": (
        "I neither recommend it nor warn against it.", "That is all there is to say.",
        "I may or may not choose it again.", "Hardly anyone had a word to say about it.",
        "I have little to praise and little to complain about.", "Whether it is worth the money I cannot say.",
        "I would neither keep it nor trade it.",
    ),
    "positive": (
        "I cannot recommend it enough.", "You will not regret it.", "I would not trade it for anything.",
        "Worth the money.", "There is little to complain about.", "You will miss something if you do without.",
        "I would choose it again.", "Hardly anyone had a word of complaint about it.",
        "It leaves little to be desired.",
    ),
}  # fmt: skip
OCCASIONS = (
    "last spring", "on a neighbour's advice", "on a rainy Sunday", "out of curiosity", "for my mother's birthday",
    "in the second week of May", "because of its name", "for the second time", "just before the holidays",
    "after a long search", "for want of anything better", "against the advice of my sister",
)  # fmt: skip
NARRATORS = ("we", "I", "my friends")
DENIALS = ("not", "never", "anything but", "far from", "by no means", "not in the least", "hardly")


def render() -> dict[str, str]:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("text", "label"))
    writer.writerows(compose())
    return {"reviews.csv": table.getvalue()}


def compose() -> Iterator[tuple[str, str]]:
    rng = Random(SEED)
    seen: set[str] = set()
    while len(seen) < REVIEWS:
        label = pick(rng, LABELS)
        text = draw_review(rng, label)
        if text not in seen and len(re.findall(r"[.?](?: |$)", text)) <= SENTENCES:
            seen.add(text)
            yield text, label


def draw_review(rng: Random, label: str) -> str:
    core = pick(rng, SHARED if label != "neutral" and draw(rng, CORES) == 0 else OWN[label])
    opening = ("", "{who} {verb} the {thing} {occasion}. ", "{fact3}. ")[draw(rng, OPENINGS)]
    ending = ("", " " + pick(rng, VERDICTS[label]))[draw(rng, ENDINGS)]
    praised = rng.random() < 0.5 if label == "neutral" else label == "positive"
    words = draw_words(rng, pick(rng, tuple(KINDS)), praised)
    text = f"{opening}{core}{ending}".format_map(words | {"it": "{it}"})
    before, mark, after = text.partition("{it}")
    first = "it" if words["thing"] in before else f"the {words['thing']}"
    text = before + mark.format(it=first) + after.format(it="it")
    return re.sub(r"(^|[.?] )([a-z])", lambda start: start[1] + start[2].upper(), text)


def draw_words(rng: Random, kind: str, praised: bool) -> dict[str, str]:
    """What fills the slots of the sentences, no aspect, event or fact twice."""
    things, verb, rival = KINDS[kind]
    words = {"thing": pick(rng, things.split(", ")), "verb": verb, "rival": rival}
    words |= {"who": pick(rng, NARRATORS), "occasion": pick(rng, OCCASIONS)}
    aspects = shuffled(rng, tuple(ASPECTS[kind]))
    pairs = [draw_pair(rng, ASPECTS[kind][noun], praised) for noun in aspects]
    for mark, noun, (pro, con) in zip(("", "2"), aspects, pairs, strict=False):
        words |= {f"noun{mark}": noun, f"was{mark}": be(noun)[0], f"is{mark}": be(noun)[1]}
        words |= {f"pro{mark}": pro, f"con{mark}": con}
    events = [pair if praised else pair[::-1] for pair in shuffled(rng, EVENTS[kind])]
    words |= {
        "event": events[0][0],
        "for": draw_clause(rng, events[1][0], aspects[2], *pairs[2]),
        "more": draw_clause(rng, events[2][0], aspects[3], *pairs[3]),
        "against": draw_clause(rng, events[3][1], aspects[4], *reversed(pairs[4])),
    }
    facts = shuffled(rng, FACTS[kind])[:3]
    return words | {f"fact{spot}": fact.replace("{n}", pick(rng, NUMBERS)) for spot, fact in enumerate(facts, 1)}


def draw_pair(rng: Random, words: Sequence[str], praised: bool) -> tuple[str, str]:
    """A word of the aspect that speaks for the label, and one that speaks against it."""
    praise, blame = (pick(rng, options.split()) for options in words)
    return (praise, blame) if praised else (blame, praise)


def draw_clause(rng: Random, event: str, noun: str, pro: str, con: str) -> str:
    told = f"the {noun} {be(noun)[0]}"
    return (event, f"{told} {pro}", f"{told} {pick(rng, DENIALS)} {con}")[draw(rng, CLAUSES)]


def be(noun: str) -> tuple[str, str]:
    return ("were", "are") if noun.endswith("s") else ("was", "is")
