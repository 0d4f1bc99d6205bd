"""Sources that are fields with values: `name: The Mill; area: riverside`, `name[The Mill], area[riverside]`, JSON."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Facts = list[tuple[str, str]]  # field and value; a field with several values occurs several times

_ENOUGH_EXAMPLES, _ENOUGH_FIELDS = 20, 2
_MOST_PROBED = 2000  # sources, evenly chosen: reading all of a large corpus of prose takes minutes
_ENOUGH_PARSED = 0.95  # of the sources
_LONGEST_NAME = 40  # characters of a field's name
_LONGEST_VALUE = 10  # words of a value, on average: more is prose behind a heading
_MOST_REPEATING = 0.5  # of the sources may name a field twice: in a conversation nearly all do


def form_of(sources: Sequence[str]) -> Callable[[str], Facts] | None:
    """The first form in which nearly all sources can be read; None if they are no fields. A source that can't be read
    has no facts."""
    if len(sources) < _ENOUGH_EXAMPLES:
        return None
    probed = sources[:: -(-len(sources) // _MOST_PROBED)]
    return next((read for read in _FORMS if _are_fields([read(source) for source in probed])), None)


def _are_fields(parsed: Sequence[Facts]) -> bool:
    read = [facts for facts in parsed if facts]
    if len(read) < _ENOUGH_PARSED * len(parsed):
        return False
    names = Counter(name for facts in read for name, _ in facts)
    once = sum(count == 1 for count in names.values())
    repeating = sum(len({name for name, _ in facts}) < len(facts) for facts in read)
    values = [value for facts in read for _, value in facts]
    return (
        len(names) >= _ENOUGH_FIELDS
        and once <= (1 - _ENOUGH_PARSED) * len(values)
        and max(map(len, names)) <= _LONGEST_NAME
        and repeating <= _MOST_REPEATING * len(read)
        and sum(len(value.split()) for value in values) <= _LONGEST_VALUE * len(values)
    )


def _brackets(source: str) -> Facts:
    """`name[The Mill], area[riverside]`"""
    if not re.fullmatch(r"\s*(?:[^\[\]]+\[[^\[\]]*\]\s*)+", source):
        return []
    return _stripped((name.strip(" \t\n,;|"), value) for name, value in re.findall(r"([^\[\]]+)\[([^\[\]]*)\]", source))


def _json_object(source: str) -> Facts:
    """Lists give a field several values; nested fields have dotted names."""
    if not source.lstrip().startswith("{"):
        return []
    try:
        return _stripped(_flat("", json.loads(source)))
    except ValueError:
        return []


def _flat(name: str, value: object) -> Facts:
    if isinstance(value, dict):
        return [fact for key, inner in value.items() for fact in _flat(f"{name}.{key}" if name else key, inner)]
    if isinstance(value, list):
        return [fact for inner in value for fact in _flat(name, inner)]
    if isinstance(value, bool):
        return [(name, "yes" if value else "no")]
    return [] if value is None else [(name, str(value))]


def _triples(source: str) -> Facts:
    """`subject | predicate | object`, one a line or between && or ;: the subject is a value too."""
    rows = [row.split("|") for row in re.split(r"\s*(?:\n|&&|;)\s*", source.strip()) if row]
    if any(len(row) != 3 for row in rows):
        return []
    subjects = dict.fromkeys(("subject", subject) for subject, _, _ in rows)
    facts = [*subjects, *((predicate.strip(), value) for _, predicate, value in rows)]
    return _stripped((name, value.replace("_", " ")) for name, value in facts)


def _pairs(separator: str, sign: str) -> Callable[[str], Facts]:
    def read(source: str) -> Facts:
        parts = [part for part in re.split(separator, source.strip()) if part.strip()]
        pairs = [part.partition(sign) for part in parts]
        if any(not found or not name.strip() for name, found, _ in pairs):
            return []
        return _stripped((name.strip(), value) for name, _, value in pairs)

    return read


def _stripped(facts: Iterable[tuple[str, str]]) -> Facts:
    return [(name, value.strip().strip('"')) for name, value in facts if value.strip().strip('"')]


_FORMS: Sequence[Callable[[str], Facts]] = (
    _brackets,
    _json_object,
    _triples,
    *(_pairs(separator, sign) for separator in (r"\n", ";", r"\|", ",") for sign in (":", "=")),
)
