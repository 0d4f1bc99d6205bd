"""Diverse beam search, against the published algorithm written out for one source, without batches and caches."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Prompt, decode
from stages.lib.params.predict import Predict
from tests import tiny
from tests.build import section
from tests.random_weights import widely_drawn
from tests.test_constraints import PHI3

LONGEST = 8
FACTS = [*tiny.FACTS[:5], "quiet"]


def untrained(name: str = "gpt2") -> tuple[Any, Any]:
    """Many of its texts end."""
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    network: Any = widely_drawn(tiny.model(tokens, architecture=architecture)).eval()
    params = section(Predict, max_new_tokens=LONGEST)
    texts = [own.text for own in decode(network, numbers(), asked(tokens), params, None, None)]
    used = Counter(token for text in texts for token in text[2:])
    network.generation_config.eos_token_id = [ord(token) for token, _ in used.most_common(2)]
    return tokens, network


def numbers() -> Any:
    """A tokenizer whose texts have a character for each token."""

    class Numbers:
        def decode(self, ids: Sequence[int], **_: Any) -> str:
            return "".join(map(chr, ids))

    return Numbers()


def asked(tokens: Any) -> list[Prompt]:
    return [Prompt(tokens(fact + "\n")["input_ids"], fact) for fact in FACTS]


def log_probabilities(network: Any, source: list[int], written: Sequence[int]) -> list[float]:
    """Of the next token, by a pass over all before it. The pad is suppressed."""
    if network.config.is_encoder_decoder:
        start = network.generation_config.decoder_start_token_id
        inputs = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([[start, *written]])}
    else:
        inputs = {"input_ids": torch.tensor([[*source, *written]])}
    with torch.no_grad():
        scores = network(**inputs).logits[0, -1].log_softmax(-1)
    scores[network.generation_config.pad_token_id] = -torch.inf
    return list(scores.tolist())


def by_hand(network: Any, source: list[int], groups: int, params: Predict) -> list[list[int]]:
    """Each group keeps `size` hypotheses, and stops when as many have ended (early_stopping)."""
    size, ends = params.beams // groups, network.generation_config.eos_token_id
    running: list[list[tuple[float, list[int]]]] = [[(0.0, [])] for _ in range(groups)]
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(groups)]
    for length in range(1, LONGEST + 1):
        taken: Counter[int] = Counter()
        for group in range(groups):
            if len(ended[group]) == size:
                continue
            continued = [
                (score + own - params.diversity_penalty * taken[token], [*written, token])
                for score, written in running[group]
                for token, own in enumerate(log_probabilities(network, source, written))
            ]
            best = sorted(continued, key=lambda each: -each[0])[: (1 + len(ends)) * size]
            over = [each for each in best[:size] if each[1][-1] in ends or length == LONGEST]
            ended[group] += [(score / length**params.length_penalty, written) for score, written in over]
            ended[group] = sorted(ended[group], key=lambda each: -each[0])[:size]
            running[group] = [each for each in best if each[1][-1] not in ends][:size]
            taken.update(written[-1] for _, written in running[group])
    found = sorted((each for own in ended for each in own), key=lambda each: -each[0])
    return [written for _, written in found[: params.candidates]]


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize(("groups", "penalty"), [(1, 0.5), (2, 0.7), (4, 3.0)])
def test_groups_find_what_the_published_algorithm_finds(name: str, groups: int, penalty: float) -> None:
    tokens, network = untrained(name)
    own = {"strategy": "beam", "beams": 4, "candidates": 4, "early_stopping": True, "length_penalty": 0.6}
    params = section(Predict, max_new_tokens=LONGEST, beam_groups=groups, diversity_penalty=penalty, **own)
    found = decode(network, numbers(), asked(tokens), params, None, None)
    ends = network.generation_config.eos_token_id
    for prompt, each in zip(asked(tokens), found, strict=True):
        expected = by_hand(network, prompt.ids, groups, params)
        texts = ["".join(map(chr, ids[:-1] if ids[-1] in ends else ids)).strip() for ids in expected]
        assert [candidate.text for candidate in each.candidates] == texts
    alone = decode(network, numbers(), asked(tokens), params, 1, None)
    assert [[c.text for c in own.candidates] for own in alone] == [[c.text for c in own.candidates] for own in found]


def test_a_large_penalty_makes_each_group_begin_otherwise() -> None:
    tokens, network = untrained()
    own = {"strategy": "beam", "beams": 4, "candidates": 4, "max_new_tokens": LONGEST}
    plain = decode(network, numbers(), asked(tokens), section(Predict, **own), None, None)
    params = section(Predict, beam_groups=4, diversity_penalty=100.0, **own)
    diverse = decode(network, numbers(), asked(tokens), params, None, None)
    assert all(len({each.text[:1] for each in found.candidates}) == 4 for found in diverse)
    assert not all(len({each.text[:1] for each in found.candidates}) == 4 for found in plain)


def test_a_network_that_transformers_decodes_has_no_groups() -> None:
    tokens = tiny.tokenizer()
    network = tiny.model(tokens, architecture=PHI3)
    params = section(Predict, max_new_tokens=4, strategy="beam", beams=4, beam_groups=2)
    with pytest.raises(UserError, match="predict -> beam_groups: Phi3ForCausalLM is decoded by transformers"):
        decode(network, tokens, asked(tokens), params, None, None)


def test_groups_divide_the_beams() -> None:
    with pytest.raises(ValueError, match="beam_groups: must divide beams, which is 5"):
        section(Predict, strategy="beam", beams=5, beam_groups=2)
