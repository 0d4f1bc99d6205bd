"""Prepares public data sets by their recipes. The numbers of rows must be the published ones.

    python -m tests.benchmarks.real_data FOLDER

FOLDER has one folder per data set, named by the recipes of stages/tools/recipes.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from stages import prepare
from stages.lib.core.files import read_json
from stages.lib.core.params import read_scenario, read_section
from stages.lib.params.prepare import Prepare
from stages.tools.recipe import apply

# published numbers of rows; a row of bAbI is a dialogue, tiny Shakespeare is one text
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
            stats = read_json(Path(target) / "prepare/report/stats.json")
        right = "as published" if stats["rows_read_for"] == rows else f"NOT {rows}"
        print(f"{name}: {stats['rows_read_for']}, {right}; rejected: {stats['rejected']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
