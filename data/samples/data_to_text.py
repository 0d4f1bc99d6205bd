"""The sample of data-to-text: facts about places to eat and stay, and wordings of them.

A small grammar draws invented places to eat and stay and words each one to four times. The facts decide the
order of the sentence plans and of the words; chance, in moderation, tells the references of an input apart.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from data.samples.portable_random import Option, capital, draw, pick

SEED = 7105
INPUTS = 2400

# chances of 3, 4, ... facts; of 1, 2, ... references; of the first, second and third of the ranked choices
FACT_COUNTS = (0.08, 0.20, 0.28, 0.26, 0.18)
REFERENCE_COUNTS = (0.45, 0.25, 0.15, 0.15)
RANKS = (0.46, 0.31, 0.23)

EATING_NAMES = (
    "The Copper Kettle", "The Seventh Plate", "The Wandering Fig", "The Paper Lantern", "The Painted Ladle",
    "The Green Skillet", "Salt and Thistle", "The Velvet Crumb", "Marigold Corner", "Plum and Barrel",
    "The Blind Heron", "The Singing Pan", "Rook and Ribbon", "The Merry Anvil", "The Quiet Goose",
    "The Salted Rope", "The Brass Pear", "The Drowsy Fox", "Cinder and Rye", "The Apple Loft", "Hazel Table",
    "Tilda's Hearth", "The Tin Spoon", "Nettle Street", "Bramble Hatch", "The Ninth Oar", "Otto's Larder",
    "Juno's Pantry", "Saffron Gate", "The Low Lamp", "Mabel's Oven", "Clover Yard", "Pepper Lane",
    "Damson Hall", "Old Quill", "Tansy Row",
)  # fmt: skip
STAYING_NAMES = (
    "The Captain's Trunk", "The Feathered Bed", "The Lantern Rooms", "The Grey Pelican", "The Long Gallery",
    "The Pillow Works", "The Tall Chimney", "The Anchor Rest", "Thornfield Mews", "The Night Ferry",
    "Larkspur House", "Foxglove Villa", "The Third Bell", "The Milk Loft", "Dunmore Lodge", "Harrow Lodge",
    "Winterbourne", "Sorrel House", "Cobble Court", "The Starling", "Ivy Landing", "Barley Rise", "Elmstead",
    "Ravensgate",
)  # fmt: skip

CUISINES = ("Italian", "Indian", "Japanese", "Greek")
FOODS = {
    "restaurant": ("Italian", "Indian", "Japanese", "Greek", "seafood", "noodles"),
    "cafe": ("Italian", "Greek", "soups", "pancakes", "cakes"),
    "pub": ("Indian", "seafood", "pies", "roasts"),
    "tea room": ("cakes", "soups", "pancakes", "Japanese"),
    "bakery": ("pies", "cakes", "Greek", "Italian"),
}
# of these wordings and those below, each kind of place prefers its own
KINDS = {
    "restaurant": ("restaurant", "eatery"), "cafe": ("coffee house", "cafe"), "pub": ("pub", "tavern"),
    "tea room": ("tea house", "tea room"), "bakery": ("bakery", "bakehouse"), "hotel": ("inn", "hotel"),
    "guest house": ("guest house", "boarding house"), "hostel": ("bunkhouse", "hostel"),
}  # fmt: skip
ROOMS = {"6": "six", "9": "nine", "12": "12", "30": "30", "48": "48"}
PRICES = {
    "cheap": ("cheap", "inexpensive", "low-priced"),
    "moderate": ("mid-priced", "moderately priced", "reasonably priced"),
    "high": ("expensive", "pricey", "high-priced"),
}
SERVING = ("offering", "specialising in", "that serves")
AREAS = {
    "old harbour": ("down in the old harbour", "at the old harbour", "by the old harbour"),
    "city centre": ("in the city centre", "in the middle of the city", "right in the city centre"),
    "riverside": ("on the riverside", "by the riverside", "down on the riverside"),
    "market quarter": ("in the market quarter", "within the market quarter", "over in the market quarter"),
    "castle hill": ("on Castle Hill", "up on Castle Hill", "at the top of Castle Hill"),
    "garden suburb": ("in the garden suburb", "out in the garden suburb", "within the garden suburb"),
    "canal basin": ("at the canal basin", "by the canal basin", "down by the canal basin"),
    "station district": ("in the station district", "over in the station district", "in the station quarter"),
}
NEAR = ("close to", "not far from", "a short walk from")
LANDMARKS = (
    "Mill Bridge", "Sallow Bridge", "Fenner's Lock", "Otter Lock", "Swan Pond", "Cutler's Wharf",
    "Tollgate Arch", "Amber Hall", "Drummond Tower", "Beacon Theatre", "Harcott Library", "Linden Museum",
    "Wickham Station", "Penrow Castle", "St Osric's Church", "Kestrel Park", "Marlow Green",
    "Juniper Gardens", "Holloway Common", "Brindle Meadow",
)  # fmt: skip
SIGHTS = ("river", "sea", "park", "hills")
VIEW = ("offers a view of the {}", "overlooks the {}", "looks out on the {}")
CLAIMS = {
    ("price", "cheap"): ("keeps its prices low", "charges little", "is easy on the wallet"),
    ("price", "moderate"): ("charges moderate prices", "is neither cheap nor dear", "has average prices"),
    ("price", "high"): ("charges high prices", "does not come cheap", "is hard on the wallet"),
    ("rating", "2"): ("is rated only {} out of 5", "earns a mere {} of 5 stars", "has a low rating of {}"),
    ("rating", "3"): ("earns {} of 5 stars", "has an average rating of {}", "is rated {} out of 5"),
    ("rating", "4"): ("has a good rating of {}", "is well rated at {} out of 5", "earns {} of 5 stars"),
    ("rating", "5"): ("earns all {} stars", "has a top rating of {}", "is rated a full {} out of 5"),
    ("families", "yes"): ("welcomes families", "is suitable for families", "is good for families"),
    ("families", "no"): ("is not a place for families", "is unsuitable for families", "is not for families"),
    ("dogs", "welcome"): ("welcomes dogs", "accepts dogs", "lets dogs in"),
    ("dogs", "not allowed"): ("does not allow dogs", "turns dogs away", "accepts no dogs"),
    ("open", "early"): ("opens early", "is open from early in the day", "starts the day early"),
    ("open", "late"): ("stays open late", "is open until late", "closes late"),
    ("open", "all day"): ("is open all day", "stays open all day", "serves from morning to night"),
    ("open", "all year"): ("stays open all year", "is open all year round", "opens in every season"),
    ("open", "summer only"): ("is open in summer only", "opens only in summer", "closes outside the summer"),
    # a rating at odds with the price, or worth a high one, is told together with it
    ("price rating", "high 2"): ("is rated only {} despite high prices", "asks high prices for {} stars"),
    ("price rating", "high 4"): ("justifies high prices with {} of 5 stars", "earns {} stars at high prices"),
    ("price rating", "high 5"): ("justifies high prices with {} stars", "earns all {} stars at high prices"),
    ("price rating", "cheap 4"): ("is rated {} out of 5 despite low prices", "earns {} stars at low prices"),
    ("price rating", "cheap 5"): ("is rated a top {} despite low prices", "earns all {} stars at low prices"),
    ("families dogs", "yes welcome"): ("welcomes both families and dogs", "is for families and dogs alike"),
    ("families dogs", "no not allowed"): ("is for neither families nor dogs", "is not for families or dogs"),
    **dict.fromkeys([("view", sight) for sight in SIGHTS], VIEW),
}
UNWELCOME = ("high", "2", "no", "not allowed", "summer only", "high 2", "no not allowed")
CLAIM_ORDERS = (
    ("open", "rating", "price", "price rating", "families dogs", "families", "dogs", "view"),
    ("view", "families dogs", "families", "dogs", "open", "rating", "price rating", "price"),
    ("price", "rating", "price rating", "view", "open", "dogs", "families dogs", "families"),
)

VALUES: dict[str, Sequence[str]] = {
    "area": tuple(AREAS),
    "price": tuple(PRICES),
    "rating": ("2", "3", "4", "5"),
    "near": LANDMARKS,
    "families": ("yes", "no"),
    "dogs": ("welcome", "not allowed"),
}
EATING_VALUES = VALUES | {"open": ("early", "late", "all day"), "view": SIGHTS}
STAYING_VALUES = {"rooms": tuple(ROOMS)} | VALUES | {"open": ("all year", "summer only"), "view": SIGHTS}


@dataclass(frozen=True)
class Scene:
    """One place in phrases, each fact in exactly one of them."""

    name: str
    kind: str
    noun: str
    bare: bool  # nothing follows the kind, so that "called" can
    price: str  # set where the noun states it
    spot: Sequence[str]
    good: Sequence[str]
    bad: Sequence[str]
    subject: str
    finding: str
    contrast: str

    @property
    def called(self) -> str:
        return f"{'an' if self.noun[0] in 'aeioI' else 'a'} {self.noun}"

    @property
    def located(self) -> str:
        return " ".join((self.called, *self.spot))


def render() -> dict[str, str]:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("facts", "text"))
    writer.writerows(compose())
    return {"places.csv": table.getvalue()}


def compose() -> Iterator[tuple[str, str]]:
    rng = Random(SEED)
    seen: set[str] = set()
    while len(seen) < INPUTS:
        facts = draw_facts(rng)
        line = "; ".join(f"{key}: {value}" for key, value in facts.items())
        if line not in seen:
            seen.add(line)
            yield from ((line, text) for text in draw_texts(rng, facts))


def draw_facts(rng: Random) -> dict[str, str]:
    kind = pick(rng, tuple(KINDS))
    name = pick(rng, EATING_NAMES if kind in FOODS else STAYING_NAMES)
    values = {"food": FOODS[kind]} | EATING_VALUES if kind in FOODS else STAYING_VALUES
    chosen = sorted(values, key=lambda _: rng.random())[: 1 + draw(rng, FACT_COUNTS)]
    return {"name": name, "kind": kind} | {key: pick(rng, values[key]) for key in values if key in chosen}


def draw_texts(rng: Random, facts: Mapping[str, str]) -> list[str]:
    wanted = 1 + draw(rng, REFERENCE_COUNTS)
    texts: list[str] = []
    while len(texts) < wanted:
        scene = phrase(rng, facts)
        text = rank(rng, plans(scene))(scene)
        if text not in texts:
            texts.append(text)
    return texts


def phrase(rng: Random, facts: Mapping[str, str]) -> Scene:
    left = joined(facts)
    name, kind = left.pop("name"), left.pop("kind")
    spot = locate(rng, kind, left)
    price = left.pop("price", "") if wording(rng, kind, (True, False)) else ""
    before = wording(rng, kind, PRICES[price]) if price else ""
    trait, tail = trait_for(rng, kind, left)
    sort = wording(rng, kind, KINDS[kind])
    noun = " ".join(part for part in (before, trait, sort, tail) if part)
    good, bad = claims_for(rng, kind, left)
    subject = wording(rng, kind, ("it", f"the {sort}", "the place"))
    finding = wording(rng, kind, (", you will find", " stands", " is"))
    contrast = wording(rng, kind, (", but ", ", although it ", ", yet "))
    return Scene(name, kind, noun, not tail, price, spot, good, bad, subject, finding, contrast)


def joined(facts: Mapping[str, str]) -> dict[str, str]:
    left = dict(facts)
    for pair in (("price", "rating"), ("families", "dogs")):
        key, value = " ".join(pair), " ".join(facts.get(part, "") for part in pair)
        if (key, value) in CLAIMS:
            left = {part: left[part] for part in left if part not in pair} | {key: value}
    return left


def locate(rng: Random, kind: str, left: dict[str, str]) -> list[str]:
    spot = [wording(rng, kind, AREAS[left.pop("area")])] if "area" in left else []
    return [*spot, f"{wording(rng, kind, NEAR)} {left.pop('near')}"] if "near" in left else spot


def trait_for(rng: Random, kind: str, left: dict[str, str]) -> tuple[str, str]:
    """What comes before the kind and what after it, at least one of them empty."""
    if "rooms" in left:
        rooms = ROOMS[left.pop("rooms")]
        after = wording(rng, kind, ("with", "that has"))
        return wording(rng, kind, ((f"{rooms}-room", ""), ("", f"{after} {rooms} rooms")))
    if "food" not in left:
        return "", ""
    food = left.pop("food")
    served = f"{wording(rng, kind, SERVING)} {food}"
    return wording(rng, kind, ((food, ""), ("", f"{served} food"))) if food in CUISINES else ("", served)


def claims_for(rng: Random, kind: str, left: Mapping[str, str]) -> tuple[list[str], list[str]]:
    good: list[str] = []
    bad: list[str] = []
    for key in wording(rng, kind, CLAIM_ORDERS):
        if key in left:
            claim = wording(rng, kind, CLAIMS[key, left[key]]).format(left[key].split()[-1])
            (bad if left[key] in UNWELCOME else good).append(claim)
    return good, bad


def plans(scene: Scene) -> Sequence[Callable[[Scene], str]]:
    """The plans that suit these facts, the most likely first."""
    eats = scene.kind in FOODS
    opened = fronted if scene.spot else there
    headed = apposed if scene.spot or scene.noun not in KINDS[scene.kind] else plain
    if scene.good and len(scene.bad) == 1:
        return (although, opened, headed) if eats else (opened, headed, although)
    if scene.good and scene.bad:
        return opened, which, headed
    if scene.bad:
        return (opened, headed, plain) if eats else (headed, there, opened)
    if scene.price in ("cheap", "moderate"):
        return (suggested, opened, plain) if eats else (opened, suggested, there)
    if scene.good:
        return (which, opened, headed) if eats else (headed, opened, which)
    return (opened, there, plain) if eats else (there, opened, plain)


def plain(scene: Scene) -> str:
    return f"{scene.name} is {scene.located}." + further(scene, scene.good, scene.bad)


def there(scene: Scene) -> str:
    if scene.bare:
        first = " ".join((f"There is {scene.called} called {scene.name}", *scene.spot))
    else:
        first = f"{scene.name} is the name of {scene.located}"
    return f"{first}." + further(scene, scene.good, scene.bad)


def fronted(scene: Scene) -> str:
    spot = capital(" ".join(reversed(scene.spot)))
    return f"{spot}{scene.finding} {scene.name}, {scene.called}." + further(scene, scene.good, scene.bad)


def suggested(scene: Scene) -> str:
    verb = "try" if scene.kind in FOODS else "choose"
    return f"For {scene.located}, {verb} {scene.name}." + further(scene, scene.good, scene.bad)


def apposed(scene: Scene) -> str:
    first = f"{capital(scene.located)}, {scene.name}"
    if len(scene.good) + len(scene.bad) <= 3:
        return f"{first} {predicate(scene, scene.good, scene.bad)}."
    return f"{first} {listed(scene.good[:2])}." + further(scene, scene.good[2:], scene.bad)


def which(scene: Scene) -> str:
    first = f"{scene.name}, which {scene.good[0]}, is {scene.located}."
    return first + further(scene, scene.good[1:], scene.bad)


def although(scene: Scene) -> str:
    first = f"Although it {scene.bad[0]}, {scene.name}, {scene.located}, {scene.good[0]}."
    return first + further(scene, scene.good[1:], ())


def further(scene: Scene, good: Sequence[str], bad: Sequence[str]) -> str:
    if not good and not bad:
        return ""
    subject = f"However, {scene.subject}" if scene.good and not good else capital(scene.subject)
    return f" {subject} {predicate(scene, good, bad)}."


def predicate(scene: Scene, good: Sequence[str], bad: Sequence[str]) -> str:
    return scene.contrast.join(listed(claims) for claims in (good, bad) if claims)


def listed(claims: Sequence[str]) -> str:
    *most, last = claims
    return f"{', '.join(most)} and {last}" if most else last


def wording(rng: Random, kind: str, options: Sequence[Option]) -> Option:
    first = list(KINDS).index(kind) % len(options)
    return rank(rng, (*options[first:], *options[:first]))


def rank(rng: Random, options: Sequence[Option]) -> Option:
    return options[min(draw(rng, RANKS), len(options) - 1)]
