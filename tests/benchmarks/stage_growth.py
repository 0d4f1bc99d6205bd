"""Memory and time of the later stages for ten times the examples: what training holds of its data, predict, evaluate.
Run: `python -m tests.benchmarks.stage_growth`. prepare and tokenize are measured by data_scale.py."""

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from tests.benchmarks.data_scale import measured
from tests.benchmarks.synthetic import rows
from tests.build import prediction

TRAIN, TEST = 100_000, 1_000  # and ten times as many
MODEL_TOKENS = 96


def held_by_training(folder: Path) -> None:
    from stages.lib.records.tokenized_examples import TokenizedDataset

    assert TokenizedDataset(folder / "train").lengths().sum()


def predicted(folder: Path) -> None:
    from stages import predict
    from stages.lib.params.machine import Machine
    from stages.lib.params.model import Model
    from stages.lib.params.predict import Predict
    from tests.build import section

    paths = {"texts": folder / "texts", "ids": folder / "ids", "trained": folder, "target": folder / "out"}
    predict.run(section(Predict, max_new_tokens=16), section(Model), section(Machine), **paths, folder=folder / "state")


def evaluated(folder: Path) -> None:
    from tests.test_evaluate import evaluate

    texts = list(rows(int(folder.name)))
    shifted = [*texts[1:], texts[0]]  # predictions that share little with their references
    after = [
        prediction(f"{target[:60]} {other[60:]}", target, id=str(number), source=source)
        for number, ((source, target), (_, other)) in enumerate(zip(texts, shifted, strict=True))
    ]
    evaluate(folder, after)


def write_tokenized(folder: Path, count: int) -> None:
    from stages.lib.records.tokenized_examples import TokenizedExample, write_tokenized_examples

    ids = list(range(3, 3 + MODEL_TOKENS // 2))
    examples = (TokenizedExample(f"{n:016x}", ids, ids, [], 100) for n in range(count))
    write_tokenized_examples(folder, iter(lambda: list(islice(examples, 4096)), []))


def write_model(folder: Path, count: int) -> None:
    from stages.lib.core.files import write_json
    from stages.lib.records.examples import Example, write_examples
    from stages.lib.records.tokenized_examples import write_label_ids
    from tests import tiny

    tokens = tiny.tokenizer()
    tokens.save_pretrained(folder / "model")
    tiny.model(tokens, 1, tiny.ARCHITECTURE | {"n_positions": 128}).save_pretrained(folder / "model")
    write_examples(folder / "texts", (Example(f"{n:016x}", s, [t]) for n, (s, t) in enumerate(rows(count))))
    write_tokenized(folder / "ids/test", count)
    write_label_ids(folder / "ids/label_ids.json", [])
    write_json(folder / "ids/no_input.json", {"source_ids": None})


def main() -> None:
    stages: dict[str, tuple[int, Callable[[Path, int], None], Callable[[Path], None]]] = {
        "data that training holds": (TRAIN, lambda folder, n: write_tokenized(folder / "train", n), held_by_training),
        "predict": (TEST, write_model, predicted),
        "evaluate": (TEST, lambda folder, n: folder.mkdir(), evaluated),
    }
    with tempfile.TemporaryDirectory(dir=".") as place:
        for name, (few, write, stage) in stages.items():
            found = []
            for count in (few, 10 * few):
                folder = Path(place) / name.replace(" ", "_") / str(count)
                folder.parent.mkdir(exist_ok=True)
                write(folder, count)
                found.append(measured(stage, folder))
            (seconds, size, _), (more_seconds, more_size, _) = found
            print(
                f"{name}, {few:,} -> {10 * few:,} examples: memory {size:.0f} -> {more_size:.0f} MiB, "
                f"{(more_size - size) * 2**20 / (9 * few):,.0f} bytes an example; {seconds:.1f} -> {more_seconds:.1f} s"
            )


if __name__ == "__main__":
    main()
