"""Section `fit`: the settings of one training run. The trials of tuning and the final training run share them."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.core.params import Section

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Freeze(Section):
    """Weights that training leaves unchanged."""

    embeddings: bool = False
    first_layers: Annotated[int, Field(ge=0)] = 0
    names: list[str] = Field(default_factory=list)


class Adapters(Section):
    """Low-rank matrices beside frozen weights: LoRA (Hu et al. 2022) or DoRA (Liu et al. 2024)."""

    type: Literal["lora", "dora"] = "lora"
    rank: Count = 8
    alpha: Count = 16
    dropout: Fraction = 0.0
    target_modules: Annotated[list[str], Field(min_length=1)] | None = None
    quantize: bool = False


class Fit(Section):
    batch_size: Count
    batch_tokens: Count | None
    micro_batch_tokens: Count | None
    learning_rate: Positive
    schedule: Literal["cosine", "linear", "constant"]
    warmup_fraction: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    label_smoothing: Fraction
    dropout: Fraction | None
    l1: Annotated[float, Field(ge=0)]
    neftune_alpha: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    precision: Literal["float32", "bfloat16", "auto"]
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None
    liger: bool
    compile: bool
    evals_per_run: Count
    early_stopping_patience: Count | None
    freeze: Freeze
    adapters: Adapters | None
    seed: Annotated[int, Field(ge=0)]
