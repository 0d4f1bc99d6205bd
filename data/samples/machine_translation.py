"""The sample of machine translation: English sentences and the same in German, line by line.

A small bilingual grammar draws clauses with subject, verb, objects, place and time, and words them in both languages.
What a model has to learn is where the languages part: gender and case of articles, adjectives and pronouns, the order
of verb, time and place, separable verbs, the perfect tense, "nicht" and "kein", subordinate clauses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from data.samples.portable_random import capital, draw, pick

SEED = 5309
PAIRS = 4000
WORDS = range(4, 17)  # of a sentence, in either language

Pair = tuple[str, str]  # English, German
NOTHING = ("", "")

# English singular and plural, German singular with article and plural; of weak nouns also the other cases' singular
NOUNS = {
    "person": ("aunt aunts die Tante Tanten", "brother brothers der Bruder Brüder", "doctor doctors der Arzt Ärzte",
        "daughter daughters die Tochter Töchter", "neighbour neighbours der Nachbar Nachbarn Nachbarn",
        "sister sisters die Schwester Schwestern", "son sons der Sohn Söhne", "friend friends der Freund Freunde",
        "teacher teachers der Lehrer Lehrer", "colleague colleagues der Kollege Kollegen Kollegen"),
    "food": ("apple apples der Apfel Äpfel", "carrot carrots die Möhre Möhren", "egg eggs das Ei Eier",
        "pear pears die Birne Birnen", "sausage sausages die Wurst Würste", "tomato tomatoes die Tomate Tomaten"),
    "pastry": ("biscuit biscuits der Keks Kekse", "cake cakes der Kuchen Kuchen", "roll rolls das Brötchen Brötchen"),
    "ware": ("bag bags die Tasche Taschen", "ball balls der Ball Bälle", "basket baskets der Korb Körbe",
        "blanket blankets die Decke Decken", "clock clocks die Uhr Uhren", "knife knives das Messer Messer",
        "lamp lamps die Lampe Lampen", "picture pictures das Bild Bilder", "plate plates der Teller Teller",
        "umbrella umbrellas der Regenschirm Regenschirme"),
    "clothes": ("coat coats der Mantel Mäntel", "dress dresses das Kleid Kleider", "hat hats der Hut Hüte",
        "jacket jackets die Jacke Jacken", "scarf scarves der Schal Schals", "shirt shirts das Hemd Hemden"),
    "furniture": ("bed beds das Bett Betten", "bench benches die Bank Bänke", "chair chairs der Stuhl Stühle",
        "cupboard cupboards der Schrank Schränke", "shelf shelves das Regal Regale", "table tables der Tisch Tische"),
    "vehicle": ("bicycle bicycles das Fahrrad Fahrräder", "boat boats das Boot Boote", "car cars das Auto Autos"),
    "transport": ("bus buses der Bus Busse", "ferry ferries die Fähre Fähren", "train trains der Zug Züge"),
    "writing": ("book books das Buch Bücher", "card cards die Karte Karten", "letter letters der Brief Briefe",
        "poem poems das Gedicht Gedichte", "story stories die Geschichte Geschichten"),
    "animal": ("bird birds der Vogel Vögel", "cat cats die Katze Katzen", "cow cows die Kuh Kühe",
        "dog dogs der Hund Hunde", "goat goats die Ziege Ziegen", "horse horses das Pferd Pferde",
        "rabbit rabbits das Kaninchen Kaninchen"),
    "opening": ("door doors die Tür Türen", "gate gates das Tor Tore", "window windows das Fenster Fenster"),
    "room": ("cellar cellars der Keller Keller", "garage garages die Garage Garagen",
        "kitchen kitchens die Küche Küchen", "room rooms das Zimmer Zimmer"),
}  # fmt: skip
ATTRIBUTES = {
    "person": "nice tired young", "food": "fresh small big", "pastry": "fresh warm small big",
    "ware": "old new small big beautiful expensive heavy", "clothes": "old new warm red blue expensive",
    "furniture": "old new heavy white", "vehicle": "old new red blue", "transport": "slow old",
    "writing": "long short funny sad", "animal": "small black white wild", "opening": "old green white",
    "room": "small big dirty",
}  # fmt: skip
ADJECTIVES = {
    "old": "alt", "new": "neu", "small": "klein", "big": "groß", "beautiful": "schön", "expensive": "teuer",
    "cheap": "billig", "heavy": "schwer", "light": "leicht", "fresh": "frisch", "warm": "warm", "red": "rot",
    "blue": "blau", "green": "grün", "white": "weiß", "black": "schwarz", "young": "jung", "tired": "müde",
    "nice": "nett", "ill": "krank", "hungry": "hungrig", "dirty": "schmutzig", "broken": "kaputt", "short": "kurz",
    "interesting": "interessant", "long": "lang", "sad": "traurig", "funny": "lustig", "busy": "beschäftigt",
    "open": "offen", "ugly": "hässlich", "slow": "langsam", "wild": "wild",
}  # fmt: skip
STEMS = {"expensive": "teur", "tired": "müd"}  # before an ending

# words and endings by case, for masculine, feminine, neuter, plural
THE = {"nom": ("der", "die", "das", "die"), "acc": ("den", "die", "das", "die"), "dat": ("dem", "der", "dem", "den")}
ER = {"nom": ("er", "sie", "es", "sie"), "acc": ("ihn", "sie", "es", "sie"), "dat": ("ihm", "ihr", "ihm", "ihnen")}
EIN = {"nom": ("", "e", "", "e"), "acc": ("en", "e", "", "e"), "dat": ("em", "er", "em", "en")}
STRONG = {"nom": ("er", "e", "es", "e"), "acc": ("en", "e", "es", "e"), "dat": ("em", "er", "em", "en")}
WEAK = {"nom": ("e", "e", "e", "en"), "acc": ("en", "e", "e", "en"), "dat": ("en", "en", "en", "en")}
MIXED = {"nom": ("er", "e", "es", "en"), "acc": ("en", "e", "es", "en"), "dat": ("en", "en", "en", "en")}
HE, HIM, HIS = ("he", "she", "it", "they"), ("him", "her", "it", "them"), ("his", "her", "its", "their")
NEUTER, PLURAL = 2, 3  # columns
THIRD = 2  # form of a verb, the next one for the plural
EIN_WORDS = {
    "a": "ein", "no": "kein", "not a": "kein", "my": "mein", "your": "dein", "his": "sein", "her": "ihr",
    "our": "unser", "their": "ihr",
}  # fmt: skip
NUMBERS = {"two": "zwei", "three": "drei", "four": "vier", "many": "viele", "": ""}

PLACES = {
    "town": (("at the market", "auf dem Markt"), ("in the village", "im Dorf"), ("at the station", "am Bahnhof"),
        ("at the harbour", "am Hafen"), ("in the city", "in der Stadt"), ("near the school", "bei der Schule"),
        ("next to the church", "neben der Kirche")),
    "house": (("in the kitchen", "in der Küche"), ("in the cellar", "im Keller"), ("in the hall", "im Flur")),
    "garden": (("in the garden", "im Garten"), ("behind the house", "hinter dem Haus"),
        ("in front of the house", "vor dem Haus")),
    "out": (("in the park", "im Park"), ("at the lake", "am See"), ("by the river", "am Fluss"),
        ("in the forest", "im Wald"), ("on the bridge", "auf der Brücke"), ("under the tree", "unter dem Baum")),
    "inside": (("in the library", "in der Bibliothek"), ("in the hotel", "im Hotel"), ("at school", "in der Schule"),
        ("on the train", "im Zug")),
    "way": (("to the station", "zum Bahnhof"), ("to the market", "zum Markt"), ("into the forest", "in den Wald"),
        ("to school", "zur Schule"), ("to the lake", "zum See"), ("into the city", "in die Stadt"),
        ("across the bridge", "über die Brücke"), ("through the park", "durch den Park")),
    "nook": (("under the table", "unter dem Tisch"), ("on the chair", "auf dem Stuhl"),
        ("in the cupboard", "im Schrank"), ("next to the bed", "neben dem Bett"), ("on the bench", "auf der Bank"),
        ("in the drawer", "in der Schublade"), ("in front of the window", "vor dem Fenster")),
}  # fmt: skip

# English base, third person, past and particle; German "ich", "du", "er", infinitive, participle (+ where it goes with
# "sein") and separable prefix; prepositions and case of the object, "give" for a dative and an accusative; what it can
# be; where it is done; what state of the object is a reason to do it
VERBS = (
    "buy buys bought | kaufe kaufst kauft kaufen gekauft | acc | food pastry ware clothes | town | cheap",
    "sell sells sold | verkaufe verkaufst verkauft verkaufen verkauft | acc | food pastry ware clothes | town | old",
    "read reads read | lese liest liest lesen gelesen | acc | writing | inside out | interesting new short",
    "write writes wrote | schreibe schreibst schreibt schreiben geschrieben | acc | writing | inside house |",
    "eat eats ate | esse isst isst essen gegessen | acc | food pastry | house out | fresh small",
    "repair repairs repaired | repariere reparierst repariert reparieren repariert | acc | vehicle | garden | broken",
    "paint paints painted | streiche streichst streicht streichen gestrichen | acc | furniture opening | garden | ugly",
    "carry carries carried | trage trägst trägt tragen getragen | acc | ware furniture | way | light small",
    "feed feeds fed | füttere fütterst füttert füttern gefüttert | acc | animal | garden | hungry small",
    "look looks looked | suche suchst sucht suchen gesucht | for acc | ware animal person | town out |",
    "visit visits visited | besuche besuchst besucht besuchen besucht | acc | person | | ill",
    "open opens opened | mache machst macht machen aufgemacht auf | acc | opening | |",
    "close closes closed | mache machst macht machen zugemacht zu | acc | opening | | open",
    "call calls called | rufe rufst ruft rufen angerufen an | acc | person | inside | ill",
    "pick picks picked up | hole holst holt holen abgeholt ab | acc | person | town | tired",
    "tidy tidies tidied | räume räumst räumt räumen aufgeräumt auf | acc | room | | dirty",
    "throw throws threw away | werfe wirfst wirft werfen weggeworfen weg | acc | clothes furniture | | broken old ugly",
    "invite invites invited | lade lädst lädt laden eingeladen ein | acc | person | | nice",
    "give gives gave back | gebe gibst gibt geben zurückgegeben zurück | acc | ware vehicle | | broken",
    "try tries tried on | probiere probierst probiert probieren anprobiert an | acc | clothes | town | beautiful new",
    "help helps helped | helfe hilfst hilft helfen geholfen | dat | person | house garden | tired ill",
    "thank thanks thanked | danke dankst dankt danken gedankt | dat | person | | nice",
    "listen listens listened | höre hörst hört hören zugehört zu | to dat | person | inside |",
    "give gives gave | gebe gibst gibt geben gegeben | give | food pastry ware writing | |",
    "show shows showed | zeige zeigst zeigt zeigen gezeigt | give | ware animal room | |",
    "lend lends lent | leihe leihst leiht leihen geliehen | give | vehicle ware writing | |",
    "wait waits waited | warte wartest wartet warten gewartet | for auf acc | person transport | town |",
    "speak speaks spoke | spreche sprichst spricht sprechen gesprochen | with mit dat | person | town inside |",
    "play plays played | spiele spielst spielt spielen gespielt | with mit dat | animal person | garden out |",
    "tell tells told | erzähle erzählst erzählt erzählen erzählt | of von dat | animal person vehicle | |",
    "think thinks thought | denke denkst denkt denken gedacht | of an acc | person animal | |",
    "laugh laughs laughed | lache lachst lacht lachen gelacht | about über acc | writing | |",
    "sleep sleeps slept | schlafe schläfst schläft schlafen geschlafen | | | garden inside |",
    "work works worked | arbeite arbeitest arbeitet arbeiten gearbeitet | | | house town inside |",
    "sing sings sang | singe singst singt singen gesungen | | | house out |",
    "stay stays stayed | bleibe bleibst bleibt bleiben +geblieben | | | inside house |",
    "go goes went | gehe gehst geht gehen +gegangen | | | way |",
)
SITED = tuple(row for row in VERBS if row.split("|")[4].strip() not in ("", "way"))
REASONED = tuple(row for row in VERBS if not row.endswith("|"))
HAVE, BE = ("habe", "hast", "hat", "haben"), ("bin", "bist", "ist", "sind")
COPULA = (  # present, past
    (("am", "bin"), ("are", "bist"), ("is", "ist"), ("are", "sind")),
    (("was", "war"), ("were", "warst"), ("was", "war"), ("were", "waren")),
)
# the English helper, "" where the verb itself is finite; what comes before the base form; the German forms
MODALS = {
    "future": ("will", "", ("werde", "wirst", "wird", "werden")),
    "can": ("can", "", ("kann", "kannst", "kann", "können")),
    "must": ("must", "", ("muss", "musst", "muss", "müssen")),
    "should": ("should", "", ("sollte", "solltest", "sollte", "sollten")),
    "want": ("", "want to ", ("will", "willst", "will", "wollen")),
    "would like": ("would", "like to ", ("möchte", "möchtest", "möchte", "möchten")),
}
NO_MODAL: tuple[str, str, Sequence[str]] = ("", "", ())
MODES = ("past", "past", "past", "past", "past", "present", "present", "present", "future", "future", *MODALS)
COMING = ("future", "future", "can", "must", "should")
TIMES = {
    "present": (
        ("every day", "jeden Tag"), ("every morning", "jeden Morgen"), ("twice a week", "zweimal pro Woche"),
        ("on Saturdays", "samstags"), ("every evening", "jeden Abend"), ("in summer", "im Sommer")),
    "present denied": (("on Mondays", "montags"), ("in winter", "im Winter"), ("today", "heute")),
    "past": (
        ("yesterday", "gestern"), ("last week", "letzte Woche"), ("yesterday evening", "gestern Abend"),
        ("this morning", "heute Morgen"), ("two days ago", "vor zwei Tagen"), ("on Sunday", "am Sonntag")),
    "coming": (
        ("tomorrow", "morgen"), ("next week", "nächste Woche"), ("on Friday", "am Freitag"), ("today", "heute"),
        ("this evening", "heute Abend"), ("in three days", "in drei Tagen"), ("after school", "nach der Schule"),
        ("at eight o'clock", "um acht Uhr"), ("before breakfast", "vor dem Frühstück")),
}  # fmt: skip
ACTORS = (  # with the German form of their verb and what they call their own
    ("I", "ich", 0, "my"), ("you", "du", 1, "your"), ("he", "er", 2, "his"), ("she", "sie", 2, "her"),
    ("we", "wir", 3, "our"), ("they", "sie", 3, "their"),
)  # fmt: skip
NAMES = (("Paul", "Felix", "Jonas", "Peter", "Emil", "Oskar"), ("Anna", "Lena", "Clara", "Maria", "Julia", "Frieda"))
STATES = ("tired", "ill", "busy")
FILLERS = {
    "report": (
        ("I think", "ich glaube"), ("I know", "ich weiß"), ("she says", "sie sagt"), ("we hope", "wir hoffen"),
        ("my mother says", "meine Mutter sagt"), ("Paul believes", "Paul glaubt"), ("he hopes", "er hofft")),
    "doubt": (("I do not know", "ich weiß nicht"), ("Anna knows", "Anna weiß"), ("they ask", "sie fragen")),
    "condition": (
        ("it rains", "es regnet"), ("the weather is good", "das Wetter gut ist"), ("we have time", "wir Zeit haben"),
        ("it is cold", "es kalt ist"), ("the shops are closed", "die Geschäfte geschlossen sind"),
        ("nobody is at home", "niemand zu Hause ist"), ("it is not too late", "es nicht zu spät ist")),
}  # fmt: skip
# chance, chance to be negated, verbs and their modes, wordings: German has the verb second, first or last, or is asked
FORMS = (
    (0.24, 0.3, VERBS, MODES, "{second}.", "{second}."),
    (0.13, 0.2, VERBS, MODES, "{when}, {first}.", "{when} {first}."),
    (0.11, 0.0, VERBS, MODES, "{asked}?", "{asked}?"),
    (0.03, 0.0, VERBS, MODES, "why {asked}?", "warum {asked}?"),
    (0.03, 0.0, VERBS, MODES, "when {asked}?", "wann {asked}?"),
    (0.03, 0.0, SITED, MODES, "where {asked}?", "wo {asked}?"),
    (0.02, 0.0, VERBS, MODES, "{doubt} why {last}.", "{doubt}, warum {last}."),
    (0.02, 0.0, SITED, MODES, "{doubt} where {last}.", "{doubt}, wo {last}."),
    (0.09, 0.3, VERBS, MODES, "{report} that {last}.", "{report}, dass {last}."),
    (0.06, 1.0, VERBS, MODES, "{second} because {he} {state}.", "{second}, weil {he} {state}."),
    (0.09, 0.0, REASONED, MODES, "{second} because {he} {state}.", "{second}, weil {he} {state}."),
    (0.06, 0.0, REASONED, COMING, "if {noun} {state}, {first}.", "wenn {noun} {state}, {first}."),
    (0.05, 0.3, VERBS, COMING, "if {condition}, {first}.", "wenn {condition}, {first}."),
    (0.04, 0.3, VERBS, COMING, "{second} if {condition}.", "{second}, wenn {condition}."),
)
# what is said to be somewhere, and where
STAYS = ((("animal",), "out"), (("furniture",), "house"), (("ware", "clothes", "writing"), "nook"))
PLACEMENTS = 0.08  # share of such sentences


@dataclass(frozen=True)
class Noun:
    kind: str
    en: str
    de: Mapping[str, str]  # by case
    column: int  # of the endings
    form: int  # of a verb with it


@dataclass(frozen=True)
class Verb:
    en: Sequence[str]
    de: Sequence[str]
    frame: Sequence[str]  # the case last
    objects: Sequence[str]
    places: Sequence[str]
    reasons: Sequence[str]


@dataclass(frozen=True)
class Subject:
    text: Pair
    form: int  # of the German verb
    own: str
    pronoun: Pair


@dataclass(frozen=True)
class Objects:
    en: str = ""
    near: str = ""  # German before the time: what is known
    far: str = ""  # German after it: what is new or has a preposition
    denied: bool = False  # by "kein", so that the verb needs no "nicht"


@dataclass(frozen=True)
class Clause:
    subject: Subject
    verb: Verb
    mode: str
    negated: bool
    objects: Objects
    place: Pair
    time: Pair


def render() -> dict[str, str]:
    pairs = list(compose())
    return {name: "".join(f"{pair[side]}\n" for pair in pairs) for side, name in enumerate(("en.txt", "de.txt"))}


def compose() -> Iterator[Pair]:
    rng = Random(SEED)
    seen: set[str] = set()
    while len(seen) < PAIRS:
        en, de = draw_placement(rng) if rng.random() < PLACEMENTS else draw_sentence(rng)
        if en not in seen and len(en.split()) in WORDS and len(de.split()) in WORDS:
            seen.add(en)
            yield capital(en), capital(de)


def draw_placement(rng: Random) -> Pair:
    kinds, where = pick(rng, STAYS)
    noun, place = draw_noun(rng, kinds), pick(rng, PLACES[where])
    is_, ist = pick(rng, COPULA)[noun.form]
    if rng.random() < 0.5:
        en, de = draw_phrase(rng, noun, articles(noun, "my"), "nom")
        return f"{en} {is_} {place[0]}.", f"{de} {ist} {place[1]}."
    en, de = draw_phrase(rng, noun, tuple(NUMBERS) if noun.column == PLURAL else ("a", "no"), "nom")
    return f"there {is_} {en} {place[0]}.", f"{place[1]} {ist} {de}."


def draw_sentence(rng: Random) -> Pair:
    _, negated, verbs, modes, en, de = FORMS[draw(rng, [form[0] for form in FORMS])]
    clause = draw_clause(rng, rng.random() < negated, pick(rng, verbs), pick(rng, modes))
    if "{asked}" in en and clause.subject.form == 0:  # questions that nobody puts
        return draw_sentence(rng)
    slots = {name: pick(rng, fillers) for name, fillers in FILLERS.items()}
    if "when" in en:
        slots["when"], clause = pick(rng, times(clause.mode, clause.negated)), replace(clause, time=NOTHING)
    if "where" in en:
        clause = replace(clause, place=NOTHING)
    if "{state}" in en:
        who, form, adjective = clause.subject.pronoun, clause.subject.form, pick(rng, STATES)
        if verbs is REASONED:
            noun, case = draw_noun(rng, clause.verb.objects), clause.verb.frame[-1]
            slots["noun"] = phrase(noun, "the", "", "nom")
            who, form, adjective = pronoun(noun, "nom"), noun.form, pick(rng, clause.verb.reasons)
            named = pronoun(noun, case) if "{noun}" in en else phrase(noun, "the", "", case)
            clause = replace(clause, objects=known(clause.verb, named))
        is_, ist = COPULA[clause.mode == "past"][form]
        slots |= {"he": who, "state": (f"{is_} {adjective}", f"{ADJECTIVES[adjective]} {ist}")}
    slots |= {order: (english(clause, order), german(clause, order)) for order in ("second", "first", "last", "asked")}
    texts = [{name: slot[side] for name, slot in slots.items()} for side in range(2)]
    return en.format(**texts[0]), de.format(**texts[1])


def draw_clause(rng: Random, negated: bool, row: str, mode: str) -> Clause:
    if negated and mode == "must":  # "müssen" would not say the same
        mode = "can"
    verb, subject = Verb(*(column.split() for column in row.split("|"))), draw_subject(rng)
    objects = draw_objects(rng, verb, subject.own, negated)
    placed = verb.places and (not verb.frame or rng.random() < 0.45)
    place = pick(rng, PLACES[pick(rng, verb.places)]) if placed else NOTHING
    time = pick(rng, times(mode, negated)) if rng.random() < 0.6 else NOTHING
    return Clause(subject, verb, mode, negated, objects, place, time)


def times(mode: str, negated: bool) -> Sequence[Pair]:
    return TIMES.get("present denied" if mode == "present" and negated else mode, TIMES["coming"])


def draw_subject(rng: Random) -> Subject:
    sort = draw(rng, (0.4, 0.2, 0.4))
    if sort == 0:
        en, de, form, own = pick(rng, ACTORS)
        return Subject((en, de), form, own, (en, de))
    if sort == 1:
        gender = draw(rng, (0.5, 0.5))
        name = pick(rng, NAMES[gender])
        return Subject((name, name), THIRD, HIS[gender], (HE[gender], ER["nom"][gender]))
    noun = draw_noun(rng, ("person",))
    text = draw_phrase(rng, noun, articles(noun, pick(rng, ("my", "your", "our"))), "nom")
    return Subject(text, noun.form, HIS[noun.column], pronoun(noun, "nom"))


def draw_objects(rng: Random, verb: Verb, own: str, negated: bool) -> Objects:
    if not verb.frame:
        return Objects()
    if verb.frame[-1] == "give":
        receiver = draw_noun(rng, ("person",))
        en, de = phrase(receiver, pick(rng, articles(receiver, own)), "", "dat")
        given = draw_objects(rng, replace(verb, frame=("acc",)), own, negated)
        return replace(given, en=f"{en} {given.en}", near=spaced(de, given.near))
    noun = draw_noun(rng, verb.objects)
    if noun.kind == "person" or len(verb.frame) == 3 or rng.random() < 0.5:
        return known(verb, draw_phrase(rng, noun, articles(noun, own), verb.frame[-1]))
    options = ("not a",) if negated else tuple(NUMBERS) if noun.column == PLURAL else ("a",)
    en, de = draw_phrase(rng, noun, options, verb.frame[-1])
    return Objects(spaced(*verb.frame[:-1], en), far=de, denied=negated)


def known(verb: Verb, text: Pair) -> Objects:
    *en, de = verb.frame[:-1] if len(verb.frame) == 3 else (*verb.frame[:-1], "")
    en_text, de_text = spaced(*en, text[0]), spaced(de, text[1]).replace("von dem ", "vom ")
    return Objects(en_text, far=de_text) if de else Objects(en_text, near=de_text)


def draw_noun(rng: Random, kinds: Sequence[str]) -> Noun:
    kind = pick(rng, kinds)
    one, many, article, singular, plural, *weak = pick(rng, NOUNS[kind]).split()
    if rng.random() < 0.3:
        dative = plural if plural[-1] in "ns" else f"{plural}n"
        return Noun(kind, many, {"nom": plural, "acc": plural, "dat": dative}, PLURAL, PLURAL)
    other = weak[0] if weak else singular
    return Noun(kind, one, {"nom": singular, "acc": other, "dat": other}, THE["nom"].index(article), THIRD)


def articles(noun: Noun, own: str) -> Sequence[str]:
    return ("the", own, own) if noun.kind == "person" else ("the", "this", own)


def draw_phrase(rng: Random, noun: Noun, options: Sequence[str], case: str) -> Pair:
    adjective = pick(rng, ATTRIBUTES[noun.kind].split()) if rng.random() < 0.35 else ""
    return phrase(noun, pick(rng, options), adjective, case)


def phrase(noun: Noun, article: str, adjective: str, case: str) -> Pair:
    column = noun.column
    if article in NUMBERS:
        determiner, endings = NUMBERS[article], STRONG
    elif article in EIN_WORDS:
        determiner, endings = EIN_WORDS[article] + EIN[case][column], MIXED
    else:
        determiner = THE[case][column] if article == "the" else f"dies{STRONG[case][column]}"
        endings = WEAK
    inflected = STEMS.get(adjective, ADJECTIVES.get(adjective, "")) + endings[case][column] if adjective else ""
    words = spaced(adjective, noun.en)
    if column == PLURAL:
        article = {"this": "these", "not a": "any"}.get(article, article)
    elif article in ("a", "not a"):
        article = "an" if words[0] in "aeiou" else "a"
    return spaced(article, words), spaced(determiner, inflected, noun.de[case])


def pronoun(noun: Noun, case: str) -> Pair:
    names = HE if case == "nom" else HIM
    column = noun.column if noun.kind == "person" or noun.column == PLURAL else NEUTER
    return names[column], ER[case][noun.column]


def english(clause: Clause, order: str) -> str:
    base, third, past, *particle = clause.verb.en
    singular, inverted = clause.subject.form == THIRD, order == "asked"
    helper, lead, _ = MODALS.get(clause.mode, NO_MODAL)
    verb = lead + base
    if not helper and (inverted or clause.negated):
        helper = "did" if clause.mode == "past" else "does" if singular else "do"
    elif clause.mode == "past":
        verb = past
    elif not helper and singular:
        verb = verb.replace("want", "wants") if lead else third
    denial = "not" if clause.negated else ""
    subject = clause.subject.text[0]
    opening = (helper, subject, denial, verb) if inverted else (subject, helper, denial, verb)
    text = spaced(*opening, clause.objects.en, *particle, clause.place[0], clause.time[0])
    return text.replace("can not ", "cannot ")


def german(clause: Clause, order: str) -> str:
    *forms, infinitive, participle, prefix = (*clause.verb.de, "")[:6]
    subject, form, objects = clause.subject.text[1], clause.subject.form, clause.objects
    finite, end = (*forms, infinitive)[form], prefix
    if clause.mode == "past":
        finite, end = (BE if participle[0] == "+" else HAVE)[form], participle.removeprefix("+")
    elif clause.mode in MODALS:
        finite, end = MODALS[clause.mode][2][form], prefix + infinitive
    denial = "nicht" if clause.negated and not objects.denied else ""
    new = (objects.far, clause.place[1]) if "way" in clause.verb.places else (clause.place[1], objects.far)
    middle = spaced(objects.near, clause.time[1], denial, *new)
    if order == "last":
        return spaced(subject, middle, end + finite if clause.mode == "present" else f"{end} {finite}")
    return spaced(*((subject, finite) if order == "second" else (finite, subject)), middle, end)


def spaced(*parts: str) -> str:
    return " ".join(part for part in parts if part)
