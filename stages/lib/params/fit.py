"""Section `fit`: the settings of one training run; tuning may search over any of them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.lib.params import Section

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Freeze(Section):
    """Weights that stay as they are."""

    embeddings: bool = False
    first_layers: Annotated[int, Field(ge=0)] = 0
    names: list[str] = Field(default_factory=list)
    thaw_epochs: Annotated[float, Field(ge=0)] = 0.0


class Adapters(Section):
    """Low-rank matrices beside frozen weights: LoRA (Hu et al. 2022) or DoRA (Liu et al. 2024)."""

    kind: Literal["lora", "dora"] = "lora"
    rank: Count = 8
    alpha: Count = 16
    dropout: Fraction = 0.0
    modules: Annotated[list[str], Field(min_length=1)] | None = None
    quantize: bool = False


class Fit(Section):
    epochs: Positive
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
    r_drop: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    precision: Literal["float32", "bfloat16", "auto"]
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None
    liger: bool
    compile: bool
    validations: Count
    choose_by: Literal["loss", "bleu", "chrf", "exact_match", "token_f1", "accuracy"]
    choose_examples: Count
    average_best: Count
    early_stopping_patience: Count | None
    freeze: Freeze
    adapters: Adapters | None
    processes: Count
    nodes: Count
    rendezvous: Annotated[str, Field(pattern=r"^[^\s:]+:\d+$")] | None
    sharded: bool
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _meeting(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("rendezvous: several nodes need a place to meet, host:port of one of them")
        return self

    @model_validator(mode="after")
    def _holders(self) -> Self:
        if self.sharded and self.processes * self.nodes == 1:
            raise ValueError("sharded: one process has to hold the whole model; set processes, or write false")
        if self.sharded and self.adapters is not None and self.adapters.quantize:
            raise ValueError("sharded: quantized weights can't be; set adapters -> quantize: false, or write false")
        return self
