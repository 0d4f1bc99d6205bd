"""Faster kernels with the same results, except for rounding."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from shutil import which
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn
from torch.nn.modules.normalization import RMSNorm
from transformers import PreTrainedModel
from transformers.activations import GELUTanh, NewGELUActivation

from stages.lib.core.process import UserError, first_line
from stages.lib.models.attention import relative_attention, use_segments
from stages.lib.models.devices import uses_bfloat16
from stages.lib.models.families import interface_of
from stages.lib.models.memory import is_sharded
from stages.lib.params.fit import Fit


def use_kernels(network: PreTrainedModel, settings: Fit) -> None:
    """Gives the network the fastest kernels that the settings allow, before it is sharded. The saved model is
    unchanged.

    Raises:
        UserError: the settings name kernels that the model, the machine or an installed library does not have.
    """
    use_attention(network, settings)
    if settings.liger:
        _use_liger(network)
    elif not is_sharded(network):
        fuse_norms(network)
    fuse_gelu(network)


def fuse_gelu(network: nn.Module) -> None:
    """Computes the tanh approximation of GELU (GPT-2, ALBERT ...: Hendrycks and Gimpel 2016) in one pass over the
    activations, in place of eight."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, GELUTanh())


def fuse_norms(network: nn.Module) -> None:
    """Computes root mean square norms (T5, Llama ...: Zhang and Sennrich 2019) by torch's own function: one kernel on a
    GPU, fewer passes on a CPU."""
    for module in network.modules():
        for name, child in module.named_children():
            if _is_rms_norm(child):
                setattr(module, name, _RMSNorm(child))


class _RMSNorm(RMSNorm):
    def __init__(self, norm: Any) -> None:
        super().__init__(norm.weight.shape, norm.variance_epsilon)
        self.weight = norm.weight

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states.float())  # from bfloat16, below autocast


def _is_rms_norm(module: Any) -> bool:
    """Whether it computes the same as torch's norm, tried on random states. Others add 1 to their weights, or take a
    gate."""
    if not hasattr(module, "variance_epsilon") or len(signature(module.forward).parameters) != 1:
        return False
    weights = dict(module.named_parameters())
    if list(weights) != ["weight"] or module.weight.dtype != torch.float32:
        return False
    states = torch.randn(2, *module.weight.shape, generator=torch.Generator().manual_seed(1)).to(module.weight.device)
    with torch.no_grad():
        return torch.allclose(_RMSNorm(module)(states), module(states), 1e-5)


def use_attention(network: PreTrainedModel, settings: Fit) -> None:
    """Sets the implementation of attention that `fit.attention` names, if any. SDPA can then also compute packed
    examples.

    Raises:
        UserError: the model does not support it, or the machine or an installed library does not.
    """
    if settings.attention is not None:
        _set_attention(network, settings.attention, settings.precision)
    config = network.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    may_pack = interface_of(network).name in ("causal", "classifier") or relative_attention(network)
    if network.config._attn_implementation == "sdpa" and may_pack and windows == [None, None]:
        use_segments(network)


def _set_attention(network: PreTrainedModel, wanted: str, precision: str) -> None:
    place = "params.yaml: fit -> attention"
    if wanted.startswith("flash") and not (torch.cuda.is_available() and uses_bfloat16(precision)):
        raise UserError(f"{place}: {wanted} needs a GPU and `precision: bfloat16`; write sdpa or null")
    before = network.config._attn_implementation
    try:
        network.set_attn_implementation(wanted)
    except (ImportError, ValueError) as error:
        raise UserError(f"{place}: {wanted}: {first_line(error)}") from None
    if network.config._attn_implementation == before != wanted:
        raise UserError(f"{place}: {type(network).__name__} does not support {wanted}; write null")


@contextmanager
def fast_dropout_generator() -> Iterator[None]:
    """Makes dropout on a CPU faster: an element takes 16 random bits, so one number of torch's generator serves four
    elements. The share of elements that are kept is exact to 1 / 65,536. A step of a small model is 1.3 times as fast
    on a processor with AMX."""
    library = torch.library.Library("aten", "IMPL")
    with catch_warnings():
        simplefilter("ignore")  # the warning that a kernel is replaced
        library.impl("bernoulli_.float", _by_bits, "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def _by_bits(kept: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    numbers = torch.empty(math.ceil(kept.numel() / 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    bits = numbers.view(torch.int16)[: kept.numel()].view(kept.shape)
    border = round(p * 2**16) - 2**15
    return kept.fill_(1.0) if border == 2**15 else torch.lt(bits, border, out=kept)


def check_compiler() -> None:
    """Raises UserError if there is no compiler for `fit.compile`."""
    variable, names = ("CC", ("cc", "gcc", "clang")) if torch.cuda.is_available() else ("CXX", ("g++", "clang++"))
    if variable not in os.environ and not any(map(which, names)):
        raise UserError(
            f"params.yaml: fit -> compile: no compiler here ({', '.join(names)}); install one, or write false"
        )


def _use_liger(network: PreTrainedModel) -> None:
    """Liger kernels (Hsu et al. 2024), but for its loss: logits are computed at targets only."""
    place = "params.yaml: fit -> liger"
    if not torch.cuda.is_available():
        raise UserError(f"{place}: only on a GPU; write false")
    if find_spec("liger_kernel") is None:
        raise UserError(f"{place}: not installed; `pip install liger-kernel`, or write false")
    known = import_module("liger_kernel.transformers.monkey_patch").MODEL_TYPE_TO_APPLY_LIGER_FN
    if network.config.model_type not in known:
        raise UserError(f"{place}: there are no kernels for {network.config.model_type}; write false")
    from transformers.integrations.liger import apply_liger_kernel  # seconds, for the peft that it imports

    apply_liger_kernel(network, {"fused_linear_cross_entropy": False})
