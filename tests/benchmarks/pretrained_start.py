"""Does fine-tuning start from the pretrained weights? Validation loss after one epoch on the sample, from a checkpoint
and from random weights of the same architecture with the same tokenizer, in turn, three seeds each.

    python -m tests.benchmarks.pretrained_start path/to/checkpoint LEARNING_RATE
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from stages import prepare, tokenize
from stages.lib.fitting import fit
from stages.lib.models import base_model
from stages.lib.pairs import Pairs
from stages.lib.params import read_section
from stages.lib.params.fit import Fit
from stages.lib.params.model import Model
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.process import keep_freed_memory
from stages.lib.vocabulary import open_vocabulary
from tests.build import section

SEEDS = (1, 2, 3)


def main(checkpoint: Path, learning_rate: float) -> None:
    pretrained = section(Model, name="folder", folder=str(checkpoint))
    random = section(Model, name="scratch", architecture=_architecture(checkpoint))
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        prepare.run(read_section(Prepare), processes=None, target=data / "prepare")
        roomy = section(Tokenize, max_source_tokens=256, max_target_tokens=224)
        tokenize.run(roomy, pretrained, processes=None, source=data / "prepare", target=data / "tokenize")
        losses: dict[str, list[float]] = {"pretrained": [], "random": []}
        for seed in SEEDS:
            for name, model in (("pretrained", pretrained), ("random", random)):
                settings = section(Fit, epochs=1.0, validations=1, learning_rate=learning_rate, seed=seed)
                losses[name].append(_first_epoch(model, settings, data / "tokenize", data / f"{name}{seed}"))
    for name, values in losses.items():
        print(
            f"{name:<12}" + "".join(f"{value:8.4f}" for value in values) + f"   median {statistics.median(values):.4f}"
        )
    ratios = [ours / theirs for ours, theirs in zip(*losses.values(), strict=True)]
    print(f"ratio       {''.join(f'{ratio:8.3f}' for ratio in ratios)}   median {statistics.median(ratios):.3f}")


def _architecture(checkpoint: Path) -> dict[str, object]:
    """What makes the checkpoint's shape, without its vocabulary and special tokens, which its tokenizer decides."""
    config = json.loads((checkpoint / "config.json").read_text())
    decided = ("vocab_size", "architectures", "transformers_version", "dtype", "torch_dtype")
    return {name: v for name, v in config.items() if name not in decided and not name.endswith("_token_id")}


def _first_epoch(model: Model, settings: Fit, data: Path, folder: Path) -> float:
    network = base_model(model, open_vocabulary(data / "tokenizer"), settings.dropout, settings.seed)
    train, validation = Pairs(data / "train"), Pairs(data / "validation")
    return fit(network, train, validation, settings, folder, workers=0, title=folder.name).best()[1]


if __name__ == "__main__":
    keep_freed_memory()
    main(Path(sys.argv[1]), float(sys.argv[2]))
