"""The sample of content generation: small tales and diary pages of an invented village.

Each plot is a row of beats, each beat a choice of wordings, filled with a cast that stays the same to the end. Who
reads on learns the village (flour comes from the mill, soot on a doorstep from the forge) and, within a tale, must
read back: what is lost at the stile is found there, who was helped comes by in time, a bet is won by who trusted
the sign, and what was lent, owed or left open at the beginning decides the end.
"""

import json
import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import NamedTuple

from data.samples.portable_random import draw, pick, shuffled

SEED = 5087
TALES = 540
WORDS = range(60, 161)

# chances of a page from a diary; of 0, 1, 2 new paragraphs
DIARY = (0.7, 0.3)
BREAKS = (0.45, 0.35, 0.20)


class Trader(NamedTuple):
    name: str
    trade: str
    place: str
    ware: str
    mess: str  # what a stray animal finds at the place
    trace: str  # what this trader leaves behind
    need: str  # of the ware
    use: str


# in the texts from here on, [one|other] is a choice and {a}, {b} and {c} are traders
TRADERS = (
    Trader("Odo", "miller", "mill", "a sack of flour", "a tub of bran", "a white handprint",
           "the flour bin was empty", "before dark there were dumplings in every bowl"),
    Trader("Berit", "baker", "bakehouse", "a loaf of rye bread", "a tray of buns", "a trail of crumbs",
           "there was soup on the stove but nothing to dip in it", "the soup was eaten up, and the loaf too"),
    Trader("Hanne", "beekeeper", "bee garden", "a jar of honey", "a pan of sugar water", "a sticky thumbprint",
           "{elder} had coughed all night", "{elder} drank hot milk with honey, and the cough was gone by Sunday"),
    Trader("Tobin", "smith", "forge", "a box of nails", "a bucket of turnips", "a smear of soot",
           "the henhouse door hung by one nail", "{elder} nailed the henhouse door fast, and the fox went away hungry"),
    Trader("Ysa", "weaver", "weaving shed", "a roll of cloth", "a basket of yarn", "a blue thread",
           "the moths had eaten the kitchen curtain", "a week later a new curtain hung in the kitchen window"),
    Trader("Marrec", "ferryman", "landing", "a basket of perch", "a heap of nets", "a silver fish scale",
           "there would be guests for supper", "the perch were fried in butter, and the guests licked their fingers"),
    Trader("Piet", "shepherd", "sheepfold", "a bag of wool", "a rack of hay", "a tuft of wool",
           "{elder}'s stockings were more hole than stocking", "{elder} knitted until midnight and had one warm foot"),
    Trader("Linnet", "schoolteacher", "schoolhouse", "a bottle of ink", "a pile of copybooks", "a blot of ink",
           "the inkwell was dry and a letter only half written", "{elder} finished the letter and sealed it"),
    Trader("Garret", "carpenter", "timber yard", "a bundle of laths", "a heap of shavings", "a curl of wood",
           "there was a hole in the garden fence", "the fence was mended, and the hares looked elsewhere for cabbage"),
    Trader("Sefa", "potter", "pottery", "a set of cups", "a board of wet plates", "a smudge of clay",
           "the shelf had come down with all the cups", "{elder} poured tea into the new cups and praised it"),
    Trader("Brida", "dairymaid", "dairy", "a round of cheese", "a bowl of cream", "a splash of milk",
           "the mice had got at the last of the cheese", "{elder} toasted the cheese, and even the rind was eaten"),
    Trader("Corvin", "candle maker", "candle shop", "a packet of candles", "a bowl of tallow", "a drop of wax",
           "the last candle had burned down", "that night a candle burned in the window until late"),
)  # fmt: skip
CHILDREN = {"Nan": "she", "Tess": "she", "Mirre": "she", "Odile": "she", "Wil": "he", "Jory": "he", "Ansel": "he"}
PRONOUNS = {"she": ("her", "her"), "he": ("him", "his"), "I": ("me", "my")}
ELDERS = ("Aunt Dorrit", "Old Peg", "Widow Tamsin", "Uncle Bram", "Grandfather Lorn", "Cousin Ulf")

