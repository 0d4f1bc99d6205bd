"""What encoding makes of one example."""

from collections import Counter
from dataclasses import dataclass, field

from stages.lib.core.templates import RejectedRow
from stages.lib.records.examples import Example
from stages.lib.records.tokenized_examples import TokenizedExample


@dataclass(slots=True)
class Encoded:
    """Lengths are in tokens, before anything was truncated, split or rejected."""

    example: Example
    tried: int = 0  # targets, or answers of a conversation with loss
    source_tokens: list[int] = field(default_factory=list)
    target_tokens: list[int] = field(default_factory=list)
    unknown_tokens: int = 0
    sources_truncated: int = 0
    targets_split: int = 0
    special_as_text: bool = False  # whether its texts hold special tokens, which are plain text there
    left_out: Counter[str] = field(default_factory=Counter)  # by the chat template: reasoning, thoughts, tools
    tokenized: list[TokenizedExample] = field(default_factory=list)
    problems: list[RejectedRow] = field(default_factory=list)
