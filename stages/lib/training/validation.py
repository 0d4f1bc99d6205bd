"""The evaluations that choose the best weights: the loss on validation, and a score of generated texts."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from stages.lib.models.devices import autocast
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import on_device
from stages.lib.models.layouts import Layout, allowed_groups
from stages.lib.models.losses import batches_that_fit, summed_losses
from stages.lib.models.memory import Halving, is_sharded
from stages.lib.params.train import FitSettings
from stages.lib.records.tokenized_examples import TokenizedDataset, TokenizedExample

Scorer = Callable[[PreTrainedModel], float]  # a network -> the score of the texts that it generates

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}  # more at once is no faster


class ValidationLoss:
    """Mean loss per target token, in nats, without label smoothing or weights. Each process computes its share, in
    batches that are read and chosen once, and halved where memory ends."""

    def __init__(
        self,
        network: PreTrainedModel,
        validation: TokenizedDataset,
        layout: Layout,
        settings: FitSettings,
        accelerator: Accelerator,
    ) -> None:
        self._network, self._interface, self._layout = network, interface_of(network), layout
        self._settings, self._accelerator = settings, accelerator
        self._halving = Halving(network)
        rank, processes = accelerator.process_index, accelerator.num_processes
        order = np.argsort(-validation.lengths(), kind="stable").tolist()  # the longest first
        self._batches = list(self._divided([validation[index] for index in order[rank::processes]]))
        # the layers of a sharded network are computed by all processes or by none
        counts = accelerator.gather(torch.tensor([len(self._batches)], device=accelerator.device))
        missing = int(counts.max()) - len(self._batches) if is_sharded(network) else 0
        self._idle = [[validation[order[-1]]]] * missing

    def __call__(self) -> float:
        """Raises OutOfMemory where memory ends on a single example."""
        sums = torch.zeros(2, dtype=torch.float64, device=self._accelerator.device)
        with autocast(self._settings.precision):
            for batch in self._batches:
                sums += torch.stack(self._halving(self._sums, batch)).sum(0)
            for batch in self._idle:
                self._sums(batch)
        loss, tokens = self._accelerator.reduce(sums, "sum").tolist()
        return float(loss / tokens)

    def _sums(self, examples: Sequence[TokenizedExample]) -> list[Tensor]:
        """Summed loss and number of target tokens, as one tensor."""
        make = self._interface.packed_batch if self._layout == "packed" else self._interface.training_batch
        batch = on_device(make(examples, int(self._network.config.pad_token_id)), self._network)
        return [torch.stack([part.double() for part in summed_losses(self._interface, self._network, batch)])]

    def _divided(self, examples: list[TokenizedExample]) -> Iterator[list[TokenizedExample]]:
        """Batches that fit, in groups that the layout allows."""
        limit = self._settings.micro_batch_tokens or _BATCH_TOKENS[self._network.device.type]
        sources = np.array([len(example.source_ids) for example in examples], np.int64)
        targets = np.array([len(example.target_ids) for example in examples], np.int64)
        for batch in batches_that_fit(self._network, sources, targets, limit):
            for group in allowed_groups(self._layout, [examples[index] for index in batch]):
                yield [examples[batch[place]] for place in group]
