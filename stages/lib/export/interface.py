"""What each format has to offer: it is written from a model, and its own runtime answers from what was written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from transformers import GenerationConfig

from stages.lib.params.model import Model

Precision = Literal["float32", "float16", "bfloat16", "int8", "int4"]


class Source(NamedTuple):
    folder: Path  # a whole model that plain transformers opens
    adapter: Path  # what the train stage has written beside it
    base: Model  # the model before training


class Format(NamedTuple):
    """`packages` are the modules that it imports; the extra of its name brings them. `precisions` are those of the
    weights, with the format's own words for them.

    `write(source, target, precision)` fills the folder `target`. It raises UserError where the format has no such
    architecture or tokenizer.

    `answers(source, target, prompts, decoding)` are the ids of a text for each prompt, by the runtime of the format,
    with or without the token that ends it. `decoding` is greedy.
    """

    packages: tuple[str, ...]
    precisions: Mapping[Precision, str]
    write: Callable[[Source, Path, Precision], None]
    answers: Callable[[Source, Path, Sequence[list[int]], GenerationConfig], Iterator[list[int]]]
