"""Encoders (BERT, RoBERTa, ALBERT, DistilBERT ...) on label tasks: a classification head above the source."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from stages.lib.families.family import Batch, Lengths, ReadsAhead, has_class, padded, positions
from stages.lib.pairs import Pair


class Classifier(ReadsAhead):
    """A pair's target is one number: the place of its label among all labels."""

    name = "classifier"
    needs = "transformers has no classification head for it"
    auto_class = AutoModelForSequenceClassification

    def builds(self, config: PreTrainedConfig) -> bool:
        return has_class(config, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, self.auto_class)

    def from_pretrained(self, place: str, config: PreTrainedConfig, tokens: int, **options: Any) -> PreTrainedModel:
        # a head for another number of labels is no use: it makes way for a new one
        return super().from_pretrained(place, config, tokens, ignore_mismatched_sizes=True, **options)

    def training_batch(self, pairs: Sequence[Pair], pad_id: int) -> Batch:
        """input_ids and attention_mask are (B, S), labels (B, 1)."""
        sources = self.prompt_batch([pair.source_ids for pair in pairs], pad_id)
        return sources | {"labels": padded([pair.target_ids for pair in pairs], 0, "right")}

    def target_logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """(B, 1, labels)."""
        return network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.unsqueeze(1)

    def excess(self, config: PreTrainedConfig, sources: Lengths, targets: Lengths) -> int:
        room = positions(config)
        return 0 if room is None else int(sources.max()) - room


FAMILY = Classifier()
