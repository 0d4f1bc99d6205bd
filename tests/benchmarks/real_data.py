"""Are public data sets read as they were published? Prepares each by its recipe; the rows read must be as many.

    python -m tests.benchmarks.real_data FOLDER

FOLDER holds one folder a data set, as the recipes of stages/tools/recipes name them.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from stages import prepare
from stages.lib.files import read_json
from stages.lib.params import read_scenario, read_section
from stages.lib.params.prepare import Prepare
from stages.tools.recipe import apply

# rows of train, validation and test, by those who published them; bAbI by dialogues, tiny Shakespeare is one text
PUBLISHED = {
    "e2e": {"train": 42061, "validation": 4672, "test": 4693},
    "multi30k": {"train": 29000, "validation": 1014, "test": 1000},
    "sst2": {"train": 6920, "validation": 872, "test": 1821},
    "babi_task5": {"train": 1000, "validation": 1000, "test": 1000},
    "babi_task6": {"train": 1618, "validation": 500, "test": 1117},
    "shakespeare_style": {"train": 18395, "validation": 1218, "test": 1462},
    "tweetqa": {"train": 10692, "test": 1086},
    "tinyshakespeare": {"train": 1},
}


def main(folder: Path) -> None:
    for name, rows in PUBLISHED.items():
        with tempfile.TemporaryDirectory() as target:
            params = Path(shutil.copy("params.yaml", target))
            apply(name, str(folder), params)
            place = folder / read_scenario(params)
            prepare.run(read_section(Prepare, params), None, place, Path(target) / "prepare")
            account = read_json(Path(target) / "prepare/account.json")
        right = "as published" if account["rows_read_for"] == rows else f"NOT {rows}"
        print(f"{name}: {account['rows_read_for']}, {right}; set aside: {account['set_aside']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
