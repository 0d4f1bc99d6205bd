"""The texts of a row: its source and targets, or the turns of its conversation, by the section `prepare`."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stages.lib.core.templates import Field, NullValue, RejectedRow, Template, as_text, value_at
from stages.lib.core.words import count_words
from stages.lib.ingest.cleaning import Cleaner
from stages.lib.ingest.conversations import as_messages, compact_json, read_turns
from stages.lib.ingest.json_files import with_numbers
from stages.lib.ingest.rows import one_line
from stages.lib.ingest.tool_calls import without_nulls
from stages.lib.params.prepare import Conversation, LengthLimits, Prepare, Range
from stages.lib.records.chats import Turn, answer_places, render
from stages.lib.records.examples import SPLITS, Split

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Texts:
    """The texts of one row: a source with its targets, or the turns of a conversation, up to its last answer with loss.
    Then the targets are its answers with loss, and the source is empty. `tools` is a JSON list, or an empty text."""

    source: str
    targets: list[str]
    turns: list[Turn] = field(default_factory=list)
    tools: str = ""

    def joined(self) -> tuple[str, str]:
        """(source, target) to compare with other rows. Of a conversation: the turns before its last answer, and that
        answer."""
        if self.turns:
            return render(self.turns[:-1]), self.turns[-1].written()
        return self.source, "\n".join(self.targets)


@dataclass(frozen=True)
class RowReader:
    """Reads the texts of rows, in any process. `notes` counts what it changes or leaves out of rows that stay."""

    params: Prepare

    def texts(self, values: Mapping[str, Any], split: Split, clean: Cleaner, notes: Counter[str]) -> Texts:
        """Raises RejectedRow. What `notes` has of such a row must not be counted."""
        try:
            values = self._with_extracts(values, split)
            if self.params.message_fields:
                texts = self._conversation(values, clean, notes)
            else:
                texts = self._source_and_targets(values, split, clean, notes)
        except RecursionError:
            raise RejectedRow("no_text", "lists or objects are nested too deeply") from None
        self._check_lengths(texts)
        return texts

    def value(self, name: str, values: Mapping[str, Any]) -> Any:
        """The value of a field of the row, or of `extract`. Raises RejectedRow if there is none."""
        field = Field(name)
        if field.name in self.params.extract:
            return self._extract(field.name, values, field.optional)
        return field.value(values)

    def unread(self, values: Mapping[str, Any], split: Split) -> Iterator[str]:
        """The columns with a value that nothing in the params reads."""
        read = self._fields[split].columns
        return (name for name, value in values.items() if name not in read and value not in (None, "", [], {}))

    def _with_extracts(self, values: Mapping[str, Any], split: Split) -> Mapping[str, Any]:
        """The row with the columns of `extract` that the split uses. An optional one that finds nothing is null."""
        if not self.params.extract:
            return values
        fields = self._fields[split]
        names = [name for name in self.params.extract if name in fields.all]
        return {**values, **{name: self._extract(name, values, name not in fields.required) for name in names}}

    def _extract(self, name: str, values: Mapping[str, Any], optional: bool) -> str | None:
        extract = self.params.extract[name]
        value = value_at(extract.field, values, optional)
        found = None if value is None and optional else re.search(extract.pattern, as_text(extract.field, value))
        if found is not None and found[1] is not None:
            return found[1]
        if optional:
            return None
        raise RejectedRow("missing_field", f"{name}: the pattern finds nothing in {extract.field}")

    def _source_and_targets(
        self, values: Mapping[str, Any], split: Split, clean: Cleaner, notes: Counter[str]
    ) -> Texts:
        template, templates = self._templates[split]
        source = "" if template is None else clean_text(template.render(values), "source", clean)
        targets = [
            clean_text(text, "target", clean)
            for each in templates
            for text in _references(each, values, several=len(templates) > 1)
        ]
        filled = [target for target in targets if target.strip() or target in (self.params.labels or ())]
        if templates and not filled:
            raise RejectedRow("empty_target", "the target is empty")
        if template is not None and not source.strip():
            raise RejectedRow("empty_source", "the source is empty")
        if empty := len(targets) - len(filled):
            notes["empty_references"] += empty
        return Texts(source, self._labels(filled))

    def _labels(self, targets: list[str]) -> list[str]:
        """The word for the label, if targets are labels."""
        labels = self.params.labels
        if labels is None:
            return targets
        for target in targets:
            if target not in labels:
                raise RejectedRow("unknown_label", f"`{target[:80]}` is not in prepare.labels")
        words = list(dict.fromkeys(labels[target] for target in targets))
        if len(words) > 1:
            raise RejectedRow("several_labels", f"the labels {' and '.join(words)} for one source")
        return words

    def _conversation(self, values: Mapping[str, Any], clean: Cleaner, notes: Counter[str]) -> Texts:
        turns = read_turns(self._messages(values), self.params.conversation, notes)
        turns = [self._cleaned(turn, clean, notes) for turn in self._with_system(turns, values, notes)]
        places = answer_places(turns)
        if not places:
            raise RejectedRow("no_answer", "no answer with text is left after cleaning")
        if behind := len(turns) - 1 - places[-1]:
            notes["turns_after_the_last_answer"] += behind
        answers = [turns[place].written() for place in places]
        return Texts("", answers, turns[: places[-1] + 1], self._tools(values, notes))

    def _messages(self, values: Mapping[str, Any]) -> Any:
        """As `read_turns` expects them. Of several fields, only answers in the last one have loss."""
        *before, last = self.params.message_fields
        if not before:
            return Field(last).value(values)
        conversation = self.params.conversation
        history = [message for name in before for message in _messages_of(name, values, "user", conversation)]
        return [_without_weight(message) for message in history] + _messages_of(last, values, "assistant", conversation)

    def _with_system(self, turns: list[Turn], values: Mapping[str, Any], notes: Counter[str]) -> list[Turn]:
        if self.params.conversation.system is None:
            return turns
        system = Field(self.params.conversation.system)
        value = system.value(values)
        text = "" if value is None else as_text(system.name, value)
        if not text.strip():
            return turns
        if turns[0].role != "system":
            return [Turn("system", text), *turns]
        if turns[0].text != text:
            notes["unused_system_prompts"] += 1
        return turns

    def _cleaned(self, turn: Turn, clean: Cleaner, notes: Counter[str]) -> Turn:
        text = clean_text(turn.text, turn.role, clean)
        message = self._cleaned_fields(json.loads(turn.fields), clean) if turn.fields else {}
        has_loss = turn.has_loss and (turn.role != "assistant" or bool(text.strip()) or "tool_calls" in message)
        if turn.has_loss and not has_loss:
            notes["empty_answers"] += 1
        return Turn(turn.role, text, has_loss, _json(message, turn.role) if message else "")

    def _cleaned_fields(self, message: dict[str, Any], clean: Cleaner) -> dict[str, Any]:
        """Thoughts are cleaned like other text. Arguments of tools are only masked: they are read by programs."""
        if "reasoning_content" in message:
            message["reasoning_content"] = clean_text(message["reasoning_content"], "reasoning", clean)
        for call in message.get("tool_calls", ()):
            function = call["function"]
            function["arguments"] = _masked(function.get("arguments", {}), clean)
        return message

    def _tools(self, values: Mapping[str, Any], notes: Counter[str]) -> str:
        if self.params.conversation.tools is None:
            return ""
        tools = Field(self.params.conversation.tools)
        value = tools.value(values)
        if isinstance(value, str):
            value = _parsed(value, tools.name)
        else:
            value = without_nulls(with_numbers(value), "null_fields_of_tools", notes)
        if value is None or value == []:
            return ""
        if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
            raise RejectedRow("bad_tools", f"{tools.name} holds no list of objects, one for each tool")
        return _json(value, tools.name)

    def _check_lengths(self, texts: Texts) -> None:
        for part, unit, bounds in self._bounds:
            for text in [texts.joined()[0]] if part == "source" else texts.targets:
                length = len(text) if unit == "characters" else count_words(text)
                if bounds.min is not None and length < bounds.min:
                    raise RejectedRow("too_short", f"the {part} has {length:,} {unit}, fewer than {bounds.min:,}")
                if bounds.max is not None and length > bounds.max:
                    raise RejectedRow("too_long", f"the {part} has {length:,} {unit}, more than {bounds.max:,}")

    @cached_property
    def _bounds(self) -> list[tuple[str, str, Range]]:
        """Those that are set: source or target, characters or words, and the range."""
        ranges = ((*name.split("_"), getattr(self.params.lengths, name)) for name in LengthLimits.model_fields)
        return [(part, unit, found) for part, unit, found in ranges if found.min is not None or found.max is not None]

    @cached_property
    def _templates(self) -> dict[Split, tuple[Template | None, list[Template]]]:
        """Of the source and the targets."""
        return {split: _templates_of(self.params, split) for split in SPLITS}

    @cached_property
    def _fields(self) -> "dict[Split, _Fields]":
        return {split: _fields_of(self.params, split) for split in SPLITS}


def columns(params: Prepare, split: Split) -> list[str]:
    """The fields that a file of the split must have: those that are not optional, and made by no pattern."""
    return _read_columns(params, _fields_of(params, split).required)


def advice_on_answers(params: Prepare, split: Split) -> dict[str, str]:
    """What to do if a column that only the targets of validation or test need is missing: column -> advice."""
    if split == "train":
        return {}
    source, targets = _templates_of(params, split)
    advice = f"prepare.target can name other columns for {split}: target: {{train: ..., {split}: ...}}"
    if split == "test" and source is not None:
        advice += ", or {train: ..., test: null} if it has no answers"
    shared = [] if source is None else source.required
    names = [name for template in targets for name in template.required if name not in shared]
    return dict.fromkeys(_read_columns(params, names), advice)


def _read_columns(params: Prepare, names: Iterable[str]) -> list[str]:
    """Those of the file, in the place of those made from them."""
    return list(dict.fromkeys(params.extract[name].field if name in params.extract else name for name in names))


def clean_text(text: str, name: str, clean: Cleaner) -> str:
    """Raises RejectedRow if no file could hold the text."""
    check_surrogates(text, name)
    return clean(text)


def check_surrogates(text: str, name: str) -> None:
    if not text.isascii() and _SURROGATE.search(text):
        raise RejectedRow("lone_surrogate", f"the {name} holds half of a surrogate pair")


@dataclass(frozen=True)
class _Fields:
    """What is read of the rows of a split. `all` and `required` name fields, `columns` what they can be at the top of
    a row."""

    all: list[str]
    required: list[str]
    columns: frozenset[str]


def _fields_of(params: Prepare, split: Split) -> _Fields:
    source, targets = _templates_of(params, split)
    templates = targets if source is None else [source, *targets]
    of_conversation = [*params.message_fields, params.conversation.system, params.conversation.tools]
    others = [*(of_conversation if params.message_fields else []), params.split.field, *params.metadata]
    fields = [Field(name) for name in others if name is not None]
    divided = params.split.field if split != "train" else None  # only train is: other files may lack it
    names = [name for template in templates for name in template.fields] + [field.name for field in fields]
    required = [name for template in templates for name in template.required]
    required += [field.name for field in fields if not field.optional and field.name != divided]
    read = [*names, *(f"{name}?" for name in names if name not in required)]
    read += [params.extract[name].field for name in names if name in params.extract]
    read += [params.reading.thread.id] if params.reading.thread else []  # of the messages, which threads.py has read
    return _Fields(names, required, frozenset(column for path in read for column in (path, path.partition(".")[0])))


def _templates_of(params: Prepare, split: Split) -> tuple[Template | None, list[Template]]:
    source, separators = params.source_of(split), params.list_separators
    targets = [Template(text, separators) for text in params.targets_of(split)]
    return None if source is None else Template(source, separators), targets


def _references(template: Template, values: Mapping[str, Any], several: bool) -> list[str]:
    """The references from one template. Where `several` templates give some, one of them may hold null."""
    try:
        return template.render_all(values)
    except NullValue:
        if not several:
            raise
        return [""]


def _messages_of(name: str, values: Mapping[str, Any], role: str, conversation: Conversation) -> list[Any]:
    """The messages of one field among several. A text that holds no list of them is a message of `role`."""
    value = Field(name).value(values)
    if isinstance(value, str) and not _holds_messages(value, conversation):
        return [{"role": role, "content": value}] if value.strip() else []
    return [] if value is None else as_messages(value, conversation)


def _holds_messages(text: str, conversation: Conversation) -> bool:
    if conversation.turn is not None:
        return re.search(conversation.turn, text) is not None
    if not text.lstrip().startswith("["):
        return False
    try:
        return all(isinstance(message, Mapping) for message in as_messages(text, conversation))
    except RejectedRow:
        return False


def _without_weight(message: Any) -> Any:
    return {**message, "weight": 0} if isinstance(message, Mapping) else message


def _masked(value: Any, clean: Cleaner) -> Any:
    """A value of JSON with its texts and numbers masked, at any depth."""
    if isinstance(value, dict):
        return {name: _masked(element, clean) for name, element in value.items()}
    if isinstance(value, list):
        return [_masked(element, clean) for element in value]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    masked = clean.mask(str(value))
    return value if masked == str(value) else masked


def _parsed(text: str, name: str) -> Any:
    """Of a blank text: null."""
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        raise RejectedRow("bad_tools", f"{name} holds no JSON: `{one_line(text)[:80]}`") from None


def _json(value: Any, name: str) -> str:
    """Raises RejectedRow if no file could hold it."""
    try:
        text = compact_json(value, name)
    except ValueError:
        raise RejectedRow("no_text", f"{name} holds a number that is not finite") from None
    check_surrogates(text, name)
    return text
