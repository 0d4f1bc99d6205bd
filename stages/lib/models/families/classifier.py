"""Encoders (BERT, RoBERTa, ALBERT, DistilBERT ...) on label tasks: a classification head reads the source."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from stages.lib.checkpoint.architecture import ModelClass
from stages.lib.models.families.interface import Batch, WithEncoder, padded
from stages.lib.records.tokenized_examples import TokenizedExample


class Classifier(WithEncoder):
    """The target of an example is one number: the index of its label."""

    name: ModelClass = "classifier"
    auto_class = AutoModelForSequenceClassification

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        # a head for another number of labels is replaced by a new one
        return super().from_pretrained(place, config, tokens, ignore_mismatched_sizes=True, **options)

    def training_batch(self, examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
        """input_ids and attention_mask are (B, S), labels (B, 1)."""
        sources = self.prompt_batch([example.source_ids for example in examples], pad_id)
        return sources | {"labels": padded([example.target_ids for example in examples], 0, "right")}

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """(B, 1, labels)."""
        return network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.unsqueeze(1)


INTERFACE = Classifier()
