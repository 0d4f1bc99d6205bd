"""Writes the whole model with its card into a folder, ready for a hub or a server:
`python -m stages.tools.export_model FOLDER`. An adapter is merged into its base, in the precision of the base."""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from stages.lib.checkpoint.config import read_config
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.params import read_section
from stages.lib.core.process import UserError, launch
from stages.lib.models.loading import is_adapter, trained_model
from stages.lib.params.model import Model, chosen_model

TRAINED = Path("data/train")
CHOICE = Path("data/tune_hyperparameters/model.json")
CARD = Path("data/evaluate/README.md")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise UserError("usage: python -m stages.tools.export_model FOLDER")
    target = Path(sys.argv[1])
    export(TRAINED, CARD, target)
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    print(f"{target}: {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB")


def export(trained: Path, card: Path, target: Path) -> None:
    """The card becomes the README.md of the folder.

    Raises:
        UserError: there is no model or no card, the folder holds something, or an adapter's base can't be loaded.
    """
    if missing := next((path for path in (trained / "model", card) if not path.exists()), None):
        raise UserError(f"{missing}: not there; run `make repro`, or `dvc checkout` if it has been made")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there already; name a new folder, or an empty one")
    if is_adapter(trained):
        write_merged(chosen_model(read_section(Model), CHOICE).model, trained, target)
    else:
        shutil.copytree(trained / "model", target, dirs_exist_ok=True)
    shutil.copyfile(card, target / "README.md")


def write_merged(base: Model, trained: Path, target: Path) -> None:
    network: Any = trained_model(base, trained)
    network.to(dtype=read_config(base).dtype or torch.float32)
    network.save_pretrained(target)
    load_tokenizer(trained / "model").save_pretrained(target)


if __name__ == "__main__":
    launch(main)
