"""ONNX, by the model builder of onnxruntime-genai: causal models in the shape of Llama, Qwen, Phi, Gemma ..."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import GenerationConfig

from stages.lib.core.process import UserError
from stages.lib.export.interface import Format, Precision, Source

_PRECISIONS: dict[Precision, str] = {"float32": "fp32", "int8": "int8", "int4": "int4"}


def write(source: Source, target: Path, precision: Precision) -> None:
    with TemporaryDirectory() as cache:
        places = ["-i", str(source.folder), "-o", str(target), "-c", cache]
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", *places]
        command = [*builder, "-p", _PRECISIONS[precision], "-e", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"{source.folder}: onnxruntime-genai can't express this model: {reason}")


def answers(
    source: Source, target: Path, prompts: Sequence[list[int]], decoding: GenerationConfig
) -> Iterator[list[int]]:
    from onnxruntime_genai import Generator, GeneratorParams, Model

    network = Model(str(target))
    for prompt in prompts:
        params = GeneratorParams(network)
        params.set_search_options(do_sample=False, max_length=len(prompt) + decoding.max_new_tokens)
        generator = Generator(network, params)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        yield [int(token) for token in generator.get_sequence(0)[len(prompt) :]]


FORMAT = Format(("onnxruntime_genai", "onnx", "onnx_ir"), _PRECISIONS, write, answers)
