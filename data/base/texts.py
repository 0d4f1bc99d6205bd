"""The corpus, as the scripts here read it: without the share-alike file."""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

CORPUS = Path("corpus")

_FILES = ("narrative", "explanatory", "howto")


def documents(ending: str = "") -> Iterator[str]:
    """Those of train, or with `_heldout` those that are held out."""
    for name in _FILES:
        with lzma.open(CORPUS / f"{name}{ending}.jsonl.xz", "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["text"]
