"""Micro-batches: the examples of an update are split, computed one after the other, and their gradients are added."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from operator import add
from typing import TypedDict

import torch
from transformers import PreTrainedModel

from stages.lib.models.attention import SDPA_VARLEN
from stages.lib.models.devices import own_device, uses_bfloat16
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import IGNORED, Batch, ModelInterface, attention_of, is_packed
from stages.lib.models.layouts import Layout, allowed_groups
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample

Group = Sequence[TokenizedExample]  # of similar length: their attention, or the whole network, is computed together

# What one more group costs, in pads that could be computed in the same time. In a packed row it costs calls, and a pad
# costs copies. Both are as slow on every CPU, and from 16 to 512 the speed is the same within a few percent.
_SEGMENT_COST = {"cpu": 64, "cuda": 8192}
# Rows with pads also cost a pass over all weights and gradients, in which a CPU could compute 64 tokens (float32) to
# 1,000 (bfloat16, with matrix units). Between them, 256 is at most a fifth slower than the best on any CPU.
_MICRO_BATCH_COST = {"cpu": 256, "cuda": 8192}
# a micro-batch of more tokens is no faster, and takes more memory
_MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": None}
# In bfloat16 a CPU compiles the products of each new length of a row, for milliseconds each. So few lengths are used.
_ROW_STEP = 32


class UpdateBatch(TypedDict):
    """What one process computes of an update."""

    micro_batches: list[Batch]
    tokens: int  # of sources and targets, without pads
    targets: float  # tokens with loss, or the sum of their weights


class Collator:
    """Makes micro-batches of the examples that this process has in an update.

    If it has none, it computes `stand_in` without loss, because all processes take part in every update.

    Args:
        cost: of one more group of examples: the pads that could be computed in the same time.
        max_tokens: of a micro-batch; None is no limit.
        row_step: lengths of packed rows, and numbers of their labels, are multiples of it; 1 adds no pads.
        class_weights: target ids of a label -> its weight in the loss. Batches then have `weights`, float32, of the
            shape of their labels, and an update is a weighted mean, as in torch's cross entropy.
    """

    def __init__(
        self,
        interface: ModelInterface,
        layout: Layout,
        pad_id: int,
        cost: int,
        max_tokens: int | None,
        stand_in: TokenizedExample,
        row_step: int = 1,
        class_weights: Mapping[tuple[int, ...], float] | None = None,
    ) -> None:
        self._interface, self._layout, self._pad_id, self._stand_in = interface, layout, pad_id, stand_in
        self._cost, self._max_tokens, self._row_step = cost, max_tokens, row_step
        self._class_weights = class_weights

    def __call__(self, examples: Sequence[TokenizedExample]) -> UpdateBatch:
        if not examples:
            return {"micro_batches": [without_loss(self._batch([[self._stand_in]]))], "tokens": 0, "targets": 0.0}
        groups = self._groups(examples)
        rows = joined(groups, self._max_tokens) if self._layout == "packed" else [[group] for group in groups]
        micro_batches = [self._batch(row) for row in rows]
        tokens = sum(map(_token_count, examples))
        return {"micro_batches": micro_batches, "tokens": tokens, "targets": sum(map(_loss_weight, micro_batches))}

    def _groups(self, examples: Sequence[TokenizedExample]) -> list[Group]:
        groups = list[Group]()
        for indices in allowed_groups(self._layout, examples):
            allowed = [examples[index] for index in indices]
            sources, targets = ([len(ids) for ids in column] for column in zip(*map(_ids, allowed), strict=True))
            groups += [allowed[own] for own in split_by_length(sources, targets, self._cost, self._max_tokens)]
        return groups

    def _batch(self, groups: Sequence[Group]) -> Batch:
        batch = self._weighted(groups)
        return _with_row_of_pads(batch, self._pad_id, self._row_step) if self._row_step > 1 else batch

    def _weighted(self, groups: Sequence[Group]) -> Batch:
        """One group with pads, or some end to end in a row, each a segment of attention."""
        examples = [example for group in groups for example in group]
        if self._layout == "packed":
            sizes = {"segment_sizes": torch.tensor([len(group) for group in groups])}
            batch = self._interface.packed_batch(examples, self._pad_id) | sizes
        else:
            batch = self._interface.training_batch(examples, self._pad_id)
        if self._class_weights is None:
            return batch
        weights = torch.tensor([self._class_weights[tuple(example.target_ids)] for example in examples])
        if is_packed(batch):
            return batch | {"weights": weights.repeat_interleave(batch["label_counts"])[None]}
        return batch | {"weights": weights[:, None].expand_as(batch["labels"])}


def make_collator(
    network: PreTrainedModel,
    train: TokenizedDataset,
    layout: Layout,
    settings: FitSettings,
    class_weights: Mapping[tuple[int, ...], float] | None,
) -> Collator:
    device, pad_id = own_device().type, int(network.config.pad_token_id)
    cost = (_SEGMENT_COST if layout == "packed" else _MICRO_BATCH_COST)[device]
    max_tokens = settings.micro_batch_tokens or _MICRO_BATCH_TOKENS[device]
    is_compiled = layout == "packed" and attention_of(network) == SDPA_VARLEN and uses_bfloat16(settings.precision)
    row_step = _ROW_STEP if is_compiled and device == "cpu" else 1
    return Collator(interface_of(network), layout, pad_id, cost, max_tokens, train[0], row_step, class_weights)


def _with_row_of_pads(batch: Batch, pad_id: int, step: int) -> Batch:
    """The packed batch with one more example, of pads without loss, which fills the row."""
    tokens, labels = batch["input_ids"].shape[1], batch["labels"].shape[1]
    pads, ignored = step - tokens % step, step - labels % step
    filling = {
        "input_ids": [pad_id] * pads,
        "position_ids": [0] * pads,
        "labels": [IGNORED] * ignored,
        "weights": [0.0] * ignored,
        "target_positions": [tokens] * ignored,
        "lengths": [pads],
        "label_counts": [ignored],
        "segment_sizes": [1],
    }
    return {
        name: torch.cat([own, own.new_tensor(filling[name]).expand(*own.shape[:-1], -1)], -1)
        for name, own in batch.items()
    }


def without_loss(batch: Batch) -> Batch:
    """The same batch; nothing is learned from it."""
    return batch | {"labels": torch.full_like(batch["labels"], IGNORED)}


def _token_count(example: TokenizedExample) -> int:
    return len(example.source_ids) + len(example.target_ids)


def _ids(example: TokenizedExample) -> tuple[list[int], list[int]]:
    return example.source_ids, example.target_ids


def _loss_weight(batch: Batch) -> float:
    has_loss = batch["labels"].ne(IGNORED)
    return float(has_loss.sum() if "weights" not in batch else batch["weights"][has_loss].sum())


def split_by_length(sources: Sequence[int], targets: Sequence[int], cost: int, max_tokens: int | None) -> list[slice]:
    """Slices of consecutive examples, one for each group. The last ones, which are the longest, come first.

    The split minimises all tokens: sources and targets are padded to the longest of their group, and a group counts as
    `cost` more tokens. None has more than `max_tokens`, unless it is a single example. The algorithm is dynamic
    programming over the ends of groups.
    """
    limit = math.inf if max_tokens is None else max_tokens
    without_pads = [0, *accumulate(map(add, sources, targets))]
    least, begins = [0.0], [0]  # of the first n examples: the cost, and the begin of the last group
    for end in range(1, len(sources) + 1):
        best, begin, source, target = math.inf, end - 1, 0, 0
        for start in range(end - 1, -1, -1):
            source, target = max(source, sources[start]), max(target, targets[start])
            tokens = (source + target) * (end - start)
            if start < end - 1 and (tokens > limit or without_pads[start] + tokens + cost >= best):
                break  # an earlier start only adds pads
            if least[start] + tokens + cost < best:
                best, begin = least[start] + tokens + cost, start
        least.append(best)
        begins.append(begin)
    slices, end = [], len(sources)
    while end:
        slices.append(slice(begins[end], end))
        end = begins[end]
    return slices


def joined(groups: Sequence[Group], max_tokens: int | None) -> list[list[Group]]:
    """Consecutive groups together, as long as they have at most `max_tokens`."""
    rows, tokens = list[list[Group]](), 0
    for group in groups:
        own = sum(map(_token_count, group))
        tokens += own
        if not rows or (max_tokens is not None and tokens > max_tokens):
            rows.append([])
            tokens = own
        rows[-1].append(group)
    return rows


def example_count(batch: Batch) -> int:
    return len(batch["lengths" if is_packed(batch) else "labels"])


def split_evenly(batch: Batch, pieces: int) -> Iterator[Batch]:
    """The batch in at most so many smaller ones, of equally many examples."""
    if pieces == 1:
        return iter([batch])
    size = math.ceil(example_count(batch) / pieces)
    return _pieces_of_row(batch, size) if is_packed(batch) else _pieces(batch, dict.fromkeys(batch, size), 0)


def _pieces_of_row(batch: Batch, size: int) -> Iterator[Batch]:
    tokens, labels = ([int(own.sum()) for own in batch[name].split(size)] for name in ("lengths", "label_counts"))
    sizes: dict[str, int | list[int]] = {"lengths": size, "label_counts": size}
    sizes |= {"input_ids": tokens, "position_ids": tokens} | dict.fromkeys(
        ("labels", "weights", "target_positions"), labels
    )
    begins = accumulate(tokens, initial=0)
    for piece in _pieces({name: rows for name, rows in batch.items() if name != "segment_sizes"}, sizes, -1):
        begin = next(begins)
        if "target_positions" in piece:
            piece["target_positions"] = piece["target_positions"] - begin
        yield piece | {"segment_sizes": torch.tensor([len(piece["lengths"])])}


def _pieces(batch: Batch, sizes: Mapping[str, int | list[int]], dimension: int) -> Iterator[Batch]:
    parts = [rows.split(sizes[name], dimension) for name, rows in batch.items()]
    return (dict(zip(batch, piece, strict=True)) for piece in zip(*parts, strict=True))
