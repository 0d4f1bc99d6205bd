"""The predict stage: what it asks of the model, and what it records of each example."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from stages import predict
from stages.lib.examples import Example, write_examples
from stages.lib.pairs import Pair, write_labels, write_pairs
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model
from stages.lib.params.predict import Predict
from stages.lib.predictions import Prediction, read_predictions
from tests import tiny
from tests.build import section


def predictions(
    folder: Path, tokens: PreTrainedTokenizerBase, examples: Sequence[Example], pairs: list[Pair], **overrides: Any
) -> list[Prediction]:
    """Runs the stage with an untrained model."""
    tokens.save_pretrained(folder / "model")
    tiny.model(tokens).save_pretrained(folder / "model")
    write_examples(folder / "texts", examples)
    write_pairs(folder / "ids/test", [pairs])
    write_labels(folder / "ids/labels.json", [])
    params = section(Predict, before_training=False, **overrides)
    paths = {"texts": folder / "texts", "ids": folder / "ids", "trained": folder / "model"}
    predict.run(params, section(Model), section(Machine), seed=1, target=folder / "out", **paths)
    return list(read_predictions(folder / "out/after.jsonl"))


def test_a_reference_that_was_set_aside_counts_neither_in_loss_nor_in_tokens_nor_in_bytes(tmp_path: Path) -> None:
    """Its bytes without its loss would make the bits per byte too good."""
    tokens = tiny.tokenizer()
    first, second = tiny.FACTS[:2]
    too_long = "words " * 50
    examples = [Example(first, first, [too_long, tiny.text(first)]), Example(second, second, [tiny.text(second)])]
    pairs = [tiny.pair(tokens, source) for source in (first, second)]
    recorded = predictions(tmp_path, tokens, examples, pairs)
    assert [p.references for p in recorded] == [example.targets for example in examples]
    assert [p.reference_bytes for p in recorded] == [len(tiny.text(source)) for source in (first, second)]
    assert [p.reference_tokens for p in recorded] == [len(pair.target_ids) for pair in pairs]


@pytest.mark.parametrize(("wanted", "goes_on"), [(8, True), (30, False)])
def test_free_text_is_continued_from_its_opening_and_compared_with_what_follows_also_in_the_next_piece(
    tmp_path: Path, wanted: int, goes_on: bool
) -> None:
    tokens = tiny.tokenizer()
    ids = [*tokens(tiny.text(tiny.FACTS[0]) * 2)["input_ids"], tokens.eos_token_id]
    end = tokens.eos_token_id
    pieces = [Pair("doc", [end], ids[:10], [], 20), Pair("doc", [end, *ids[6:10]], ids[10:], [], 16)]
    text = tiny.text(tiny.FACTS[0]) * 2
    (only,) = predictions(
        tmp_path, tokens, [Example("doc", "", [text])], pieces, opening_tokens=4, max_new_tokens=wanted
    )
    given, following = (str(tokens.decode(part, skip_special_tokens=True)) for part in (ids[:4], ids[4 : 4 + wanted]))
    assert only.source == given
    assert only.references == [following.strip()]
    assert (only.goes_on, only.reference_tokens, only.reference_bytes) == (goes_on, len(ids), 36)
