"""The predict stage: what it records of each example."""

from pathlib import Path

from stages import predict
from stages.lib.examples import Example, write_examples
from stages.lib.pairs import write_labels, write_pairs
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.predictions import read_predictions
from tests import tiny
from tests.build import section


def test_a_reference_that_was_set_aside_counts_neither_in_loss_nor_in_tokens_nor_in_bytes(tmp_path: Path) -> None:
    """Its bytes without its loss would make the bits per byte too good."""
    tokens = tiny.tokenizer()
    network, (first, second) = tiny.model(tokens), tiny.FACTS[:2]
    tokens.save_pretrained(tmp_path / "model")
    network.save_pretrained(tmp_path / "model")
    too_long = "words " * 50
    examples = [Example(first, first, [too_long, tiny.text(first)]), Example(second, second, [tiny.text(second)])]
    write_examples(tmp_path / "texts", examples)
    pairs = [tiny.pair(tokens, source) for source in (first, second)]
    write_pairs(tmp_path / "ids/test", [pairs])
    write_labels(tmp_path / "ids/labels.json", [])
    params = section(Predict, before_training=False)
    model, machine = section(Model), section(Machine)
    paths = {"texts": tmp_path / "texts", "ids": tmp_path / "ids", "trained": tmp_path / "model"}
    predict.run(params, model, machine, seed=1, target=tmp_path / "out", **paths)
    predictions = list(read_predictions(tmp_path / "out/after.jsonl"))
    assert [p.references for p in predictions] == [example.targets for example in examples]
    assert [p.reference_bytes for p in predictions] == [len(tiny.text(source)) for source in (first, second)]
    assert [p.reference_tokens for p in predictions] == [len(pair.target_ids) for pair in pairs]
