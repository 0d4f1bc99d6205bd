"""Layouts of batches, and which of them a network computes right.

Some networks compute a batch otherwise than its examples alone: a pad changes a recurrent state (RWKV), or the routing
of experts depends on the batch (NLLB-MoE). They give no error, so a check compares numbers before training.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.lib.core.process import UserError, first_line
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import IGNORED, Batch, attention_of, is_packed, on_device, unwrap
from stages.lib.models.memory import is_out_of_memory
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample

# packed: end to end in one row; padded: rows with pads; unpadded: only rows of equal source and target lengths share a
# batch; single: one example a batch
Layout = Literal["packed", "padded", "unpadded", "single"]
Examples = Sequence[TokenizedExample] | TokenizedDataset
BatchOf = Callable[[Sequence[TokenizedExample], int], Batch]  # examples and the id of a pad -> a batch
Continued = Callable[[Sequence[list[int]]], Tensor]
SharedLosses = Callable[[PreTrainedModel, Sequence[TokenizedExample]], tuple[Tensor, Tensor]]

_SAMPLE = 256  # examples that the check chooses among
_LONGEST = 1024  # tokens of a source or target that the check computes
_CAUSAL_TOKENS = 16


def allowed_groups(layout: Layout, examples: Sequence[TokenizedExample]) -> list[list[int]]:
    """Indices of the examples that this layout allows in one batch."""
    if layout == "single":
        return [[index] for index in range(len(examples))]
    if layout == "unpadded":
        alike = defaultdict[tuple[int, int], list[int]](list)
        for index, example in enumerate(examples):
            alike[len(example.source_ids), len(example.target_ids)].append(index)
        return list(alike.values())
    return [list(range(len(examples)))]


def choose_layout(network: PreTrainedModel, examples: Examples, pack: bool = True) -> Layout:
    """The fastest layout in which the network computes loss and gradient of a batch as those of each example alone.

    It computes two examples of unlike lengths, without dropout. Where the answer is packed, padded is right too.

    Args:
        pack: whether packed may be the answer.

    Raises:
        UserError: the network can't compute an example alone, or computes it differently from call to call.
    """
    interface = interface_of(network)
    unlike = _unlike(examples)
    alone = _alone(network, unlike)
    if not alone.losses.isfinite().all():  # training says on which examples
        return "padded"
    if _agrees(network, interface.training_batch, unlike, alone):
        may_pack = pack and interface.may_pack(network)
        return "packed" if may_pack and _agrees(network, interface.packed_batch, unlike, alone) else "padded"
    alike, last = _alike(unlike), unlike[-1:]
    if _agrees(network, interface.training_batch, alike, _alone(network, alike)):
        return "unpadded"
    if _agrees(network, interface.training_batch, last, _alone(network, last)):
        return "single"
    raise UserError(
        f"model: {_name(network)} computes the same example differently from call to call; give its random "
        f"choices a fixed seed in its configuration (Reformer: hash_seed), or take another model"
    )


def prompt_layout(network: PreTrainedModel, sources: Sequence[list[int]], continued: Continued) -> Layout:
    """The fastest layout in which the network continues each prompt of a batch as it does alone: padded, unpadded or
    single. It continues two of unlike lengths.

    Args:
        continued: prompts -> logits (B, T, vocabulary) of the first tokens that the network adds to each.
    """

    def agree(prompts: Sequence[TokenizedExample]) -> bool:
        own = [prompt.source_ids for prompt in prompts]
        try:
            with _precision(network):
                return _are_close(continued(own), torch.cat([continued([each]) for each in own]), _rounding(network)[0])
        except RuntimeError:  # of the network's own code, or memory ends on two prompts
            return False

    unlike = _unlike([TokenizedExample("", source, [], [], 0) for source in sources])
    if agree(unlike):
        return "padded"
    return "unpadded" if agree(_alike(unlike)) else "single"


def shares_sources(network: PreTrainedModel, examples: Examples, shared_losses: SharedLosses) -> bool:
    """Whether the network, which computes padded batches right, has the same losses where one pass over a source
    serves several targets. It computes two sources of unlike lengths, with two targets of unlike lengths each.

    Args:
        shared_losses: examples -> their losses (B), with one pass over equal sources.
    """
    interface = interface_of(network)
    halves = [
        (own, own._replace(target_ids=own.target_ids[: (len(own.target_ids) + 1) // 2])) for own in _unlike(examples)
    ]
    rows = [row for both in halves for row in both]
    with _errors_reported(network):
        alone = torch.stack([_pass(network, interface.training_batch, [row]).losses.detach().sum() for row in rows])
    try:
        with _precision(network):
            shared = shared_losses(network, rows)[0].float()
    except Exception as error:  # of any class: it is the network's own code
        if is_out_of_memory(error):
            raise
        return False
    return _are_close(shared, alone, _rounding(network)[0])


def check_causal(network: PreTrainedModel, examples: Examples) -> None:
    """Raises UserError where a logit of a causal model depends on a later token, or on how many there are."""
    interface, half = interface_of(network), _CAUSAL_TOKENS // 2
    if interface.name != "causal":
        return
    first, *others = islice(cycle(examples[0].source_ids + examples[0].target_ids), _CAUSAL_TOKENS)
    with _errors_reported(network):
        computed = _pass(network, interface.training_batch, [TokenizedExample("", [first], others, [], 0)])
        with _precision(network):
            (influence,) = torch.autograd.grad(computed.losses[:half].sum(), computed.embeddings)
        shorter = _pass(network, interface.training_batch, [TokenizedExample("", [first], others[:half], [], 0)])
    is_alike = _are_close(computed.losses[:half], shorter.losses, _rounding(network)[1])
    if not computed.losses.isfinite().all():  # training says on which examples
        return
    if influence[0, half:].any() or not is_alike:
        raise UserError(
            f"model: {_name(network)} sees the tokens that it must predict, so it is no causal model; take another, or "
            f"write `family: encoder` to choose among labels"
        )


class _Pass(NamedTuple):
    """A forward pass of a batch, without dropout."""

    losses: Tensor  # of each target token, in the order of the examples
    embeddings: Tensor  # of the ids: (B, S, width), or (1, N, width) if packed; gradients end there
    is_own: Tensor  # (B, S) or (1, N): whether it is a token of the last example


class _Result(NamedTuple):
    losses: Tensor  # of each target token, in the order of the examples
    gradient: Tensor  # of the last example's loss, by the embeddings of its own tokens: (tokens, width)
    depends_on_others: bool  # whether there is a gradient by embeddings of pads or other examples


def _unlike(examples: Examples) -> list[TokenizedExample]:
    """One of the longest and one of the shortest, by their sources. Where they are alike, the second is cut. It is odd,
    since some models pool tokens in pairs."""
    step = max(1, len(examples) // _SAMPLE)
    some = sorted((examples[index] for index in range(0, len(examples), step)), key=_lengths)
    shortest, longest = (_cut(example, _LONGEST, _LONGEST) for example in (some[0], some[-1]))
    both = zip(_lengths(shortest), _lengths(longest), strict=True)
    source, target = (own // 2 if own == other else own for own, other in both)
    return [longest, _cut(shortest, max(1, source - 1 + source % 2), target)]


def _alike(examples: Sequence[TokenizedExample]) -> list[TokenizedExample]:
    """Parts of the examples that have equal lengths."""
    lengths = [min(column) for column in zip(*map(_lengths, examples), strict=True)]
    return [_cut(example, *lengths) for example in examples]


def _lengths(example: TokenizedExample) -> tuple[int, int]:
    return len(example.source_ids), len(example.target_ids)


def _cut(example: TokenizedExample, *most: int) -> TokenizedExample:
    """At most so many tokens of its source and of its target, with their last ones, since some models look for an end
    token. Every token has loss."""
    source, target = (
        [*ids[: max(0, min(end, len(ids)) - 1)], *ids[-1:]]
        for ids, end in zip((example.source_ids, example.target_ids), most, strict=True)
    )
    return example._replace(source_ids=source, target_ids=target, masked_positions=[])


def _alone(network: PreTrainedModel, examples: Sequence[TokenizedExample]) -> _Result:
    """What a batch of these examples has to be."""
    *others, last = examples
    batch_of = interface_of(network).training_batch
    with _errors_reported(network):
        losses = [_pass(network, batch_of, [example]).losses.detach() for example in others]
        result = _result(network, batch_of, [last])
    return result._replace(losses=torch.cat([*losses, result.losses]))


@contextmanager
def _errors_reported(network: PreTrainedModel) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        line = f"model: {_name(network)} can't compute an example of these data alone ({first_line(error)})"
        raise UserError(line) from None


def _name(network: PreTrainedModel) -> str:
    return type(unwrap(network)).__name__


def _agrees(network: PreTrainedModel, batch_of: BatchOf, examples: Sequence[TokenizedExample], alone: _Result) -> bool:
    try:
        together = _result(network, batch_of, examples)
    except Exception as error:  # of any class: it is the network's own code
        if is_out_of_memory(error):
            raise
        return False
    of_losses, of_gradient = _rounding(network)
    return (
        not together.depends_on_others
        and _are_close(together.losses, alone.losses, of_losses)
        and _are_close(together.gradient, alone.gradient, of_gradient)
    )


def _are_close(one: Tensor, other: Tensor, rounding: float) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= rounding * other.norm())


def _result(network: PreTrainedModel, batch_of: BatchOf, examples: Sequence[TokenizedExample]) -> _Result:
    losses, embeddings, is_own = _pass(network, batch_of, examples)
    with _precision(network):  # autocast around this would round the products of backward too
        (gradient,) = torch.autograd.grad(losses[-len(examples[-1].target_ids) :].sum(), embeddings)
    return _Result(losses.detach(), gradient[is_own], bool(gradient[~is_own].any()))


def _pass(network: PreTrainedModel, batch_of: BatchOf, examples: Sequence[TokenizedExample]) -> _Pass:
    network.eval()
    batch = on_device(batch_of(examples, int(network.config.pad_token_id)), network)
    labels = batch["labels"].flatten()
    with torch.enable_grad(), _precision(network):
        with captured_embeddings(network, batch["input_ids"]) as captured:
            logits = interface_of(network).target_logits(network, batch).flatten(0, 1).float()
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")[labels != IGNORED]
    embeddings = captured[0]
    return _Pass(losses, embeddings, _is_token_of_last(batch, embeddings))


@contextmanager
def captured_embeddings(network: PreTrainedModel, ids: Tensor) -> Iterator[list[Tensor]]:
    """Fills a list with the embeddings that the network, or its encoder, looks up: (B, S, width) for ids (B, S).
    Gradients end there."""
    captured = list[Tensor]()

    def capture(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # I-BERT: with a scale
            return capture(module, inputs, output[0]), *output[1:]
        embeddings: Tensor = output
        is_transposed = embeddings.shape[:2] == ids.T.shape != ids.shape  # XLNet
        leaf = (embeddings.transpose(0, 1) if is_transposed else embeddings).detach().requires_grad_()
        captured.append(leaf)
        return (leaf.transpose(0, 1) if is_transposed else leaf).clone()  # some networks change it in place

    plain: Any = unwrap(network)
    reader = plain.get_encoder() if plain.config.is_encoder_decoder else plain
    reader = reader if hasattr(reader, "get_input_embeddings") else plain  # the encoder of FSMT has none
    hook = reader.get_input_embeddings().register_forward_hook(capture)
    try:
        yield captured
    finally:
        hook.remove()


def _is_token_of_last(batch: Batch, embeddings: Tensor) -> Tensor:
    """Whether each of the embeddings (B, S, width) is that of a token, not a pad, of the last example: (B, S)."""
    is_own = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
    if is_packed(batch):
        is_own[0, int(batch["lengths"][:-1].sum()) :] = True
    else:
        mask = batch["attention_mask"][-1].bool()
        is_own[-1, : len(mask)] = mask  # some networks add pads of their own
    return is_own


def _rounding(network: PreTrainedModel) -> tuple[float, float]:
    """The largest relative differences of losses, or logits, and of gradients that are no fault."""
    return (2e-5, 2e-3) if _is_float32(network) else (2e-2, 1e-1)


def _precision(network: PreTrainedModel) -> torch.autocast:
    """Float32 where the network can compute in it, whatever the precision of training, so that differences are
    faults."""
    return torch.autocast(network.device.type, torch.bfloat16, enabled=not _is_float32(network))


def _is_float32(network: PreTrainedModel) -> bool:
    is_flash = attention_of(network).startswith("flash")  # only for 16 bits
    # those in 4 bits compute in the precision of their first input
    return not is_flash and all(own.dtype == torch.float32 for own in network.parameters() if own.is_floating_point())
