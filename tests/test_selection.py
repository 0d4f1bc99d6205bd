"""Scores that choose the best checkpoint: of the texts that a network generates for a sample of validation."""

from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch

from stages.lib.checkpoint.tokenizers import train_tokenizer
from stages.lib.generation.decoding import Decoded, Prompt
from stages.lib.records.tokenized_examples import Label, TokenizedDataset, TokenizedExample, write_tokenized_examples
from stages.lib.training import selection
from stages.lib.training.selection import make_scorer
from tests import tiny


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sources that were decoded, with the room for a text. Each text is that of a red cup."""
    sources: list[Any] = []

    def decode(network: Any, tokenizer: Any, given: list[Prompt], params: Any, *args: Any, **kwargs: Any) -> Any:
        sources.append(([prompt.ids for prompt in given], params.max_new_tokens))
        return [Decoded(tiny.text(tiny.FACTS[0]), "end", 0.0, 1) for _ in given]

    monkeypatch.setattr(selection, "decode", decode)
    return sources


def test_the_loss_needs_no_scorer(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    assert make_scorer(tiny.settings(), tokens, [], tiny.dataset(tokens, tmp_path), None) is None


@pytest.mark.parametrize(("examples", "expected"), [(12, 100 / 12), (3, 100 / 3), (200, 100 / 12)])
def test_texts_are_compared_with_their_references(
    asked: list[Any], tmp_path: Path, examples: int, expected: float
) -> None:
    tokens = tiny.tokenizer()
    settings = tiny.settings(metric_for_best_model="exact_match", generation_eval_examples=examples)
    scorer = make_scorer(settings, tokens, [], tiny.dataset(tokens, tmp_path), None)
    assert scorer is not None
    assert scorer(tiny.model(tokens)) == pytest.approx(expected)
    ((sources, room),) = asked
    asked_about = tiny.FACTS[:: 12 // min(examples, 12)]
    assert sources == [tiny.example(tokens, source).source_ids for source in asked_about]
    assert room == max(len(tiny.example(tokens, source).target_ids) for source in asked_about)


def test_all_targets_of_one_example_are_references_of_one_text(asked: list[Any], tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    examples = [tiny.example(tokens, source)._replace(id="same") for source in tiny.FACTS[:2]]
    write_tokenized_examples(tmp_path, [examples])
    scorer = make_scorer(
        tiny.settings(metric_for_best_model="exact_match"), tokens, [], TokenizedDataset(tmp_path), None
    )
    assert scorer is not None
    assert scorer(tiny.model(tokens)) == 100


def test_conversations_are_asked_for_answers_at_different_places(asked: list[Any], tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    answer = tiny.example(tokens, tiny.FACTS[0]).target_ids
    turns = [*answer, 7, 8, *answer]
    between = [len(answer), len(answer) + 1]
    talks = [TokenizedExample(name, [5], turns, between, 0) for name in "abc"]
    talks.append(TokenizedExample("one answer", [9], answer, [], 0))
    write_tokenized_examples(tmp_path, [talks])
    scorer = make_scorer(
        tiny.settings(metric_for_best_model="exact_match"), tokens, [], TokenizedDataset(tmp_path), None
    )
    assert scorer is not None
    assert scorer(tiny.model(tokens)) == 100
    ((sources, room),) = asked
    assert sources == [[5], [5, *answer, 7, 8], [5], [9]]
    assert room == len(answer)


def test_an_answer_of_a_conversation_in_pieces_is_compared_with_itself(asked: list[Any], tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    first, second = (tiny.example(tokens, source).target_ids for source in tiny.FACTS[:2])
    pieces = [TokenizedExample("talk", [5], first, [], 0), TokenizedExample("talk", [5, 6], second, [], 0)]
    write_tokenized_examples(tmp_path, [[*pieces, *(piece._replace(id="other") for piece in pieces)]])
    scorer = make_scorer(
        tiny.settings(metric_for_best_model="exact_match"), tokens, [], TokenizedDataset(tmp_path), None
    )
    assert scorer is not None
    assert scorer(tiny.model(tokens)) == 50
    assert asked[0][0] == [[5], [5, 6]]


def scores_in_turn(monkeypatch: pytest.MonkeyPatch, folder: Path, metric: str, truths: list[str], *texts: str) -> Any:
    """The score of each text, as if a network had written it for all sources, by one scorer."""
    tokens = train_tokenizer([*truths, *texts], 1000, "causal")
    targets = [tokens(truth, add_special_tokens=False)["input_ids"] for truth in truths]
    rows = [TokenizedExample(str(n), [5, n], [*ids, tokens.eos_token_id], [], 0) for n, ids in enumerate(targets)]
    write_tokenized_examples(folder, [rows])
    scorer = make_scorer(tiny.settings(metric_for_best_model=metric), tokens, [], TokenizedDataset(folder), None)
    assert scorer is not None
    written = iter(texts)

    def decode(network: Any, tokenizer: Any, prompts: list[Prompt], *args: Any, **kwargs: Any) -> list[Decoded]:
        return [Decoded(next(written), "end", 0.0, 1)] * len(prompts)

    monkeypatch.setattr(selection, "decode", decode)
    return [scorer(tiny.model(tokens)) for _ in texts]


@pytest.mark.parametrize(
    ("truth", "better", "worse"),
    [
        pytest.param("我们明天去北京看长城。", "我们明天去北京看朋友。", "今天天气很好。", id="chinese"),
        pytest.param(
            "わたしはあした東京に行きます。", "わたしはあした京都に行きます。", "天気がいいです。", id="japanese"
        ),
        pytest.param("พรุ่งนี้ฉันจะไปกรุงเทพ", "พรุ่งนี้ฉันจะไปเชียงใหม่", "วันนี้อากาศดี", id="thai"),
    ],
)
def test_in_scripts_without_blanks_the_better_checkpoint_has_the_better_bleu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, truth: str, better: str, worse: str
) -> None:
    perfect, good, bad = scores_in_turn(monkeypatch, tmp_path, "bleu", [truth], truth, better, worse)
    assert perfect == pytest.approx(100)
    assert perfect > good > 20 > bad


def test_bleu_of_words_with_blanks_is_that_of_sacrebleu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    truth, text = "The red cup, which is full, stands there (北京).", "The red cup, which is empty, stands here."
    (found,) = scores_in_turn(monkeypatch, tmp_path, "bleu", [truth], text)
    assert found == pytest.approx(sacrebleu.corpus_bleu([text], [[truth]]).score)


def test_perfect_texts_of_two_words_have_the_full_bleu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    perfect, half = scores_in_turn(monkeypatch, tmp_path, "bleu", ["red cup"] * 3, "red cup", "red hat")
    assert perfect == pytest.approx(100)
    assert perfect > half > 0


def test_blanks_around_a_text_do_not_count_for_accuracy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert scores_in_turn(monkeypatch, tmp_path, "accuracy", [" red cup "], "red cup", "red hat") == [100, 0]


def test_labels_are_chosen_not_generated(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    labels = [Label(word, tokens(word)["input_ids"]) for word in ("red", "blue")]
    rows = [
        TokenizedExample(str(n), tokens(tiny.FACTS[n])["input_ids"], labels[n % 2].target_ids, [], 0) for n in range(12)
    ]
    write_tokenized_examples(tmp_path, [rows])
    scorer = make_scorer(
        tiny.settings(metric_for_best_model="accuracy"), tokens, labels, TokenizedDataset(tmp_path), None
    )
    assert scorer is not None
    network: Any = tiny.model(tokens)
    with torch.no_grad():  # it chooses blue after any source
        network.get_input_embeddings().weight.zero_()
        network.transformer.ln_f.bias.fill_(1.0)
        network.get_output_embeddings().weight[labels[1].target_ids] = 1.0
    assert scorer(network) == 50


def test_texts_are_no_longer_than_the_model_has_positions(asked: list[Any], tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    target = [7] * 60
    write_tokenized_examples(
        tmp_path, [[TokenizedExample("a", [5] * 60, [7], [], 0), TokenizedExample("b", [5], target, [], 0)]]
    )
    scorer = make_scorer(tiny.settings(metric_for_best_model="bleu"), tokens, [], TokenizedDataset(tmp_path), None)
    assert scorer is not None
    scorer(tiny.model(tokens))
    assert asked[0][1] == 5  # 64 positions, and the last token is never read
