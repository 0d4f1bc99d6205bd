"""Generated texts: what makes them end, and that the batch they are made in does not matter."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.decoding import Decoded, _Gumbel, decode
from stages.lib.fitting import fit
from stages.lib.params.predict import Predict
from stages.lib.process import UserError
from tests import tiny
from tests.build import section

Trained = tuple[PreTrainedTokenizerBase, PreTrainedModel]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    tokens = tiny.tokenizer()
    network, data = tiny.model(tokens, dropout=0.0), tiny.pairs(tokens, folder / "pairs")
    fit(
        network,
        data,
        data,
        tiny.settings(epochs=200, label_smoothing=0.0),
        tiny.machine(),
        folder / "fit",
        title="test",
    )
    return tokens, network


def decoded(trained: Trained, batch_size: int = 4, facts: list[str] = tiny.FACTS, **overrides: Any) -> list[Decoded]:
    tokens, network = trained
    sources = [tokens(source + "\n")["input_ids"] for source in facts]
    params = section(Predict, **({"max_new_tokens": 40} | overrides))
    return decode(network, tokens, sources, params, batch_size, title="test")


def test_a_trained_model_says_what_it_has_learned_and_ends(trained: Trained) -> None:
    assert decoded(trained) == [Decoded(tiny.text(source), "end") for source in tiny.FACTS]


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_texts_do_not_depend_on_the_batch_size(trained: Trained, strategy: str) -> None:
    """Nor on what else is in the batch: sources differ in length, so that the padding differs too."""
    facts = [*tiny.FACTS, "thing: cup", "colour: green; thing: boat; colour: red", "quiet"]
    runs = [decoded(trained, size, facts, strategy=strategy, temperature=1.5) for size in (1, 4, 15)]
    assert runs[0] == runs[1] == runs[2]


def test_samples_depend_on_the_seed_and_greedy_texts_do_not(trained: Trained) -> None:
    hot: dict[str, Any] = {"strategy": "sample", "temperature": 3.0, "top_p": 1.0}
    assert decoded(trained, seed=1, **hot) == decoded(trained, seed=1, **hot) != decoded(trained, seed=2, **hot)
    assert decoded(trained, seed=1) == decoded(trained, seed=2)


def test_samples_follow_the_distribution_of_the_model() -> None:
    """Gumbel noise on the log probabilities must choose each token as often as its probability says."""
    noise = _Gumbel([[number] for number in range(4000)], seed=1)
    scores = torch.log(torch.tensor([0.5, 0.3, 0.2, 0.0])).repeat(4000, 1)
    counts = torch.bincount(noise(torch.zeros(4000, 1), scores).argmax(1), minlength=4) / 4000
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=0.03)


def test_a_cold_sample_is_the_greedy_text(trained: Trained) -> None:
    assert decoded(trained, strategy="sample", temperature=0.01) == decoded(trained)


def test_a_text_cut_at_the_limit_is_called_so(trained: Trained) -> None:
    assert {text.stopped for text in decoded(trained, max_new_tokens=3)} == {"length"}


def test_a_checkpoints_own_generation_settings_are_not_obeyed(trained: Trained) -> None:
    tokens, network = trained
    expected = decoded(trained)
    ends = {"eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    network.generation_config = GenerationConfig(do_sample=True, repetition_penalty=9.0, min_new_tokens=30, **ends)
    assert decoded((tokens, network)) == expected


def test_a_source_without_room_for_its_text_is_refused(trained: Trained) -> None:
    with pytest.raises(UserError, match="are 3 more than the model has positions for"):
        decoded(trained, max_new_tokens=60)


def test_special_tokens_never_stand_in_a_text(trained: Trained) -> None:
    untrained = tiny.model(trained[0], seed=3)
    assert not any("<|" in text.text for text in decoded((trained[0], untrained), max_new_tokens=30))
