"""Checks params.yaml before anything runs: `python -m stages.tools.check_params`, the first step of `make repro`.

Each stage checks it again; this saves the wait for the first stage whose parameters are wrong, and names files and
folders that DVC would only call missing.
"""

from pathlib import Path

from stages.lib.params import PARAMS, read_scenario, read_section
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.model import Model
from stages.lib.params.prepare import Prepare
from stages.lib.process import UserError, launch
from stages.lib.readers import origins


def main() -> None:
    prepare, model, evaluate = read_section(Prepare), read_section(Model), read_section(Evaluate)
    raw = Path(prepare.folder) / read_scenario()
    folders = {
        f"{raw}, the files of the scenario (prepare -> folder)": raw,
        f"{model.folder} (model -> folder; DVC hashes it even when it is not read)": Path(model.folder),
        f"{evaluate.sentence_encoder_folder} (evaluate -> sentence_encoder_folder; DVC hashes it even when it is not "
        f"read)": Path(evaluate.sentence_encoder_folder),
    }
    lines = [f"{PARAMS}: no folder {name}" for name, folder in folders.items() if not folder.is_dir()]
    if raw.is_dir():
        try:
            origins(prepare, raw)
        except UserError as error:
            lines += error.lines
    if lines:
        raise UserError(lines)


if __name__ == "__main__":
    launch(main)
