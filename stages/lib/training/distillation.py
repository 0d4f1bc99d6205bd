"""Distillation: the model also learns the probabilities that a larger one, its teacher, gives to each token (Hinton,
Vinyals and Dean 2015)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import excess_tokens, family_of_config
from stages.lib.core.process import UserError, first_line
from stages.lib.models.devices import own_device, uses_bfloat16
from stages.lib.models.families import interface_of, interface_of_saved
from stages.lib.models.families.interface import IGNORED, Batch, ModelInterface, with_embeddings
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import Label, TokenizedDataset
from stages.lib.training.kernels import use_kernels

_CHUNK_BYTES = 32 << 20  # of the logits whose probabilities are in memory at a time, in float32


class Teacher:
    """A trained network whose probabilities are learned.

    Args:
        network: on the device of this process. It is computed without dropout and gradients.
        outputs: how many of its logits mean the same as the first ones of the model: tokens or labels. Some checkpoints
            of one tokenizer have more embeddings than others.
        share: of the loss; the rest is cross entropy with the right tokens.
        temperature: that both distributions are softened by.
    """

    def __init__(self, network: PreTrainedModel, outputs: int, share: float, temperature: float) -> None:
        self.network = network.eval()
        self._outputs, self._share, self._temperature = outputs, share, temperature

    def summed_loss(
        self, interface: ModelInterface, network: nn.Module, batch: Batch, label_smoothing: float
    ) -> Tensor:
        """(1 - share) * cross entropy + share * temperature^2 * KL(teacher || network), summed over the target tokens
        of a batch, for training. The square keeps the gradient's size at any temperature (section 2.1 there)."""
        logits = interface.target_logits(network, batch).flatten(0, 1)
        with torch.no_grad():
            taught = interface.target_logits(self.network, batch).flatten(0, 1)
        labels = batch["labels"].flatten()
        weights = labels.ne(IGNORED) * batch.get("weights", torch.ones_like(labels)).flatten()
        loss_of = partial(self._loss, label_smoothing=label_smoothing)
        loss: Tensor = _Chunked.apply(loss_of, logits, taught, labels, weights)
        return loss

    def _loss(self, logits: Tensor, taught: Tensor, labels: Tensor, weights: Tensor, label_smoothing: float) -> Tensor:
        """The loss of n target tokens. Logits are (n, vocabulary), labels and weights (n)."""
        own = self._log_probabilities(logits)
        divergence = F.kl_div(own, self._log_probabilities(taught), reduction="none", log_target=True).sum(-1)
        right = F.cross_entropy(
            logits.float(), labels, ignore_index=IGNORED, reduction="none", label_smoothing=label_smoothing
        )
        losses = (1 - self._share) * right + self._share * self._temperature**2 * divergence
        return (losses * weights).sum()  # a product of vectors would be computed in bfloat16 below autocast

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        return (logits[:, : self._outputs].float() / self._temperature).log_softmax(-1)


class _Chunked(torch.autograd.Function):
    """The sum of a loss over rows, and its gradient in the same pass, chunk by chunk: the probabilities of all rows
    together would take several times the memory of the logits."""

    @staticmethod
    def forward(ctx: Any, loss_of: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
        total, gradient = torch.zeros((), device=logits.device), torch.empty_like(logits)
        size = max(1, _CHUNK_BYTES // (4 * logits.shape[-1]))
        for start in range(0, len(logits), size):
            rows = slice(start, start + size)
            own = logits[rows].detach().requires_grad_()
            with torch.enable_grad():
                loss = loss_of(own, *(other[rows] for other in others))
            (gradient[rows],) = torch.autograd.grad(loss, own)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * scale, None, None, None


def load_teacher(
    settings: FitSettings,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[Label],
    train: TokenizedDataset,
) -> Teacher | None:
    """The teacher that `train.teacher` names, on the device of this process. None if it names none.

    Raises:
        UserError: no checkpoint in the folder or of that name, or it can't teach this model: it has another class,
            tokenizer or labels, or not enough positions for an example.
    """
    if settings.teacher is None:
        return None
    place = settings.teacher_folder if settings.teacher == "folder" else settings.teacher
    if settings.teacher == "folder" and not (Path(place) / "config.json").is_file():
        raise UserError(f"train -> teacher_folder: no config.json in {place}: not the folder of a checkpoint")
    revision = None if settings.teacher == "folder" else settings.teacher_revision
    options = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        _check(config, AutoTokenizer.from_pretrained(place, **options), student, tokenizer, labels)
        network = _network(place, config, len(tokenizer), settings, options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"train -> teacher: can't load {place}: {first_line(error)}") from None
    used = interface_of(student).name
    if (excess := excess_tokens(used, config, train.source_lengths(), train.target_lengths())) > 0:
        raise UserError(f"train -> teacher: an example has {excess} tokens more than it has positions for")
    outputs = config.num_labels if used == "classifier" else len(tokenizer)
    return Teacher(network, outputs, settings.teacher_share, settings.teacher_temperature)


def _check(
    config: PreTrainedConfig,
    own_tokenizer: PreTrainedTokenizerBase,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[Label],
) -> None:
    """Raises UserError with a line for each reason why a model of this configuration, with this tokenizer of its own,
    can't teach the student."""
    lines, words = [], [label.word for label in labels]
    own, used = interface_of_saved(config).name, interface_of(student).name
    if family_of_config(config) == "encoder" and own == "causal":
        lines.append("it is an encoder without a head; fine-tune it on this task first")
    elif own != used:
        lines.append(f"it is a {own} model, and the one that learns is {used}; both must be of one class")
    elif used == "classifier" and (theirs := list((config.id2label or {}).values())) != words:
        lines.append(
            f"its labels are {', '.join(theirs)}, in place of {', '.join(words)}; fine-tune it on this task first"
        )
    ids = own_tokenizer.get_vocab()
    # pads are never learned, and the model's tokenizer may have got one where the teacher's has none
    differing = (
        (number, token)
        for token, number in tokenizer.get_vocab().items()
        if ids.get(token) != number and number != tokenizer.pad_token_id
    )
    if (first := min(differing, default=None)) is not None:
        number, token = first
        lines.append(
            f"it has another tokenizer: `{token}` is token {number} of the model and {ids.get(token, 'none')} of the "
            f"teacher; take a teacher of the same tokenizer, or let it write the targets (stages.tools.teach)"
        )
    if lines:
        raise UserError(f"train -> teacher: {line}" for line in lines)


def _network(
    place: str, config: PreTrainedConfig, tokens: int, settings: FitSettings, options: dict[str, Any]
) -> PreTrainedModel:
    dtype = torch.bfloat16 if uses_bfloat16(settings.precision) else torch.float32
    auto_class = interface_of_saved(config).auto_class
    network: Any = auto_class.from_pretrained(place, config=config, use_safetensors=True, dtype=dtype, **options)
    with_embeddings(network, tokens)
    try:
        network.to(own_device())
    except torch.OutOfMemoryError:
        raise UserError(
            "train -> teacher: its weights do not fit into the memory of this GPU; name a smaller one"
        ) from None
    use_kernels(network, settings)
    return network
