"""Generated texts: they are those of a plain loop, how they end, and that they do not depend on their batch."""

from copy import deepcopy
from itertools import accumulate, chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Decoded, Decoder, Prompt, decode
from stages.lib.generation.sampling import Sampler, sample_seed
from stages.lib.generation.settings import end_ids, generation_config
from stages.lib.models.devices import uses_bfloat16
from stages.lib.models.families import interface_of
from stages.lib.models.losses import losses_of
from stages.lib.params.predict import Predict
from stages.lib.records.tokenized_examples import TokenizedExample
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
    untrained: Untrained, batch_tokens: int = 150, facts: list[str] = tiny.FACTS, **overrides: Any
) -> list[Decoded]:
    tokens, network = untrained
    prompts = [Prompt(tokens(fact + "\n")["input_ids"], fact) for fact in facts]
    params = section(Predict, **({"max_new_tokens": LONGEST} | overrides))
    return decode(network, tokens, prompts, params, batch_tokens, title="test")


def texts_of(found: list[Decoded]) -> list[tuple[str, str]]:
    return [(own.text, own.finish_reason) for own in found]


FAMILIES = ["gpt2", "llama", "t5", "bart", "marian", "bert"]
DECODINGS: list[dict[str, Any]] = [
    {"strategy": "greedy"},
    {"strategy": "greedy", "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
    {"strategy": "beam", "beams": 4, "length_penalty": 0.3, "early_stopping": True, "candidates": 3},
    {"strategy": "beam", "beams": 3, "length_penalty": 2.0, "early_stopping": "never", "min_new_tokens": 4},
    {"strategy": "beam", "beams": 3, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    {"strategy": "sample", "temperature": 1.3, "top_k": 40, "top_p": 0.95, "min_p": 0.01},
]


def written_alone(
    network: Any, tokens: PreTrainedTokenizerBase, prompt: Prompt, params: Predict, count: int = 1
) -> list[tuple[str, str]]:
    """By plain `generate`, with the settings that are saved with a model and no other option."""
    inputs = interface_of(network).generation_inputs(network, [prompt.ids], int(tokens.pad_token_id))
    config = generation_config(network.generation_config, params)
    torch.manual_seed(sample_seed(params.seed, prompt.key))
    generated = network.generate(**inputs, generation_config=config, num_return_sequences=count)
    first = 1 if network.config.is_encoder_decoder else len(prompt.ids)
    ends, found = end_ids(config), list[tuple[str, str]]()
    for ids in generated[:, first:].tolist():
        length = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        text = str(tokens.decode(ids[:length], skip_special_tokens=True)).strip()
        found.append((text, "end" if length < len(ids) else "length"))
    return found


def with_some_ends(network: Any, tokens: PreTrainedTokenizerBase, prompts: list[Prompt]) -> None:
    """Chooses two end tokens: they are in some greedy texts, and not in all."""
    params = section(Predict, strategy="greedy", max_new_tokens=LONGEST)
    network.generation_config.eos_token_id = None
    texts = [own.text for own in decode(network, spelled(tokens), prompts, params, None, None)]
    written = [[int(token) for token in text.split()] for text in texts]
    some = {token for ids in written for token in ids[2:] if any(token not in other for other in written)}
    network.generation_config.eos_token_id = sorted(some)[:2] or [1]


def spelled(tokens: PreTrainedTokenizerBase) -> Any:
    """A tokenizer whose texts are the numbers of their tokens."""
    return SimpleNamespace(pad_token_id=tokens.pad_token_id, decode=lambda ids, **_: " ".join(map(str, ids)))


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_those_of_generate_for_each_source_alone(name: str) -> None:
    architecture, family = tiny.ARCHITECTURES[name]
    tokens = tiny.tokenizer(family)
    network: Any = widely_drawn(tiny.model(tokens, architecture=architecture)).eval()
    facts = [*tiny.FACTS[:2], "thing: cup", "colour: green; thing: boat; colour: red", "quiet"]
    prompts = [Prompt(tokens(fact + "\n")["input_ids"], fact) for fact in facts]
    prompts += [Prompt([*prompts[3].ids, *prompts[number].ids], f"quiet; {number}") for number in (0, 2)]
    prompts.append(Prompt(prompts[1].ids, "again"))
    with_some_ends(network, tokens, prompts)
    for decoding in DECODINGS:
        params = section(Predict, max_new_tokens=LONGEST, **decoding)
        for prompt, found in zip(prompts, decode(network, tokens, prompts, params, None, None), strict=True):
            expected = written_alone(network, tokens, prompt, params, params.candidates)
            assert texts_of(found.candidates or [found]) == expected, decoding


def test_parts_can_be_decoded_apart_and_in_any_order(untrained: Untrained) -> None:
    tokens, network = untrained
    prompts = [Prompt(tokens(fact + "\n")["input_ids"], fact) for fact in [*tiny.FACTS, "quiet"]]
    arguments: Any = (network, tokens, prompts, [], section(Predict, max_new_tokens=LONGEST, strategy="sample"), 100)
    first, second = Decoder(*arguments), Decoder(*arguments)
    assert sorted(chain.from_iterable(first.parts)) == list(range(len(prompts)))
    assert len(first.parts) > 2
    again = [second.decode(part) for part in reversed(second.parts)]
    assert [first.decode(part) for part in first.parts] == again[::-1]


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_a_row_is_dropped_where_its_text_ends(untrained: Untrained, strategy: str) -> None:
    tokens, network = untrained
    prompts = [Prompt(tokens(fact + "\n")["input_ids"], fact) for fact in tiny.FACTS]
    params = section(Predict, max_new_tokens=LONGEST, strategy=strategy, beams=2, early_stopping=True)
    decoder = Decoder(network, tokens, prompts, [], params, 15_000)
    rows = list[int]()
    hook = network.register_forward_hook(lambda _, __, output: rows.append(len(output.logits)))
    [part] = decoder.parts
    found = decoder.decode(part)
    hook.remove()
    assert rows[0] == len(tiny.FACTS)  # each source is computed once, for all its beams
    if strategy == "greedy":
        assert sum(rows) == sum(text.tokens for text in found)
    assert len(set(rows[1:])) > 1


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_questions_of_a_conversation_are_read_once(untrained: Untrained, strategy: str) -> None:
    tokens, network = untrained
    turns = [tokens(fact + "\n")["input_ids"] for fact in (*tiny.FACTS[:3], "quiet")]
    conversations = [list(accumulate(turns)), list(accumulate([turns[3], turns[0], turns[1]]))]
    prompts = [Prompt(ids, str(number)) for number, ids in enumerate(chain.from_iterable(conversations))]
    params = section(Predict, max_new_tokens=3, strategy=strategy, beams=2)
    alone = Decoder(network, tokens, prompts, [], params, 1)
    expected = {part[0]: alone.decode(part)[0].text for part in alone.parts}
    width = 2 if strategy == "beam" else 1
    decoder = Decoder(network, tokens, prompts, [], params, width * 4 * (len(conversations[0][-1]) + 3))
    read = list[tuple[int, int]]()
    hook = network.register_forward_pre_hook(
        lambda _, __, inputs: read.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    found = {place: own.text for part in decoder.parts for place, own in zip(part, decoder.decode(part), strict=True)}
    hook.remove()
    assert found == expected
    assert [shape for shape in read if shape[1] > 1] == [(1, len(own[-1])) for own in conversations]


@pytest.mark.parametrize("decoding", [{}, {"strategy": "beam", "repetition_penalty": 1.2}, {"strategy": "sample"}])
def test_log_probabilities_are_those_of_the_model_without_penalties(
    untrained: Untrained, decoding: dict[str, Any]
) -> None:
    tokens, network = untrained
    prompts = [Prompt(tokens(fact + "\n")["input_ids"], fact) for fact in tiny.FACTS]
    params = section(Predict, max_new_tokens=4, **decoding)
    for prompt, found in zip(prompts, decode(network, spelled(tokens), prompts, params, None, None), strict=True):
        ids = [int(token) for token in found.text.split()]
        ids += [network.generation_config.eos_token_id] * (found.tokens - len(ids))
        losses, _ = losses_of(network, [TokenizedExample("", prompt.ids, ids, [], 0)])
        assert found.log_probability == pytest.approx(-float(losses[0]), abs=1e-3)


def test_the_best_of_several_samples_has_the_largest_mean_log_probability(untrained: Untrained) -> None:
    found = decoded(untrained, strategy="sample", temperature=2.0, candidates=4)
    for own in found:
        means = [candidate.log_probability / candidate.tokens for candidate in own.candidates]
        assert means == sorted(means, reverse=True)
        assert own.text == own.candidates[0].text
        assert len({candidate.text for candidate in own.candidates}) > 1
    alone = decoded(untrained, strategy="sample", temperature=2.0)
    assert all(one.text in {own.text for own in best.candidates} for one, best in zip(alone, found, strict=True))


def test_equal_sources_get_different_samples(untrained: Untrained) -> None:
    tokens, network = untrained
    prompts = [Prompt(tokens("quiet\n")["input_ids"], str(number)) for number in range(3)]
    params = section(Predict, max_new_tokens=LONGEST, strategy="sample", temperature=2.0)
    assert len({text.text for text in decode(network, tokens, prompts, params, None, None)}) == 3


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_a_text_ends_before_a_stop_string(untrained: Untrained, strategy: str) -> None:
    tokens, network = untrained
    prompts = [Prompt(tokens(fact + "\n")["input_ids"], fact) for fact in tiny.FACTS]
    whole = decode(network, spelled(tokens), prompts, section(Predict, max_new_tokens=LONGEST), None, None)
    third = whole[0].text.split()[2]
    params = section(Predict, max_new_tokens=LONGEST, strategy=strategy, stop=[f" {third} "])
    found = decode(network, spelled(tokens), prompts, params, None, None)
    assert not any(f" {third} " in f"{text.text} " for text in found)
    if strategy == "greedy":
        assert (found[0].text.split(), found[0].finish_reason) == (whole[0].text.split()[:2], "end")


@pytest.mark.skipif(not uses_bfloat16("auto"), reason="this machine emulates bfloat16")
def test_precision_casts_the_weights(untrained: Untrained) -> None:
    tokens, network = untrained
    cast = deepcopy(network)
    params = section(Predict, max_new_tokens=3, precision="bfloat16")
    prompts = [Prompt(tokens(fact + "\n")["input_ids"], fact) for fact in tiny.FACTS]
    found = decode(cast, tokens, prompts, params, None, None)
    assert {weights.dtype for weights in cast.parameters()} == {torch.bfloat16}
    exact = decode(network, tokens, prompts, params.model_copy(update={"precision": "float32"}), None, None)
    same = [one.log_probability - two.log_probability for one, two in zip(found, exact, strict=True)]
    assert sorted(map(abs, same))[len(same) // 2] < 0.5


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"min_new_tokens": 9}, "min_new_tokens: at most max_new_tokens, which is 8"),
        ({"strategy": "greedy", "candidates": 2}, "candidates: `strategy: greedy` writes one text"),
        ({"strategy": "beam", "beams": 3, "candidates": 4}, "candidates: at most as many as beams, which is 3"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        section(Predict, **{"max_new_tokens": 8} | settings)


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
    runs = [decoded(untrained, size, facts, strategy=strategy, temperature=1.5) for size in (1, 500, 15_000)]
    assert texts_of(runs[0]) == texts_of(runs[1]) == texts_of(runs[2])


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_where_memory_ends_the_same_texts_are_made_in_smaller_batches(
    untrained: Untrained, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    network: Any = untrained[1]
    expected, forward, rows = texts_of(decoded(untrained, strategy=strategy)), type(network).forward, list[int]()

    def short_of_memory(self: Any, input_ids: Any, **others: Any) -> Any:
        rows.append(len(input_ids))
        if len(input_ids) > 5:
            raise torch.OutOfMemoryError
        return forward(self, input_ids=input_ids, **others)

    monkeypatch.setattr(type(network), "forward", short_of_memory)
    assert texts_of(decoded(untrained, strategy=strategy, batch_tokens=15_000)) == expected
    assert max(rows) > 5


def test_samples_depend_on_the_seed_and_greedy_texts_do_not(untrained: Untrained) -> None:
    hot: dict[str, Any] = {"strategy": "sample", "temperature": 3.0, "top_p": 1.0}
    assert decoded(untrained, seed=1, **hot) == decoded(untrained, seed=1, **hot) != decoded(untrained, seed=2, **hot)
    assert decoded(untrained, seed=1) == decoded(untrained, seed=2)


def test_samples_follow_the_distribution_of_the_model() -> None:
    sampler = Sampler(GenerationConfig(), [sample_seed(1, str(number)) for number in range(4000)], torch.device("cpu"))
    scores = torch.log(torch.tensor([0.5, 0.3, 0.2, 0.0])).repeat(4000, 1)
    counts = torch.bincount(sampler.choose(scores, range(4000)), minlength=4) / 4000
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
