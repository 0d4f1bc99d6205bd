"""What prepare has done with all rows and lines, in plain words."""

from collections.abc import Iterator, Mapping
from typing import Any

from stages.lib.records.examples import SPLITS
from stages.lib.reports.numbers import flattened, in_words

_MOST_FIELDS = 20  # a table may have thousands that nothing reads

# counts that are told only where they are not 0; of others, the name is told
_WORDS = {
    "lines.read": "lines in the files",
    "lines.kept": "lines of kept rows",
    "lines.rejected": "lines of rejected rows",
    "rows_unused": "rows that train_share leaves out",
    "lines.not_drawn": "lines of rows that train_share or mixing leaves out",
    "lines.header": "lines of headers",
    "lines.blank": "blank lines",
    "lines.comment": "lines of comments",
    "lines.preamble": "lines above the header",
    "notes.empty_references": "empty references, left out",
    "notes.merged_messages": "messages joined with the one before, of the same speaker",
    "notes.answers_without_weight": "answers of weight 0, not learned",
    "notes.greetings": "answers before any question, not learned",
    "notes.turns_after_the_last_answer": "messages after the last answer, left out",
    "notes.empty_answers": "empty answers, not learned",
}
_FIELDS = {
    "unread_fields.": "rows with the field `{}`, which nothing reads",
    "notes.unread_message_fields.": "messages with the field `{}`, which nothing reads",
}
_ONLY_IF_SOME = ("lines", "notes", "unread_fields")


def account(prepare: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Words and number of each count that is not of one split. `prepare` holds that stage's stats."""
    counts = {name: value for name, value in flattened(prepare) if value or not name.startswith(_ONLY_IF_SOME)}
    fields = {start: [name for name in counts if name.startswith(start)] for start in _FIELDS}
    of_fields = {name for names in fields.values() for name in names}
    for name, value in counts.items():
        if name not in of_fields and name.partition(".")[2] not in SPLITS:
            yield _WORDS.get(name) or in_words(name), value
    for start, names in fields.items():
        most = sorted(names, key=lambda name: (-counts[name], name))
        yield from ((_FIELDS[start].format(name.removeprefix(start)), counts[name]) for name in most[:_MOST_FIELDS])
        if len(most) > _MOST_FIELDS:
            yield "other fields that nothing reads", len(most) - _MOST_FIELDS
