"""Copies the model with its card into a folder, ready for a hub or a server:
`python -m stages.tools.export_model FOLDER`."""

import shutil
import sys
from pathlib import Path

from stages.lib.core.process import UserError, launch

MODEL = Path("data/train/model")
CARD = Path("data/evaluate/README.md")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise UserError("usage: python -m stages.tools.export_model FOLDER")
    target = Path(sys.argv[1])
    export(MODEL, CARD, target)
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    print(f"{target}: {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB")


def export(model: Path, card: Path, target: Path) -> None:
    """The card becomes the README.md of the folder.

    Raises:
        UserError: there is no model or no card, or the folder holds something.
    """
    if missing := next((path for path in (model, card) if not path.exists()), None):
        raise UserError(f"{missing}: not there; run `make repro`, or `dvc checkout` if it has been made")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there already; name a new folder, or an empty one")
    shutil.copytree(model, target, dirs_exist_ok=True)
    shutil.copyfile(card, target / "README.md")


if __name__ == "__main__":
    launch(main)
