"""GGUF, the format of llama.cpp: causal models in the shape of Llama, Qwen and GPT-2, with a byte-level tokenizer.

Names of metadata and tensors are those of the package gguf; the format: ggml's docs/gguf.md.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.core.process import UserError
from stages.lib.export.interface import Format, Precision, Source
from stages.lib.export.plain import whole_model
from stages.lib.generation.settings import end_ids

FILE = "model.gguf"

Array = np.ndarray[Any, np.dtype[Any]]

# model_type of transformers -> the architecture of llama.cpp that computes the same with this activation
_ARCHITECTURES = {
    "llama": ("LLAMA", "silu"),
    "mistral": ("LLAMA", "silu"),
    "qwen2": ("QWEN2", "silu"),
    "qwen3": ("QWEN3", "silu"),
    "gpt2": ("GPT2", "gelu_new"),
}
_QUANTIZED = ("Q8_0", "Q4_0")
_SPLIT_BY_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}NUMBER"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # types of tokens


_PRECISIONS: dict[Precision, str] = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int8": "Q8_0",
    "int4": "Q4_0",
}


def write(source: Source, target: Path, precision: Precision) -> None:
    import gguf

    network, name = whole_model(source.folder), _PRECISIONS[precision]
    tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    _check(source.folder, network.config)
    architecture, _ = _ARCHITECTURES[network.config.model_type]
    writer = gguf.GGUFWriter(target / FILE, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[architecture]])
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if name == "F32" else f"MOSTLY_{name}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, network.config)
    _add_tokenizer(writer, tokenizer, network, source.folder)
    _add_sampling(writer, network.generation_config)
    places = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture], network.config.num_hidden_layers)
    for theirs, weight in _tensors(network, places, source.folder):
        kind = gguf.GGMLQuantizationType[_type(theirs, weight, name)]
        writer.add_tensor(theirs, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def answers(
    source: Source, target: Path, prompts: Sequence[list[int]], decoding: GenerationConfig
) -> Iterator[list[int]]:
    """By the server of llama.cpp. It is asked with texts, so that its tokenizer is compared too."""
    tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    longest = max(map(len, prompts)) + decoding.max_new_tokens
    with _server(target / FILE, longest) as address:
        for prompt in prompts:
            asked = {"prompt": _asked(tokenizer, prompt), "n_predict": decoding.max_new_tokens}
            yield _post(f"{address}/completion", asked | {"temperature": 0, "return_tokens": True})["tokens"]


def _check(folder: Path, config: Any) -> None:
    """Raises UserError where llama.cpp would compute something else."""
    if config.model_type not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise UserError(
            f"{folder}: this project writes GGUF for {known}, not for {config.model_type}; the converter of llama.cpp, "
            f"convert_hf_to_gguf.py, knows more"
        )
    _, activation = _ARCHITECTURES[config.model_type]
    found = config.activation_function if config.model_type == "gpt2" else config.hidden_act
    if found != activation:
        raise UserError(f"{folder}: llama.cpp computes {config.model_type} with {activation}, and this one has {found}")
    if config.model_type == "gpt2" and (config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights):
        raise UserError(f"{folder}: llama.cpp scales the attention of gpt2 in the usual way, and this one another way")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window and window < config.max_position_embeddings:
        raise UserError(f"{folder}: llama.cpp knows no sliding window ({window} tokens) for {config.model_type}")
    scaling = (getattr(config, "rope_parameters", None) or {"rope_type": "default"})["rope_type"]
    if scaling not in (("default", "linear", "llama3") if config.model_type == "llama" else ("default",)):
        raise UserError(f"{folder}: GGUF has no scaling of positions `{scaling}` for {config.model_type}")


def _add_sizes(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, network: Any, folder: Path) -> None:
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    types = dict.fromkeys(words, _NORMAL)
    types |= {own["id"]: _CONTROL if own["special"] else _USER_DEFINED for own in parts["added_tokens"]}
    size = network.get_input_embeddings().weight.shape[0]
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(_pre_tokenizer(parts, folder))
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types([types.get(number, _UNUSED) for number in range(size)])
    writer.add_token_merges([" ".join(pair) for pair in parts["model"]["merges"]])
    ends = sorted(end_ids(network.generation_config) - {tokenizer.eos_token_id})
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for add, number in zip((writer.add_eot_token_id, writer.add_eom_token_id), ends, strict=False):
        add(number)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    starts = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    writer.add_add_bos_token(starts)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _pre_tokenizer(parts: Mapping[str, Any], folder: Path) -> str:
    """The name in llama.cpp of what splits a text before its bytes are merged."""
    split = _without_offsets(parts["pre_tokenizer"])
    name = next((name for own, name in _pre_tokenizers() if own == split), None)
    normalizer = (parts["normalizer"] or {"type": "NFC"})["type"]  # most texts are in this form
    if name is None or parts["model"]["type"] != "BPE" or normalizer != "NFC":
        raise UserError(
            f"{folder}: this project writes GGUF with the byte-level BPE of GPT-2, Llama 3, Qwen or SmolLM, and this "
            f"tokenizer is another; the converter of llama.cpp, convert_hf_to_gguf.py, knows more"
        )
    return name


def _pre_tokenizers() -> Iterator[tuple[dict[str, Any], str]]:
    """As tokenizer.json has it, and as llama.cpp calls it."""
    whole: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    yield whole, "gpt-2"
    yield {"type": "Sequence", "pretokenizers": [digits, whole]}, "smollm"
    for number, name in (("{1,3}", "llama-bpe"), ("", "qwen2")):
        pattern = {"Regex": _SPLIT_BY_GPT4.replace("NUMBER", number)}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        yield {"type": "Sequence", "pretokenizers": [split, whole | {"use_regex": False}]}, name


def _without_offsets(pre_tokenizer: Any) -> Any:
    """Without a setting that changes no token."""
    if isinstance(pre_tokenizer, list):
        return [_without_offsets(own) for own in pre_tokenizer]
    if isinstance(pre_tokenizer, dict):
        return {name: _without_offsets(own) for name, own in pre_tokenizer.items() if name != "trim_offsets"}
    return pre_tokenizer


def _add_sampling(writer: Any, config: GenerationConfig) -> None:
    """What the server of llama.cpp does where a request says nothing. It has no beams: they become greedy."""
    if not config.do_sample:
        writer.add_sampling_temp(0.0)
        return
    writer.add_sampling_temp(config.temperature or 1.0)
    writer.add_sampling_top_k(config.top_k or 0)
    writer.add_sampling_top_p(config.top_p or 1.0)
    writer.add_sampling_min_p(config.min_p or 0.0)


def _tensors(network: PreTrainedModel, places: Any, folder: Path) -> Iterator[tuple[str, Array]]:
    """(name in GGUF, float32)."""
    for name, weight in network.state_dict().items():
        if name == "lm_head.weight" and network.config.tie_word_embeddings:
            continue
        place = places.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise UserError(f"{folder}: llama.cpp has no place for {name} in a {network.config.model_type}")
        yield place, _as_in_llama_cpp(name, weight, network.config).contiguous().numpy()
    if network.config.model_type == "llama" and network.config.rope_parameters["rope_type"] != "default":
        yield "rope_freqs.weight", _slowed(network).numpy()


def _as_in_llama_cpp(name: str, weight: Tensor, config: Any) -> Tensor:
    if config.model_type == "gpt2" and weight.ndim == 2 and ".h." in name:  # Conv1D of transformers
        return weight.T
    if _ARCHITECTURES[config.model_type][0] == "LLAMA":  # it rotates neighbours, transformers the two halves of a head
        if ".q_proj." in name:
            return _with_neighbours(weight, config.num_attention_heads)
        if ".k_proj." in name:
            return _with_neighbours(weight, config.num_key_value_heads)
    return weight


def _with_neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows in the order in which those that are rotated together are neighbours."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _slowed(network: Any) -> Tensor:
    """By how much each frequency of the positions is lower than without scaling."""
    actual: Tensor = network.model.rotary_emb.inv_freq
    steps = torch.arange(len(actual)) / len(actual)
    return network.config.rope_parameters["rope_theta"] ** -steps / actual.float()


def _type(name: str, weight: Array, wanted: str) -> str:
    """Vectors and positions stay as they are: they are small. Embeddings have 8 bits at least, as in llama.cpp."""
    if weight.ndim < 2 or name.startswith("position_embd"):
        return "F32"
    if wanted in _QUANTIZED and weight.shape[-1] % 32:  # numbers of one block
        return "F16"
    return "Q8_0" if wanted == "Q4_0" and name in ("token_embd.weight", "output.weight") else wanted


@contextmanager
def _server(file: Path, tokens: int) -> Iterator[str]:
    """The address of llama.cpp's server."""
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(file), tokens + 1, 1
    params.verbosity, params.warmup = -1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    server = Server(params)
    yield server.listening_address
    del server


def _asked(tokenizer: PreTrainedTokenizerBase, prompt: list[int]) -> str | list[int]:
    """The text whose ids are the prompt, else the prompt. The start token is in both, or it is added to the text."""
    texts = (str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) for ids in (prompt, prompt[1:]))
    return next((text for text in texts if tokenizer(text)["input_ids"] == prompt), prompt)


def _post(url: str, content: Mapping[str, Any]) -> dict[str, Any]:
    request = Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


FORMAT = Format(("gguf", "xllamacpp"), _PRECISIONS, write, answers)
