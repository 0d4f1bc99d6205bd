"""Checks params.yaml before anything runs: `python -m stages.tools.check_params`, the first step of `make repro`.

Each stage checks it again; this saves the wait for the first stage whose parameters are wrong, and names files and
folders that DVC would only call missing.
"""

from pathlib import Path

from stages.lib.params import PARAMS, read_section
from stages.lib.params.model import Model
from stages.lib.params.prepare import Prepare
from stages.lib.process import UserError, launch


def main() -> None:
    prepare, model = read_section(Prepare), read_section(Model)
    files = {
        f"prepare -> {name}": Path(prepare.folder) / file
        for name in ("train", "validation", "test")
        if (file := getattr(prepare, name)) is not None
    }
    lines = [f"{PARAMS}: {place}: no file {file}" for place, file in files.items() if not file.is_file()]
    if not Path(model.folder).is_dir():
        lines.append(f"{PARAMS}: model -> folder: no folder {model.folder} (DVC hashes it even when it is not read)")
    if lines:
        raise UserError(lines)


if __name__ == "__main__":
    launch(main)
