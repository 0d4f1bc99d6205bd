"""predict with vLLM, which is not installed here: a stub with vLLM's names and arguments stands for it. It opens what
vLLM would open, and writes by transformers."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypedDict

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Prompt, decode
from stages.lib.generation.vllm_decoder import VllmDecoder
from stages.lib.params.predict import Predict
from stages.lib.records.examples import Example
from tests import tiny
from tests.build import section
from tests.random_weights import widely_drawn
from tests.test_predict import predictions


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass
class StructuredOutputsParams:
    json: str | dict[str, Any] | None = None
    choice: list[str] | None = None


@dataclass
class SamplingParams:
    n: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    structured_outputs: StructuredOutputsParams | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    finish_reason: str | None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput] = field(default_factory=list)


class LLM:
    started = 0
    forms: ClassVar[list[StructuredOutputsParams | None]] = []

    def __init__(
        self, model: str, *, dtype: str = "auto", tensor_parallel_size: int = 1, seed: int | None = None
    ) -> None:
        LLM.started += 1
        assert tensor_parallel_size == 1
        self.network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)

    def generate(
        self, prompts: Sequence[TokensPrompt], sampling_params: Sequence[SamplingParams], *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        return [self.written(*each) for each in zip(prompts, sampling_params, strict=True)]

    def written(self, prompt: TokensPrompt, params: SamplingParams) -> RequestOutput:
        assert params.temperature == 0
        assert params.logprobs == 0
        LLM.forms.append(params.structured_outputs)
        source = torch.tensor([prompt["prompt_token_ids"]])
        written = self.network.generate(
            input_ids=source,
            max_new_tokens=params.max_tokens,
            eos_token_id=params.stop_token_ids,
            do_sample=False,
            suppress_tokens=[token for token, bias in (params.logit_bias or {}).items() if bias == -100],
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = written.sequences[0, source.shape[1] :].tolist()
        shares = [float(own[0].log_softmax(-1)[token]) for own, token in zip(written.logits, ids, strict=True)]
        reason = "stop" if ids[-1] in (params.stop_token_ids or []) else "length"
        return RequestOutput([CompletionOutput(0, self.tokenizer.decode(ids), tuple(ids), sum(shares), reason)])


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    stub, inputs, sampling = map(ModuleType, ("vllm", "vllm.inputs", "vllm.sampling_params"))
    stub.__dict__.update(LLM=LLM, SamplingParams=SamplingParams, __spec__=ModuleSpec("vllm", None))
    inputs.__dict__.update(TokensPrompt=TokensPrompt)
    sampling.__dict__.update(StructuredOutputsParams=StructuredOutputsParams)
    for module in (stub, inputs, sampling):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(LLM, "started", 0)
    monkeypatch.setattr(LLM, "forms", [])


@pytest.mark.usefixtures("vllm")
def test_it_writes_the_texts_of_the_other_engine_and_takes_the_place_of_the_network() -> None:
    tokens = tiny.tokenizer()
    network = widely_drawn(tiny.model(tokens))
    prompts = [Prompt(tiny.example(tokens, fact).source_ids, fact) for fact in tiny.FACTS]
    own = network.generation_config
    written: Any = network.generate(torch.tensor([prompts[0].ids]), max_new_tokens=5)  # type: ignore[operator]
    own.eos_token_id = [own.eos_token_id, int(written[0, -1])]  # so that some texts end
    params = section(Predict, max_new_tokens=12)
    expected = decode(network, tokens, prompts, params, None, None)
    assert {text.finish_reason for text in expected} == {"end", "length"}
    decoder = VllmDecoder(network, tokens, prompts, params)
    assert LLM.started == 0
    (part,) = decoder.parts
    found = decoder.decode(part[:5]) + decoder.decode(part[5:])
    assert [(own.text, own.finish_reason, own.tokens) for own in found] == [
        (own.text, own.finish_reason, own.tokens) for own in expected
    ]
    assert [own.log_probability for own in found] == pytest.approx([own.log_probability for own in expected], rel=1e-4)
    assert LLM.started == 1
    assert all(weights.is_meta for weights in network.parameters())


@pytest.mark.usefixtures("vllm")
def test_a_stage_decodes_with_it(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    rows = [tiny.example(tokens, fact) for fact in tiny.FACTS]
    examples = [Example(fact, fact, [tiny.text(fact)]) for fact in tiny.FACTS]
    expected = predictions(tmp_path / "own", tokens, examples, rows)
    found = predictions(tmp_path / "vllm", tokens, examples, rows, engine="vllm")
    assert LLM.started == 1
    assert [own.confidence for own in found] == pytest.approx([own.confidence for own in expected], abs=2e-4)
    assert [replace(own, confidence=None) for own in found] == [replace(own, confidence=None) for own in expected]
    assert predictions(tmp_path / "vllm", tokens, examples, rows, engine="vllm") == found
    assert LLM.started == 1, "all texts were there"


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({"choices": ["a", "b"]}, StructuredOutputsParams(choice=["a", "b"])),
        ({"json_schema": {"type": "object"}}, StructuredOutputsParams(json={"type": "object"})),
        ({}, None),
    ],
)
def test_it_is_told_the_form_of_texts(settings: dict[str, Any], form: StructuredOutputsParams | None) -> None:
    tokens = tiny.tokenizer()
    prompts = [Prompt(tiny.example(tokens, tiny.FACTS[0]).source_ids, "0")]
    VllmDecoder(tiny.model(tokens), tokens, prompts, section(Predict, **settings)).decode([0])
    assert LLM.forms == [form]


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("overrides", [{"strategy": "beam"}, {"no_repeat_ngram_size": 3}])
def test_what_it_does_not_do_is_refused(overrides: dict[str, Any]) -> None:
    tokens = tiny.tokenizer()
    with pytest.raises(UserError, match=r"predict -> engine: vllm is here for .+; write `engine: transformers`"):
        VllmDecoder(tiny.model(tokens), tokens, [], section(Predict, **overrides))


def test_without_vllm_its_installation_is_named() -> None:
    tokens = tiny.tokenizer()
    with pytest.raises(UserError, match="vllm is not installed here"):
        VllmDecoder(tiny.model(tokens), tokens, [], section(Predict))
