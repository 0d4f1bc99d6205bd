"""Texts by vLLM, for large causal models on GPUs. Its kernels and batches are its own, so single words can differ."""

import os
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from accelerate.hooks import remove_hook_from_submodules
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.core.process import UserError
from stages.lib.generation.decoding import Decoded, Prompt, best_of
from stages.lib.generation.sampling import sample_seed
from stages.lib.generation.settings import end_ids
from stages.lib.generation.written import Stops
from stages.lib.models.devices import uses_bfloat16, weight_bytes
from stages.lib.models.families import interface_of
from stages.lib.params.predict import Predict

_PART_TEXTS = 1024  # handed over together; vLLM makes its own batches of them


class VllmDecoder:
    """As `Decoder`. With the first part, the engine takes the place of the network, whose weights are then gone."""

    def __init__(
        self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], params: Predict
    ) -> None:
        """Raises UserError where vLLM is not there, or can't do what `params` ask for with this network."""
        self._network, self._tokenizer, self._prompts, self._params = network, tokenizer, prompts, params
        if find_spec("vllm") is None:
            raise UserError("predict -> engine: vllm is not installed here (pip install vllm)")
        if interface_of(network).name != "causal" or params.strategy == "beam" or params.no_repeat_ngram_size:
            what = "causal models, without beams and no_repeat_ngram_size"
            raise UserError(f"predict -> engine: vllm is here for {what}; write `engine: transformers`")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("predict -> engine: vllm takes the GPUs itself; write 1 for machine.predict_processes")
        self._stops = Stops(tokenizer, end_ids(network.generation_config), params.stop)
        places = list(range(len(prompts)))
        self.parts = [places[start : start + _PART_TEXTS] for start in range(0, len(places), _PART_TEXTS)]

    def decode(self, part: Sequence[int]) -> list[Decoded]:
        from vllm.inputs import TokensPrompt

        prompts = [self._prompts[place] for place in part]
        sources = [TokensPrompt(prompt_token_ids=prompt.ids) for prompt in prompts]
        written = self._engine.generate(sources, list(map(self._settings, prompts)), use_tqdm=False)
        return [best_of(list(map(self._decoded, each.outputs)), is_sample=True) for each in written]

    @cached_property
    def _engine(self) -> Any:
        from vllm import LLM

        network: Any = self._network
        gpus = 1  # as few as hold the weights in half of their memory; powers of two, which divide the heads
        while 2 * gpus <= torch.cuda.device_count() and weight_bytes(network) > gpus * _gpu_memory() / 2:
            gpus *= 2
        dtype = "bfloat16" if uses_bfloat16(self._params.precision, "predict") else "float32"
        with TemporaryDirectory() as folder:
            network.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)
            remove_hook_from_submodules(network)  # where it is spread over GPUs
            network.to("meta")
            torch.cuda.empty_cache()
            return LLM(model=folder, dtype=dtype, tensor_parallel_size=gpus, seed=self._params.seed)

    def _settings(self, prompt: Prompt) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        params, own = self._params, self._network.generation_config
        return SamplingParams(
            n=params.candidates,
            temperature=params.temperature if params.strategy == "sample" else 0.0,
            top_k=params.top_k or 0,
            top_p=params.top_p,
            min_p=params.min_p or 0.0,
            repetition_penalty=params.repetition_penalty,
            seed=sample_seed(params.seed, prompt.key),
            max_tokens=params.max_new_tokens,
            min_tokens=params.min_new_tokens,
            stop=params.stop,
            structured_outputs=(
                StructuredOutputsParams(choice=params.choices, json=params.json_schema)
                if params.is_constrained
                else None
            ),
            stop_token_ids=sorted(end_ids(own)),
            logit_bias=dict.fromkeys(own.suppress_tokens or [], -100.0) or None,
            logprobs=0,  # of the chosen tokens alone
        )

    def _decoded(self, output: Any) -> Decoded:
        ids = list(output.token_ids)
        reason: Literal["end", "length"] = "end" if output.finish_reason == "stop" else "length"
        return Decoded(self._stops.text(ids), reason, output.cumulative_logprob, len(ids))


def _gpu_memory() -> int:
    return int(torch.cuda.mem_get_info()[1])
