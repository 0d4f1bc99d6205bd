"""What checkpoints may be chosen by: the texts that a network writes for a sample of validation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.lib import judging
from stages.lib.decoding import Decoded
from stages.lib.judging import judge_of
from stages.lib.pairs import Label, Pair, Pairs, write_pairs
from tests import tiny


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sources that were decoded; each is answered with the words of a red cup."""
    sources: list[Any] = []

    def decode(network: Any, tokenizer: Any, own: list[list[int]], params: Any, *args: Any, **kwargs: Any) -> Any:
        sources.append((own, params.max_new_tokens))
        return [Decoded(tiny.text(tiny.FACTS[0]), "end") for _ in own]

    monkeypatch.setattr(judging, "decode", decode)
    return sources


def test_the_loss_needs_no_judge(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    assert (
        judge_of(tiny.settings(), tokenizer=tokens, labels=[], validation=tiny.pairs(tokens, tmp_path), batch_size=4)
        is None
    )


@pytest.mark.parametrize(("examples", "expected"), [(12, 100 / 12), (3, 100 / 3), (200, 100 / 12)])
def test_texts_are_compared_with_their_references(
    asked: list[Any], tmp_path: Path, examples: int, expected: float
) -> None:
    tokens = tiny.tokenizer()
    settings = tiny.settings(choose_by="exact_match", choose_examples=examples)
    judge = judge_of(settings, tokens, [], tiny.pairs(tokens, tmp_path), 4)
    assert judge is not None
    assert judge(tiny.model(tokens)) == pytest.approx(expected)
    ((sources, room),) = asked
    asked_about = tiny.FACTS[:: 12 // min(examples, 12)]
    assert sources == [tiny.pair(tokens, source).source_ids for source in asked_about]
    assert room == max(len(tiny.pair(tokens, source).target_ids) for source in asked_about)


def test_pairs_of_one_example_are_references_of_one_text(asked: list[Any], tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    pairs = [tiny.pair(tokens, source)._replace(id="same") for source in tiny.FACTS[:2]]
    write_pairs(tmp_path, [pairs])
    judge = judge_of(tiny.settings(choose_by="exact_match"), tokens, [], Pairs(tmp_path), 4)
    assert judge is not None
    assert judge(tiny.model(tokens)) == 100


def test_of_a_conversation_the_last_answer_counts(asked: list[Any], tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    answer = tiny.pair(tokens, tiny.FACTS[0]).target_ids
    write_pairs(tmp_path, [[Pair("talk", [5], [6, 7, 8, *answer], [1, 2], 0)]])
    judge = judge_of(tiny.settings(choose_by="exact_match"), tokens, [], Pairs(tmp_path), 4)
    assert judge is not None
    assert judge(tiny.model(tokens)) == 100
    assert asked[0][0] == [[5, 6, 7, 8]]


def test_labels_are_chosen_not_written(asked: list[Any], tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    labels = [Label(word, tokens(word)["input_ids"]) for word in ("red", "blue")]
    rows = [Pair(str(n), tokens(tiny.FACTS[n])["input_ids"], labels[n % 2].target_ids, [], 0) for n in range(12)]
    write_pairs(tmp_path, [rows])
    judge = judge_of(tiny.settings(choose_by="accuracy"), tokens, labels, Pairs(tmp_path), 4)
    assert judge is not None
    network: Any = tiny.model(tokens)
    with torch.no_grad():  # whatever it has read, it says blue
        network.get_input_embeddings().weight.zero_()
        network.transformer.ln_f.bias.fill_(1.0)
        network.get_output_embeddings().weight[labels[1].target_ids] = 1.0
    assert judge(network) == 50
    assert not asked


def test_texts_are_no_longer_than_the_model_has_positions(asked: list[Any], tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    target = [7] * 60
    write_pairs(tmp_path, [[Pair("a", [5] * 60, [7], [], 0), Pair("b", [5], target, [], 0)]])
    judge = judge_of(tiny.settings(choose_by="bleu"), tokens, [], Pairs(tmp_path), 4)
    assert judge is not None
    judge(tiny.model(tokens))
    assert asked[0][1] == 5  # 64 positions, and the last token is never read
