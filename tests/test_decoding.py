"""Generated texts: they are those of a plain loop, how they end, and that they do not depend on their batch."""

from itertools import chain
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Decoded, _Gumbel, decode
from stages.lib.params.predict import Predict
from tests import tiny
from tests.build import section
from tests.random_weights import widely_drawn

Untrained = tuple[PreTrainedTokenizerBase, PreTrainedModel]

LONGEST = 12  # tokens of a text


@pytest.fixture(scope="module")
def untrained() -> Untrained:
    """A network of random weights. Its end token is one that some texts reach, and none in its first three tokens."""
    tokens = tiny.tokenizer()
    network = widely_drawn(tiny.model(tokens))
    texts = [greedy_ids(network, tokens, fact) for fact in tiny.FACTS]
    beginnings = set(chain.from_iterable(text[:3] for text in texts))
    in_some = (token for text in texts for token in text if any(token not in other for other in texts))
    network.generation_config.eos_token_id = next(token for token in in_some if token not in beginnings)
    return tokens, network


def greedy_ids(network: PreTrainedModel, tokens: PreTrainedTokenizerBase, fact: str) -> list[int]:
    """One text alone, without pads and caches: again and again the most likely token that is no pad."""
    source = tokens(fact + "\n")["input_ids"]
    ids = list(source)
    with torch.no_grad():
        for _ in range(LONGEST):
            logits = network.eval()(input_ids=torch.tensor([ids])).logits[0, -1]
            logits[tokens.pad_token_id] = -torch.inf
            ids.append(int(logits.argmax()))
    return ids[len(source) :]


def decoded(
    untrained: Untrained, batch_size: int = 4, facts: list[str] = tiny.FACTS, **overrides: Any
) -> list[Decoded]:
    tokens, network = untrained
    sources = [tokens(fact + "\n")["input_ids"] for fact in facts]
    params = section(Predict, **({"max_new_tokens": LONGEST} | overrides))
    return decode(network, tokens, sources, params, batch_size, title="test")


def test_greedy_texts_are_those_of_a_plain_loop_up_to_the_end_token(untrained: Untrained) -> None:
    tokens, network = untrained
    end = network.generation_config.eos_token_id
    found = decoded(untrained)
    for fact, text in zip(tiny.FACTS, found, strict=True):
        ids = greedy_ids(network, tokens, fact)
        own = ids[: ids.index(end)] if end in ids else ids
        assert text.finish_reason == ("end" if end in ids else "length")
        assert text.text == str(tokens.decode(own, skip_special_tokens=True)).strip()
    assert {text.finish_reason for text in found} == {"end", "length"}
    assert len({text.text for text in found}) > 1


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_texts_do_not_depend_on_the_batch_size(untrained: Untrained, strategy: str) -> None:
    """Nor on the other texts of the batch: sources differ in length, so padding differs too."""
    facts = [*tiny.FACTS, "thing: cup", "colour: green; thing: boat; colour: red", "quiet"]
    runs = [decoded(untrained, size, facts, strategy=strategy, temperature=1.5) for size in (1, 4, 15)]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("strategy", ["greedy", "sample"])
def test_where_memory_ends_the_same_texts_are_made_in_smaller_batches(
    untrained: Untrained, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    network: Any = untrained[1]
    expected, generate = decoded(untrained, strategy=strategy), type(network).generate

    def short_of_memory(self: Any, input_ids: Any, **others: Any) -> Any:
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError
        return generate(self, input_ids=input_ids, **others)

    monkeypatch.setattr(type(network), "generate", short_of_memory)
    assert decoded(untrained, strategy=strategy) == expected


def test_samples_depend_on_the_seed_and_greedy_texts_do_not(untrained: Untrained) -> None:
    hot: dict[str, Any] = {"strategy": "sample", "temperature": 3.0, "top_p": 1.0}
    assert decoded(untrained, seed=1, **hot) == decoded(untrained, seed=1, **hot) != decoded(untrained, seed=2, **hot)
    assert decoded(untrained, seed=1) == decoded(untrained, seed=2)


def test_samples_follow_the_distribution_of_the_model() -> None:
    """Gumbel noise on log probabilities chooses each token with its probability."""
    noise = _Gumbel([[number] for number in range(4000)], seed=1)
    scores = torch.log(torch.tensor([0.5, 0.3, 0.2, 0.0])).repeat(4000, 1)
    counts = torch.bincount(noise(torch.zeros(4000, 1), scores).argmax(1), minlength=4) / 4000
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=0.03)


def test_a_cold_sample_is_the_greedy_text(untrained: Untrained) -> None:
    assert decoded(untrained, strategy="sample", temperature=1e-6) == decoded(untrained)


def test_a_text_that_reaches_the_limit_has_the_finish_reason_length(untrained: Untrained) -> None:
    assert {text.finish_reason for text in decoded(untrained, max_new_tokens=3)} == {"length"}


def test_a_checkpoints_own_generation_settings_are_not_used(untrained: Untrained) -> None:
    network, expected = untrained[1], decoded(untrained)
    before = network.generation_config
    kept = {name: getattr(before, name) for name in ("eos_token_id", "pad_token_id", "suppress_tokens")}
    network.generation_config = GenerationConfig(do_sample=True, repetition_penalty=9.0, min_new_tokens=LONGEST, **kept)
    try:
        assert decoded(untrained) == expected
    finally:
        network.generation_config = before


def test_a_source_without_room_for_its_text_is_refused(untrained: Untrained) -> None:
    with pytest.raises(UserError, match="are 3 more than the model has positions for"):
        decoded(untrained, max_new_tokens=60)


def test_a_text_has_no_special_tokens(untrained: Untrained) -> None:
    assert not any("<|" in text.text for text in decoded(untrained, max_new_tokens=30))
