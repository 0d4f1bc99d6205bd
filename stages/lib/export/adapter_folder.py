"""The adapter alone, without the model that it was trained on: plain peft puts it onto that model."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from stages.lib.checkpoint.config import checkpoint_path, loading_options
from stages.lib.core.process import UserError
from stages.lib.export.interface import Format, Precision, Source
from stages.lib.export.plain import greedy
from stages.lib.models.families import interface_of_saved
from stages.lib.models.families.interface import with_embeddings

_CONFIG = "adapter_config.json"


_PRECISIONS: dict[Precision, str] = {"float32": "float32"}


def write(source: Source, target: Path, precision: Precision) -> None:
    if not (source.adapter / _CONFIG).is_file():
        raise UserError(f"{source.adapter}: the model was trained without adapters; see params.yaml: fit -> adapters")
    if source.base.scratch is not None:
        raise UserError(f"{source.adapter}: the adapter belongs to random weights, which nobody else has")
    shutil.copytree(source.adapter, target, dirs_exist_ok=True)
    AutoTokenizer.from_pretrained(source.folder, local_files_only=True).save_pretrained(target)


def answers(
    source: Source, target: Path, prompts: Sequence[list[int]], decoding: GenerationConfig
) -> Iterator[list[int]]:
    from peft import PeftModel

    config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(target, local_files_only=True)
    auto_class, place = interface_of_saved(config).auto_class, checkpoint_path(source.base)
    base = auto_class.from_pretrained(place, dtype=torch.float32, **loading_options(source.base))
    adapted: Any = PeftModel.from_pretrained(with_embeddings(base, len(tokenizer)), target)
    return greedy(adapted.merge_and_unload(), prompts, decoding)


FORMAT = Format(("peft",), _PRECISIONS, write, answers)
