"""Greedy texts by prompt lookup: they are those of one token at a time, in fewer passes, or nothing is guessed."""

from typing import Any

import pytest
import torch

from stages.lib.generation.settings import generation_config
from stages.lib.inference.prompt_lookup import with_prompt_lookup
from stages.lib.params.predict import Predict
from tests import tiny
from tests.build import section
from tests.random_weights import widely_drawn
from tests.test_constraints import untrained
from tests.test_layouts import RWKV


def config_of(network: Any, **settings: Any) -> Any:
    return generation_config(network.generation_config, section(Predict, max_new_tokens=20, **settings))


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3"])
@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 4, "min_new_tokens": 9}])
def test_texts_are_the_same_in_fewer_passes(name: str, settings: dict[str, Any]) -> None:
    tokens, network = untrained(name)
    if settings:  # some texts end
        written = network.generate(torch.tensor([tokens(tiny.FACTS[0])["input_ids"]]), max_new_tokens=12)
        network.generation_config.eos_token_id = int(written[0, -1])
    plain = config_of(network, **settings)
    guessing = with_prompt_lookup(network, plain)
    passes: dict[bool, int] = {True: 0, False: 0}
    texts: dict[bool, list[list[int]]] = {True: [], False: []}
    for is_guessing, config in ((True, guessing), (False, plain)):

        def count(*_: Any, is_guessing: bool = is_guessing) -> None:
            passes[is_guessing] += 1

        hook = network.register_forward_hook(count)
        for fact in tiny.FACTS[:6]:
            source = torch.tensor([tokens(f"{fact}; {fact}\n")["input_ids"]])
            texts[is_guessing].append(network.generate(source, generation_config=config)[0].tolist())
        hook.remove()
    assert texts[True] == texts[False]
    assert passes[True] < passes[False] or settings


@pytest.mark.parametrize(
    ("name", "settings"), [("gpt2", {"strategy": "sample"}), ("gpt2", {"strategy": "beam"}), ("t5", {}), ("rwkv", {})]
)
def test_nothing_is_guessed_where_the_text_would_not_be_the_same(name: str, settings: dict[str, Any]) -> None:
    tokens = tiny.tokenizer()
    network: Any = widely_drawn(tiny.model(tokens, architecture=RWKV)).eval() if name == "rwkv" else untrained(name)[1]
    config = config_of(network, **settings)
    assert with_prompt_lookup(network, config) is config


def test_nothing_is_guessed_with_a_network_that_computes_several_tokens_otherwise() -> None:
    _, network = untrained("gpt2")

    def other(_: Any, args: Any, inputs: dict[str, Any], output: Any) -> None:
        if 1 < inputs["input_ids"].shape[1] < 12:  # guesses, after the prompt
            output.logits[..., 3] += 1

    network.register_forward_hook(other, with_kwargs=True)
    config = config_of(network)
    assert with_prompt_lookup(network, config) is config
