"""Seven public data sets, read by parameters alone. Run: `python -m tests.benchmarks.real_data FOLDER`, the folder
holding e2e/, multi30k/, sst2/, babi_dialog/, shakespeare_style/, tweetqa/ and tinyshakespeare/ as their authors give
them. Prints the rows read for each split, which must be the published numbers, and what was set aside."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages import prepare
from stages.lib.files import read_json
from stages.lib.params import read_section
from stages.lib.params.prepare import Prepare


def aligned(languages: tuple[str, str], *names: str) -> dict[str, dict[str, str]]:
    """`names` are of train, validation and test, with a place for the language."""
    splits = ("train", "validation", "test")
    return {split: {each: name.format(each) for each in languages} for split, name in zip(splits, names, strict=True)}


def dialogues(task: str) -> dict[str, Any]:
    files = {"train": "trn", "validation": "dev", "test": "tst"}
    named = {split: f"dialog-babi-{task}{part}.txt" for split, part in files.items()}
    texts = {"source": None, "target": None, "messages": "messages", "group_references": False}
    return {"folder": "babi_dialog", **named, **texts, "reading": {"kind": "dialog"}}


SETS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "e2e": (
        {
            "train": "trainset.csv",
            "validation": "devset.csv",
            "test": "testset_w_refs.csv",
            "source": "{mr}",
            "target": "{ref}",
        },
        {"train": 42061, "validation": 4672, "test": 4693},
    ),
    "multi30k": (
        {
            **aligned(("en", "de"), "train.lc.norm.tok.{}", "val.lc.norm.tok.{}", "test_2016_flickr.lc.norm.tok.{}"),
            "source": "{en}",
            "target": "{de}",
            "group_references": False,
        },
        {"train": 29000, "validation": 1014, "test": 1000},
    ),
    "sst2": (
        {
            "train": "train.tsv",
            "validation": "dev.tsv",
            "test": "test.tsv",
            "reading": {"columns": ["sentence", "label"]},
            "source": "{sentence}",
            "target": "{label}",
            "group_references": False,
        },
        {"train": 6920, "validation": 872, "test": 1821},
    ),
    "babi_dialog, task 5": (dialogues("task5"), {"train": 1000, "validation": 1000, "test": 1000}),
    "babi_dialog, task 6": (dialogues("task6"), {"train": 1618, "validation": 500, "test": 1117}),
    "shakespeare_style": (
        {
            **aligned(("modern", "original"), "train.{}.nltktok", "valid.{}.nltktok", "test.{}.nltktok"),
            "source": "{modern}",
            "target": "{original}",
            "group_references": False,
        },
        {"train": 18395, "validation": 1218, "test": 1462},
    ),
    "tweetqa": (
        {
            "train": "train.json",
            "test": "dev.json",
            "source": "{Tweet}\n{Question}",
            "target": "{Answer}",
            "group_references": False,
        },
        {"train": 10692, "test": 1086},
    ),
    "tinyshakespeare": (
        {
            "train": "input.txt",
            "reading": {"text_row": "file"},
            "source": None,
            "target": "{text}",
            "group_references": False,
            "clean": {"whitespace": "keep"},
            "split": {"by": "order", "test_fraction": 0.1},
        },
        {"train": 1},
    ),
}


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Sections below are overridden parameter by parameter; aligned files are a value, not a section."""
    sections = {"reading", "clean", "split"}
    return {**values, **{k: merged(values[k], v) if k in sections else v for k, v in overrides.items()}}


def main(folder: Path) -> None:
    usual = read_section(Prepare, Path("tests/params.yaml")).model_dump() | {"validation": None, "test": None}
    for name, (overrides, rows) in SETS.items():
        place = {"folder": str(folder / overrides.get("folder", name))}
        with tempfile.TemporaryDirectory() as target:
            prepare.run(Prepare.model_validate(merged(usual, overrides) | place), None, Path(target))
            account = read_json(Path(target) / "account.json")
        right = "as published" if account["rows_read_for"] == rows else f"NOT {rows}"
        print(f"{name}: {account['rows_read_for']}, {right}; set aside: {account['set_aside']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
