"""Encoders (BERT, RoBERTa, ALBERT, DistilBERT ...) on label tasks: a classification head reads the source."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.lib.checkpoint.architecture import ModelClass
from stages.lib.models.attention import SDPA_VARLEN, segments
from stages.lib.models.families.causal import first_position
from stages.lib.models.families.interface import (
    Batch,
    Loaded,
    WithEncoder,
    attention_of,
    is_packed,
    packs_by_positions,
    padded,
    unwrap,
)
from stages.lib.records.tokenized_examples import TokenizedExample


class Classifier(WithEncoder):
    """The target of an example is one number: the index of its label."""

    name: ModelClass = "classifier"
    auto_class = AutoModelForSequenceClassification

    def from_pretrained(
        self, place: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, **options: Any
    ) -> Loaded:
        # a head for another number of labels is replaced by a new one
        return super().from_pretrained(place, config, tokenizer, ignore_mismatched_sizes=True, **options)

    def training_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """input_ids and attention_mask are (B, S), labels (B, 1)."""
        sources = self.prompt_batch([example.source_ids for example in examples], pad_id)
        return sources | {"labels": padded([example.target_ids for example in examples], 0, "right")}

    def may_pack(self, network: PreTrainedModel) -> bool:
        return packs_by_positions(network)

    def packed_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """labels are (1, B), and target_positions (B) the first tokens of the examples, which the head reads."""
        lengths = torch.tensor([len(example.source_ids) for example in examples])
        begins = lengths.cumsum(0) - lengths
        return {
            "input_ids": torch.tensor([list(chain.from_iterable(example.source_ids for example in examples))]),
            "position_ids": (torch.arange(int(lengths.sum())) - begins.repeat_interleave(lengths))[None],
            "labels": torch.tensor([[example.target_ids[0] for example in examples]]),
            "target_positions": begins,
            "lengths": lengths,
            "label_counts": torch.ones_like(lengths),
            "segment_sizes": torch.tensor([len(examples)]),
        }

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """(B, 1, labels), or (1, B, labels) if packed."""
        if not is_packed(batch):
            return network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.unsqueeze(1)
        inputs: dict[str, Any] = {"input_ids": batch["input_ids"]}
        inputs["position_ids"] = batch["position_ids"] + first_position(network)
        if attention_of(network) == SDPA_VARLEN:  # other attention finds the examples by their positions
            inputs["segments"] = segments(batch["lengths"], batch["segment_sizes"], batch["input_ids"].device)
        with _rows_of(network, batch["target_positions"]):
            return network(**inputs).logits.unsqueeze(0)


@contextmanager
def _rows_of(network: nn.Module, places: Tensor) -> Iterator[None]:
    """Pooler and head get the states of these tokens alone, (B, 1, width): each is the first token of a row."""

    def chosen(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output[0, places, None]
        if isinstance(output, tuple):
            return output[0][0, places, None], *output[1:]
        output.last_hidden_state = output.last_hidden_state[0, places, None]
        return output

    hook = _end_of_stack(unwrap(network)).register_forward_hook(chosen)
    try:
        yield
    finally:
        hook.remove()


def _end_of_stack(network: PreTrainedModel) -> nn.Module:
    """The module that returns the last states of all tokens: of the parts with weights, the last before a pooler. A
    list of layers is called one by one, and some of them again for the gradient, so that the base model stands for
    it."""
    parts = [
        part
        for name, part in network.base_model.named_children()
        if not name.startswith("pool") and next(part.parameters(), None) is not None
    ]
    return network.base_model if isinstance(parts[-1], nn.ModuleList) else parts[-1]


INTERFACE = Classifier()
