"""The trained model on disk, whole or as an adapter of its base. It is opened again, and compared with the one in
memory."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.core.files import sha256_of, write_json, write_text
from stages.lib.core.process import UserError
from stages.lib.models.adapters import PREFIX, WEIGHTS, has_adapters, merge_adapters
from stages.lib.models.devices import autocast, uses_bfloat16
from stages.lib.models.families import interface_of
from stages.lib.models.loading import BASE, trained_model
from stages.lib.models.losses import example_losses
from stages.lib.models.quantization import is_quantized
from stages.lib.params.model import Model
from stages.lib.records.tokenized_examples import TokenizedDataset
from stages.lib.training.adapters import modules_in_full

_CHECKED_EXAMPLES, _CHECKED_TOKENS = 200, 1 << 14  # at most
_BATCH_SIZE, _BATCH_TOKENS = 16, 2048
_TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classifier": "SEQ_CLS"}  # as peft calls them


def save(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    base: Model,
    validation: TokenizedDataset,
    precision: str,
    seed: int,
    target: Path,
    reported: float | None = None,
) -> None:
    """Writes model/ and adapter/. Beside an adapter of a checkpoint, model/ has the name of this base in place of
    weights: so a second adapter takes little room. Random weights are in no checkpoint, so adapters are merged into
    them. The network is left without adapters and weights, to have room for the one on disk.

    Args:
        base: the model before training.
        validation: examples for the comparison, as `checked_part` counts them.
        precision: of training.
        seed: of the random weights that the base was loaded with.
        reported: the loss on these examples, in nats a target token, that training has reported for these weights.

    Raises:
        UserError: the model on disk has another loss.
    """
    device = network.device
    in_memory = _mean_loss(network, validation, precision)
    _save_adapter(network, base, target / "adapter")
    about = _base(network, base, seed, target) if has_adapters(network) and base.scratch is None else None
    merged: Any = merge_adapters(network)
    if about is None:
        merged.save_pretrained(target / "model")
    else:
        write_json(target / "model" / BASE, about)
    tokenizer.save_pretrained(target / "model")
    merged.to("meta")
    saved: Any = trained_model(base, target)
    on_disk = _mean_loss(saved.to(device), validation, precision)
    for expected in (in_memory, reported):
        if expected is not None and not abs(on_disk - expected) <= _rounding(expected, precision):  # also of NaN
            raise UserError(
                f"train: {target / 'model'} is not the model that was trained: opened again, it has a loss of "
                f"{on_disk:.4f} on validation examples that had {expected:.4f}; choose another model, or change "
                f"fit.adapters, and please report it"
            )


def checked_part(validation: TokenizedDataset) -> int:
    """How many examples, from the first on, are compared."""
    within = int((validation.lengths().cumsum() <= _CHECKED_TOKENS).sum())
    return max(1, min(within, _CHECKED_EXAMPLES))


def _save_adapter(network: PreTrainedModel, base: Model, folder: Path) -> None:
    """Writes what plain peft opens on the base model: adapter_model.safetensors and adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    if not has_adapters(network):
        write_text(folder / "no_adapters.txt", "This model was trained without adapters.\n")  # DVC warns of empty outs
        return
    from peft import get_peft_model_state_dict  # it takes seconds to import

    full = list(modules_in_full(network))
    weights = get_peft_model_state_dict(network, save_embedding_layers=False)
    for module in full:
        weights |= {f"{module}.{name}": own for name, own in network.get_submodule(module).state_dict().items()}
    # a shared weight is written under each of its names: peft knows no sharing
    on_disk = {f"{PREFIX}{name}": own.cpu().contiguous().clone() for name, own in weights.items()}
    save_file(on_disk, folder / WEIGHTS, {"format": "pt"})
    write_json(folder / "adapter_config.json", _adapter_config(network, base, full))


def _adapter_config(network: Any, base: Model, full: list[str]) -> dict[str, Any]:
    values = network.peft_config["default"].to_dict() | {
        "base_model_name_or_path": base.public_name,
        "revision": base.hub_revision,
        "task_type": _TASKS[interface_of(network).name],
        "modules_to_save": full or None,
        "inference_mode": True,
    }
    return {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}


def _base(network: Any, base: Model, seed: int, target: Path) -> dict[str, Any]:
    """How `trained_model` gets the network that the adapter of this one belongs to. The hash makes model/ another out
    for another adapter: who compares two runs looks there."""
    return {
        "base_model": base.public_name,
        "revision": base.hub_revision,
        "labels": list(network.config.id2label.values()) if interface_of(network).name == "classifier" else [],
        "seed": seed,
        "quantized": is_quantized(network),
        "adapter_sha256": sha256_of(target / "adapter" / WEIGHTS),
        "whole_model": "python -m stages.tools.export_model FOLDER",
    }


def _mean_loss(network: PreTrainedModel, examples: TokenizedDataset, precision: str) -> float:
    with autocast(precision):
        losses = list(example_losses(network, examples, _BATCH_SIZE, _BATCH_TOKENS))
    return sum(loss for _, loss, _ in losses) / sum(tokens for _, _, tokens in losses)


def _rounding(loss: float, precision: str) -> float:
    """How far two ways to compute this loss may differ, in nats: an adapter beside a weight or in it, other batches."""
    return 0.02 + 0.02 * loss if uses_bfloat16(precision) else 1e-4 + 1e-3 * loss
