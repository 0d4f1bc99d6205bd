"""Makes the list of n-grams that prepare.known_ngrams names, from a data set that train must not contain:
`python -m stages.tools.hash_ngrams OUT FILE_OR_FOLDER [COLUMN ...]`.

It reads all formats of `prepare`, by the ending of a file. The texts are those of the columns, or all texts of a row,
at any depth. OUT belongs into the folder of the scenario. It has 8 bytes for each n-gram. While it is made, the same
again is needed beside it, and some 400 MB of memory, however large the data set is.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.lib.core.process import UserError, launch
from stages.lib.core.templates import Field, RejectedRow
from stages.lib.ingest.known_ngrams import write_ngrams
from stages.lib.ingest.readers import origins, read_rows
from stages.lib.overlap.hashed_ngrams import N, ngrams, words_of
from stages.lib.overlap.minhash import Hashes
from stages.lib.params.prepare import Prepare


def main() -> None:
    if len(sys.argv) < 3 or any(argument.startswith("-") for argument in sys.argv):
        raise UserError("usage: python -m stages.tools.hash_ngrams OUT FILE_OR_FOLDER [COLUMN ...]")
    target = Path(sys.argv[1])
    counts: Counter[str] = Counter()
    count = write_ngrams(target, _hashed(Path(sys.argv[2]), sys.argv[3:], counts))
    print(
        f"{target}: {count:,} n-grams of {N} words, from {counts['texts']:,} texts; {counts['short']:,} more are "
        f"shorter and have none; {counts['rejected']:,} of {counts['rows']:,} rows can't be read"
    )


def _hashed(source: Path, columns: Sequence[str], counts: Counter[str]) -> Iterator[Hashes]:
    """The n-grams of each text. Raises UserError if a file can't be read, or has not one of the columns."""
    # all that the readers look at
    params = Prepare.model_construct(train=source.name or ".", target=[f"{{{name}}}" for name in columns] or None)
    for origin in origins(params, source.parent):
        for row in read_rows(origin, params, Counter()):
            counts["rows"] += 1
            try:
                if row.problem is not None:
                    raise row.problem
                found = list(_texts([Field(name).value(row.values) for name in columns] if columns else row.values))
            except RejectedRow:
                counts["rejected"] += 1
                continue
            for hashes in (ngrams(words_of(text)) for text in found):
                counts["texts" if len(hashes) else "short"] += 1
                yield hashes


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


if __name__ == "__main__":
    launch(main)
