"""CTranslate2: a runtime in C++ for encoder-decoders (T5, BART, Marian, M2M100 ...) and causal models."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from stages.lib.core.files import read_json
from stages.lib.core.process import UserError, first_line
from stages.lib.export.interface import Format, Precision, Source
from stages.lib.generation.settings import end_ids

_PRECISIONS: dict[Precision, str] = {"float32": "float32", "float16": "float16", "int8": "int8_float32"}


def write(source: Source, target: Path, precision: Precision) -> None:
    converter = _converter(source.folder)
    try:
        converter.convert(str(target), quantization=_PRECISIONS[precision], force=True)
    except (ValueError, NotImplementedError, AttributeError, KeyError) as error:
        raise UserError(f"{source.folder}: CTranslate2 can't express this model: {first_line(error)}") from None
    AutoTokenizer.from_pretrained(source.folder, local_files_only=True).save_pretrained(target)


def answers(
    source: Source, target: Path, prompts: Sequence[list[int]], decoding: GenerationConfig
) -> Iterator[list[int]]:
    is_encoder_decoder = AutoConfig.from_pretrained(source.folder, local_files_only=True).is_encoder_decoder
    return (_translated if is_encoder_decoder else _continued)(target, prompts, decoding)


def _converter(folder: Path) -> Any:
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
        def load_model(self, model_class: Any, place: str, **options: Any) -> Any:
            network = model_class.from_pretrained(place, **options | {"dtype": torch.float32})
            # the converter reads this name, which only some old checkpoints have
            if not hasattr(network.config, "normalize_before"):
                network.config.normalize_before = network.config.model_type == "mbart"
            if network.config.model_type == "m2m_100":  # the converter takes the pad to be token 1
                for part in (network.model.encoder, network.model.decoder):
                    part.embed_positions.offset = network.config.pad_token_id + 1
            return network

        def load_tokenizer(self, tokenizer_class: Any, place: str, **options: Any) -> Any:
            tokenizer = tokenizer_class.from_pretrained(place, **options)
            # the format demands both. Byte-level tokenizers have no unknown token, and no start token is added
            tokenizer.unk_token = tokenizer.unk_token or tokenizer.eos_token
            tokenizer.bos_token = tokenizer.bos_token or tokenizer.eos_token
            return tokenizer

    return Converter(str(folder))


def _continued(target: Path, prompts: Sequence[list[int]], decoding: GenerationConfig) -> Iterator[list[int]]:
    from ctranslate2 import Generator

    tokenizer, generator = AutoTokenizer.from_pretrained(target, local_files_only=True), Generator(str(target))
    options = {"max_length": decoding.max_new_tokens, "end_token": sorted(end_ids(decoding))}
    for prompt in prompts:
        tokens = tokenizer.convert_ids_to_tokens(prompt)
        [result] = generator.generate_batch([tokens], beam_size=1, include_prompt_in_result=False, **options)
        yield list(result.sequences_ids[0])


def _translated(target: Path, prompts: Sequence[list[int]], decoding: GenerationConfig) -> Iterator[list[int]]:
    from ctranslate2 import Translator

    tokenizer: Any = AutoTokenizer.from_pretrained(target, local_files_only=True)
    translator = Translator(str(target))
    # by default it cuts sources off, and does not end a text at once
    limits = {"max_input_length": 0, "min_decoding_length": 0, "max_decoding_length": decoding.max_new_tokens}
    options = limits | {"beam_size": 1, "end_token": sorted(end_ids(decoding))}
    prefix = tokenizer.convert_ids_to_tokens(_prefix(target, decoding))
    for prompt in prompts:
        tokens = tokenizer.convert_ids_to_tokens(prompt)
        [result] = translator.translate_batch([tokens], target_prefix=[prefix], **options)
        yield tokenizer.convert_tokens_to_ids(result.hypotheses[0])


def _prefix(target: Path, decoding: GenerationConfig) -> list[int]:
    """What the decoder is given before a text: the start token where the converted model has none (mBART), and the code
    of the language where a text begins with one."""
    starts = [] if read_json(target / "config.json")["decoder_start_token"] else [decoding.decoder_start_token_id]
    languages = [] if decoding.forced_bos_token_id is None else [decoding.forced_bos_token_id]
    return [*starts, *languages]


FORMAT = Format(("ctranslate2",), _PRECISIONS, write, answers)
