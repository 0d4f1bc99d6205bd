"""Rows with the fields of a scenario -> prompts: read and cleaned as prepare does it, encoded as tokenize does it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from stages.lib.core.templates import Field, RejectedRow, Template
from stages.lib.encoding.encoded import Encoded
from stages.lib.encoding.encoder import Encoder
from stages.lib.inference.settings import Settings
from stages.lib.ingest.cleaning import Cleaner
from stages.lib.ingest.conversations import as_messages
from stages.lib.ingest.row_texts import RowReader, columns
from stages.lib.params.prepare import Prepare, Range
from stages.lib.records.chats import Turn, render
from stages.lib.records.examples import Example, Split

_ANSWER = "-"  # stands for the answer of a conversation that is asked for
_SPLIT: Split = "test"  # whose templates a row is read by


class Asked(NamedTuple):
    """What the model is asked: a text for people, and the ids that it reads."""

    source: str
    ids: list[int]


class Prompts:
    """Of one task. A row is a dictionary with the fields of the source; of free text, its opening in the field of the
    target; of a conversation, its messages, the last of which is not the assistant's."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: Settings) -> None:
        self.params = settings.prepare
        self._reader = RowReader(_without_answers(settings.prepare))
        self._clean = Cleaner(settings.prepare.clean, settings.prepare.mask)
        words = [label.word for label in settings.labels]
        self._encoder = Encoder(tokenizer, settings.tokenize, settings.family, words, answers_apart=True)

    @property
    def is_conversation(self) -> bool:
        return bool(self.params.message_fields)

    @property
    def is_free_text(self) -> bool:
        return not self.is_conversation and self.params.source is None

    @property
    def required(self) -> list[str]:
        """The columns that every row has."""
        of_answer = self.params.message_fields[1:][-1:]
        return [name for name in columns(self._reader.params, _SPLIT) if name not in of_answer]

    @property
    def fields(self) -> list[str]:
        """The columns that a person fills in, optional ones too. Of a conversation: its messages."""
        params = self._reader.params
        if self.is_conversation:
            return params.message_fields[:1]
        source = params.source_of(_SPLIT)
        templates = [source] if source is not None else params.targets_of(_SPLIT)[:1]
        names = [name for template in templates for name in Template(template).fields]
        return list(dict.fromkeys(params.extract[name].field if name in params.extract else name for name in names))

    def row(self, texts: Sequence[str], messages: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
        """From the texts of `fields`; of a conversation, from what the user says after these messages."""
        if not self.is_conversation:
            return dict(zip(self.fields, texts, strict=True))
        others = dict.fromkeys(self.required)  # such as tools
        return {**others, self.fields[0]: [*messages, {"role": "user", "content": texts[0]}]}

    def example(self, values: Mapping[str, Any]) -> Example:
        """Raises RejectedRow, as prepare would reject the row."""
        if self.is_conversation:
            return self._conversation(values)
        texts = self._texts(values)
        return Example("", texts.source, texts.targets[:1])

    def ask(self, examples: Sequence[Example]) -> Iterator[Asked | RejectedRow]:
        """The prompt of each example, or why tokenize would reject it."""
        for encoded in self._encoder.encoded(examples):
            yield encoded.problems[0] if encoded.problems else _asked(encoded)

    def _conversation(self, values: Mapping[str, Any]) -> Example:
        *_, last = names = self.params.message_fields
        given: Any = _ANSWER
        if len(names) == 1:
            answer = {"role": "assistant", "content": _ANSWER}
            given = [*as_messages(Field(last).value(values), self.params.conversation), answer]
        texts = self._texts({**values, last: given})
        *history, asked = texts.turns
        if asked.text != _ANSWER:  # one turn with the answer before it
            raise RejectedRow("no_question", "the last message is the assistant's, so nothing is asked")
        history = [replace(turn, has_loss=False) for turn in history]
        return Example("", "", [_ANSWER], [*history, Turn("assistant", _ANSWER)], tools=texts.tools)

    def _texts(self, values: Mapping[str, Any]) -> Any:
        return self._reader.texts(values, _SPLIT, self._clean, Counter())


def _asked(encoded: Encoded) -> Asked:
    example, first = encoded.example, encoded.tokenized[0]
    if example.turns:
        return Asked(render(example.turns[:-1]), first.source_ids)
    if example.source:
        return Asked(example.source, first.source_ids)
    # free text: the model continues what would be a target, without its end
    opening = [token for tokenized in encoded.tokenized for token in tokenized.target_ids][:-1]
    return Asked(example.targets[0], [*first.source_ids, *opening])


def _without_answers(params: Prepare) -> Prepare:
    """Reads rows that have no answer. Free text is its own answer."""
    anything = Range(min=None, max=None)
    lengths = params.lengths.model_copy(update={"target_characters": anything, "target_words": anything})
    changes: dict[str, Any] = {"lengths": lengths, "metadata": []}
    if params.source is not None:
        changes["target"] = {"train": "", "test": None}
    return params.model_copy(update=changes)
