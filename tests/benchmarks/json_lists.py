"""A JSON list of 200 MB, read element by element, against Python's parser on the whole document. Run: `python -m
tests.benchmarks.json_lists`. Claims: at most a tenth of the memory, in at most four times the time."""

import json
import tempfile
from pathlib import Path

from stages.lib.ingest.json_lists import list_elements
from tests.benchmarks.data_scale import measured
from tests.benchmarks.synthetic import rows

ROWS = 900_000


def write_list(path: Path) -> None:
    with path.open("w") as file:
        for number, (source, target) in enumerate(rows(ROWS)):
            row = {"facts": source, "text": target, "score": number / 7}
            print("," if number else "[", json.dumps(row), sep="", file=file)
        print("]", file=file)


def by_element(path: Path) -> None:
    with path.open() as file:
        assert sum(1 for _ in list_elements(file, None, json.JSONDecoder())) == ROWS


def whole(path: Path) -> None:
    with path.open() as file:
        assert len(json.load(file)) == ROWS


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as place:
        path = Path(place) / "rows.json"
        write_list(path)
        (seconds, size, _), (whole_seconds, whole_size, _) = measured(by_element, path), measured(whole, path)
        print(
            f"a JSON list of {path.stat().st_size / 1e6:.0f} MB: {size:.0f} MiB of memory, Python's parser takes "
            f"{whole_size:.0f} MiB; ratios: memory {size / whole_size:.2f}, time {seconds / whole_seconds:.1f}"
        )


if __name__ == "__main__":
    main()
