"""Section `fit`: the settings of one training run. The trials of tuning and the final training run share them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from stages.lib.core.params import Section, suggestion
from stages.lib.core.process import UserError

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
    modules_to_save: list[str] = Field(default_factory=list)
    rank_stabilized: bool = False
    quantize: bool = False


class Fit(Section):
    batch_size: Count
    batch_tokens: Count | None
    micro_batch_tokens: Count | None
    optimizer: Literal["adamw", "adamw_8bit", "adafactor", "muon"]
    learning_rate: Positive
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    schedule: Literal["cosine", "linear", "constant", "wsd", "cosine_restarts"]
    warmup_fraction: Fraction
    decay_fraction: Fraction
    cycles: Count
    final_fraction: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    label_smoothing: Fraction
    class_weights: Literal["balanced"] | dict[str, Positive] | None
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


def with_settings(fit_values: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `fit`, with the chosen ones in place of its own. A dotted name, such as `adapters.rank`, is that of
    a value in a section, which must not be null."""
    values = dict(fit_values)
    for name, value in chosen.items():
        section, _, inner = name.partition(".")
        values[section] = with_settings(values[section], {inner: value}) if inner else value
    return values


def check_class_weights(settings: Fit, labels: Sequence[str]) -> None:
    """Raises UserError unless each label, named by its word, has a weight, and nothing else has one."""
    weights, place = settings.class_weights, "params.yaml: fit -> class_weights"
    if weights is not None and not labels:
        raise UserError(f"{place}: this scenario has no labels; write null")
    if isinstance(weights, dict):
        lines = [
            f"{place} -> {name}: no such label{suggestion(name, labels)}" for name in weights if name not in labels
        ]
        if missing := [label for label in labels if label not in weights]:
            lines.append(f"{place}: no weight of {', '.join(missing)}; give one to each label, usually 1.0")
        if lines:
            raise UserError(lines)