# how the day begins, what the road is like, what the ground is, how it ends, in which months
WEATHERS = (
    ("it had been raining since [dawn|midnight|the day before]", "the lane was [all mud|one long puddle]", "mud",
     "by evening the rain had stopped", "March April October"),
    ("fog lay over the [fields|river|whole village]", "{hero} could hardly see from one tree to the next", "wet grass",
     "by evening the fog had lifted", "October November February"),
    ("it had snowed [all night|since Sunday]", "the snow [came up to the knees|creaked at every step]", "snow",
     "by evening the stars were out", "December January February"),
    ("a [hard|sharp] wind blew from the [hills|north]", "the wind [pushed {obj} along|tore at every button]", "dust",
     "by evening the wind had [died down|gone to sleep]", "March May September"),
    ("the sun burned [from a white sky|as it had all week]", "the stones were too hot for bare feet", "dry grass",
     "by evening a cool air came up from the river", "June July August"),
    ("there was frost on the [panes|roofs|pump]", "the puddles [cracked|rang] underfoot", "white grass",
     "by evening it was freezing again", "November December January"),
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

SPOTS = (
    "the stile", "the old well", "the footbridge", "the churchyard wall", "the duck pond", "the orchard gate",
    "the crossroads", "the lime tree", "the milestone", "the empty barn",
)  # fmt: skip
PAYMENTS = (
    "a basket of eggs", "a bag of walnuts", "a bunch of leeks", "a jar of pickles", "a pot of goose fat",
    "a bottle of elder syrup", "a string of onions", "a dish of stewed pears",
)  # fmt: skip
THINGS = (
    "a silver button", "a brass key", "a wooden whistle", "a red mitten", "a pocket watch", "a glass marble",
    "a tin thimble", "a penknife", "a blue ribbon", "a copper coin",
)  # fmt: skip
ANIMALS = ("goat", "pig", "donkey", "calf", "goose", "pony")
# what was done where something was lost, and how it is told later
DEEDS = (
    ("bent down to tie {his} shoelace", "bent down"), ("ducked under a low branch", "ducked"),
    ("pulled out a handkerchief to sneeze", "sneezed"), ("jumped up to look over the hedge", "jumped"),
    ("shook a pebble out of {his} shoe", "stood on one leg"),
    ("dug in {his} pocket for crumbs for the sparrows", "fed the sparrows"),
)  # fmt: skip
# trouble on the road, and what comes back from it in working order
TROUBLES = (
    ("a cart that had lost a wheel, and {hero} held up the axle until the wheel was on again", "the cart"),
    ("a donkey that would not take another step, and {hero} whistled to it until it did", "the donkey"),
    ("a barrow with a broken handle, and {hero} gave {his} belt to tie it up", "the barrow"),
    ("a pony that had a stone in its hoof, and {hero} held its head until the stone came out", "the pony"),
)  # fmt: skip
# a sign, who gives it, what it means
SIGNS = (
    ("the cat was washing behind its ears", "cat", "wet"), ("soot was falling down the chimney", "soot", "wet"),
    ("the rooks kept close to their nests", "rooks", "wet"), ("the evening sky had been a deep red", "sky", "dry"),
    ("the smoke rose from the roofs as straight as a string", "smoke", "dry"),
    ("the moon had been as sharp as a pin", "moon", "dry"),
)  # fmt: skip
OUTCOMES = {
    "wet": ("rain before night", "[at four|at five|just before six] the first drop fell on {other}'s nose, "
            "and soon it was [running from the roofs|drumming on every pail in Hollin]"),
    "dry": ("a dry day", "the church clock struck [four, then six|six, then nine], "
            "and not a drop had fallen [on Hollin|from anywhere]"),
}  # fmt: skip
STAKES = (
    "carry water for a week", "muck out the goat shed", "sweep the churchyard path", "chop kindling until Sunday",
    "peel the potatoes for the Sunday stew", "scrub the milk churns",
)  # fmt: skip
FAVOURS = ("an hour of help with the sweeping", "a song", "the news of the village", "a hand with a heavy shelf")
GIFTS = ("a bundle of kindling", "a bucket of fresh water", "a bowl of walnuts", "a basket of apples")

# each line that is not indented further is a beat, what stands between slashes its wordings, some of them empty
PLOTS = (
    # an errand, and a good turn repaid
    """
    {dawn}, and {need}. / {need}. [Outside|To make things worse,] {dawn}. / {dawn} when {elder} saw that {need}.
    {elder} sent {obj} to the {a_place} with {pay} [to trade for|to bring home] {a_ware}. / "[Run|Be so good and run]
        over to {a_full}," said {elder}, "[ask for|bring back] {a_ware} and take {pay} along[, for nothing is free|]." /
        {elder} looked for coins in the [drawer|teapot] and found none, so {hero} was to take {pay} to {a_full} instead.
    At {spot} {b_full} was [struggling|having trouble] with {trouble}. / Halfway, at {spot}, {hero} [came upon|met]
        {b_full} with {trouble}. {road}, so help was welcome. / {road}. [By|At] {spot} stood {b_full} with {trouble}.
    [The rest was easy: |]{a} [looked at|weighed] {the_pay}, nodded and [brought out|handed over] {a_ware}. / At the
        {a_place} {a} was busy, as always, but took {the_pay} with a [laugh|nod] and gave {a_ware} for it. / "A fair
        trade," said {a} and put {the_pay} on the shelf. Soon {hero} was on the way [home|back] with {a_ware}.
    {the_a_ware} grew heavier with every step. Then {b} came along with {helper}, [remembered the morning|had forgotten
        nothing] and took it [all the way|as far as the gate]. / It is a long way home [for two arms|with a full load].
        But who was waiting at {spot}? It was {b} with {helper}, and so {the_a_ware} rode [home like a king|where {he}
        had walked]. / [On the way back|Later], when {b} [overtook {obj}|caught up] with {helper}, {the_a_ware} was
        lifted on [without a word|at once]: one good turn deserves another.
    {use}. / {use}. {dusk}. / {dusk}, and {use}.
    {b} was asked in for [tea|soup] and [stayed until ten|told the whole story again]. / "And all that for {pay}," said
        {elder}. / / /
    """,
    # lost and found
    """
    {elder} had given {obj} {thing} [at the New Year|for {his} birthday|for bravery at the dentist's], and {he} [carried
        it everywhere|never left it at home]. / In {his} left pocket {hero} carried {thing}, which had [once belonged
        to|come from] {elder}. / {thing} is not worth much, but this one was from {elder}, and {hero} [kept it
        close|would not have sold it].
    {dawn}. On the way to {a_full} with {pay}, {he} stopped at {spot} and {deed}. / [One day|One morning] {he} was to
        take {pay} to {a_full}. {dawn}. At {spot} {he} {deed} and [then hurried|walked] on. / {dawn} [when|as] {hero}
        set out for the {a_place} to see {a_full}. {he} {deed} at {spot}, [thought nothing of it|sang a little] and went
        on.
    At the {a_place} {he} felt in {his} pocket and [went pale|found only lint|stopped in the door]: {the_thing} was
        gone. / "What is the matter?" asked {a} when {hero} turned {his} pockets inside out. {the_thing} was in none of
        them. / {he} [wanted|was about] to show {the_thing} to {a}, but there was nothing to show. The pocket was empty.
    {b_full}, who had come for {a_ware}, had not seen it. "Where did you stop on the way?" was all that {b} asked. / {a}
        looked under the bench and {b_full} behind the door, but they found [only a mouse|nothing but dust]. "[Think|Sit
        down]," said {b}. "What did you do on the way?" / /
    [Then {hero} remembered|It came back to {obj} then]: {spot}! {he} ran, and there, where {he} had {done}, {the_thing}
        lay in the {ground}. / {road}, but {hero} went back step by step. Where {he} had {done}, at {spot}, something
        [shone|stuck out] in the {ground}. It was {the_thing}. / Where had {he} {done}? At {spot}. And sure enough, in
        the {ground} at {spot} lay {the_thing}, as if it had only waited.
    From that day on {he} wore {the_thing} on a string around {his} neck. / {elder} heard of it, as one hears of
        everything in Hollin, and sewed a [flap|button] on the pocket. / {he} told {elder} nothing, but that night
        {the_thing} lay under {his} pillow. / {dusk}, and {the_thing} was [home again|back in its pocket].
    """,
    # a stray animal
    """
    {elder} had asked {obj} to bolt the gate, but just then {b_full} came by with {b_ware}, there was much to tell, and
        the gate stayed open. / It was the fault of {b_full}, who called {obj} away to look at {b_ware} when {he} was
        [just about to|on the way to] bolt the gate. / {hero} had one hand on the bolt of the gate when {b_full} dropped
        {b_ware} in the [lane|grass]. {he} ran to help and forgot the [bolt|gate].
    {dawn}, and in the morning {elder}'s {animal} was gone. / {dawn}. When {elder} came to the shed, there was straw in
        it and a bucket, but no {animal}. / "Where is the {animal}?" {elder} called [from the yard|at breakfast].
        {dawn}, and the gate stood [open|wide open].
    {hero} found a track in the {ground} and followed it past {spot} until it ended at the {a_place}. / {road}, but the
        track in the {ground} was plain. It led by {spot} and [went|ran] straight to the {a_place}. / Somebody had seen
        it at {spot}, and from there a track in the {ground} led to the {a_place}.
    There stood the {animal} with its nose in {mess}, and before it stood {a_full} with [a broom|raised arms]. / From
        inside came a crash and the voice of {a_full}. The {animal} had found {mess}. / {a_full} had wondered all
        morning who was [breathing|chewing] behind the door. It was the {animal}, and what was left of {mess}.
    {hero} promised to make it good and [swept|tidied] the {a_place} until noon. / {a} grumbled until {hero} offered to
        work it off. In the end {a} even laughed and gave {obj} {a_ware} to take home. / "Who pays for that?" asked {a}.
        {hero} did, with [two hours|a morning] of work and later with {pay}.
    {he} led the {animal} home on {his} belt and bolted the gate, and then went back to see if it was bolted. / At home
        {he} bolted the gate twice. When {b} came by again with {b_ware}, {hero} did not even turn round. / {dusk}, and
        the {animal} stood in its shed again, behind a gate that was bolted and [tied with a rope|propped with a log].
    "[Next time|From now on]," said {elder}, "first the gate and then {b}." / /
    """,
    # a bet on the weather
    """
    {sign}. "We will have {guess}," {hero} said. {other} [laughed|shook a finger] and said the opposite. / {sign}, but
        who looks at such things? {hero} said to {other} that there would be {guess}, and {other} did not believe a word
        of it. / "{guess}? Never," said {other} at {spot} when {hero} spoke of the weather. And yet {sign}.
    So there was a bet: the loser would {stake}. / "If I am wrong, I will {stake}," said {other}, and {hero} [promised
        the same|had to promise the same]. / [They shook hands on it|It was settled quickly]: whoever was wrong would
        {stake}.
    {a_full}, who was to be the judge, only said that a day is long and that it pays to wait for its end. / {a_full} was
        asked to be the judge. {a} was [carrying|looking for] {a_ware} and had no time to look up. /
    To pass the hours, {other} and {hero} helped at the {a_place} and looked out of the door [by turns|every other
        minute]. / {other} sat down at {spot} with {obj} to [watch the clouds|wait], and for a long time nothing
        happened. /
    {outcome}.
    {winner} had won and only smiled, which was worse than laughing. {loser} had to {stake}. / A bet is a bet: {loser}
        set out to {stake}, and {winner} came to watch. / So it was {loser} who had to {stake}, while {winner} [sat on
        the wall|gave advice].
    "It was the {teller}," {winner} [explained later to|told] {elder}. "I saw it [at breakfast|in time] and was sure." /
        {elder} was not surprised. "Whoever bets against the {teller}," said {elder}, "bets against Hollin." / Why had
        {loser} not looked at the {teller}?
    """,
    # a chain of trades
    """
    {dawn}. {need}, and {hero} went to {a_full} to ask for {a_ware}. / {need}. "Go to {a_full}, and do not come back
        without {a_ware}," said {elder}. {dawn}, but {hero} went. / {dawn} when {hero} stood before {a_full} and asked
        for {a_ware}, because {need}.
    {a} did not want money. "What I need is {b_ware}," said {a}. / {a} thought about it. "You can have it," said {a},
        "but first bring me {b_ware}." / "For {b_ware} you can have it," said {a}, "and for nothing else."
    So {hero} [walked|went] on to {b_full}, who had what was wanted but asked for {c_ware} in return. / At the {b_place}
        it was the same story: {b_full} would not part with it for less than {c_ware}. / That was to be had from
        {b_full}. But {b}, too, [was short of something|had a wish], and it was {c_ware}.
    {road}, and it was noon when {he} came to {spot} and saw the {c_place}. {c_full} asked for nothing but {favour}. /
        That meant the long way by {spot} to the {c_place}. {road}. {c_full} was glad of a visit and asked only for
        {favour}. / {c_full} was sitting at {spot} and [listened to the whole story|laughed]. {favour} was all that it
        cost.
    After that everything went backwards: {the_c_ware} to {b}, {the_b_ware} to {a}, and {the_a_ware}, at last, home to
        {elder}. / Then {he} turned round. {b} took {the_c_ware}, {a} took {the_b_ware}, and {hero} carried {the_a_ware}
        home on {his} shoulder. / [And so|With that] {b} got {the_c_ware}, {a} got {the_b_ware}, and {elder} got
        {the_a_ware} [before|just before] dark.
    {use}. / {use}. {dusk}.
    "And what did it cost?" asked {elder}. It had cost {favour}. / /
    """,
    # a secret thank you
    """
    [Last spring|A year ago] {elder} had sat up for three nights with {a_full}, who had a fever, and had never [spoken
        of it|wanted thanks]. / When {a_full} had a fever [last spring|a year ago], {elder} [cooked broth|changed the
        cloths] for three nights and wanted no thanks. / Nobody in Hollin knew that {elder} had once [nursed|watched
        over] {a_full} for three nights; {a} knew it.
    Now {gift} stood on {elder}'s doorstep every morning, and nobody knew who had put it there. / This week {elder}
        opened the door each morning and found {gift}, and no one to thank for it. / "Who brings me {gift} every night?"
        asked {elder}, and {hero} wanted to know it, too.
    {elder} suspected {b_full}, but {b} had been at the {b_place} all night [and could prove it|with a toothache]. / "It
        must be {b_full}," said {elder}. But {b} only laughed and said that one might wait long for that. / /
    So {hero} kept watch behind the rain barrel and fell asleep. When {he} woke, {dawn}, and {the_gift} [was|stood]
        there. / {hero} hid behind the woodpile until morning and saw nothing but the cat. {dawn}. Still, there was
        {the_gift}, as always. / {dawn}, so {hero} came too late to see anyone. Only {the_gift} was there.
    {he} looked at it closely. There was {trace} on it, and in Hollin that comes from one house only: the {a_place}. /
        Only on the second look did {he} see {trace} on it. {he} said nothing and went straight to the {a_place}. / [But
        what was that? On|When the light was better, {he} saw that on] one side of it was {trace}. {hero}
        [laughed|whistled] and took the lane to the {a_place}.
    "Three nights are not paid back in a week," said {a}, very red, and went on working. / {a} looked at the floor. "Do
        not tell {elder}," said {a}. "It was three nights, after all." / {a} [did not wait for a question|knew why {he}
        came]. "For the fever," said {a}, "and for the [three nights|company]."
    {hero} kept the secret. / The next morning {pay} stood on the doorstep, too, but for {a}. / {dusk}, and {elder}
        still did not know. /
    """,
)


def render() -> dict[str, str]:
    return {"tales.jsonl": "".join(f"{json.dumps({'text': text})}\n" for text in compose())}


def compose() -> Iterator[str]:
    rng = Random(SEED)
    seen: set[str] = set()
    while len(seen) < TALES:
        text = draw_tale(rng)
        if text not in seen and len(text.split()) in WORDS:
            seen.add(text)
            yield text


def draw_tale(rng: Random) -> str:
    words = draw_people(rng) | draw_scene(rng)
    words |= draw_bet(rng, words["hero"], words["other"])
    beats = [tell(rng, beat, words) for beat in draw_beats(rng) if beat]
    breaks = shuffled(rng, range(1, len(beats)))[: draw(rng, BREAKS)]
    text = "".join(("\n" if spot in breaks else " ") + beat for spot, beat in enumerate(beats)).strip()
    return f"{words['date']} {text}" if words["hero"] == "I" else text


def draw_people(rng: Random) -> dict[str, str]:
    child, other = shuffled(rng, tuple(CHILDREN))[:2]
    hero, he = ((child, CHILDREN[child]), ("I", "I"))[draw(rng, DIARY)]
    him, his = PRONOUNS[he]
    words = {"hero": hero, "obj": him if hero == he else hero, "he": he, "him": him, "his": his}
    words |= {"other": other, "elder": pick(rng, ELDERS)}
    traders = shuffled(rng, TRADERS)
    for key, trader in zip("abc", traders, strict=False):
        words |= {key: trader.name, f"{key}_full": f"{trader.name} the {trader.trade}", f"{key}_place": trader.place}
        words |= {f"{key}_ware": trader.ware, f"the_{key}_ware": definite(trader.ware)}
    first = traders[0]
    return words | {"need": first.need, "use": first.use, "mess": first.mess, "trace": first.trace}


def draw_scene(rng: Random) -> dict[str, str]:
    dawn, road, ground, dusk, months = pick(rng, WEATHERS)
    date = f"{pick(rng, DAYS)}, {1 + int(rng.random() * 28)} {pick(rng, months.split())}."
    words = {"dawn": dawn, "road": road, "ground": ground, "dusk": dusk, "date": date}
    for key, things in (("pay", PAYMENTS), ("thing", THINGS), ("gift", GIFTS)):
        thing = pick(rng, things)
        words |= {key: thing, f"the_{key}": definite(thing)}
    deed, done = pick(rng, DEEDS)
    trouble, helper = pick(rng, TROUBLES)
    words |= {"deed": deed, "done": done, "trouble": trouble, "helper": helper}
    return words | {"spot": pick(rng, SPOTS), "animal": pick(rng, ANIMALS), "favour": pick(rng, FAVOURS)}


def draw_bet(rng: Random, hero: str, other: str) -> dict[str, str]:
    sign, teller, weather = pick(rng, SIGNS)
    winner, loser = pick(rng, ((hero, other), (other, hero)))
    words = {"sign": sign, "teller": teller, "outcome": OUTCOMES[weather][1], "stake": pick(rng, STAKES)}
    guess = weather if winner == hero else {"wet": "dry", "dry": "wet"}[weather]
    return words | {"guess": OUTCOMES[guess][0], "winner": winner, "loser": loser}


def draw_beats(rng: Random) -> list[str]:
    beats = re.split(r"\n    (?! )", pick(rng, PLOTS).rstrip())[1:]
    return [pick(rng, [" ".join(wording.split()) for wording in beat.split("/")]) for beat in beats]


def tell(rng: Random, beat: str, words: Mapping[str, str]) -> str:
    # what fills a slot may have slots of its own
    text = beat.format_map(words).format_map(words)
    text = re.sub(r"\[(.+?)\]", lambda options: pick(rng, options[1].split("|")), text)
    return re.sub(r'((?:^|[.?!] |\." )"?)([a-z])', lambda start: start[1] + start[2].upper(), text)


def definite(thing: str) -> str:
    return f"the {thing.removeprefix('a ')}"
