"""Writes an exported model in the format of another program, and compares its texts with those of the model:
`python -m stages.tools.convert FOLDER gguf OUT`.

FOLDER is what export_model has written. OUT is a new folder. The greedy texts of the first test inputs are written by
plain transformers, in float32, and by the runtime of the format. OUT/agreement.json says how many are equal, and what
the scores of both are; with --examples 1000, on more of the test split.

gguf         llama.cpp: causal models in the shape of Llama, Qwen or GPT-2; make setup EXTRAS=gguf
ctranslate2  CTranslate2: encoder-decoders and many causal models; make setup EXTRAS=ctranslate2
onnx         onnxruntime-genai: causal models in the shape of Llama, Qwen, Phi ...; make setup EXTRAS=onnx
adapter      peft: data/train/adapter alone, for those who have its base
"""

import os
import shutil
from argparse import ArgumentParser
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from stages.lib.core.files import write_json
from stages.lib.core.params import read_section
from stages.lib.core.process import UserError, launch
from stages.lib.export import FORMATS
from stages.lib.export.agreement import CheckedInput, agreement, checked_inputs
from stages.lib.export.interface import Precision, Source
from stages.lib.models.loading import BASE
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.model import Model, chosen_model, prediction_folder
from stages.lib.params.predict import Predict
from stages.lib.records.predictions import read_predictions
from stages.tools.arguments import parser_of

ADAPTER = Path("data/train/adapter")
CHOICE = Path("data/tune_hyperparameters/model.json")
IDS = Path("data/tokenize")
PREDICTIONS = Path("data/predict/predictions.jsonl")
AGREEMENT = "agreement.json"

_LEAST_SHARE = 0.5  # of equal texts in float32: rounding changes few, other arithmetic nearly all
# of the model, not of a program: whoever gets the converted one needs them too
_BESIDE = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "prompt.json", "settings.json")


def main() -> None:
    arguments = _parser().parse_args()
    name, model = chosen_model(read_section(Model), CHOICE)
    source = Source(arguments.folder, ADAPTER, model)
    _check(arguments.format, arguments.precision, source, arguments.out)
    if arguments.examples < 1:
        raise UserError(f"--examples {arguments.examples}: at least 1 is needed for a comparison")
    if not PREDICTIONS.is_file():
        raise UserError(f"{PREDICTIONS}: not there; run `make repro`, or `dvc checkout` if it has been made")
    ids = prediction_folder(IDS, name)
    inputs = checked_inputs(read_predictions(PREDICTIONS), ids, source.folder, arguments.examples)
    sections = read_section(Predict), read_section(Evaluate)
    found = convert(arguments.format, arguments.precision, source, inputs, *sections, arguments.out)
    print(_told(arguments.out, found))


def convert(
    name: str,
    precision: Precision,
    source: Source,
    inputs: list[CheckedInput],
    predict: Predict,
    evaluate: Evaluate,
    target: Path,
) -> dict[str, Any]:
    """Writes the folder and returns the content of its agreement.json. The folder appears when all of it is written.

    Raises:
        UserError: the format has no such model, or computes it otherwise.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as beside:
        new = Path(beside) / "converted"
        new.mkdir()
        FORMATS[name].write(source, new, precision)
        for file in chain.from_iterable(map(source.folder.glob, _BESIDE)):
            shutil.copyfile(file, new / file.name)
        compared = agreement(FORMATS[name], source, new, inputs, predict, evaluate)
        found = {"format": name, "precision": precision, **compared}
        if precision == "float32" and found["share"] < _LEAST_SHARE:
            raise UserError(
                f"{source.folder}: only {found['equal']} of {found['count']} texts of the converted model are those of "
                f"transformers, so {name} computes this model otherwise; nothing was kept"
            )
        write_json(new / AGREEMENT, found)
        os.replace(new, target)
    return found


def _check(name: str, precision: Precision, source: Source, target: Path) -> None:
    if not (source.folder / "config.json").is_file() or (source.folder / BASE).exists():
        raise UserError(f"{source.folder}: no whole model; write one with `python -m stages.tools.export_model FOLDER`")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there already; name a new folder, or an empty one")
    form = FORMATS[name]
    if precision not in form.precisions:
        raise UserError(f"--precision {precision}: {name} has {', '.join(form.precisions)}")
    if missing := [package for package in form.packages if find_spec(package) is None]:
        raise UserError(f"{name}: the package {missing[0]} is not installed; run `make setup EXTRAS={name}`")


def _parser() -> ArgumentParser:
    parser = parser_of("convert", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a whole model")
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="of the weights")
    parser.add_argument("--examples", type=int, default=20, metavar="N", help="test inputs to compare on (20)")
    return parser


def _told(target: Path, found: dict[str, Any]) -> str:
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 1e6
    scores = "".join(f"; {name} {own['plain']:.2f} -> {own['converted']:.2f}" for name, own in found["scores"].items())
    return (
        f"{target}: {found['format']} in {found['precision']}, {size:,.1f} MB; {found['equal']} of {found['count']} "
        f"greedy texts equal those of transformers, on average {found['mean_common_prefix']:.0%} of a text{scores}"
    )


if __name__ == "__main__":
    launch(main)
