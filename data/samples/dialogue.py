"""The sample of dialogue: visitors at the desk of an invented shed that lends out things, and what the desk says.

Visitors borrow, bring back or only ask; they word it freely, in any order, and change their minds. What the desk
says follows from the conversation alone: a model has to see what is still missing, to copy what was said, to know
prices, parts and hours, to multiply small numbers and to heed the system message.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from random import Random

from data.samples.portable_random import capital, draw, pick, shuffled

SEED = 3319
CONVERSATIONS = 760
ANSWERS = range(2, 7)

# price a day, deposit, what comes with it, another name for it, what it is good for
THINGS = {
    "tent": (4, 20, "pegs and a mallet", "camping tent", "to sleep in on a hike"),
    "cordless drill": (3, 30, "a box of bits", "drill", "to make holes in a wall with"),
    "ladder": (2, 10, "a safety strap", "long ladder", "to reach the gutters with"),
    "hedge trimmer": (5, 40, "goggles and gloves", "hedge cutter", "to cut a hedge with"),
    "sewing machine": (3, 50, "a set of needles", "machine for sewing", "to hem curtains with"),
    "projector": (5, 50, "a white screen", "film projector", "to show films with"),
    "pressure washer": (5, 40, "a long hose", "power washer", "to clean a patio with"),
    "wheelbarrow": (1, 10, "a spade", "garden barrow", "to move earth with"),
    "telescope": (4, 50, "a star map", "big telescope", "to look at the moon with"),
    "ice cream maker": (2, 20, "a recipe book", "machine for ice cream", "to make sorbet with"),
    "karaoke machine": (5, 30, "two microphones", "karaoke set", "to sing along to"),
    "bicycle trailer": (3, 30, "a rain cover", "bike trailer", "to pull behind a bicycle"),
    "camping stove": (2, 20, "a kettle", "small gas stove", "to cook on outdoors"),
    "accordion": (3, 50, "a padded case", "squeezebox", "to play folk tunes on"),
}
LACKING = ("kayak", "lawn mower", "violin", "chainsaw", "piano", "cement mixer", "surfboard", "trampoline", "loom")
HOURS = {
    "Tuesday": "10 to 5", "Wednesday": "10 to 6", "Thursday": "noon to 8", "Friday": "10 to 4", "Saturday": "9 to 1",
}  # fmt: skip
LENGTHS = {
    "1": ("one day", "a day", "a single day"), "2": ("two days", "2 days"), "3": ("three days", "3 days"),
    "4": ("four days", "4 days"), "5": ("five days", "5 days"), "6": ("six days", "6 days"), "7": ("a week",),
    "9": ("nine days", "9 days"), "10": ("ten days", "10 days"), "14": ("two weeks", "a fortnight"), "30": ("a month",),
}  # fmt: skip
KEPT = 5  # pounds of the deposit, while parts are missing
NEVER = {"item": LACKING, "day": ("Sunday", "Monday"), "days": ("9", "10", "14", "30")}
REFUSED = tuple(value for values in NEVER.values() for value in values)

# chances of the tasks and of what the system message orders
TASKS = {"borrow": 0.66, "return": 0.18, "ask": 0.16}
ORDERS = {"": 0.58, "brief": 0.16, "named": 0.09, "closed": 0.09, "out": 0.08}
COMMANDS = {
    "brief": ("Answer briefly.", "Keep it short.", "Use as few words as you can.", "Short answers only."),
    "named": ("The visitor is {}.", "You are talking to {}.", "Address the visitor as {}."),
    "closed": ("The shed stays closed on {}.", "On {} nobody is here.", "There is no lending on {}."),
    "out": ("The {} is out this week.", "The {} is being mended.", "Do not lend out the {} now."),
}
DETAILS = {
    "named": ("Ms Pell", "Mr Marsh", "Ms Quill", "Mr Oduya", "Ms Hale", "Mr Brandt", "Ms Sorley", "Mr Nakano",
              "Ms Finch", "Mr Larkin", "Ms Varga", "Mr Teale", "Ms Costa", "Mr Winter", "Ms Rook", "Mr Sato"),
    "closed": tuple(HOURS),
    "out": tuple(THINGS),
}  # fmt: skip
SPOILT = {"closed": "day", "out": "item"}  # the slot that loses one of its values by such an order
PLACES = ("You are at the desk of the lending shed.", "You help visitors of the lending shed.", "You lend out things.")

# what is asked for in turn, what may need a second thought, and what may be told before it is asked for
SLOTS = {"borrow": ("item", "day", "days", "member"), "return": ("item", "member", "whole"), "ask": ()}
UNSURE = {"borrow": SLOTS["borrow"], "return": ("member",), "ask": SLOTS["borrow"]}
UNASKED = ("day", "days", "member")
VALUES = {
    "item": (*THINGS, *LACKING),
    "day": (*HOURS, "Sunday", "Monday"),
    "days": tuple(LENGTHS),
    "member": tuple(map(str, range(100, 1000))),
    "whole": ("yes", "no"),
}

# what the desk says, in full and briefly
SAYINGS = {
    "borrow item": ("What would you like to borrow?", "Which item?"),
    "borrow day": ("Which day would you like to collect {item}?", "Which day?"),
    "borrow days": ("How many days from {day} do you need {item}?", "How many days?"),
    "borrow member": ("What is your member number?", "Member number?"),
    "borrow sum": ("{item} from {day} for {days} is {total} plus a deposit of {deposit}, under {member}.",
                   "{item}, {day}, {days}, {total}, deposit {deposit}, {member}."),
    "borrow settle": ("Shall I book it?", "Book it?"),
    "borrow done": ("Booked. You can collect {item} on {day} from {opening}.", "Booked, {day} from {opening}."),
    "return item": ("What are you bringing back?", "Which item?"),
    "return member": ("Which member number is {item} under?", "Member number?"),
    "return whole": ("Did you bring {parts} with {item}?", "And {parts}?"),
    "return yes": ("All there. Your deposit of {deposit} comes back to you.", "All there, {deposit} back."),
    "return no": ("I keep {kept} until it is all here and give you {rest} back.", "{kept} kept, {rest} back."),
    "no item": ("Sorry, we have no {refused}. What else would you like?", "No {refused}. What else?"),
    "no thing": ("Sorry, the {refused} is not here this week. What else would you like?", "Not here. What else?"),
    "no day": ("We are closed on {refused}. Which other day suits you?", "Closed on {refused}. Which other day?"),
    "no days": ("Seven days is the longest. How many shall it be?", "Seven at most. How many?"),
    "change": ("{new} instead of {old}, of course.", "{new}, noted."),
    "price": ("{item} is {price} a day.", "{price} a day."),
    "deposit": ("The deposit for {item} is {deposit}.", "{deposit}."),
    "parts": ("{item} comes with {parts}.", "{parts}."),
    "hours": ("On {day} we are open from {hours}.", "{hours}."),
    "closed": ("We are closed on {day}.", "Closed."),
    "late": ("Each day late is 2 pounds.", "2 pounds a day."),
    "pay": ("You can pay in cash or by card.", "Cash or card."),
    "where": ("We are in Thimble Street, behind the old bakery.", "Thimble Street."),
    "more": ("Is there anything else?", "Anything else?"),
    "bye": ("You are welcome. Goodbye!", "Goodbye!"),
}  # fmt: skip

# what visitors say
OPENINGS = {
    "borrow": ("I would like to borrow {it}", "could I borrow {it}?", "may I book {it}?", "I need {it}",
               "can you lend me {it}?", "I am after {it}", "we are looking for {it}", "I came to ask for {it}"),
    "return": ("I am bringing back {it}", "I would like to return {it}", "may I hand in {it}?",
               "I have come to bring back {it}", "I want to give back {it}"),
}  # fmt: skip
TAILS = {"day": (" from {day}", " starting {day}"), "days": (" for {days}",)}
GIVEN = {
    "item": ("{it}", "it is {it}", "I mean {it}", "{it} this time", "this time it is {it}"),
    "day": ("{day} would be best", "{day}, please", "I can come on {day}", "let's say {day}", "how about {day}?",
            "I am free on {day}", "{day}, if that is all right", "this {day}", "my day off is {day}", "{day} suits me"),
    "days": ("for {days}", "{days} should do", "I need it for {days}", "{days}, I think", "{days} would be enough",
             "the job takes {days}", "I would keep it for {days}"),
    "member": ("{member}", "it is {member}", "my number is {member}", "number {member}, I believe",
               "the card says {member}", "here is my card, number {member}", "I am member {member}"),
    "yes": ("yes, all here", "I did", "yes, it is all in the bag", "of course", "sure, have a look"),
    "no": ("no, not all of it", "I left something at home", "sorry, not yet", "no, something is missing"),
}  # fmt: skip
CHANGED = {
    "item": ("actually, I would rather have {it}", "no, give me {it} instead", "on second thoughts, I need {it}",
             "could I have {it} instead?"),
    "day": ("no, make it {day}", "sorry, {day} is better", "on second thoughts, {day}", "could we say {day} instead?",
            "wait, I meant {day}"),
    "days": ("no, make it {days}", "actually, {days} would be better", "could I have it for {days} instead?",
             "on second thoughts, {days}"),
    "member": ("sorry, my number is {member}", "wait, the number is {member}", "no, I misread it, it is {member}"),
}  # fmt: skip
QUESTIONS = {
    "price": ("how much is {topic} a day?", "what does {topic} cost?", "what do you charge for {topic}?"),
    "deposit": ("how high is the deposit for {topic}?", "what deposit do you take for {topic}?"),
    "parts": ("what comes with {topic}?", "do I get anything along with {topic}?", "what belongs to {topic}?"),
    "hours": ("when are you open on {topic}?", "what are your hours on {topic}?", "how late can I come on {topic}?"),
    "late": ("what if I am late?", "what does a late return cost?", "is there a fine for being late?"),
    "pay": ("how can I pay?", "do you take cards?", "do I need cash?"),
    "where": ("where are you?", "where do I find you?", "which street are you in?"),
}
ABOUT_THINGS = ("price", "deposit", "parts")
OCCASIONS = {
    "Enjoy the party!": ("it is for a birthday", "my son is turning six", "we are having a party"),
    "Good luck with the move!": ("we are moving house", "I have a new flat", "my sister is moving"),
    "Have a good trip!": ("we are off to the lake", "it is for our holiday", "we are going away with friends"),
    "Enjoy the wedding!": ("my cousin is getting married", "it is for a wedding", "two of my friends are marrying"),
}
GREETINGS = ("Good morning!", "Hello!", "Good afternoon!", "Hi!", "Good evening!")
CHATTER = ("it is raining again", "what a lovely shed!", "I walked all the way", "my neighbour sent me",
           "it took me a while to find you", "I have not been here for ages", "the bus was late")  # fmt: skip
FILLERS = ("well, ", "let me see, ", "right, ", "hm, ", "oh, ", "all right, ")
YES = ("yes, please", "please do", "that is right", "perfect, yes", "go ahead", "yes, do that", "sounds good", "sure")
BYE = ("thanks, bye", "thank you, that is all", "that was all, thanks", "I am all set, thanks", "goodbye then",
       "that will do, thank you", "nothing else, thanks", "that is all for today")  # fmt: skip


def render() -> dict[str, str]:
    rows = [json.dumps({"messages": messages}, ensure_ascii=False) for messages in compose()]
    return {"conversations.jsonl": "".join(f"{row}\n" for row in rows)}


def compose() -> Iterator[list[dict[str, str]]]:
    rng = Random(SEED)
    openings: set[str] = set()
    while len(openings) < CONVERSATIONS:
        messages = converse(rng)
        opening = str([*takewhile(lambda message: message["role"] != "assistant", messages)])
        if sum(message["role"] == "assistant" for message in messages) in ANSWERS and opening not in openings:
            openings.add(opening)
            yield messages


def converse(rng: Random) -> list[dict[str, str]]:
    order, task = (tuple(table)[draw(rng, tuple(table.values()))] for table in (ORDERS, TASKS))
    detail = pick(rng, DETAILS.get(order, ("",)))
    command = shuffled(rng, (pick(rng, PLACES), pick(rng, COMMANDS[order]).format(detail))) if order else []
    messages = [{"role": "system", "content": " ".join(command)}] if order else []
    talk = Talk(rng, order, detail, task, draw_wishes(rng, order, detail, task))
    while not talk.is_over:
        question, answer = talk.turn()
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def draw_wishes(rng: Random, order: str, detail: str, task: str) -> dict[str, list[str]]:
    """In a row for each slot: what will be refused, what is meant, what is meant on second thoughts."""
    unsure = pick(rng, UNSURE[task]) if rng.random() < 0.4 else ""
    wishes = {}
    for slot, values in VALUES.items():
        accepted = [value for value in values if value not in (*REFUSED, detail)]
        wishes[slot] = shuffled(rng, accepted)[: 2 if slot == unsure else 1]
    if order in SPOILT and task != "return" and rng.random() < 0.8:
        wishes[SPOILT[order]].insert(0, detail)
    elif task != "return" and rng.random() < 0.25:
        slot = pick(rng, tuple(NEVER))
        wishes[slot].insert(0, pick(rng, NEVER[slot]))
    return wishes


@dataclass
class Talk:
    """One conversation. In each turn the visitor says something, and the desk answers by the rules of the shed."""

    rng: Random
    order: str
    detail: str  # of the order: a name, a day or a thing
    task: str
    wishes: dict[str, list[str]]
    known: dict[str, str] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    spoken_of: str = ""  # the last thing
    wish: str = ""
    said: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    is_done: bool = False
    is_over: bool = False

    def turn(self) -> tuple[str, str]:
        step = self.enter if not self.said else self.go_on if self.task == "ask" or self.is_done else self.reply
        self.said, self.answered = [], []
        step()
        question = " ".join(capital(line if line[-1] in "?!" else f"{line}.") for line in self.said)
        answer = " ".join(self.answered)
        return question, f"{answer[:-1]}, {self.detail}{answer[-1]}" if self.order == "named" else answer

    def enter(self) -> None:
        if self.chance(0.3):
            self.said.append(pick(self.rng, GREETINGS))
            self.answered += self.said if self.order != "brief" else []
        if self.chance(0.15):
            self.said.append(pick(self.rng, CHATTER))
        if self.task == "ask":
            self.ask()
            self.proceed()
        else:
            self.request()

    def request(self) -> None:
        values = self.take(["item"] if self.spoken_of or self.chance(0.85) else [])
        is_clear = values.get("item") == self.spoken_of
        words = self.words(values) | ({"it": "it"} if is_clear else {})
        stem, mark, _ = pick(self.rng, OPENINGS[self.task][: 4 if is_clear else None]).partition("?")
        tails = [pick(self.rng, TAILS[slot]) for slot in values if slot in TAILS]
        lines = ["".join((stem, *shuffled(self.rng, tails), mark))]
        lines += [pick(self.rng, GIVEN[slot][2:]) for slot in values if slot == "member"]
        self.said += [line.format_map(words) for line in lines]
        self.hear(values)

    def reply(self) -> None:
        missing = self.missing()
        if self.is_curious(0.12):
            self.ask()
            return self.proceed()
        values = self.take(missing[:1])
        words = self.words(values)
        lines = [pick(self.rng, GIVEN[value if slot == "whole" else slot]) for slot, value in values.items()]
        lines = [line.format_map(words) for line in shuffled(self.rng, lines)]
        if len(lines) == 2 and "?" not in lines[0] and self.chance(0.5):
            lines = [", and ".join(lines)]
        if lines and self.chance(0.15):
            lines[0] = pick(self.rng, FILLERS) + lines[0]
        self.said += lines
        doubts = [slot for slot in self.known if self.wishes[slot]]
        if doubts and (not missing or self.chance(0.4)):
            self.change(pick(self.rng, doubts))
        elif not missing:
            self.said.append(pick(self.rng, YES))
            return self.finish("borrow done")
        self.hear(values)

    def go_on(self) -> None:
        if self.task == "ask" and self.chance(0.35):
            self.task = "borrow"
            self.request()
        elif self.is_curious(0.3):
            self.ask()
            self.proceed()
        else:
            self.is_over = True
            self.said.append(pick(self.rng, BYE))
            self.say("bye")

    def change(self, slot: str) -> None:
        old, new = self.known[slot], self.wishes[slot].pop(0)
        line = pick(self.rng, CHANGED[slot])
        # "no" would answer the desk's question, unless that is whether to go ahead
        line = line.removeprefix("no, ") if self.said else line
        self.said.append(line.format_map(self.words({slot: new})))
        self.say("change", new=shown(slot, new), old=shown(slot, old))
        self.known[slot] = new

    def hear(self, values: Mapping[str, str]) -> None:
        """Takes in what was told, with what comes to the visitor's mind beside it, and answers."""
        refused = {slot: value for slot, value in values.items() if value in (*REFUSED, self.detail)}
        self.known |= {slot: value for slot, value in values.items() if slot not in refused}
        self.spoken_of = values.get("item", self.spoken_of)
        if self.task == "borrow" and not self.wish and self.chance(0.15):
            self.wish = pick(self.rng, tuple(OCCASIONS))
            self.said.append(pick(self.rng, OCCASIONS[self.wish]))
        if self.is_curious(0.07):
            self.ask()
        for slot, value in refused.items():
            self.say("no thing" if value in THINGS else f"no {slot}", refused=value)
        if not refused:
            self.proceed(is_new=True)

    def ask(self) -> None:
        kind = pick(self.rng, [kind for kind in (*ABOUT_THINGS, *QUESTIONS) if kind not in self.asked])
        self.asked.add(kind)
        about, topic = dict[str, str](), ""
        if kind in ABOUT_THINGS:
            wanted = [item for item in (self.known.get("item", ""), *self.wishes["item"]) if item in THINGS]
            thing = wanted[0] if wanted and self.chance(0.8) else pick(self.rng, tuple(THINGS))
            about, topic = {"item": thing}, f"the {self.name(thing)}"
            topic = "it" if thing == self.spoken_of and self.chance(0.6) else topic
            self.spoken_of = thing
        elif kind == "hours":
            topic = self.known.get("day") or pick(self.rng, (*self.wishes["day"], *VALUES["day"]))
            about = {"day": topic}
        self.said.append(pick(self.rng, QUESTIONS[kind]).format(topic=topic))
        self.say("closed" if about.get("day") in (*REFUSED, self.detail) else kind, **details(about))

    def proceed(self, is_new: bool = False) -> None:
        missing = self.missing()
        if missing:
            self.say(f"{self.task} {missing[0]}")
        elif self.task == "ask" or self.is_done:
            self.say("more")
        elif self.task == "return":
            self.finish(f"return {self.known['whole']}")
        else:
            if is_new:
                self.say("borrow sum")
            self.say("borrow settle")

    def finish(self, saying: str) -> None:
        self.is_done = True
        self.is_over = self.chance(0.45)
        self.say(saying)
        self.answered += [self.wish] if self.wish and self.order != "brief" else []

    def say(self, saying: str, **words: str) -> None:
        text = SAYINGS[saying][self.order == "brief"]
        self.answered.append(capital(text.format_map(details(self.known) | words)))

    def missing(self) -> list[str]:
        return [slot for slot in SLOTS[self.task] if slot not in self.known]

    def take(self, slots: Sequence[str]) -> dict[str, str]:
        """Wishes for these slots, and maybe for others that are missing."""
        more = [slot for slot in self.missing() if slot in UNASKED and slot not in slots and self.chance(0.3)]
        return {slot: self.wishes[slot].pop(0) for slot in (*slots, *more)}

    def words(self, values: Mapping[str, str]) -> dict[str, str]:
        length = pick(self.rng, LENGTHS[values["days"]]) if "days" in values else ""
        return {**values, "days": length, "it": self.wanted(values["item"]) if "item" in values else "something"}

    def wanted(self, item: str) -> str:
        name = self.name(item)
        if self.task == "return":
            return f"the {name}"
        if item in THINGS and self.chance(0.2):
            return f"something {THINGS[item][-1]}"
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"

    def name(self, item: str) -> str:
        return pick(self.rng, (item, item, THINGS[item][-2])) if item in THINGS else item

    def is_curious(self, share: float) -> bool:
        return len(self.asked) < 3 and self.chance(share)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share


def details(known: Mapping[str, str]) -> dict[str, str]:
    words = {slot: shown(slot, value) for slot, value in known.items()}
    if "item" in known:
        price, deposit, parts, *_ = THINGS[known["item"]]
        total = pounds(price * int(known.get("days", 0)))
        words |= {"price": pounds(price), "deposit": pounds(deposit), "rest": pounds(deposit - KEPT)}
        words |= {"parts": parts, "total": total, "kept": pounds(KEPT)}
    if "day" in known:
        hours = HOURS.get(known["day"], "")
        words |= {"hours": hours, "opening": hours.partition(" ")[0]}
    return words


def shown(slot: str, value: str) -> str:
    forms = {"item": f"the {value}", "days": f"{value} day{'s' * (value != '1')}", "member": f"number {value}"}
    return forms.get(slot, value)


def pounds(number: int) -> str:
    return f"{number} pound{'s' * (number != 1)}"
