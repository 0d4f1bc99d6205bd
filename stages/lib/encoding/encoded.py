"""What encoding makes of one example."""

from dataclasses import dataclass, field

from stages.lib.core.templates import RejectedRow
from stages.lib.records.examples import Example
from stages.lib.records.tokenized_examples import TokenizedExample


@dataclass(slots=True)
class Encoded:
    """Lengths are in tokens, before anything was truncated, split or rejected."""

    example: Example
    tried: int = 0  # targets, or answers of a conversation
    source_tokens: list[int] = field(default_factory=list)
    target_tokens: list[int] = field(default_factory=list)
    unknown_tokens: int = 0
    sources_truncated: int = 0
    targets_split: int = 0
    tokenized: list[TokenizedExample] = field(default_factory=list)
    problems: list[RejectedRow] = field(default_factory=list)
